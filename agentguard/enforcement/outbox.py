"""The outbox: what is not known to be revoked is revoked again, until it is, across a crash.

The store lists what was, or may have been, minted. This room works the list off: at a task's end, when a
guard first begins a task after a start, and in a thread of its own while anything is left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Event, Lock, Thread

from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_when_event_set
from tenacity.wait import wait_random_exponential

from agentguard.concurrency.drive import drive
from agentguard.enforcement.issuance import best_effort
from agentguard.enforcement.operations import Operations
from agentguard.enforcement.process import gone
from agentguard.enforcement.records import recovery_record
from agentguard.model import LiveCredential

__all__ = ["CallsHere", "Outbox", "OutboxThread"]

log = logging.getLogger("agentguard")


@dataclass(slots=True)
class CallsHere:
    """The ids of this process's calls: those that run, and those whose revocation has failed."""

    running: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)


class Outbox:
    """Revokes, on one path, what nobody else will: of gone processes, of ended tasks, past its expiry."""

    def __init__(self, operations: Operations, calls: CallsHere, clock: Callable[[], float]) -> None:
        self._operations, self._calls, self._clock = operations, calls, clock

    async def revoke(self, live: Iterable[LiveCredential]) -> list[LiveCredential]:
        """Revoke these at their issuers; return those that are not known to be revoked."""
        credentials = list(live)
        left = [credential for credential in credentials if not await self._revoked(credential)]
        # one call may have two: what was to be minted, and what the broker then called it
        done = {credential.call_id for credential in credentials} - {one.call_id for one in left}
        for call_id in done:
            await best_effort("forget", self._operations.forget, call_id)
            self._calls.failed.discard(call_id)
        return left

    async def sweep(self) -> int:
        """Revoke what is orphaned; return how much is left that no call of this process holds.

        Raises:
            StoreError: The outbox cannot be read.
        """
        live = await self._operations.live()
        orphans = [credential for credential in live if await self._orphaned(credential)]
        left = await self.revoke(orphans)
        for credential in orphans:
            if credential not in left:
                await best_effort("record", self._operations.append, recovery_record(credential))
        others = [credential for credential in live if credential not in orphans]
        return len(left) + sum(credential.call_id not in self._calls.running for credential in others)

    async def pending(self) -> bool:
        """Return whether the outbox holds anything that no call of this process holds.

        Raises:
            StoreError: It cannot be read.
        """
        live = await self._operations.live()
        return any(credential.call_id not in self._calls.running for credential in live)

    async def _orphaned(self, credential: LiveCredential) -> bool:
        if credential.expires_at <= self._clock() or credential.call_id in self._calls.failed:
            return True
        if gone(credential.owner):
            return True
        state = await self._operations.task(credential.task_id)
        return state is None or state.ended(self._clock()) is not None

    async def _revoked(self, credential: LiveCredential) -> bool:
        revoke = self._operations.revoke.get(credential.broker)
        if revoke is None:
            log.error("no broker %s to revoke with", credential.broker)
            return False
        return await best_effort("revoke", revoke, credential.handle, credential.expires_at)


class OutboxThread:
    """Sweeps an outbox in a thread, with growing pauses of up to a minute, while anything is left."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._thread: Thread | None = None
        self._lock, self._stop, self._wake = Lock(), Event(), Event()

    def watch(self) -> None:
        """Sweep now, and again while anything is left."""
        with self._lock:
            self._wake.set()
            if not self._stop.is_set() and self._thread is None:
                self._thread = Thread(target=self._work, name="agentguard-outbox", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop the thread. What is left stays in the store, for the next start."""
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
            )(self._sweep)
            with self._lock:
                if self._stop.is_set() or not self._wake.is_set():
                    self._thread = None
                    return

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)

    def _sweep(self) -> int:
        self._wake.clear()  # before the sweep, so that what comes meanwhile is seen
        return drive(self._outbox.sweep())
