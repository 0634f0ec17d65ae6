"""The methods of a guard that end it, and the last net for a guard that nobody has closed."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from threading import Thread, get_ident
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from agentguard.concurrency.drive import drive, finish, lift
from agentguard.enforcement.drain import Drain
from agentguard.enforcement.flow import Enforcement, Flow
from agentguard.errors import safe_text

__all__ = ["Closer", "LifeMethods"]

log = logging.getLogger("agentguard")
TIMEOUT = 5.0
"""Seconds that running calls have to end by themselves, unless `close` is told otherwise."""
LOOK = 0.005  # seconds between two looks whether another has closed the guard


class Closer:
    """Closes one guard, once, whoever asks for it and from however many places."""

    def __init__(self, enforcement: Enforcement, parts: Iterable[object]) -> None:
        self._enforcement, self.parts = enforcement, list(parts)
        self.drain = Drain(enforcement)
        self._entrance = [True]  # taken by a pop, which is atomic: one closes, the others wait
        self._worker: Thread | None = None
        self._thread: int | None = None  # the one in which the guard is being closed
        _open.add(self)

    def close(self, timeout: float) -> None:
        """Close the guard in a thread, and wait for it in bounded time.

        The thread that asks may be interrupted in the middle of anything, and hold any lock: it only waits.
        """
        self.drain.begin(timeout, blocks=True)
        if self._enter():
            worker = Thread(target=self._work, name="agentguard-close")
            try:
                worker.start()
                self._worker = worker  # one can wait for it now
            except RuntimeError:  # there are no more threads, or the interpreter shuts down
                self._work()
        self._wait(timeout + self._patience)

    async def aclose(self, timeout: float) -> None:  # noqa: ASYNC109  the time of the calls, not of this
        """Close the guard on this event loop, also if the caller is cancelled meanwhile."""
        self.drain.begin(timeout, blocks=False)
        if self._enter():
            await finish(self._close(self._enforcement.async_, asyncio.sleep, _acall))
            return
        end = time.monotonic() + timeout + self._patience
        while not self._enforcement.calls.closed and time.monotonic() < end:  # noqa: ASYNC110  a thread closes it
            await asyncio.sleep(LOOK)

    @property
    def _patience(self) -> float:
        """How long one waits beyond the deadline: to revoke, to note and to close take their time-outs."""
        return 4 * self._enforcement.options.timeout

    def _enter(self) -> bool:
        try:
            return self._entrance.pop()
        except IndexError:
            return False

    def _wait(self, seconds: float) -> None:
        worker, end = self._worker, time.monotonic() + seconds
        if self._thread == get_ident():  # what this thread does cannot go on while it waits
            return
        if worker is not None:
            worker.join(seconds)
        while worker is None and not self._enforcement.calls.closed and time.monotonic() < end:
            time.sleep(LOOK)
        if not self._enforcement.calls.closed:
            log.warning("a guard is still being closed")

    def _work(self) -> None:
        enforcement = self._enforcement
        needs_loop = any(not hasattr(route.broker, "revoke") for route in enforcement.routes)
        try:
            if needs_loop:
                asyncio.run(self._close(enforcement.async_, asyncio.sleep, _acall))
            else:
                drive(self._close(enforcement.sync, lift(time.sleep), lift(_call)))
        except Exception as error:  # noqa: BLE001  this is a thread's own function, or runs at exit
            log.error("a guard was not closed: %s", safe_text(error))

    async def _close(
        self,
        flow: Flow,
        sleep: Callable[[float], Awaitable[None]],
        call: Callable[[object, str], Awaitable[None]],
    ) -> None:
        self._thread = get_ident()
        try:
            await self.drain.finish(flow, sleep)
            self._enforcement.calls.closed = True
            for part in (self._enforcement, *self.parts):
                await call(part, "close")
        finally:
            self._thread = None
            if not self._enforcement.calls.closed:  # it was ended itself: another one may try
                self._entrance.append(True)


def _call(part: object, name: str) -> None:
    """Close a part of a guard; its failure keeps no other part from being closed."""
    close = getattr(part, name, None)  # not every adapter has one
    try:
        if close is not None:
            close()
    except Exception as error:  # noqa: BLE001  whatever it raises, the other parts are closed
        log.error("%s was not closed: %s", type(part).__name__, safe_text(error))


async def _acall(part: object, name: str) -> None:
    """Do as `_call`, without blocking the event loop."""
    if not inspect.iscoroutinefunction(aclose := getattr(part, f"a{name}", None)):
        await asyncio.to_thread(_call, part, name)
        return
    try:
        await aclose()
    except Exception as error:  # noqa: BLE001  whatever it raises, the other parts are closed
        log.error("%s was not closed: %s", type(part).__name__, safe_text(error))


_open: WeakSet[Closer] = WeakSet()


@atexit.register
def _close_all() -> None:
    """Revoke what guards hold that nobody has closed. Calls that still run are in threads that end now."""
    for closer in list(_open):
        if closer.drain.has_work:
            closer.close(timeout=0.0)


class LifeMethods:
    """A part of `Guard`."""

    _closer: Closer

    def close(self, timeout: float = TIMEOUT) -> None:
        """End what this guard does, leave none of its credentials alive, and close its adapters.

        From now on each call is denied (``guard_closed``). A call that runs has *timeout* seconds to end.
        Then it is ended: its credential is revoked, and its result is withheld. Credentials that serve
        several calls of a task are revoked, and what is left in the outbox is revoked once more. At last the
        store, the log and, of a guard that was made from a file, all else that was made for it are closed.
        Tasks stay as they are: they may go on in another process.

        It may be called more than once, from any thread, in a signal's handler, in a tool and on an event
        loop, whose calls cannot end meanwhile: use `aclose` there. A second caller waits for the first, and
        may shorten its time. It never raises. It returns after *timeout* and four times the guard's own
        `timeout` at most; what is not done by then goes on in a thread. What is not revoked is logged, stays
        on record in the store, and is revoked by the next process.
        """
        self._closer.close(timeout)

    async def aclose(self, timeout: float = TIMEOUT) -> None:  # noqa: ASYNC109  the time of the calls
        """Do as `close`, while other tasks of the event loop go on."""
        await self._closer.aclose(timeout)

    @asynccontextmanager
    async def lifespan(self, _app: Any = None) -> AsyncIterator[None]:
        """Close this guard when an ASGI application shuts down: ``FastAPI(lifespan=guard.lifespan)``.

        Within a lifespan of your own write ``async with guard:``.
        """
        async with self:
            yield

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
