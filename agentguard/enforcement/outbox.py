"""The outbox: what is not known to be revoked is revoked again, until it is, across a crash.

The store lists what was, or may have been, minted. This room works the list off: at a task's end, when a
guard first begins a task after a start, and in a thread of its own (`OutboxThread`) while anything is left.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import Enum, auto
from time import monotonic
from types import MappingProxyType

from agentguard.enforcement.calls_here import CallsHere
from agentguard.enforcement.failures import best_effort, failure_text, is_for_caller
from agentguard.enforcement.operations import Operations
from agentguard.enforcement.process import gone
from agentguard.enforcement.records import recovery_record, task_end_record, unrevoked_record
from agentguard.errors import RevocationUnknown
from agentguard.model import LiveCredential, TaskStatus

__all__ = ["Outbox"]

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

    `end_task` ends a task whose end could not be stored; the room that ends tasks sets it. `is_gone` says
    of a credential's owner whether its process is gone. A person may know that of a process elsewhere.
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
        self.is_gone: Callable[[str], bool] = gone

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
        await self._end_interrupted()
        live, now = await self._with_untracked(await self._operations.live()), self._clock()
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
        ends = len(self._calls.unbegun) + len(self._calls.unended) + self._calls.has_interrupted()
        return len(remaining) + held_by_none + ends

    async def orphans(self) -> list[LiveCredential]:
        """Return what has to be revoked now.

        Raises:
            StoreError: The store cannot be read.
        """
        return [live for live in await self._operations.live() if await self._orphaned(live)]

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
            except BaseException as error:
                if is_for_caller(error):
                    raise
                log.error("the end of task %s was tried again, and failed: %s", task_id, failure_text(error))

    async def _end_interrupted(self) -> None:
        """End the calls whose end an interrupt has kept from being noted, and write down how they ended."""
        for call_id, call in list(self._calls.running.items()):
            if not call.is_running():
                log.warning("call %s was interrupted while it ended: its end is noted now", call_id)
                await best_effort("the end of an interrupted call", call.end_late)

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

    async def _orphaned(self, credential: LiveCredential) -> bool:
        if credential.expires_at <= self._clock() or credential.call_id in self._calls.failed:
            return True
        if credential.call_id in self._calls.untracked and credential.call_id not in self._calls.running:
            return True
        if self.is_gone(credential.owner):
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
        except BaseException as error:
            if is_for_caller(error):
                raise
            # a broker may raise a cancellation of its own; nobody cancels this coroutine but a loop that ends
            log.error("revoke failed: %s", failure_text(error))
            return Fate.FAILED
        return Fate.REVOKED
