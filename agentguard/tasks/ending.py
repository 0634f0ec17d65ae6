"""How a task ends, whoever ends it: its block, its deadline, an operator, a security team's signal.

Completion, expiry and revocation end alike. The end is stored, and from then on no call begins. Then every
live credential of the task and of its descendants is revoked at its issuer, all of them side by side, and
the end is recorded. Each receiver of signals is owed one. What cannot be done now
stays in the store's outbox.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Self

from agentguard.enforcement.failures import best_effort, failure_text, is_for_caller
from agentguard.enforcement.flow import Enforcement, Flow
from agentguard.enforcement.process import owner
from agentguard.enforcement.records import signal_record, task_end_record
from agentguard.errors import AgentGuardError, StoreError, VerificationError, safe_text
from agentguard.model import LiveCredential, TaskState, TaskStatus
from agentguard.tasks.login import IssuedTokens, tasks_of

if TYPE_CHECKING:
    from agentguard.signals import SessionRevoked

__all__ = ["Ending", "Endings"]

log = logging.getLogger("agentguard")


class Ending:
    """Ends the tasks of one guard, on one path."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._enforcement, self._operations = flow.enforcement, flow.operations
        self._tokens = IssuedTokens({route.name: route.broker for route in flow.enforcement.routes})
        self._swept = False
        flow.outbox.end_task, flow.outbox.store_ends = self.end, self.store_ends

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
            if (recollection := self._enforcement.recollection) is not None:
                recollection.see(state)
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

    async def store_ends(self) -> None:
        """Store the ends of all tasks of which that has failed, and record them.

        What fails again stays to be done. It revokes nothing: what the tasks hold is in the outbox.
        """
        await self._operations.to_the_end(self._store_ends())

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
        tasks = await tasks_of(event, issuer, self._operations, self._tokens)
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

        A failure at one step or task keeps no other from being done, and is raised at the end. Whatever fails
        after the end of a task, the outbox's thread revokes what is left of it.
        """
        ended, unrevoked = dict[str, tuple[str, ...]](), dict[str, int]()
        failures = _Failures()
        try:
            for task_id in task_ids:
                with failures.collecting():
                    ended[task_id] = await self._mark_ended(task_id, status, cause)
            unrevoked = await self._revoke(list(ended), failures)
            for task_id, ids in ended.items():
                for ended_id in ids:
                    with failures.collecting():
                        await self._record(ended_id, status, cause, unrevoked.get(task_id))
        finally:
            is_left = any(unrevoked.get(task_id) != 0 for task_id in ended)
            is_left = is_left or self._enforcement.calls.has_interrupted()
            if is_left or (any(ended.values()) and self._enforcement.transmitters):
                self._enforcement.on_unrevoked()
        failures.raise_first()
        return sum(map(len, ended.values()))

    async def _store_ends(self) -> None:
        ended = dict[str, tuple[tuple[str, ...], TaskStatus, str]]()
        for task_id, (status, cause) in list(self._enforcement.calls.unended.items()):
            try:
                ended[task_id] = await self._mark_ended(task_id, status, cause), status, cause
            except BaseException as error:
                if is_for_caller(error):
                    raise
                log.error("the end of task %s was tried again, and failed: %s", task_id, failure_text(error))
        for task_id, (ids, status, cause) in ended.items():
            unrevoked = await self._count_live(task_id)
            for ended_id in ids:
                await best_effort("record", self._record, ended_id, status, cause, unrevoked)

    async def _count_live(self, task_id: str) -> int | None:
        """Return of how many calls a task holds a credential, or None if that cannot be read."""
        try:
            return len({credential.call_id for credential in await self._revocable(task_id)})
        except Exception as error:  # noqa: BLE001  whatever the store raises, the task has ended
            log.error("the credentials of task %s cannot be listed: %s", task_id, failure_text(error))
            return None

    async def _revoke(self, task_ids: list[str], failures: _Failures) -> dict[str, int]:
        """Revoke what tasks hold, side by side; return how much is left of each of which that is known."""
        live = dict[str, list[LiveCredential]]()
        for task_id in task_ids:
            with failures.collecting():
                live[task_id] = await self._revocable(task_id)
        with failures.collecting():
            # a task and its child may both be named, and the child's credentials are its parent's too
            unrevoked = await self.flow.outbox.revoke(dict.fromkeys(chain.from_iterable(live.values())))
            return {id_: sum(one in unrevoked for one in credentials) for id_, credentials in live.items()}
        return {}

    async def _mark_ended(self, task_id: str, status: TaskStatus, cause: str) -> tuple[str, ...]:
        enforcement = self._enforcement
        try:
            notices = await self._owed(task_id, cause)
            with enforcement.calls.ending_a_task():
                ended = await self._operations.end_task(task_id, status, notices)
        except BaseException as error:
            # who has left a dropped generator is not told of what fails; a retry must not wake its own thread
            if task_id not in enforcement.calls.unended:
                enforcement.calls.unended[task_id] = (status, cause)
                log.error("the end of task %s is not stored yet: %s", task_id, failure_text(error))
                enforcement.on_unrevoked()
            raise
        enforcement.calls.unended.pop(task_id, None)
        if enforcement.recollection is not None:
            enforcement.recollection.end(ended)
        enforcement.reuse.drop(ended)
        enforcement.subject_tokens.drop(ended)
        return ended

    async def _revocable(self, task_id: str) -> list[LiveCredential]:
        # signals are sent by the outbox, for nobody here waits for them
        live = await self._operations.live(task_id)
        return [one for one in live if one.broker not in self._enforcement.transmitters]

    async def _record(self, task_id: str, status: TaskStatus, cause: str, unrevoked: int | None) -> None:
        state = await self._known(task_id)
        lineage = [] if state is None else list(state.lineage)
        await self._operations.append(task_end_record(task_id, lineage, status.value, cause, unrevoked))

    async def _known(self, task_id: str) -> TaskState | None:
        """Return a task, or None also if it cannot be read: an end does not wait for that."""
        try:
            return await self._operations.task(task_id)
        except Exception as error:  # noqa: BLE001  whatever the store raises, the task ends
            log.error("task %s ends, and cannot be read: %s", task_id, failure_text(error))
            return None

    async def _owed(self, task_id: str, cause: str) -> list[LiveCredential]:
        """Return what each end is to tell, as the outbox carries it: once for each receiver.

        A receiver for which no notice can be made is told nothing, and the task ends all the same.
        """
        enforcement = self._enforcement
        state = await self._known(task_id) if enforcement.transmitters else None
        if state is None:
            return []
        now = enforcement.options.clock()
        handles, last = dict[str, str](), await self._last_expiry(state, now)
        for name, transmitter in enforcement.transmitters.items():
            try:
                handles[name] = transmitter.notice(state.identity.subject, cause, now)
            except BaseException as error:
                if is_for_caller(error):
                    raise
                failure = failure_text(error)
                log.error("%s is not told of the end of task %s: %s", name, task_id, failure)
        return [
            LiveCredential(
                call_id=f"{name}:", task_id="", broker=name, handle=handle, expires_at=last, owner=owner()
            )
            for name, handle in handles.items()
        ]

    async def _last_expiry(self, state: TaskState, now: float) -> float:
        """Return when the last credential of a task ends, or one that is issued now for its longest time."""
        last = now + self._enforcement.options.lifetime
        try:
            return max([last, *(one.expires_at for one in await self._operations.live(state.id))])
        except Exception as error:  # noqa: BLE001  whatever the store raises, the task ends
            log.error("the credentials of task %s cannot be listed: %s", state.id, failure_text(error))
            return max(last, state.deadline)


class _Failures(list[BaseException]):
    """What has failed while other steps were still to be done."""

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep what the block raises, an exit, an interrupt and a cancellation too."""
        try:
            yield
        except GeneratorExit:  # nothing can be awaited any more
            raise
        except BaseException as error:  # noqa: BLE001  it is raised when the other steps are done
            self.append(error)

    def raise_first(self) -> None:
        """Raise the first failure: an exit, an interrupt or a cancellation before all else."""
        for error in sorted(self, key=lambda error: isinstance(error, Exception)):
            raise error


class Endings(NamedTuple):
    """The ends of a guard's tasks, on either path."""

    sync: Ending
    async_: Ending

    @classmethod
    def of(cls, enforcement: Enforcement) -> Self:
        """Make both."""
        return cls(Ending(enforcement.sync), Ending(enforcement.async_))
