"""What the Redis store asks its server for each operation, and what the answer means.

A script decides as `_rules` does, since nothing may happen between a decision and what is written. Where it
refuses, it returns what it has decided by, and `_rules` says the reason. If `_rules` would not refuse, the
operation fails: script and rules have to agree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar

from agentguard.errors import StoreError
from agentguard.jose import is_revocation
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
from agentguard.stores import _rules
from agentguard.stores.redis import rows
from agentguard.stores.redis.packing import decode, encode, pack, seconds
from agentguard.stores.redis.scripts import Script, script

__all__ = ["Request", "Requests"]

R = TypeVar("R")
_NAMES = (
    *("active", "answer_approval", "approval", "approval_for", "create_task", "end_task", "forget", "known"),
    *("labels", "live", "rejection", "remember", "revise_task", "save_approval", "task", "track"),
)
SCRIPTS = {
    **{name: script(name) for name in _NAMES},
    **{name: script(name, counters=True) for name in ("begin_call", "counted", "end_call")},
    "remember_revocation": script("remember", without_memory=True),
}


@dataclass(frozen=True, slots=True)
class Request(Generic[R]):
    """One run of a script at the time *now*. `read` takes its answer, and `refuse` raises its refusal.

    `retention` is in seconds.
    """

    script: Script
    now: float
    retention: float
    arguments: list[rows.Value]
    read: Callable[[list[Any]], R]
    refuse: Callable[[list[Any]], object] | None = None


class Requests:
    """Makes the requests; each is judged by *clock*."""

    def __init__(self, clock: Callable[[], float], retention: _rules.Retention) -> None:
        self.clock, self._retention = clock, retention

    def request(
        self,
        name: str,
        arguments: list[rows.Value],
        read: Callable[[list[Any]], R],
        refuse: Callable[[float, list[Any]], object] | None = None,
    ) -> Request[R]:
        """Make the run of a script."""
        now = self.clock()
        refusal = None if refuse is None else partial(refuse, now)
        return Request(SCRIPTS[name], now, self._retention.seconds, arguments, read, refusal)

    def create_task(self, state: TaskState) -> Request[None]:
        """Record a task."""

        def exists(_now: float, _values: list[Any]) -> NoReturn:
            raise StoreError(f"task {state.id} exists")

        fields = rows.task_fields(state)
        place: list[rows.Value] = [
            encode(state.id),
            seconds(state.deadline),
            pack(state.lineage),
            pack(rows.indexes(state)),
        ]
        return self.request("create_task", [*place, str(state.labels), *fields], _nothing, exists)

    def task(self, task_id: str) -> Request[TaskState | None]:
        """Return a task."""

        def read(values: list[Any]) -> TaskState | None:
            if not values:
                return None
            try:
                return rows.read_task(task_id, *values)
            except (KeyError, TypeError, ValueError) as error:
                raise StoreError(f"the stored hash of task {task_id} cannot be read") from error

        return self.request("task", [encode(task_id)], read)

    def begin_call(self, call: Call, credential: LiveCredential | None) -> Request[None]:
        """Count a call, use its approval, and record its credential."""

        def refuse(now: float, values: list[Any]) -> None:
            prior, begun, family, recorded, problem = values
            before = decode(prior[1:]) if prior[:1] == b"=" else None
            _rules.admit(call, _family(family), now, resumed=bool(prior))
            if begun:
                raise StoreError(f"call {call.id} has begun before")
            if call.approval_id is not None:
                _rules.use(call, rows.read_approval(recorded), before, now)
            if problem:
                rows.raise_of_numbers(call, problem)

        same = rows.same_row(call.same)
        claim = b"-" if call.approval_id is None else b"=" + encode(call.approval_id)
        arguments: list[rows.Value] = [encode(call.id), encode(call.task_id), encode(call.tool)]
        arguments += [b"0" if call.path is ToolPath.READ else b"1", same, encode(call.key), claim]
        arguments += [str(call.choice_bits), *rows.number_rows(call)]
        last = [] if credential is None else rows.credential_row(credential)
        return self.request("begin_call", [*arguments, *last], _nothing, refuse)

    def counted(self, cells: Sequence[Cell], resumes: CallKey | None) -> Request[tuple[int, ...]]:
        """Return numbers, without what the suspended call *resumes* has added to them."""
        same = b"" if resumes is None else rows.same_row(resumes)
        parts = [encode(str(part)) for cell in cells for part in cell]
        return self.request("counted", [same, *parts], lambda values: tuple(map(int, values[0])))

    def track(self, credential: LiveCredential) -> Request[Callable[[], object]]:
        """Record a credential; the answer raises if its task has ended."""

        def read(values: list[Any]) -> Callable[[], object]:
            return partial(_rules.active, _family(values[0]) if values else (), request.now)

        request: Request[Callable[[], object]] = self.request("track", rows.credential_row(credential), read)
        return request

    def end_call(
        self,
        call_id: str,
        outcome: Outcome,
        effects: ReadEffects,
        revoked: bool,
        remember: tuple[str, float] | None,
        undo: bool,
    ) -> Request[None]:
        """End a call, with what it has read."""
        key, until = ("", "") if remember is None else (remember[0], seconds(remember[1]))
        flags: list[rows.Value] = [_flag(outcome is Outcome.SUSPENDED), _flag(revoked), encode(key), until]
        arguments: list[rows.Value] = [encode(call_id), *flags, _flag(effects != NO_READ_EFFECTS)]
        arguments += [_flag(effects.untrusted), str(int(effects.sensitivity))]
        arguments += [str(LABELS), str(LABELS + TRUSTED_LABELS), _flag(undo)]
        arguments += rows.label_rows(effects.labels)
        return self.request("end_call", arguments, _nothing)

    def labels(self, family: str, digests: Collection[str]) -> Request[tuple[Label, ...]]:
        """Return the labels of these digests."""

        def read(values: list[Any]) -> tuple[Label, ...]:
            return tuple(label for row in values[0] for label in rows.read_label(*row))

        return self.request("labels", [encode(family), *map(encode, digests)], read)

    def forget(self, call_id: str) -> Request[None]:
        """Drop the credentials of a call."""
        return self.request("forget", [encode(call_id)], _nothing)

    def live(self, task_id: str | None) -> Request[tuple[LiveCredential, ...]]:
        """Return the credentials of a task and its descendants, or all."""

        def read(values: list[Any]) -> tuple[LiveCredential, ...]:
            return tuple(map(rows.read_credential, values[0]))

        return self.request("live", [] if task_id is None else [encode(task_id)], read)

    def end_task(
        self, task_id: str, status: TaskStatus, notices: Iterable[LiveCredential]
    ) -> Request[tuple[str, ...]]:
        """End a task and its descendants."""

        def read(values: list[Any]) -> tuple[str, ...]:
            ended = list(map(decode, values[0]))
            return tuple(sorted(ended, key=lambda id_: (id_ != task_id, id_)))

        if status is TaskStatus.ACTIVE:
            raise ValueError("a task does not end as active")
        parts = list[rows.Value]()
        for notice in notices:  # `_rules.notice_of` for each task that ends
            call_id, _, *facts = rows.credential_row(notice)
            parts += [call_id, *facts]
        return self.request("end_task", [encode(task_id), str(status), *parts], read)

    def active(self, subject: str, without: LoginName, *, folded: bool) -> Request[tuple[str, ...]]:
        """Return the active tasks of a subject."""
        name = rows.index_of_subject(subject, folded=folded)
        return self.request("active", [encode(name), _place(without)], _ids)

    def active_in(self, login: Login, without: LoginName) -> Request[tuple[str, ...]]:
        """Return the active tasks of a login."""
        first = next((name for name in ("jti", "session", "subject") if getattr(login, name)), None)
        if first is None:
            raise ValueError("a login has a subject, a session or a token")
        names = [encode(getattr(login, name)) for name in rows.PLACES]
        index = encode(rows.index_of_login(login, first))
        return self.request("active", [index, _place(without), *names], _ids)

    def remember(self, key: str, until: float) -> Request[bool]:
        """Record a key. A server without memory refuses it, unless it revokes a token."""
        name = "remember_revocation" if is_revocation(key) else "remember"
        return self.request(name, [encode(key), seconds(until)], _yes)

    def known(self, key: str) -> Request[bool]:
        """Return whether a key is recorded and not over."""
        return self.request("known", [encode(key)], _yes)

    def save_approval(self, approval: Approval) -> Request[Approval]:
        """Record a question."""

        def read(values: list[Any]) -> Approval:
            recorded = rows.read_approval(values[0]) if values else None
            return recorded or approval

        def refuse(now: float, values: list[Any]) -> None:
            _rules.ask(approval, _family(values[0]), rows.read_approval(values[1]), now)

        place = [approval.id, approval.task_id, approval.tool, approval.shown_digest, str(approval.status)]
        last: list[rows.Value] = [seconds(approval.expires_at), encode(approval.call_key)]
        names = ("id", *rows.UNCHANGED, "status", "reason")
        if approval.approver is not None:
            names = (*names, "approver")
        fields = rows.approval_fields(approval, names)
        return self.request("save_approval", [*map(encode, place), *last, *fields], read, refuse)

    def answer_approval(self, reply: Approval) -> Request[None]:
        """Record an answer."""

        def refuse(now: float, values: list[Any]) -> None:
            recorded, before = map(rows.read_approval, values)
            _rules.answer(recorded, reply, before, now)

        approver = b"-" if reply.approver is None else b"=" + encode(reply.approver)
        arguments: list[rows.Value] = [encode(reply.id), str(reply.status), approver, encode(reply.reason)]
        arguments += [seconds(reply.expires_at), encode(reply.tool), encode(reply.shown_digest)]
        arguments += rows.approval_fields(reply, rows.UNCHANGED)
        return self.request("answer_approval", arguments, _nothing, refuse)

    def approval(self, approval_id: str) -> Request[Approval | None]:
        """Return an approval."""
        return self.request("approval", [encode(approval_id)], _approval)

    def approval_for(self, call_key: str) -> Request[Approval | None]:
        """Return the newest approval of a call."""
        return self.request("approval_for", [encode(call_key)], _approval)

    def rejection(self, family: str, tool: str, shown_digest: str) -> Request[Approval | None]:
        """Return a rejection of such a call."""
        return self.request("rejection", [pack([family, tool, shown_digest])], _approval)


def _family(table: list[Any]) -> list[tuple[str, TaskState | None]]:
    return [rows.judged_task(row) for row in table]


def _place(name: LoginName) -> str:
    return str(rows.PLACES.index(name) + 1) if name else "0"


def _flag(value: bool) -> str:
    return str(int(value))


def _nothing(_values: list[Any]) -> None:
    return None


def _yes(values: list[Any]) -> bool:
    return bool(values[0] == b"1")


def _ids(values: list[Any]) -> tuple[str, ...]:
    return tuple(map(decode, values[0]))


def _approval(values: list[Any]) -> Approval | None:
    return rows.read_approval(values[0])
