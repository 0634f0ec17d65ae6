"""What is measured: calls of a tool and steps of an agent, sync and async, bare and guarded.

A step of an agent is two calls of a scripted model and one call of a tool between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from langchain.agents import create_agent
from langchain_core.tools import BaseTool
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentguard import credential
from tests.benchmarks.measuring import Subject
from tests.benchmarks.peers import Middleware, peers
from tests.benchmarks.shop import ARGUMENTS, ASKING, POLICIES, Shop
from tests.benchmarks.stages import Bare, Guarded, Stage, guarded
from tests.conftest import scripted, tool_call

__all__ = [
    "AT_ONCE",
    "QUESTION",
    "STORES",
    "Case",
    "Stages",
    "agent_of",
    "agents_of",
    "ainvoking",
    "cases",
    "invoking",
    "stages",
    "tools_of",
]

AT_ONCE = (1, 8, 64)
STORES = ("sqlite", "memory")
QUESTION: Any = {"messages": [("user", "Please refund order 4711")]}


class Case(NamedTuple):
    """One subject: an *operation*, the number of its calls that run *at_once*, and the *way* of each call.

    The way is ``bare``, ``wrap`` or ``middleware`` with the name of a store, or the name of a peer.
    """

    operation: str
    at_once: int
    way: str

    @property
    def name(self) -> str:
        """The case in one line."""
        return f"{self.operation}, {self.at_once} at once, {self.way}"


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of one kind of tool: bare, one guard for each store, and other middleware by name.

    `using` has a guard with SQLite too, and its tool reads the secret of its credential. `asking` has one
    whose rules are evaluated for each call.
    """

    bare: Bare
    guarded: Mapping[str, Guarded]
    peers: Mapping[str, Middleware]
    using: Guarded
    asking: Guarded


@contextmanager
def stages(
    directory: Path, exporter: InMemorySpanExporter, *, is_async: bool, policies: str = POLICIES
) -> Iterator[Stages]:
    """Yield the stages for tools that are plain functions, or `async def`."""
    with ExitStack() as stack:
        by_store = {
            store: stack.enter_context(
                guarded(directory, store, Shop(is_async=is_async), exporter, policies=policies)
            )
            for store in STORES
        }
        peer_stages = peers(directory / f"peers-{'async' if is_async else 'sync'}")
        using = Shop(is_async=is_async, inside=lambda: credential().reveal())
        user = stack.enter_context(guarded(directory, "sqlite", using, exporter, policies=policies))
        asker = stack.enter_context(
            guarded(directory, "sqlite", Shop(is_async=is_async), exporter, policies=ASKING)
        )
        yield Stages(Bare(Shop(is_async=is_async)), by_store, peer_stages, user, asker)


def agent_of(tools: Sequence[BaseTool], *middleware: Any) -> Any:
    """Make an agent whose model calls the measured tool once, and then answers."""
    return create_agent(
        scripted(tool_call("refund_order", **ARGUMENTS)), list(tools), middleware=list(middleware)
    )


def cases(
    sync: Stages, asynchronous: Stages, runner: asyncio.Runner, calls: int, widths: Sequence[int] = AT_ONCE
) -> dict[Case, Subject]:
    """Make all subjects; *calls* are those of a tool in one round, an agent makes an eighth of them.

    *widths* are the numbers of asynchronous calls that are under way at once.
    """
    steps = max(1, calls // 8)
    subjects = {
        Case("tool.invoke", 1, way): invoking(stage, tool, ARGUMENTS, calls)
        for way, stage, tool in tools_of(sync)
    }
    using = invoking(sync.using, sync.using.tools()[1], ARGUMENTS, calls)
    subjects[Case("tool.invoke", 1, "wrap sqlite, credential used")] = using
    asking = invoking(sync.asking, sync.asking.tools()[1], ARGUMENTS, calls)
    subjects[Case("tool.invoke", 1, "wrap sqlite, rules evaluated")] = asking
    for operation, of in (("tool.ainvoke", asynchronous), ("tool.ainvoke, sync tool", sync)):
        for at_once in widths:
            for way, stage, tool in tools_of(of):
                subject = ainvoking(stage, tool, ARGUMENTS, calls, at_once, runner)
                subjects[Case(operation, at_once, way)] = subject
    for way, stage, agent in agents_of(sync):
        subjects[Case("agent.invoke", 1, way)] = invoking(stage, agent, QUESTION, steps)
    for at_once in widths:
        for way, stage, agent in agents_of(asynchronous):
            if at_once == 1 or way in {"bare", "middleware sqlite"}:
                subject = ainvoking(stage, agent, QUESTION, steps, at_once, runner)
                subjects[Case("agent.ainvoke", at_once, way)] = subject
    return subjects


def tools_of(of: Stages) -> Iterator[tuple[str, Stage, BaseTool]]:
    """Yield the measured tool by each way: bare, and wrapped with each store."""
    yield "bare", of.bare, of.bare.shop.refund
    for store, stage in of.guarded.items():
        yield f"wrap {store}", stage, stage.tools()[1]


def agents_of(of: Stages) -> Iterator[tuple[str, Stage, Any]]:
    """Yield an agent by each way: bare, wrapped and with middleware for each store, and each peer."""
    yield "bare", of.bare, agent_of(of.bare.tools())
    yield "wrap sqlite, rules evaluated", of.asking, agent_of(of.asking.tools())
    for store, stage in of.guarded.items():
        yield f"wrap {store}", stage, agent_of(stage.tools())
        # the guard knows one tool by one name: a second set of tools would be denied
        yield f"middleware {store}", stage, agent_of(stage.shop.tools, stage.guard.middleware())
    for name, middleware in of.peers.items():
        yield name, of.bare, agent_of(of.bare.tools(), middleware)


def invoking(stage: Stage, runnable: Any, value: Any, calls: int) -> Subject:
    """Make a subject that calls ``runnable.invoke``, and checks with *stage* that the tool ran."""

    def batch(number: int) -> None:
        invoke: Callable[[Any], object] = runnable.invoke
        for _ in range(number):
            invoke(value)

    def run(number: int) -> None:
        stage.context.run(batch, number)

    return Subject(run, calls, stage.verify)


def ainvoking(
    stage: Stage, runnable: Any, value: Any, calls: int, at_once: int, runner: asyncio.Runner
) -> Subject:
    """Make a subject that calls ``runnable.ainvoke``, *at_once* calls at a time, on the loop of *runner*."""

    async def turn_by_turn(number: int) -> None:
        for _ in range(number):
            await runnable.ainvoke(value)

    async def together(number: int) -> None:
        for _ in range(number // at_once):
            await asyncio.gather(*(runnable.ainvoke(value) for _ in range(at_once)))

    def run(number: int) -> None:
        runner.run(turn_by_turn(number) if at_once == 1 else together(number), context=stage.context)

    whole = -(-calls // at_once) * at_once  # each time that many at once, no fewer
    return Subject(run, whole, stage.verify)
