"""Threads for functions that may never return, such as a rule of the application or the library of a vault.

Python cannot end a thread. So the caller stops waiting after its time-out, and the thread is left alone until
its function returns, if it ever does. The number of such threads is bounded, for each party and for all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from math import inf
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from agentguard.concurrency.fork import ProcessLock, in_child
from agentguard.concurrency.threads import ReusedThreads

__all__ = ["HUNG", "AbandonableThreads", "NoThread"]

T = TypeVar("T")
log = logging.getLogger("agentguard")

RUNNING = 64  # calls of one party that are within their time
HUNG = 128  # calls of one party that were given up and have not returned
HUNG_OF_ALL = 1024
PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds
START = 1.0  # seconds after which a call that has no thread yet gets none, for its caller was interrupted


class NoThread(RuntimeError):
    """There is no thread for a call: too many calls run or hang."""


class _Call(Future[T]):
    """A call, with what tells whether an interrupt has ended its caller: times of the monotonic clock."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()  # so that a caller that stops waiting does not cancel it
        self.begun, self.entered = False, time.monotonic()
        self.until = inf if seconds is None else self.entered + max(0.0, seconds)


class AbandonableThreads:
    """Runs each call of functions in a daemon thread that no other uses meanwhile, in the caller's context.

    *name* says in warnings whose functions these are. A call that is given up makes room for a new one of its
    party. One party has at most 64 running and 128 hung calls, and all parties together 1024 hung ones. So a
    party whose calls hang takes no places of others. A forked child has none of the threads, and all places.

    With *probes*, all calls are alike, such as the reads of one secret. A call that hangs is tried again at
    once. After each further one in a row that hangs, nothing is tried for a second longer, up to a minute. A
    call that returns ends the pause, although others still hang. Here too, at most 1024 hang.
    """

    def __init__(self, name: str, *, probes: bool = False) -> None:
        self._name, self._lock, self._probes = name, ProcessLock(), probes
        self._threads = ReusedThreads("agentguard-abandonable")
        self._begin()
        in_child(self._begin)

    def _begin(self) -> None:
        self._running: defaultdict[str, set[_Call[Any]]] = defaultdict(set)
        self._hung: defaultdict[str, set[_Call[Any]]] = defaultdict(set)
        self._hangs, self._pause, self._paused_until = 0, 0.0, 0.0
        self._probe: _Call[Any] | None = None
        # a semaphore belongs to the event loop that waits for it
        self._loops: WeakKeyDictionary[
            asyncio.AbstractEventLoop, WeakValueDictionary[str, asyncio.Semaphore]
        ] = WeakKeyDictionary()

    def run(self, seconds: float, function: Callable[..., T], *args: Any, party: str = "") -> T:
        """Return what the function returns, or raise what it raises.

        Raises:
            TimeoutError: It did neither within *seconds*. The thread is given up.
            NoThread: Too many calls of this party run, or too many hang.
        """
        with self.begin(partial(function, *args), party, seconds) as future:
            return future.result(max(0.0, seconds))

    async def arun(self, seconds: float | None, function: Callable[..., T], *args: Any, party: str = "") -> T:
        """Do the same as `run`, without blocking the event loop. *seconds* may be None: without end.

        A call waits within its time for a place, if too many calls of its party run on this event loop.
        """
        parties = self._loops.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
        places = parties.setdefault(party, asyncio.Semaphore(RUNNING))
        async with asyncio.timeout(seconds), places:
            with self.begin(partial(function, *args), party, seconds) as future:
                return await asyncio.wrap_future(future)

    @contextmanager
    def begin(self, function: Callable[[], T], party: str, seconds: float | None) -> Iterator[Future[T]]:
        """Begin a call of *function*; the block gets its future, and gives the call up where it is left.

        Raises:
            NoThread: Too many calls of this party run, or too many hang.
        """
        end = inf if seconds is None else time.monotonic() + 0.9 * seconds  # its timer may be early
        future = _Call[T](seconds)
        self._enter(future, party)
        run = partial(copy_context().run, self._work, future, function, party)
        try:
            self._threads.start(run)
        except RuntimeError:  # the system gives no more threads
            self._leave(future, party)
            raise NoThread("the system gives no more threads") from None
        try:
            yield future
        finally:
            self._give_up(future, party, late=time.monotonic() >= end)

    def _work(self, future: _Call[T], function: Callable[[], T], party: str) -> None:
        future.begun = True
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  SystemExit too: the caller, in another thread, gets it
            self._leave(future, party)
            future.set_exception(error)
        else:
            self._leave(future, party)
            future.set_result(result)

    # --- places

    def _enter(self, future: _Call[Any], party: str) -> None:
        with self._lock:
            if len(self._running.get(party, ())) >= RUNNING:
                self._drop_interrupted(party)
            hung = self._count_hung()
            bound = HUNG_OF_ALL if self._probes else HUNG
            if len(self._hung.get(party, ())) >= bound or hung >= HUNG_OF_ALL:
                raise NoThread(f"too many calls of it hang ({hung})")
            if len(self._running.get(party, ())) >= RUNNING:
                raise NoThread(f"too many calls of it run at once ({RUNNING})")
            if self._probes:
                self._begin_probe(future)
            self._running[party].add(future)

    def _drop_interrupted(self, party: str) -> None:
        """Take no place for what an interrupt has kept from its thread, or from being given up."""
        now = time.monotonic()
        for future in list(self._running[party]):
            if not future.begun and now > future.entered + START:
                self._running[party].discard(future)
            elif now > future.until + START:
                self._running[party].discard(future)
                self._hung[party].add(future)

    def _begin_probe(self, future: _Call[Any]) -> None:
        now = time.monotonic()
        if self._pause and now < self._paused_until:
            raise NoThread(f"a call of it hangs: it is tried again in {self._paused_until - now:.1f} s")
        if self._pause or self._probe is None:
            self._probe = future
        self._paused_until = now + self._pause  # for the others, while this one tries

    def _leave(self, future: _Call[Any], party: str) -> None:
        with self._lock:
            self._hangs, self._pause, self._probe = (
                0,
                0.0,
                None,
            )  # also where it was given up: they return again
            for places in (self._running, self._hung):
                if party in places:
                    places[party].discard(future)
                    if not places[party]:
                        del places[party]

    def _give_up(self, future: _Call[Any], party: str, *, late: bool) -> None:
        with self._lock:
            if future not in self._running.get(party, ()):
                return
            self._running[party].discard(future)
            self._hung[party].add(future)
            if future is self._probe:
                self._probe = None
                if late:
                    self._hangs += 1
                    self._pause = min((self._hangs - 1) * PAUSE, LONGEST_PAUSE)
                    self._paused_until = time.monotonic() + self._pause
            hung = self._count_hung()
        log.warning(
            "%s: a call was given up, and its thread still runs (%d of at most %d)",
            self._name,
            hung,
            HUNG_OF_ALL,
        )

    def _count_hung(self) -> int:
        return sum(map(len, self._hung.values()))
