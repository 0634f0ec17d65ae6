"""What one thread or coroutine finds out and others wait for, without a lock.

`concurrent.futures.Future`, `threading.Event` and `threading.Condition` take their locks in Python code. An
exception such as that of Ctrl-C that comes within it leaves the lock taken, and all others wait for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

__all__ = ["Answer"]

T = TypeVar("T")


class Answer(Generic[T]):
    """A value or an error, told once. Whoever waits gets it; who comes later gets it at once."""

    __slots__ = ("_result", "_waiting")

    def __init__(self) -> None:
        self._result: tuple[Any, BaseException | None] | None = None
        # taken out by a call of the deque, which is atomic: each is woken once
        self._waiting: deque[Callable[[], object]] = deque()

    def tell(self, value: T | None = None, error: BaseException | None = None) -> None:
        """Tell the value, or the error that each who waits raises. What was told first counts."""
        if self._result is None:
            self._result = value, error
        self._wake()

    def wait(self, seconds: float) -> T:
        """Return the value, or raise the error.

        Raises:
            TimeoutError: It was not told within *seconds*.
        """
        news = SimpleQueue[None]()
        self._call(partial(news.put, None))
        try:
            news.get(timeout=max(0.0, seconds))
        except Empty:
            raise TimeoutError(f"no answer within {seconds} s") from None
        return self._get()

    async def await_(self, seconds: float | None) -> T:
        """Return the value, or raise the error, on an event loop; None waits without end.

        Raises:
            TimeoutError: It was not told within *seconds*.
        """
        loop = asyncio.get_running_loop()
        news: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_finish, news)

        self._call(wake)
        async with asyncio.timeout(seconds):
            await news
        return self._get()

    def _call(self, function: Callable[[], object]) -> None:
        self._waiting.append(function)
        if self._result is not None:
            self._wake()

    def _wake(self) -> None:
        with suppress(IndexError):
            while True:
                self._waiting.popleft()()

    def _get(self) -> T:
        assert self._result is not None  # noqa: S101  who waits is woken when it is told
        value, error = self._result
        if error is not None:
            raise error
        result: T = value
        return result


def _finish(news: asyncio.Future[None]) -> None:
    if not news.done():
        news.set_result(None)
