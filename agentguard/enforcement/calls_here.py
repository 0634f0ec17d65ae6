"""What this process knows of its own calls, and of the tasks that it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from agentguard.concurrency.fork import in_child
from agentguard.concurrency.owned_lock import OwnedLock
from agentguard.model import LiveCredential, TaskState, TaskStatus

if TYPE_CHECKING:
    from agentguard.enforcement.call import Permit
    from agentguard.enforcement.issuance import Issuance
    from agentguard.telemetry import CallSpan

__all__ = ["CallInProgress", "CallsHere"]


class CallInProgress(Protocol):
    """A call that has begun and not ended. `thread` is the identifier of the thread that has entered it."""

    thread: int

    @property
    def permit(self) -> Permit:
        """What permits the call."""

    @property
    def issuance(self) -> Issuance:
        """The credential of the call."""

    @property
    def span(self) -> CallSpan:
        """The span of the call."""

    def take_end(self) -> bool:
        """Return True to the one caller that is to end the call, and False to any later one."""

    def is_running(self) -> bool:
        """Return whether somebody is still at it, who will note its end."""

    async def end_late(self) -> None:
        """Note its end in place of the one whom an interrupt has kept from that."""


@dataclass(slots=True, weakref_slot=True)
class CallsHere:
    """This process's calls by their ids: those that run, and those whose revocation has failed.

    `untracked` is what was minted for calls and is not on record by the handle that its broker has named.
    `reported` are those of which it is on record that they are not known to be revoked. `unbegun` are the
    tasks of which a caller was told that they could not be begun, each with the time of the monotonic clock
    until which the store may still begin it. `unended` are the tasks whose end could not be stored, each
    with the status and the cause of its end. They act for nobody in this process. `last_end` is another
    object after each end of a task here, and `ends` has one for each end that is being stored.
    `in_progress` are the calls that have begun. `closing` says that no call begins any more, and `closed`
    that the store and the log are closed too. Who has the lock `late` ends the calls that an interrupt has
    kept from their end.

    A forked child has none of its parent's calls and tasks to revoke or to end; the `unended` ones act for
    nobody there either.
    """

    running: dict[str, CallInProgress] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    untracked: dict[str, LiveCredential] = field(default_factory=dict)
    reported: set[str] = field(default_factory=set)
    unbegun: dict[str, float] = field(default_factory=dict)
    unended: dict[str, tuple[TaskStatus, str]] = field(default_factory=dict)
    ends: set[object] = field(default_factory=set)
    last_end: object = None
    in_progress: dict[str, CallInProgress] = field(default_factory=dict)
    closing: bool = False
    closed: bool = False
    late: OwnedLock = field(default_factory=OwnedLock)

    def __post_init__(self) -> None:
        """Have a forked child begin without the calls of its parent."""
        in_child(self._leave_to_parent)

    def _leave_to_parent(self) -> None:
        self.running, self.untracked, self.unbegun = {}, {}, {}
        self.failed, self.reported, self.ends, self.in_progress = set(), set(), set(), {}
        self.late = OwnedLock()

    def give_up(self, task_id: str, seconds: float) -> None:
        """Have a task ended that the store may yet begin within *seconds*."""
        self.unbegun[task_id] = monotonic() + seconds

    def is_unended(self, task: TaskState) -> bool:
        """Return whether the end of the task, or of one that it is a part of, is yet to be stored."""
        return bool(self.unended) and not self.unended.keys().isdisjoint((task.id, *task.lineage))

    def has_interrupted(self) -> bool:
        """Return whether an interrupt has kept the end of a call from being noted."""
        return any(not call.is_running() for call in list(self.running.values()))

    @contextmanager
    def ending_a_task(self) -> Iterator[None]:
        """Have `has_ended_any` say so, from before the end is stored."""
        end = object()
        self.ends.add(end)
        try:
            yield
        finally:
            self.last_end = end  # before the other: who asks meanwhile finds one of the two
            self.ends.discard(end)

    def has_ended_any(self, since: object) -> bool:
        """Return whether this process ends a task, or has ended one since `last_end` was *since*.

        While it has not, a task that the store called active is one still, but for other processes.
        """
        return bool(self.ends) or self.last_end is not since
