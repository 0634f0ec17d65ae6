"""Turns hashes of the Redis store into model objects, and model objects into hashes.

What of a task never changes is the text `fixed`, in the form that the SQLite store has too.
"""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache

from agentguard.model import (
    Approval,
    ApprovalStatus,
    Budget,
    Call,
    CallKey,
    Identity,
    Label,
    LiveCredential,
    Login,
    Mandate,
    TaskState,
    TaskStatus,
    ToolPath,
)
from agentguard.model.counts import MOST as MOST_UNITS
from agentguard.model.counts import VALUES
from agentguard.stores import _counter_rules, _rows
from agentguard.stores.redis.packing import decode, encode, pack, pairs, seconds, unpack
from agentguard.text import folded_address

__all__ = [
    "approval_fields",
    "credential_row",
    "index_of_login",
    "index_of_subject",
    "judged_task",
    "label_rows",
    "label_texts",
    "number_rows",
    "raise_of_numbers",
    "read_approval",
    "read_credential",
    "read_label",
    "read_task",
    "same_row",
    "task_fields",
]

Value = str | bytes
PLACES = ("issuer", "subject", "session", "jti")
"""The names of a login in their order in the field `login` of a task, which the scripts read too."""
MOST = 2**62
"""Counts from here on would not have room for one more."""
TOOL = "tool:"
_NOBODY, _NOTHING = Identity(subject="", actor=""), Mandate(tools=frozenset())
_CHANGED = frozenset({"id", "status", "approver", "reason"})
UNCHANGED = tuple(field.name for field in fields(Approval) if field.name not in _CHANGED)
"""The fields of an approval that its answer must not change."""

_fixed = lru_cache(1024)(_rows.fixed_part)


def task_fields(state: TaskState) -> list[Value]:
    """Return the fields of a new hash and their values, one after the other.

    Raises:
        ValueError: A count is negative, or has no room for one more.
    """
    counts = (state.calls, state.writes, state.labels, state.questions, state.choice_bits)
    if not all(0 <= count < MOST for count in counts):
        raise ValueError(f"task {state.id} has a count that no store can hold")
    _, fixed, *_ = _rows.task_row(state)
    limits = {name: getattr(state.budget, name) for name in ("calls", "writes", "questions", "choice_bits")}
    table: dict[str, Value] = {
        "fixed": fixed,
        "deadline": seconds(state.deadline),
        "status": str(state.status),
        "calls": str(state.calls),
        "writes": str(state.writes),
        "questions": str(state.questions),
        "choice_bits": str(state.choice_bits),
        "untrusted": str(int(state.untrusted)),
        "sensitivity": str(int(state.sensitivity)),
        "lineage": pack(state.lineage),
        "indexes": pack(indexes(state)),
    }
    table |= {f"{name}_limit": "" if limit is None else str(limit) for name, limit in limits.items()}
    if state.login is not None:
        table["login"] = pack(getattr(state.login, name) for name in PLACES)
    # before all that its calls will add: those have the number of calls before them
    table |= {f"{TOOL}{name}": str(n - len(state.history)) for n, name in enumerate(state.history)}
    return [part for pair in table.items() for part in pair]


def indexes(state: TaskState) -> list[str]:
    """Return the names of the sets of active tasks in which the task stands while it is active."""
    if state.status is not TaskStatus.ACTIVE:
        return []
    subject = state.identity.subject
    names = [index_of_subject(subject), index_of_subject(subject, folded=True)]
    if state.login is not None:
        names += [index_of_login(state.login, name) for name in PLACES[1:] if getattr(state.login, name)]
    return names


def index_of_subject(subject: str, *, folded: bool = False) -> str:
    """Return the name of the set of a subject's active tasks, or of those of an address in any spelling."""
    return f"address:{folded_address(subject)}" if folded else f"subject:{subject}"


def index_of_login(login: Login, name: str) -> str:
    """Return the name of the set of the active tasks whose login has that name of *login*."""
    return f"{name}:{len(login.issuer)}:{login.issuer}:{getattr(login, name)}"


def read_task(id_: str, hash_: list[bytes], labels: bytes) -> TaskState | None:
    """Return the task, or None. *labels* is how many labels its family has.

    Raises:
        KeyError, TypeError, ValueError: The hash cannot be read.
    """
    if not hash_:
        return None
    table = dict(pairs(hash_))
    tools = sorted((int(n), name.removeprefix(TOOL)) for name, n in table.items() if name.startswith(TOOL))
    changing = (
        decode(table["status"]),
        int(table["calls"]),
        int(table["writes"]),
        table["untrusted"] == b"1",
        int(table["sensitivity"]),
        int(table["labels"]) - int(table["labels_before"]) + int(labels),
        int(table["questions"]),
        int(table.get("choice_bits", 0)),
    )
    fixed = _fixed(id_, decode(table["fixed"]), float(table["deadline"]))
    return _rows.changing_part(fixed, tuple(name for _, name in tools), changing)


