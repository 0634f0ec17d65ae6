"""The outbox: what is not known to be revoked is revoked again, until it is, across a crash.

The store lists what was, or may have been, minted. Here it is worked off: at a task's end, when a
guard first begins a task after a start, and by a thread of its own while anything is left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from threading import Event, Lock, Thread

from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_when_event_set
from tenacity.wait import wait_random_exponential

from agentguard.concurrency.drive import drive
from agentguard.enforcement import recording as records
from agentguard.enforcement.issuance import attempt
from agentguard.enforcement.operations import Io
from agentguard.enforcement.process import gone
from agentguard.model import LiveCredential

__all__ = ["Outbox"]

log = logging.getLogger("agentguard")


class Outbox:
    """Revokes what nobody else will: of processes that are gone, of ended tasks, past its expiry."""

    def __init__(self, io: Io, clock: Callable[[], float]) -> None:
        self._io, self._clock = io, clock
        self.running, self.failed = set[str](), set[str]()
        """The ids of this process's calls: those that run, and those whose revocation failed."""
        self._thread: Thread | None = None
        self._lock, self._stop, self._wake = Lock(), Event(), Event()

    async def revoke(self, live: Iterable[LiveCredential], io: Io) -> list[LiveCredential]:
        """Revoke these at their issuers; returns those that are not known to be revoked."""
        listed = list(live)
        left = [held for held in listed if not await self._revoked(held, io)]
        # one call may have two: what was to be minted, and what the broker then called it
        for call_id in {held.call_id for held in listed} - {held.call_id for held in left}:
            await attempt("forget", io.forget, call_id)
            self.failed.discard(call_id)
        return left

    async def sweep(self, io: Io) -> int:
        """Revoke what is orphaned; returns how much is left that no call of this process holds.

        Raises:
            StoreError: The outbox cannot be read.
        """
        live = await io.live()
        orphans = [held for held in live if await self._orphaned(held, io)]
        left = await self.revoke(orphans, io)
        for held in orphans:
            if held not in left:
                await attempt("record", io.append, records.recovered(held))
        return len(left) + sum(held.call_id not in self.running for held in live if held not in orphans)

    async def pending(self, io: Io) -> bool:
        """Whether the outbox holds anything that no call of this process holds.

        Raises:
            StoreError: It cannot be read.
        """
        return any(held.call_id not in self.running for held in await io.live())

    def watch(self) -> None:
        """Sweep in a thread, now and with growing pauses of up to a minute, while anything is left."""
        with self._lock:
            self._wake.set()
            if not self._stop.is_set() and self._thread is None:
                self._thread = Thread(target=self._work, name="agentguard-outbox", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop the thread; what is left stays in the store, for the next start."""
        with self._lock:
            self._stop.set()
            self._wake.set()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=5.0)

    def _work(self) -> None:
        while True:
            Retrying(
                retry=retry_if_result(bool) | retry_if_exception_type(Exception),
                stop=stop_when_event_set(self._stop),
                wait=wait_random_exponential(multiplier=1.0, max=60.0),
                sleep=self._pause,
                retry_error_callback=lambda _state: None,
            )(self._swept)
            with self._lock:
                if self._stop.is_set() or not self._wake.is_set():
                    self._thread = None
                    return

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)

    def _swept(self) -> int:
        self._wake.clear()  # before, so that what comes meanwhile is seen
        return drive(self.sweep(self._io))

    async def _orphaned(self, held: LiveCredential, io: Io) -> bool:
        if held.expires_at <= self._clock() or held.call_id in self.failed or gone(held.owner):
            return True
        return await self._ended(held, io)

    async def _ended(self, held: LiveCredential, io: Io) -> bool:
        state = await io.task(held.task_id)
        return state is None or state.ended(self._clock()) is not None

    async def _revoked(self, held: LiveCredential, io: Io) -> bool:
        revoke = io.revoke.get(held.broker)
        if revoke is None:
            log.error("no broker %s to revoke with", held.broker)
            return False
        return await attempt("revoke", revoke, held.handle, held.expires_at)
