"""What the PostgreSQL store asks the server: one statement for each method of the port.

A `Statement` has its text, its values, and how its answer is read. It knows neither a connection nor whether
the caller waits in a thread or on an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from agentguard.errors import StoreError
from agentguard.model import (
    LABELS,
    NO_READ_EFFECTS,
    TRUSTED_LABELS,
    Approval,
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
    ToolPath,
)
from agentguard.stores import _rows, _rules
from agentguard.stores.postgres import _pruning, _values
from agentguard.stores.postgres._answers import Answers

__all__ = ["Statement", "Statements"]

R = TypeVar("R")
Rows = Sequence[_rows.Row]

_CREDENTIAL = "call_id, task_id, broker, handle, expires_at, owner"
_APPROVAL = (
    "id, call_key, task_id, tool, digest, policy_version, expires_at, status, approver, reason, path,"
    " purpose, display, shown_digest"
)
_COUNTS = {
    "active tasks": "tasks WHERE status = 'active' AND deadline > $1",
    "running calls": "calls WHERE NOT suspended",
    "suspended calls": "calls WHERE suspended",
    "open questions": "approvals AS one WHERE status = 'pending' AND expires_at > $1 AND ("
    "SELECT status = 'active' AND deadline > $1 FROM {schema}.tasks WHERE id = one.task_id)",
}
_LOGIN = {"subject": "login_subject", "session": "login_session", "jti": "login_jti"}


@dataclass(frozen=True, slots=True)
class Statement(Generic[R]):
    """One statement, which is one transaction.

    `repeats` says that a second run changes nothing more and has the same answer, so that it may be run again
    when the answer to the first was lost. Of any other statement nobody knows then whether it was done.
    """

    text: str
    values: tuple[Any, ...]
    read: Callable[[Rows], R]
    repeats: bool = False


class Statements:
    """Makes the statements for the tables in one schema. *clock* is that of the guard."""

    def __init__(self, schema: str, clock: Callable[[], float], retention: _rules.Retention) -> None:
        self.schema, self.clock, self._retention = schema, clock, retention
        self.answers = Answers()

    def create_task(self, state: TaskState) -> Statement[None]:
        """Record a new task.

        Raises:
            StoreError: A task of this id exists.
        """
        id_, fixed, *_ = _rows.task_row(state)
        login = state.login
        names = None if login is None else [login.issuer, login.subject, login.session, login.jti]
        budget, read = state.budget, (state.untrusted, int(state.sensitivity), state.labels, state.questions)
        values = (
            *(id_, list(state.lineage), fixed, state.identity.subject, names, state.deadline),
            *(budget.calls, budget.writes, budget.questions),
            *(str(state.status), state.calls, state.writes, list(state.history), *read),
            *(budget.choice_bits, state.choice_bits),
        )

        def answer(rows: Rows) -> None:
            if not rows[0][0]:
                raise StoreError(f"task {state.id} exists")

        return self._call("create_task", values, answer)

    def task(self, task_id: str) -> Statement[TaskState | None]:
        """Return the task as it is now, or None."""
        columns = (
            "id, fixed, deadline, history, status, calls, writes, untrusted, sensitivity, labels, questions,"
            " choice_bits"
        )
        text = f"SELECT {columns} FROM {self.schema}.tasks WHERE id = $1"  # noqa: S608  a checked name
        return Statement(text, (task_id,), self.answers.task, repeats=True)

    def begin_call(self, call: Call, credential: LiveCredential | None) -> Statement[None]:
        """Count the call and record the credential that is about to be minted (see `ports.Store`)."""
        values: tuple[Any, ...] = (
            *(call.id, call.key, call.task_id, call.tool, str(call.path), call.path is not ToolPath.READ),
            *(call.choice_bits, call.approval_id, self.clock(), *_values.credential(credential)),
        )
        name = "begin_call"
        if call.numbers or call.additions:
            name, values = "begin_counted_call", (*values, *_values.counts(call))
        return self._call(name, values, lambda rows: self.answers.begun(rows, call))

    def counted(self, cells: Sequence[Cell], resumes: CallKey | None = None) -> Statement[tuple[int, ...]]:
        """Return these numbers, without what the suspended call *resumes* has added to them."""
        return self._call(
            "counted", _values.cells(cells, resumes), lambda rows: tuple(rows[0][0]), repeats=True
        )

    def track(self, credential: LiveCredential) -> Statement[None]:
        """Record a credential whose handle is known only after issue."""
        values = (self.clock(), *_values.credential(credential))
        return self._call("track", values, self.answers.tracked, repeats=True)

    def end_call(
        self,
        call_id: str,
        outcome: Outcome,
        *,
        effects: ReadEffects = NO_READ_EFFECTS,
        revoked: bool = False,
        remember: tuple[str, float] | None = None,
        undo: bool = False,
    ) -> Statement[None]:
        """Record how the call ended; if it is not running, *effects* and *undo* are ignored."""
        key, until = remember or (None, None)
        values = (call_id, outcome is Outcome.SUSPENDED, revoked, key, until, self.clock())
        if effects == NO_READ_EFFECTS:
            return self._end("end_call", values, undo=undo)
        labels = (
            [label.digest for label in effects.labels],
            [label.source for label in effects.labels],
            [label.trusted for label in effects.labels],
            [int(label.sensitivity) for label in effects.labels],
        )
        read = (effects.untrusted, int(effects.sensitivity), *labels, LABELS, LABELS + TRUSTED_LABELS)
        return self._end("end_reading_call", (*values, *read), undo=undo)

    def _end(self, function: str, values: tuple[Any, ...], *, undo: bool) -> Statement[None]:
        statement = self._call(function, values, _nothing, repeats=True)
        if not undo:
            return statement
        first = f"SELECT {self.schema}.undo_call($1), "
        return replace(statement, text=statement.text.replace("SELECT ", first, 1))

    def labels(self, family: str, digests: Collection[str]) -> Statement[tuple[Label, ...]]:
        """Return the labels of values that the family's tasks have read, for these digests."""
        condition = "family = $1 AND digest = ANY ($2) ORDER BY n"
        text = f"SELECT digest, source, trusted, sensitivity FROM {self.schema}.labels WHERE {condition}"  # noqa: S608  a checked name

        def answer(rows: Rows) -> tuple[Label, ...]:
            labels = [_rows.label(row) for row in rows]
            return tuple(label for digest in digests for label in labels if label.digest == digest)

        return Statement(text, (family, list(digests)), answer, repeats=True)

    def forget(self, call_id: str) -> Statement[None]:
        """Record that the call's credentials are revoked."""
        text = f"DELETE FROM {self.schema}.credentials WHERE call_id = $1 RETURNING 1"  # noqa: S608  a checked name
        return Statement(text, (call_id,), _nothing, repeats=True)

    def counts(self) -> Statement[dict[str, int]]:
        """Return how much is active and open, by what it is."""
        rows = [row.format(schema=self.schema) for row in _COUNTS.values()]
        counts = ", ".join(f"(SELECT count(*) FROM {self.schema}.{row})" for row in rows)  # noqa: S608  a checked name

        def answer(values: Rows) -> dict[str, int]:
            return dict(zip(_COUNTS, map(int, values[0]), strict=True))

        return Statement(f"SELECT {counts}", (self.clock(),), answer, repeats=True)

    def live(self, task_id: str | None = None) -> Statement[tuple[LiveCredential, ...]]:
        """Return the credentials not known to be revoked, of the task and its descendants, or all."""
        text = f"SELECT {_CREDENTIAL} FROM {self.schema}.credentials"  # noqa: S608  a checked name
        values: tuple[str, ...] = ()
        if task_id is not None:
            descendants = f"SELECT task_id FROM {self.schema}.lineage WHERE ancestor = $1"  # noqa: S608  a checked name
            text, values = f"{text} WHERE task_id = $1 OR task_id IN ({descendants})", (task_id,)
        return Statement(text, values, lambda rows: tuple(map(_rows.credential, rows)), repeats=True)

    def end_task(
        self, task_id: str, status: TaskStatus, notices: Iterable[LiveCredential] = ()
    ) -> Statement[tuple[str, ...]]:
        """End the task and all its descendants; return the ids of the tasks that ended now."""
        if status is TaskStatus.ACTIVE:
            raise ValueError("a task does not end as active")
        notices = tuple(notices)
        columns = [
            [getattr(notice, name) for notice in notices]
            for name in ("call_id", "broker", "handle", "expires_at", "owner")
        ]
        values = (task_id, str(status), self.clock(), *columns)
        return self._call("end_task", values, lambda rows: tuple(rows[0][0]))

    def active(
        self, subject: str, *, without: LoginName = "", folded: bool = False
    ) -> Statement[tuple[str, ...]]:
        """Return the ids of the active tasks of *subject*, or of those whose login has no name *without*."""
        condition = "subject = $2"
        if folded:
            condition = "(subject = $2 OR position('@' IN subject) > 0)"
        is_named = _rules.subject_matcher(subject, folded=folded)
        return self._active(condition, (subject,), without, is_named)

    def active_in(self, login: Login, *, without: LoginName = "") -> Statement[tuple[str, ...]]:
        """Return the ids of the active tasks begun in *login*, or of those whose login has no *without*."""
        conditions, values = ["login_issuer = $2"], [login.issuer]
        for name, column in _LOGIN.items():
            if value := getattr(login, name):
                values.append(value)
                conditions.append(f"{column} = ${len(values) + 1}")
        return self._active(" AND ".join(conditions), tuple(values), without, lambda _subject: True)

    def remember(self, key: str, until: float) -> Statement[bool]:
        """Record *key* until that time; return False if it is recorded, and keep the later time."""
        return self._call("remember", (key, until, self.clock()), lambda rows: bool(rows[0][0]))

    def known(self, key: str) -> Statement[bool]:
        """Return whether *key* is recorded and its time has not passed."""
        schema = self.schema
        text = f"SELECT 1 FROM {schema}.keys WHERE key = $1 AND until > {schema}.earlier($2)"  # noqa: S608  a checked name
        return Statement(text, (key, self.clock()), bool, repeats=True)

    def save_approval(self, approval: Approval) -> Statement[Approval]:
        """Record a pending approval, unless one with its id exists; return the recorded one."""
        values = (_values.approval(approval), approval.expires_at, self.clock())
        return self._call(
            "save_approval", values, lambda rows: self.answers.asked(rows, approval), repeats=True
        )

    def answer_approval(self, approval: Approval) -> Statement[None]:
        """Record a person's answer to a pending approval."""
        values = (_values.approval(approval), approval.expires_at, self.clock())
        return self._call("answer_approval", values, lambda rows: self.answers.answered(rows, approval))

    def approval(self, approval_id: str) -> Statement[Approval | None]:
        """Return an approval, or None."""
        return self._approval("id = $1", approval_id)

    def approval_for(self, call_key: str) -> Statement[Approval | None]:
        """Return the newest approval for this call, or None."""
        return self._approval("call_key = $1 ORDER BY n DESC LIMIT 1", call_key)

    def rejection(self, family: str, tool: str, shown_digest: str) -> Statement[Approval | None]:
        """Return a rejection of such a call in the family of a task, or None."""
        condition = "family = $1 AND tool = $2 AND shown_digest = $3 AND status = 'denied'"
        condition += " ORDER BY answered_at, n LIMIT 1"
        return self._approval(condition, family, tool, shown_digest)

    def prune(self) -> Statement[None]:
        """Delete a bounded part of what is over."""
        bounds = (_pruning.KEYS, _pruning.TASKS, _pruning.ROWS)
        values = (self.clock(), self._retention.seconds, _rules.KEEP_KEYS, *bounds)
        return self._call("prune", values, _nothing, repeats=True)

    def _call(
        self, function: str, values: tuple[Any, ...], read: Callable[[Rows], R], *, repeats: bool = False
    ) -> Statement[R]:
        places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        return Statement(f"SELECT {self.schema}.{function}({places})", values, read, repeats)

    def _active(
        self, condition: str, values: tuple[str, ...], without: LoginName, is_named: Callable[[str], bool]
    ) -> Statement[tuple[str, ...]]:
        if without:
            condition += f" AND coalesce({_LOGIN[without]}, '') = ''"
        # a task is over when the guard's clock and the server's say so: on another host it may still run
        schema = self.schema
        text = f"SELECT id, subject FROM {schema}.tasks WHERE status = 'active'"  # noqa: S608  a checked name
        return Statement(
            f"{text} AND deadline > {schema}.earlier($1) AND {condition}",
            (self.clock(), *values),
            lambda rows: tuple(id_ for id_, subject in rows if is_named(subject)),
            repeats=True,
        )

    def _approval(self, condition: str, *values: str) -> Statement[Approval | None]:
        text = f"SELECT {_APPROVAL} FROM {self.schema}.approvals WHERE {condition}"  # noqa: S608  a checked name
        return Statement(text, values, lambda rows: _rows.approval(rows[0]) if rows else None, repeats=True)


def _nothing(_rows: Rows) -> None:
    pass
