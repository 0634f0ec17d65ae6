"""The outbox: what is not known to be revoked is revoked again, until it is, across a crash.

The store lists what was, or may have been, minted. This room works the list off: at a task's end, when a
guard first begins a task after a start, and in a thread of its own while anything is left.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import Enum, auto
from threading import Event, Lock, Thread
from time import monotonic
from types import MappingProxyType

from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_when_event_set
from tenacity.wait import wait_random_exponential

from agentguard.concurrency.drive import drive
from agentguard.concurrency.fork import in_child
from agentguard.enforcement.calls_here import CallsHere
from agentguard.enforcement.issuance import best_effort, failure_text
from agentguard.enforcement.operations import Operations
from agentguard.enforcement.process import gone
from agentguard.enforcement.records import recovery_record, task_end_record, unrevoked_record
from agentguard.errors import RevocationUnknown, safe_text
from agentguard.model import LiveCredential, TaskStatus

__all__ = ["Outbox", "OutboxThread"]

log = logging.getLogger("agentguard")


class Fate(Enum):
    """What is known of a credential after an attempt to revoke it."""

    REVOKED = auto()
    FAILED = auto()
    UNKNOWN = auto()


class Outbox:
    """Revokes, on one path, what nobody else will: of gone processes, of ended tasks, past its expiry.

    A broker that does not know a handle (RevocationUnknown) has revoked nothing. Such a credential ends by
    itself. Until then it stays in the outbox, and is recorded once.

    `end_task` ends a task whose end could not be stored; the room that ends tasks sets it.
    """

    def __init__(
        self,
        operations: Operations,
        calls: CallsHere,
        clock: Callable[[], float],
        on_unknown: Callable[[str], None] = lambda _broker: None,
        outlives: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._operations, self._calls, self._clock = operations, calls, clock
        self._on_unknown, self._outlives = on_unknown, outlives
        self.end_task: Callable[[str, TaskStatus, str], Awaitable[None]] | None = None

    async def revoke(self, live: Iterable[LiveCredential]) -> list[LiveCredential]:
        """Revoke these at their issuers, side by side; return one for each call of which some may be alive.

        An issuer that stalls delays the revocation of no other credential.
        """
        by_call: dict[str, list[LiveCredential]] = {}
        for credential in live:
            by_call.setdefault(credential.call_id, []).append(credential)
        unrevoked = await self._operations.together(
            (credentials[0].broker, self._revoke_of_call(call_id, credentials))
            for call_id, credentials in by_call.items()
        )
        return [credential for credential in unrevoked if credential is not None]

    async def _revoke_of_call(self, call_id: str, credentials: list[LiveCredential]) -> LiveCredential | None:
        fates = {credential: await self._revoke(credential) for credential in credentials}
        # one call may have two: what was to be minted, by the call's id, and what the broker then called it
        alone = len(fates) == 1
        alive = [
            credential
            for credential, fate in fates.items()
            if fate is Fate.FAILED or (fate is Fate.UNKNOWN and (alone or credential.handle != call_id))
        ]
        if alive:
            if Fate.FAILED not in fates.values():
                await self._tell(alive[-1], "its broker does not know it")
            return alive[-1]
        await best_effort("forget", self._operations.forget, call_id)
        self._calls.failed.discard(call_id)
        self._calls.reported.discard(call_id)
        return None

    async def _tell(self, credential: LiveCredential, cause: str) -> None:
        """Record once in this process that a credential is not known to be revoked, and when it ends."""
        if credential.call_id in self._calls.reported:
            return
        self._calls.reported.add(credential.call_id)
        self._on_unknown(credential.broker)
        record = unrevoked_record(credential, self._end(credential), cause)
        await best_effort("record", self._operations.append, record)

    def _end(self, credential: LiveCredential) -> float:
        """Return when a credential has ended by itself, in seconds since the epoch.

        Of what was to be minted, and is on record by its call's id, only the end of the grant is known.
        """
        planned = credential.handle == credential.call_id
        return credential.expires_at + (self._outlives.get(credential.broker, 0.0) if planned else 0.0)

    async def sweep(self) -> int:
        """Revoke what is orphaned; return how much is left that no call of this process holds.

        Raises:
            StoreError: The outbox cannot be read.
        """
        await self._end_unbegun()
        await self._end_unended()
        live, now = await self._operations.live(), self._clock()
        orphans = [credential for credential in live if await self._orphaned(credential)]
        reported = frozenset(self._calls.reported)
        remaining = await self.revoke(orphans)
        calls_left = {credential.call_id for credential in remaining}
        for call_id, credential in {one.call_id: one for one in sorted(orphans, key=self._end)}.items():
            if call_id in calls_left:
                continue
            if now < self._end(credential):
                await best_effort("record", self._operations.append, recovery_record(credential))
            elif call_id not in reported:
                # that it can be used no more is certain, and that it was revoked before is not
                await self._tell(credential, "it had ended by itself, or was revoked after its time")
                self._calls.reported.discard(call_id)
        live_elsewhere = [credential for credential in live if credential not in orphans]
        held_by_none = sum(credential.call_id not in self._calls.running for credential in live_elsewhere)
        return len(remaining) + held_by_none + len(self._calls.unbegun) + len(self._calls.unended)

    async def pending(self) -> bool:
        """Return whether the outbox holds anything that no call of this process holds.

        Raises:
            StoreError: It cannot be read.
        """
        live = await self._operations.live()
        return any(credential.call_id not in self._calls.running for credential in live)

    async def _end_unbegun(self) -> None:
        for task_id, until in list(self._calls.unbegun.items()):
            late = monotonic() > until  # before the store is asked, which then has nothing more to begin
            ended = await self._operations.end_task(task_id, TaskStatus.REVOKED, ())
            if ended:
                record = task_end_record(task_id, [], TaskStatus.REVOKED.value, "it could not be begun", 0)
                await best_effort("record", self._operations.append, record)
            if ended or late:
                self._calls.unbegun.pop(task_id, None)

    async def _end_unended(self) -> None:
        for task_id, (status, cause) in list(self._calls.unended.items()):
            if self.end_task is None:
                return
            try:
                await self.end_task(task_id, status, cause)
            except Exception as error:  # noqa: BLE001  it is tried again, and the other tasks end meanwhile
                log.error("the end of task %s was tried again, and failed: %s", task_id, safe_text(error))

    async def _orphaned(self, credential: LiveCredential) -> bool:
        if credential.expires_at <= self._clock() or credential.call_id in self._calls.failed:
            return True
        if gone(credential.owner):
            return True
        state = await self._operations.task(credential.task_id)
        return state is None or state.ended(self._clock()) is not None or self._calls.is_unended(state)

    async def _revoke(self, credential: LiveCredential) -> Fate:
        revoke = self._operations.revoke.get(credential.broker)
        if revoke is None:
            log.error("no broker %s to revoke with", credential.broker)
            return Fate.FAILED
        try:
            await revoke(credential.handle, credential.expires_at)
        except RevocationUnknown as error:
            log.warning("%s of %s: %s", credential.call_id, credential.broker, error)
            return Fate.UNKNOWN
        except (Exception, CancelledError) as error:  # noqa: BLE001  whatever it raises, the others are revoked
            # a broker may raise a cancellation of its own; nobody cancels this coroutine but a loop that ends
            log.error("revoke failed: %s", failure_text(error))
            return Fate.FAILED
        return Fate.REVOKED


class OutboxThread:
    """Sweeps an outbox in a thread, with growing pauses of up to a minute, while anything is left."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox, self._closed = outbox, False
        self._begin()
        in_child(self._begin)

    def _begin(self) -> None:
        # a child has no thread until it has something to revoke itself
        self._thread: Thread | None = None
        self._lock, self._stop, self._wake = Lock(), Event(), Event()
        if self._closed:
            self._stop.set()

    def watch(self) -> None:
        """Sweep now, and again while anything is left."""
        with self._lock:
            self._wake.set()
            if not self._stop.is_set() and self._thread is None:
                thread = Thread(target=self._work, name="agentguard-outbox", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # there are no more threads, or the interpreter shuts down
                    log.error("the outbox has no thread, until it is woken again: %s", error)
                    return
                self._thread = thread

    @property
    def runs(self) -> bool:
        """Whether the thread runs, since something is left."""
        return self._thread is not None

    def close(self) -> None:
        """Stop the thread. What is left stays in the store, for the next start."""
        with self._lock:
            self._closed = True
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
        try:
            return drive(self._outbox.sweep())
        except SystemExit as error:  # a broker's: no exit of the process is raised in this thread
            raise RuntimeError("a broker raised SystemExit") from error
