"""Step a synchronous generator from an event loop, in one context, and close it with its consumer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from contextvars import copy_context
from typing import Any, TypeVar

from agentguard.concurrency.abandonable import AbandonableThreads
from agentguard.concurrency.drive import finish

__all__ = ["in_one_context"]

T = TypeVar("T")
_END: Any = object()
_threads = AbandonableThreads("a generator of an application")


async def in_one_context(generator: Generator[T, Any, Any]) -> AsyncIterator[T]:
    """Yield the items of *generator*, each step of which runs in a thread, and all steps in one context.

    A step that hangs holds no thread that others need.

    When the consumer stops, is cancelled or goes away, the generator is closed in the same context. A step
    that is under way is waited for.
    """
    context, party = copy_context(), str(id(generator))

    async def step(function: Callable[..., Any], *args: Any) -> Any:
        return await finish(_threads.arun(None, context.run, function, *args, party=party))

    try:
        while (item := await step(next, generator, _END)) is not _END:
            yield item
    finally:
        await step(generator.close)
