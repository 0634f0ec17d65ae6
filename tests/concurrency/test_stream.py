"""A synchronous generator that is stepped from an event loop: one context, and always closed."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Generator
from contextlib import aclosing
from contextvars import ContextVar

import pytest

from agentguard.concurrency.stream import in_one_context

user: ContextVar[str] = ContextVar("user", default="nobody")


class Answer:
    def __init__(self, pause: float = 0.0) -> None:
        self.closed, self.users, self.pause = threading.Event(), list[str](), pause

    def generate(self) -> Generator[int, None, None]:
        token = user.set("alice")
        try:
            for number in range(5):
                time.sleep(self.pause)
                self.users.append(user.get())
                yield number
        finally:
            user.reset(token)  # raises in another context
            self.closed.set()


async def test_all_steps_run_in_one_context_which_is_not_the_callers() -> None:
    answer = Answer()
    assert [number async for number in in_one_context(answer.generate())] == list(range(5))
    assert answer.users == ["alice"] * 5
    assert answer.closed.is_set()
    assert user.get() == "nobody"


@pytest.mark.promise("streamed-answers")
async def test_a_consumer_that_stops_or_drops_it_has_closed_it() -> None:
    stopped, dropped = Answer(), Answer()
    async with aclosing(in_one_context(stopped.generate())) as items:  # type: ignore[type-var]  # it is a generator
        assert await anext(items) == 0
    assert stopped.closed.is_set()

    async def drop() -> None:
        async for _ in in_one_context(dropped.generate()):
            break

    await drop()
    gc.collect()
    assert await asyncio.to_thread(dropped.closed.wait, 5)


@pytest.mark.promise("streamed-answers")
async def test_a_consumer_that_is_cancelled_waits_for_the_step_and_has_closed_it() -> None:
    answer = Answer(pause=0.1)

    async def consume() -> None:
        async for _ in in_one_context(answer.generate()):
            pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.15)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert answer.closed.is_set()
    assert len(answer.users) < 5


async def test_what_a_step_raises_reaches_the_consumer() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise ValueError("broken")

    items = in_one_context(failing())
    assert await anext(items) == 1
    with pytest.raises(ValueError, match="broken"):
        await anext(items)
