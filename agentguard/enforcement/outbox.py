"""The outbox: what is not known to be revoked is revoked again, until it is, across a crash.

The store lists what was, or may have been, minted. This room works the list off: at a task's end, when a
guard first begins a task after a start, and in a thread of its own (`OutboxThread`) while anything is left.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from enum import Enum, auto
from time import monotonic
from types import MappingProxyType
from typing import NamedTuple

from agentguard.concurrency.owned_lock import owner_here
from agentguard.enforcement.calls_here import CallsHere
from agentguard.enforcement.failures import best_effort, failure_text, is_for_caller
from agentguard.enforcement.operations import Operations
from agentguard.enforcement.process import gone
from agentguard.enforcement.records import Record, recovery_record, task_end_record, unrevoked_record
from agentguard.errors import RevocationUnknown
from agentguard.model import LiveCredential, TaskState, TaskStatus

__all__ = ["Orphans", "Outbox"]

log = logging.getLogger("agentguard")

_LATE = 0.2  # seconds to wait for another thread that ends interrupted calls
_TOLD = 86_400.0  # seconds beyond a credential's end for which its record is not written again


class Fate(Enum):
    """What is known of a credential after an attempt to revoke it."""

    REVOKED = auto()
    FAILED = auto()
    UNKNOWN = auto()


class Orphans(NamedTuple):
    """What has to be revoked now, and how much else is left that no call of this process holds."""

    credentials: list[LiveCredential]
    remainder: int


class Outbox:
    """Revokes, on one path, what nobody else will: of gone processes, of ended tasks, past its expiry.

    A broker that does not know a handle (RevocationUnknown) has revoked nothing. Such a credential ends by
    itself. Until then it stays in the outbox, and is recorded once.

    The room that ends tasks sets `end_task`, and `store_ends`, which stores the ends of all tasks of which
    that has failed. `is_gone` says of a credential's owner whether its process is gone. A person may know
    that of a process elsewhere.
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
        self.store_ends: Callable[[], Awaitable[None]] | None = None
        self.is_gone: Callable[[str], bool] = gone

    async def revoke(self, live: Iterable[LiveCredential]) -> list[LiveCredential]:
        """Revoke these at their issuers, side by side; return one for each call of which some may be alive.

        An issuer that stalls delays the revocation of no other credential. What gets no answer for one user
        counts against that user alone.
        """
        by_call: dict[str, list[LiveCredential]] = {}
        for credential in live:
            by_call.setdefault(credential.call_id, []).append(credential)
        subjects = await self._subjects({credentials[0].task_id for credentials in by_call.values()})
        unrevoked = await self._operations.together(
            (credentials[0].broker, self._revoke_of_call(call_id, credentials, subjects))
            for call_id, credentials in by_call.items()
        )
        return [credential for credential in unrevoked if credential is not None]

    async def _subjects(self, task_ids: Iterable[str]) -> dict[str, str]:
        """Return for whom each task acts; its own id, if the task is forgotten or the store fails."""
        subjects = {task_id: task_id for task_id in task_ids}
        try:
            for task_id in subjects:
                if (state := await self._operations.task(task_id)) is not None:
                    subjects[task_id] = state.identity.subject
        except BaseException as error:
            if isinstance(error, CancelledError) or is_for_caller(error):
                raise
            log.error("tasks cannot be read, and what they hold is revoked: %s", failure_text(error))
        return subjects

    async def _revoke_of_call(
        self, call_id: str, credentials: list[LiveCredential], subjects: Mapping[str, str]
    ) -> LiveCredential | None:
        fates = {
            credential: await self._revoke(credential, subjects[credentials[0].task_id])
            for credential in credentials
        }
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
        self._calls.untracked.pop(call_id, None)
        self._calls.reported.discard(call_id)
        return None

    async def _tell(self, credential: LiveCredential, cause: str) -> None:
        """Record once in this process that a credential is not known to be revoked, and when it ends."""
        if credential.call_id in self._calls.reported:
            return
        self._calls.reported.add(credential.call_id)
        self._on_unknown(credential.broker)
        record = unrevoked_record(credential, self._end(credential), cause)
        if await self._is_first(record, credential):
            await best_effort("record", self._operations.append, record)

    async def _is_first(self, record: Record, credential: LiveCredential) -> bool:
        """Return whether no other sweep, of whatever process, writes this record of the credential's call.

        If the store cannot say so, it is written, since two are better than none.
        """
        key, answers = f"{record['event']}:{credential.call_id}", list[bool]()

        async def ask() -> None:
            until = max(self._clock(), self._end(credential)) + _TOLD
            answers.append(await self._operations.remember(key, until))

        return not await best_effort("remember", ask) or answers[0] is not False

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
        orphans = await self.collect()
        return len(await self.revoke_orphans(orphans.credentials)) + orphans.remainder

    async def collect(self, call_ids: Collection[str] = ()) -> Orphans:
        """End what has to be ended, which asks no issuer, and return what is orphaned then.

        *call_ids* are those of calls whose credentials were orphaned before.

        Raises:
            StoreError: The outbox cannot be read.
        """
        await self._end_unbegun()
        if self.store_ends is not None:
            await self.store_ends()
        await self._end_interrupted()
        live = await self._with_untracked(await self._operations.live())
        orphans, held_by_none = list[LiveCredential](), 0
        states = dict[str, TaskState | None]()
        for credential in live:
            if credential.call_id in call_ids or await self._orphaned(credential, states):
                orphans.append(credential)
            else:
                held_by_none += credential.call_id not in self._calls.running
        ends = len(self._calls.unbegun) + len(self._calls.unended) + self._calls.has_interrupted()
        return Orphans(orphans, held_by_none + ends)

    async def revoke_orphans(self, orphans: Collection[LiveCredential]) -> list[LiveCredential]:
        """Revoke these, and record it; return one for each call of which some may be alive."""
        by_call = {credential.call_id: credential for credential in sorted(orphans, key=self._end)}
        now, reported = self._clock(), frozenset(self._calls.reported)
        remaining = await self.revoke(orphans)
        calls_left = {credential.call_id for credential in remaining}
        for call_id, credential in by_call.items():
            if call_id in calls_left:
                continue
            if now < self._end(credential):
                record = recovery_record(credential)
                if await self._is_first(record, credential):
                    await best_effort("record", self._operations.append, record)
            elif call_id not in reported:
                # that it can be used no more is certain, and that it was revoked before is not
                await self._tell(credential, "it had ended by itself, or was revoked after its time")
                self._calls.reported.discard(call_id)
        return remaining

    async def orphans(self) -> list[LiveCredential]:
        """Return what has to be revoked now.

        Raises:
            StoreError: The store cannot be read.
        """
        states = dict[str, TaskState | None]()
        return [live for live in await self._operations.live() if await self._orphaned(live, states)]

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

    async def _end_interrupted(self) -> None:
        """End the calls whose end an interrupt has kept from being noted, and write down how they ended.

        Their credentials are orphans then. One thread of this process does so at a time: each end is noted
        once.
        """
        if not self._calls.has_interrupted():
            return
        owner, late, until = owner_here(), self._calls.late, monotonic() + _LATE
        if not late.acquire(owner, lambda: until - monotonic()):
            return  # another thread is at it
        try:
            for call_id, call in list(self._calls.running.items()):
                if not call.is_running():
                    log.warning("call %s was interrupted while it ended: its end is noted now", call_id)
                    await best_effort("the end of an interrupted call", call.end_late)
        finally:
            late.release()
            del owner  # it refers to this frame

    async def _with_untracked(self, live: Iterable[LiveCredential]) -> list[LiveCredential]:
        """Add what was minted, and could not be recorded by the handle that its broker has named."""
        credentials = list(live)
        for call_id, credential in list(self._calls.untracked.items()):
            if call_id in self._calls.running:
                continue
            if await best_effort("track", self._operations.track, credential):
                self._calls.untracked.pop(call_id, None)
            if credential not in credentials:
                credentials.append(credential)
        return credentials

    async def _orphaned(self, credential: LiveCredential, states: dict[str, TaskState | None]) -> bool:
        if credential.expires_at <= self._clock() or credential.call_id in self._calls.failed:
            return True
        if credential.call_id in self._calls.untracked and credential.call_id not in self._calls.running:
            return True
        if self.is_gone(credential.owner):
            return True
        if credential.task_id not in states:
            states[credential.task_id] = await self._operations.task(credential.task_id)
        state = states[credential.task_id]
        return state is None or state.ended(self._clock()) is not None or self._calls.is_unended(state)

    async def _revoke(self, credential: LiveCredential, subject: str) -> Fate:
        revoke = self._operations.revoke.get(credential.broker)
        if revoke is None:
            log.error("no broker %s to revoke with", credential.broker)
            return Fate.FAILED
        try:
            await revoke(subject, credential.handle, credential.expires_at)
        except RevocationUnknown as error:
            log.warning("%s of %s: %s", credential.call_id, credential.broker, error)
            return Fate.UNKNOWN
        except BaseException as error:
            if is_for_caller(error):
                raise
            # a broker may raise a cancellation of its own; nobody cancels this coroutine but a loop that ends
            log.error("revoke failed: %s", failure_text(error))
            return Fate.FAILED
        return Fate.REVOKED