def judged_task(row: list[bytes]) -> tuple[str, TaskState | None]:
    """Return the id of a task and what of the task a call is judged by, or None if there is no such task."""
    id_ = decode(row[0])
    if len(row) == 1:
        return id_, None
    _, status, deadline, calls, writes, questions, *limits, choice_bits, choice_limit = row
    most = [int(limit) if limit else None for limit in (*limits, choice_limit)]
    return id_, TaskState(
        id=id_,
        purpose="",
        identity=_NOBODY,
        mandate=_NOTHING,
        deadline=float(deadline),
        budget=Budget(calls=most[0], writes=most[1], questions=most[2], choice_bits=most[3]),
        status=TaskStatus(decode(status)),
        calls=int(calls),
        writes=int(writes),
        questions=int(questions),
        choice_bits=int(choice_bits or 0),
    )


def credential_row(credential: LiveCredential) -> list[Value]:
    """Return the values of a credential in the order in which the scripts have them."""
    place = [encode(credential.call_id), encode(credential.task_id), encode(credential.broker)]
    return [*place, encode(credential.handle), seconds(credential.expires_at), encode(credential.owner)]


def read_credential(row: list[bytes]) -> LiveCredential:
    """Return the credential of a row that `credential_row` made."""
    call_id, task_id, broker, handle, expires_at, owner = map(decode, row)
    return LiveCredential(
        call_id=call_id,
        task_id=task_id,
        broker=broker,
        handle=handle,
        expires_at=float(expires_at),
        owner=owner,
    )


def label_texts(label: Label) -> tuple[str, str, str]:
    """Return what is kept of a label beside its digest."""
    return label.source, str(int(label.trusted)), str(int(label.sensitivity))


def same_row(same: CallKey) -> bytes:
    """Return what a resumed call has in common with its suspended one."""
    return pack([same.key, same.task_id, same.tool, same.path.value])


def number_rows(call: Call) -> list[Value]:
    """Return the numbers by which a call was judged, what it adds to numbers, and the two limits."""
    numbers = pack(str(part) for cell, value in call.numbers for part in (*cell, value))
    additions = pack(str(part) for addition in call.additions for part in addition)
    return [numbers, additions, str(MOST_UNITS), str(VALUES)]


def raise_of_numbers(call: Call, problem: list[bytes]) -> None:
    """Raise why a call may not begin by its numbers.

    Raises:
        CountersChanged, CountersFull: As the script has said.
    """
    kind, *place = problem
    if kind == b"changed":
        raise _counter_rules.changed(call)
    check = _counter_rules.grown if kind == b"full" else _counter_rules.within_limit
    check(int(place[1]), call.additions[int(place[0])])


def label_rows(labels: tuple[Label, ...]) -> list[Value]:
    """Return the values of labels, one after the other."""
    return [encode(text) for label in labels for text in (label.digest, *label_texts(label))]


def read_label(digest: bytes, packed: bytes) -> list[Label]:
    """Return the labels of one digest: a source, whether it is trusted, and a sensitivity for each."""
    values = iter(unpack(packed))
    return [
        Label(decode(digest), source, trusted == "1", _rows.LEVELS[int(level)])
        for source, trusted, level in zip(values, values, values, strict=True)
    ]


def approval_fields(approval: Approval, names: tuple[str, ...]) -> list[Value]:
    """Return the names of these fields and their values, one after the other."""
    parts = list[Value]()
    for name in names:
        value = getattr(approval, name)
        parts += [name, seconds(value) if name == "expires_at" else encode(str(value))]
    return parts


def read_approval(hash_: list[bytes]) -> Approval | None:
    """Return the approval, or None."""
    if not hash_:
        return None
    table = {name: decode(value) for name, value in pairs(hash_)}
    return Approval(
        **{name: table[name] for name in UNCHANGED if name not in ("expires_at", "path")},
        id=table["id"],
        expires_at=float(table["expires_at"]),
        path=ToolPath(table["path"]),
        status=ApprovalStatus(table["status"]),
        approver=table.get("approver"),
        reason=table["reason"],
    )
