"""Several coroutines side by side, on either path: a slow issuer holds up nothing but its own credentials."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from agentguard.concurrency.drive import drive

__all__ = ["AT_ONCE", "in_loop", "in_threads"]

T = TypeVar("T")

AT_ONCE = 16
"""The most coroutines that run at the same time."""


async def in_loop(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all of them on the event loop, and return their results in their order."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(coroutine: Coroutine[Any, Any, T]) -> T:
        async with places:
            return await coroutine

    return await asyncio.gather(*map(one, coroutines))


async def in_threads(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Drive all of them in threads, and return their results in their order. None of them may suspend."""
    waiting = list(coroutines)
    if len(waiting) < 2:
        return [await coroutine for coroutine in waiting]
    with ThreadPoolExecutor(min(AT_ONCE, len(waiting)), "agentguard-together") as pool:
        try:
            futures = [pool.submit(copy_context().run, drive, coroutine) for coroutine in waiting]
        except RuntimeError:  # the interpreter shuts down, and starts no thread
            return [await coroutine for coroutine in waiting]
    return [future.result() for future in futures]
