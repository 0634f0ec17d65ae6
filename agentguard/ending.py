"""How a task ends, whoever ends it: its block, its deadline, an operator, a security team's signal.

Completion, expiry and revocation end alike: the end is recorded, every live credential of the task and
of its descendants is revoked at its issuer, and whoever is to be told is owed a signal. What cannot be
done now is in the store's outbox.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentguard import records
from agentguard.call import Io
from agentguard.model import LiveCredential, TaskStatus
from agentguard.owner import owner
from agentguard.ports import Transmitter
from agentguard.recovery import Recovery
from agentguard.reuse import Reuse
from agentguard.subjects import SubjectTokens

__all__ = ["Ending"]


class Ending:
    """Ends tasks. *lifetime* is that of a credential, in seconds."""

    def __init__(
        self,
        recovery: Recovery,
        reuse: Reuse,
        subject_tokens: SubjectTokens,
        transmitters: Mapping[str, Transmitter],
        lifetime: float,
        clock: Callable[[], float],
    ) -> None:
        self._recovery, self._reuse, self._subject_tokens = recovery, reuse, subject_tokens
        self._transmitters, self._lifetime, self._clock = transmitters, lifetime, clock
        self._started = False
        self.on_left: Callable[[], None] = lambda: None
        """Called when something is left in the outbox that no running call holds."""

    async def started(self, io: Io) -> None:
        """Look once, before the first task, for what a process that is gone has left alive.

        Raises:
            StoreError: The outbox cannot be read.
        """
        if self._started:
            return
        self._started = True
        if await self._recovery.pending(io):
            self.on_left()

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
        self._reuse.drop(ended)
        self._subject_tokens.drop(ended)
        # signals are sent by the outbox, for nobody here waits for them
        live = [held for held in await io.live(task_id) if held.broker not in self._transmitters]
        left = await self._recovery.revoke(live, io)
        for name in ended:
            state = await io.task(name)
            lineage = [] if state is None else list(state.lineage)
            await io.append(records.task_ended(name, lineage, status.value, cause, len(left)))
        if left or (ended and self._transmitters):
            self.on_left()

    async def _owed(self, task_id: str, cause: str, io: Io) -> list[LiveCredential]:
        """Return what each end is to tell, as the outbox carries it: once for each who is told."""
        state = await io.task(task_id) if self._transmitters else None
        if state is None:
            return []
        now = self._clock()
        last = max([now + self._lifetime, *(held.expires_at for held in await io.live(task_id))])
        return [
            LiveCredential(
                call_id=f"{name}:",
                task_id="",
                broker=name,
                handle=transmitter.notice(state.identity.subject, cause, now),
                expires_at=last,
                owner=owner(),
            )
            for name, transmitter in self._transmitters.items()
        ]
