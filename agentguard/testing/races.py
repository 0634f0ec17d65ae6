"""Calls that begin at the same time, in threads and on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agentguard.concurrency.drive import drive
from agentguard.errors import AgentGuardError
from agentguard.model import Budget, TaskState
from agentguard.testing.samples import sample_task
from agentguard.testing.scenarios import AwaitedPort, Contract
from agentguard.testing.scenes import call

__all__ = ["begin_together"]

Errors = list[AgentGuardError | None]


def begin_together(
    contract: Contract, number: int, budget: Budget, **facts: Any
) -> Iterator[tuple[Errors, TaskState]]:
    """Begin calls of one task at once, on each path; yield what each has raised, and the task afterwards."""
    for asynchronous in (False, True)[not contract.synchronous :]:
        contract.now = Contract.now
        adapter = contract.adapter()
        store = AwaitedPort(adapter, asynchronous=asynchronous)
        run = asyncio.run if asynchronous else drive
        run(store.create_task(sample_task("child", budget=budget)))
        errors = (_in_a_loop if asynchronous else _in_threads)(store, number, facts)
        state = run(store.task("child"))
        getattr(adapter, "close", lambda: None)()
        yield errors, state


def _in_threads(store: AwaitedPort, number: int, facts: dict[str, Any]) -> Errors:
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(lambda n: drive(_begin(store, str(n), facts)), range(number)))


def _in_a_loop(store: AwaitedPort, number: int, facts: dict[str, Any]) -> Errors:
    async def together() -> Errors:
        return list(await asyncio.gather(*(_begin(store, str(n), facts) for n in range(number))))

    return asyncio.run(together())


async def _begin(store: AwaitedPort, name: str, facts: dict[str, Any]) -> AgentGuardError | None:
    try:
        await store.begin_call(call(name, **facts), None)
    except AgentGuardError as error:
        return error
    return None
