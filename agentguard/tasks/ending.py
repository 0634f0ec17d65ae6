"""How a task ends, whoever ends it: its block, its deadline, an operator, a security team's signal.

Completion, expiry and revocation end alike: the end is recorded, every live credential of the task and
of its descendants is revoked at its issuer, and whoever is to be told is owed a signal. What cannot be
done now is in the store's outbox.
"""

from __future__ import annotations

from agentguard.enforcement import recording as records
from agentguard.enforcement.flow import Enforcement
from agentguard.enforcement.operations import Io
from agentguard.enforcement.process import owner
from agentguard.model import LiveCredential, TaskStatus

__all__ = ["Ending"]


class Ending:
    """Ends the tasks of one guard."""

    def __init__(self, enforcement: Enforcement) -> None:
        self._enforcement, self._outbox = enforcement, enforcement.outbox
        self._started = False

    async def started(self, io: Io) -> None:
        """Look once, before the first task, for what a process that is gone has left alive.

        Raises:
            StoreError: The outbox cannot be read.
        """
        if self._started:
            return
        self._started = True
        if await self._outbox.pending(io):
            self._enforcement.on_unrevoked()

    async def end(self, task_id: str, status: TaskStatus, cause: str, io: Io) -> None:
        """End a task and its descendants.

        Raises:
            StoreError: The end could not be recorded; credentials end by their expiry.
            AuditError: It could not be written down.
        """
        await io.to_the_end(self._end(task_id, status, cause, io))

    async def heed(
        self,
        cause: str,
        io: Io,
        *,
        task: str | None = None,
        token: str | None = None,
        user: str | None = None,
    ) -> None:
        """End a task, or that of a token, or all active ones of a user; what is unknown is over already.

        Raises:
            StoreError: It could not be recorded.
            AuditError: It could not be written down.
        """
        tasks = [] if task is None else [task]
        if token is not None:
            tasks += [held.task_id for held in await io.live() if token in (held.call_id, held.handle)]
        elif user is not None and task is None:
            tasks += await io.active(user)
        for each in dict.fromkeys(tasks):
            await self.end(each, TaskStatus.REVOKED, cause, io)

    async def _end(self, task_id: str, status: TaskStatus, cause: str, io: Io) -> None:
        ended = await io.end_task(task_id, status, await self._owed(task_id, cause, io))
        self._enforcement.reuse.drop(ended)
        self._enforcement.subject_tokens.drop(ended)
        # signals are sent by the outbox, for nobody here waits for them
        live = [held for held in await io.live(task_id) if held.broker not in self._enforcement.transmitters]
        left = await self._outbox.revoke(live, io)
        for name in ended:
            state = await io.task(name)
            lineage = [] if state is None else list(state.lineage)
            await io.append(records.task_ended(name, lineage, status.value, cause, len(left)))
        if left or (ended and self._enforcement.transmitters):
            self._enforcement.on_unrevoked()

    async def _owed(self, task_id: str, cause: str, io: Io) -> list[LiveCredential]:
        """Return what each end is to tell, as the outbox carries it: once for each who is told."""
        state = await io.task(task_id) if self._enforcement.transmitters else None
        if state is None:
            return []
        now = self._enforcement.clock()
        last = max([now + self._enforcement.lifetime, *(held.expires_at for held in await io.live(task_id))])
        return [
            LiveCredential(
                call_id=f"{name}:",
                task_id="",
                broker=name,
                handle=transmitter.notice(state.identity.subject, cause, now),
                expires_at=last,
                owner=owner(),
            )
            for name, transmitter in self._enforcement.transmitters.items()
        ]
