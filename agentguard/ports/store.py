"""The Protocol of a store: the state that all processes of an application share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol, runtime_checkable

from agentguard.model import (
    NO_READ_EFFECTS,
    Approval,
    Basis,
    Call,
    CallKey,
    Cell,
    Label,
    LiveCredential,
    Login,
    LoginName,
    Outcome,
    ReadEffects,
    TaskState,
    TaskStatus,
)

__all__ = ["ConditionalStore", "Store"]


@runtime_checkable
class Store(Protocol):
    """State that all processes of an application share. Each method is atomic.

    Any method may raise StoreError; the caller then denies.
    """

    def create_task(self, state: TaskState) -> None:
        """Record a new task."""

    def task(self, task_id: str) -> TaskState | None:
        """Return the task as it is now, or None."""

    def begin_call(self, call: Call, credential: LiveCredential | None) -> None:
        """Count the call against its task and all that it descends from, and record *credential*.

        Uses up `call.approval_id`, if set. A call whose key is suspended is resumed: it counts
        nothing, and may use the approval that it used before.

        Checks in the same transaction that `call.numbers`, by which the call was judged, are what they were,
        and makes `call.additions` to numbers, in place of those of the suspended call that it resumes.

        Raises:
            TaskNotActive: The task or one of its lineage is unknown, ended, or past its deadline.
            BudgetExhausted: One of their budgets is used up; nothing was counted.
            ChoiceExhausted: One of them has fewer choice bits left than `call.choice_bits`, and else could
                make the call; nothing was counted. The guard then judges the call anew, without any.
            ApprovalError: The approval is unknown, unanswered, expired, used, or not for this call.
            CountersChanged: A number is another by now; nothing was counted. The call is to be judged anew.
            MandateChanged: `call.mandate` is another by now, that of the task within each of its lineage;
                nothing was counted. A `ConditionalStore` compares the basis instead.
            CountersFull: A number, or that of the values of an argument, cannot grow any more; nothing was
                counted.
        """

    def counted(self, cells: Sequence[Cell], resumes: CallKey | None = None) -> Sequence[int]:
        """Return these numbers, each 0 if nothing was added to it.

        A call adds to numbers from its beginning on. What the suspended call *resumes* has added is left out,
        since that call is the one that is judged. The cost does not grow with the number of calls. What is
        owned by a family is kept as long as its oldest task, and any other bucket at least until its time.
        """

    def track(self, credential: LiveCredential) -> None:
        """Record a credential whose handle is known only after issue, for a call that has begun.

        Raises:
            TaskNotActive: The task ended while it was minted; it is recorded, and must be revoked.
        """

    def end_call(
        self,
        call_id: str,
        outcome: Outcome,
        *,
        effects: ReadEffects = NO_READ_EFFECTS,
        revoked: bool = False,
        remember: tuple[str, float] | None = None,
        undo: bool = False,
    ) -> None:
        """Note how the call ended, what its task has read by it, and as `forget` and `remember` do.

        The task and all that it descends from have then read it. Its labels are kept for the oldest of
        these and all its descendants together, and counted in each one's `labels`. With `LABELS` of them, an
        untrusted one is dropped; a trusted one is dropped with `LABELS` + `TRUSTED_LABELS`.

        With *undo*, what the call has added to numbers is taken back: it is known that it did nothing.
        """

    def labels(self, family: str, digests: Collection[str]) -> Iterable[Label]:
        """Return the labels with these digests that are kept for a task and all its descendants."""

    def forget(self, call_id: str) -> None:
        """Note that the call's credentials are revoked."""

    def live(self, task_id: str | None = None) -> tuple[LiveCredential, ...]:
        """Return what is not yet known to be revoked, of the task and its descendants, or of all."""

    def end_task(
        self, task_id: str, status: TaskStatus, notices: Iterable[LiveCredential] = ()
    ) -> tuple[str, ...]:
        """End the task and all its descendants; returns the ids of those that ended now.

        The first end stands: ending an ended task changes nothing. With each end, and not without
        it, the *notices* are recorded as live, as that task's: its id is their `task_id`, and follows
        what they say as `call_id` and `handle`.
        """

    def revise_task(self, task_id: str, revise: Callable[[TaskState], TaskState]) -> TaskState:
        """Replace the words, the mandate and the kinds of an active task; returns the revised task.

        *revise* is pure. It may be called more than once, and is given the task as it is now: of two that
        revise at once, the later one sees what the earlier one has written. What else it changes is not
        written.

        Raises:
            TaskNotActive: The task is unknown, ended, or past its deadline.
        """

    def active(self, subject: str, *, without: LoginName = "", folded: bool = False) -> tuple[str, ...]:
        """Return the ids of the tasks of *subject* that are active.

        With *folded*, *subject* ends in an email address, and tasks count whose subject is another spelling
        of it (`text.folded_address`). The guard gives it only for a signal that names an address.

        With *without*, return only those that have no `TaskState.login`, or one that lacks this name. The
        guard gives it only for a logout of one session, or of one token. A user may have many tasks, so this
        is one query, which reads no task by itself.
        """

    def active_in(self, login: Login, *, without: LoginName = "") -> tuple[str, ...]:
        """Return the ids of the active tasks whose `TaskState.login` has each name that *login* has.

        *login* has an issuer, and a subject, a session or a token. *without* is as in `active`.
        """

    def remember(self, key: str, until: float) -> bool:
        """Record *key* until that time; returns False if it was recorded before."""

    def known(self, key: str) -> bool:
        """Return whether *key* is recorded and its time is not over."""

    def save_approval(self, approval: Approval) -> Approval:
        """Record a pending approval, unless one with its id exists; returns the one recorded.

        A new one is counted in `questions` of its task and of all that the task descends from, in the same
        transaction.

        Raises:
            ApprovalError: It has an answer already, or a person has rejected such a call (see `rejection`).
            BudgetExhausted: One of these tasks has used up its questions; nothing was recorded or counted.
            TaskNotActive: One of these tasks is unknown, ended, or past its deadline.
        """

    def answer_approval(self, approval: Approval) -> None:
        """Record a person's answer to a pending approval.

        Raises:
            ApprovalError: It is unknown or already answered; or it is approved after its expiry, or after a
                person has rejected such a call (see `rejection`). A late rejection is recorded.
        """

    def approval(self, approval_id: str) -> Approval | None:
        """Return an approval, or None."""

    def approval_for(self, call_key: str) -> Approval | None:
        """Return the newest approval that was asked for this call, or None."""

    def rejection(self, family: str, tool: str, shown_digest: str) -> Approval | None:
        """Return a rejection of such a call in the family of a task, or None.

        *family* is the `TaskState.root_id` of the tasks; a rejection holds for all of them, and is kept as
        long as that oldest task is.
        """


@runtime_checkable
class ConditionalStore(Store, Protocol):
    """A store for which each operation is a round trip; the guard saves the one that reads the task.

    A guard then judges a call by what it has last seen of the task: when it began the task, or when another
    call of it began or ended. It hands that to the store as the basis of the judgement. The store compares
    the basis and begins the call in one transaction. So a call never begins on a basis that was over before
    the call came: where the task has changed, the guard judges the call anew by the answer.

    The suite `testing.ConditionalStoreContract` tests all of it.
    """

    def begin_if_unchanged(
        self, call: Call, credential: LiveCredential | None, basis: Basis
    ) -> tuple[TaskState, ...] | None:
        """Do as `begin_call` and return None, if all of *basis* is still so, in one transaction.

        Else begin and count nothing, and return `basis.tasks` as they are now, in their order. Compare of
        each task what no call changes (its words and its mandate among it) and `Basis.counts`; and the labels
        of the family that have one of `basis.digests`, which are those of `basis.labels` and no others. Where
        a task is unknown or over, nothing need be compared: `begin_call` refuses the call.

        Raises:
            TaskNotActive, BudgetExhausted, ApprovalError: As `begin_call`.
        """
