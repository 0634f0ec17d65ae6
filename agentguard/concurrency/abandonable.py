"""Threads for functions that may never return, such as a rule of the application or the library of a vault.

Python cannot end a thread. So the caller stops waiting after its time-out, and the thread is left alone until
its function returns, if it ever does. The number of such threads is bounded, for each party and for all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from threading import Thread
from typing import Any, TypeVar

from agentguard.concurrency.deadline import seconds_left
from agentguard.concurrency.drive import Operation, OperationPair, lift, operation_pair
from agentguard.concurrency.fork import ProcessLock, in_child

__all__ = ["AbandonableThreads", "NoThread", "abandonable_pair"]

T = TypeVar("T")
log = logging.getLogger("agentguard")

RUNNING = 64  # calls of one party that are within their time
HUNG = 128  # calls of one party that were given up and have not returned
HUNG_OF_ALL = 1024


class NoThread(RuntimeError):
    """There is no thread for a call: too many calls run or hang."""


class AbandonableThreads:
    """Runs each call of functions in a daemon thread of its own, with the caller's context.

    *name* says in warnings whose functions these are. A call that is given up makes room for a new one of its
    party. One party has at most 64 running and 128 hung calls, and all parties together 1024 hung ones. So a
    party whose calls hang takes no places of others. A forked child has none of the threads, and all places.
    """

    def __init__(self, name: str) -> None:
        self._name, self._lock = name, ProcessLock()
        self._begin()
        in_child(self._begin)

    def _begin(self) -> None:
        self._running: defaultdict[str, set[Future[Any]]] = defaultdict(set)
        self._hung: defaultdict[str, set[Future[Any]]] = defaultdict(set)

    def run(self, seconds: float, function: Callable[..., T], *args: Any, party: str = "") -> T:
        """Return what the function returns, or raise what it raises.

        Raises:
            TimeoutError: It did neither within *seconds*. The thread is given up.
            NoThread: Too many calls of this party run, or too many hang.
        """
        with self._call(partial(function, *args), party) as future:
            return future.result(max(0.0, seconds))

    async def arun(self, seconds: float, function: Callable[..., T], *args: Any, party: str = "") -> T:
        """Do the same as `run`, without blocking the event loop."""
        with self._call(partial(function, *args), party) as future:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(future)

    @contextmanager
    def _call(self, function: Callable[[], T], party: str) -> Iterator[Future[T]]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # so that a caller that stops waiting does not cancel it
        self._enter(future, party)
        run = partial(copy_context().run, self._work, future, function, party)
        try:
            Thread(target=run, name="agentguard-abandonable", daemon=True).start()
        except RuntimeError:  # the system gives no more threads
            self._leave(future, party)
            raise NoThread("the system gives no more threads") from None
        try:
            yield future
        finally:
            self._give_up(future, party)

    def _work(self, future: Future[T], function: Callable[[], T], party: str) -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  SystemExit too: the caller, in another thread, gets it
            self._leave(future, party)
            future.set_exception(error)
        else:
            self._leave(future, party)
            future.set_result(result)

    # --- places

    def _enter(self, future: Future[Any], party: str) -> None:
        with self._lock:
            hung = self._count_hung()
            if len(self._hung.get(party, ())) >= HUNG or hung >= HUNG_OF_ALL:
                raise NoThread(f"too many calls of it hang ({hung})")
            if len(self._running.get(party, ())) >= RUNNING:
                raise NoThread(f"too many calls of it run at once ({RUNNING})")
            self._running[party].add(future)

    def _leave(self, future: Future[Any], party: str) -> None:
        with self._lock:
            for places in (self._running, self._hung):
                if party in places:
                    places[party].discard(future)
                    if not places[party]:
                        del places[party]

    def _give_up(self, future: Future[Any], party: str) -> None:
        with self._lock:
            if future not in self._running.get(party, ()):
                return
            self._running[party].discard(future)
            self._hung[party].add(future)
            hung = self._count_hung()
        log.warning(
            "%s: a call was given up, and its thread still runs (%d of at most %d)",
            self._name,
            hung,
            HUNG_OF_ALL,
        )

    def _count_hung(self) -> int:
        return sum(map(len, self._hung.values()))


def abandonable_pair(port: object, name: str, threads: AbandonableThreads, timeout: float) -> OperationPair:
    """Make both forms of `port.name` as `operation_pair` does, and give each up after *timeout* seconds.

    A synchronous method runs in one of *threads*. That costs some 100 µs, so this is for rare operations.
    """
    plain, native = getattr(port, name, None), getattr(port, f"a{name}", None)
    if plain is None or getattr(port, "inline", False):
        return operation_pair(port, name, timeout=timeout)

    def bounded(*args: Any) -> Any:
        return threads.run(seconds_left(timeout), plain, *args)

    async def abounded(*args: Any) -> Any:
        return await threads.arun(timeout, plain, *args)

    asynchronous: Operation = abounded
    if native is not None:
        asynchronous = operation_pair(port, name, timeout=timeout).async_
    return OperationPair(lift(bounded), asynchronous)
