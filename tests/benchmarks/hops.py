"""How often an asynchronous call hands work to another thread, counted in a run that is not timed.

Each hand-over is two switches of threads: to the thread that does the work, and back to the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from tests.benchmarks.cases import QUESTION, Stages, agents_of, tools_of
from tests.benchmarks.shop import ARGUMENTS
from tests.benchmarks.stages import Stage

__all__ = ["HandOvers", "hand_overs", "thread_hops"]

CALLS = 4


class HandOvers:
    """Work that was handed to another thread, and answers that came back to the event loop."""

    def __init__(self) -> None:
        self.submitted = self.returned = 0

    @property
    def number(self) -> int:
        """The larger of both: a thread that is no executor's is known by its answers alone."""
        return max(self.submitted, self.returned)


@contextmanager
def hand_overs(loop: asyncio.AbstractEventLoop) -> Iterator[HandOvers]:
    """Count each `submit` of a thread pool, which `run_in_executor` and `to_thread` use, and each return."""
    counted, submit, call_soon = HandOvers(), ThreadPoolExecutor.submit, loop.call_soon_threadsafe

    def submitting(self: ThreadPoolExecutor, /, *args: Any, **kwargs: Any) -> Any:
        counted.submitted += 1
        return submit(self, *args, **kwargs)

    def returning(*args: Any, **kwargs: Any) -> Any:
        counted.returned += 1
        return call_soon(*args, **kwargs)

    with (
        patch.object(ThreadPoolExecutor, "submit", submitting),
        patch.object(loop, "call_soon_threadsafe", returning),
    ):
        yield counted


def thread_hops(sync: Stages, asynchronous: Stages, runner: asyncio.Runner) -> dict[str, dict[str, float]]:
    """Return hand-overs for one call beyond those of the bare call, by what is called and by which way."""
    hops: dict[str, dict[str, float]] = {}
    for operation, of in (("tool.ainvoke", asynchronous), ("tool.ainvoke, sync tool", sync)):
        counts = {way: _counted(stage, tool, ARGUMENTS, runner) for way, stage, tool in tools_of(of)}
        hops[operation] = _beyond_bare(counts)
    counts = {way: _counted(stage, agent, QUESTION, runner) for way, stage, agent in agents_of(asynchronous)}
    hops["agent.ainvoke"] = _beyond_bare(counts)
    return hops


def _beyond_bare(counts: dict[str, float]) -> dict[str, float]:
    bare = counts.pop("bare")
    return {way: count - bare for way, count in counts.items()}


def _counted(stage: Stage, runnable: Any, value: Any, runner: asyncio.Runner) -> float:
    async def batch() -> None:
        for _ in range(CALLS):
            await runnable.ainvoke(value)

    runner.run(batch(), context=stage.context)  # what the first call makes is not counted
    with hand_overs(runner.get_loop()) as counted:
        runner.run(batch(), context=stage.context)
    stage.verify(2 * CALLS)
    return counted.number / CALLS
