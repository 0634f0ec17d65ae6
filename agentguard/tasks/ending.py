"""How a task ends, whoever ends it: its block, its deadline, an operator, a security team's signal.

Completion, expiry and revocation end alike. The end is stored, and from then on no call begins. Then every
live credential of the task and of its descendants is revoked at its issuer, all of them side by side, and
the end is recorded. Each receiver of signals is owed one. What cannot be done now
stays in the store's outbox.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Self

from agentguard.enforcement.flow import Enforcement, Flow
from agentguard.enforcement.process import owner
from agentguard.enforcement.records import signal_record, task_end_record
from agentguard.errors import AgentGuardError, StoreError, VerificationError, safe_text
from agentguard.model import LiveCredential, TaskState, TaskStatus
from agentguard.tasks.login import tasks_of

if TYPE_CHECKING:
    from agentguard.signals import SessionRevoked

__all__ = ["Ending", "Endings"]

log = logging.getLogger("agentguard")


class Ending:
    """Ends the tasks of one guard, on one path."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._enforcement, self._operations = flow.enforcement, flow.operations
        self._issuers = {
            route.name: str(getattr(route.broker, "issuer", "")) for route in flow.enforcement.routes
        }
        self._swept = False
        flow.outbox.end_task = self.end

    async def sweep_once(self) -> None:
        """Look once, before the first task, for what a process that is gone has left alive.

        Raises:
            StoreError: The outbox cannot be read.
        """
        if self._swept:
            return
        self._swept = True
        if await self.flow.outbox.pending():
            self._enforcement.on_unrevoked()

    async def begin(self, state: TaskState) -> None:
        """Record a new task. One that could not be recorded in time does not stay active, if it is after all.

        Raises:
            StoreError: It could not be recorded.
        """
        try:
            await self.sweep_once()
            await self._operations.create_task(state)
        except BaseException as error:
            # the store may still be at it, and the caller is told that there is no such task
            self._enforcement.calls.give_up(state.id, 2 * self._enforcement.options.timeout)
            self._enforcement.on_unrevoked()
            if isinstance(error, AgentGuardError) or not isinstance(error, Exception):
                raise
            raise StoreError(f"task {state.id} could not be begun: {safe_text(error)}") from error

    async def end(self, task_id: str, status: TaskStatus, cause: str) -> None:
        """End a task and its descendants.

        If the end cannot be stored, the task acts for nobody in this process all the same, and the outbox's
        thread tries again. Other processes that share the store let it act until then, at most until its
        deadline.

        Raises:
            StoreError: The end could not be stored yet.
            AuditError: It could not be written down.
        """
        await self._operations.to_the_end(self._end([task_id], status, cause))

    async def end_by_signal(self, event: SessionRevoked, issuer: str) -> None:
        """End the tasks that a signal is about (see `login.tasks_of`); what is unknown is over already.

        All of them are over before the first credential is revoked. If nothing was active, the log has a
        warning, and the audit log a record: what the sender names may go by another name here, and still run.

        Raises:
            StoreError: It could not be recorded.
            AuditError: It could not be written down.
            VerificationError: 400. Nothing was active by the event's session, and its user, whose tasks would
                then end, is named in a format that is not known.
        """
        cause = f"signal of {event.issuer}: {event.reason}"
        tasks = await tasks_of(event, issuer, self._operations, self._issuers)
        end = self._end(list(dict.fromkeys(tasks)), TaskStatus.REVOKED, cause)
        if await self._operations.to_the_end(end):
            return
        names = {"task": event.task_id, "token": event.token, "user": event.user or event.email or None}
        subject = ", ".join(f"{kind} {name}" for kind, name in names.items() if name is not None)
        log.warning("a signal ended nothing (%s): %s", subject, cause)
        await self._operations.append(signal_record(event.issuer, event.id, cause, names))
        if event.unread_user:
            raise VerificationError(
                "invalid_request",
                f"the session is not known here, and no user is known by the format {event.unread_user}",
                status=400,
            )

    async def _end(self, task_ids: list[str], status: TaskStatus, cause: str) -> int:
        """End tasks, then revoke what they hold, and record both; return how many have ended.

        A failure at one keeps no other alive.
        """
        ended, failures = dict[str, tuple[str, ...]](), list[Exception]()
        for task_id in task_ids:
            try:
                ended[task_id] = await self._mark_ended(task_id, status, cause)
            except Exception as error:  # noqa: BLE001  raised below, when the other tasks have ended
                failures.append(error)
        live = {task_id: await self._revocable(task_id) for task_id in ended}
        # a task and its child may both be named, and the child's credentials are its parent's too
        unrevoked = await self.flow.outbox.revoke(dict.fromkeys(chain.from_iterable(live.values())))
        for task_id, ids in ended.items():
            remaining = sum(one in unrevoked for one in live[task_id])
            try:
                for ended_id in ids:
                    await self._record(ended_id, status, cause, remaining)
            except Exception as error:  # noqa: BLE001  raised below, when the other ends are on record
                failures.append(error)
        if unrevoked or (any(ended.values()) and self._enforcement.transmitters):
            self._enforcement.on_unrevoked()
        if failures:
            raise failures[0]
        return sum(map(len, ended.values()))

    async def _mark_ended(self, task_id: str, status: TaskStatus, cause: str) -> tuple[str, ...]:
        enforcement = self._enforcement
        try:
            ended = await self._operations.end_task(task_id, status, await self._owed(task_id, cause))
        except BaseException as error:
            # who has left a dropped generator is not told of what fails; a retry must not wake its own thread
            if task_id not in enforcement.calls.unended:
                enforcement.calls.unended[task_id] = (status, cause)
                failure = safe_text(error) if isinstance(error, Exception) else type(error).__name__
                log.error("the end of task %s is not stored yet: %s", task_id, failure)
                enforcement.on_unrevoked()
            raise
        enforcement.calls.unended.pop(task_id, None)
        enforcement.reuse.drop(ended)
        enforcement.subject_tokens.drop(ended)
        return ended

    async def _revocable(self, task_id: str) -> list[LiveCredential]:
        # signals are sent by the outbox, for nobody here waits for them
        live = await self._operations.live(task_id)
        return [one for one in live if one.broker not in self._enforcement.transmitters]

    async def _record(self, task_id: str, status: TaskStatus, cause: str, unrevoked: int) -> None:
        state = await self._operations.task(task_id)
        lineage = [] if state is None else list(state.lineage)
        await self._operations.append(task_end_record(task_id, lineage, status.value, cause, unrevoked))

    async def _owed(self, task_id: str, cause: str) -> list[LiveCredential]:
        """Return what each end is to tell, as the outbox carries it: once for each receiver."""
        enforcement = self._enforcement
        state = await self._operations.task(task_id) if enforcement.transmitters else None
        if state is None:
            return []
        now = enforcement.options.clock()
        live = await self._operations.live(task_id)
        last = max([now + enforcement.options.lifetime, *(one.expires_at for one in live)])
        return [
            LiveCredential(
                call_id=f"{name}:",
                task_id="",
                broker=name,
                handle=transmitter.notice(state.identity.subject, cause, now),
                expires_at=last,
                owner=owner(),
            )
            for name, transmitter in enforcement.transmitters.items()
        ]


class Endings(NamedTuple):
    """The ends of a guard's tasks, on either path."""

    sync: Ending
    async_: Ending

    @classmethod
    def of(cls, enforcement: Enforcement) -> Self:
        """Make both."""
        return cls(Ending(enforcement.sync), Ending(enforcement.async_))
