"""Turns rows of the SQLite store into model objects, and model objects into rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agentguard.model import (
    CHOICE_BITS,
    QUESTIONS,
    Approval,
    ApprovalStatus,
    Budget,
    Counted,
    Identity,
    Label,
    LiveCredential,
    Login,
    Mandate,
    Sensitivity,
    TaskState,
    TaskStatus,
    ToolPath,
)

Row = Sequence[Any]
STATUS = {str(status): status for status in TaskStatus}
LEVELS = tuple(Sensitivity)


def fixed_text(state: TaskState) -> str:
    """Return the part of a task that its calls do not change, as a text."""
    budget = state.budget
    fixed: dict[str, Any] = {
        "purpose": state.purpose,
        "identity": [state.identity.subject, state.identity.actor, state.identity.chain],
        "mandate": state.mandate.literal(),
        "budget": [budget.calls, budget.writes, budget.questions, budget.choice_bits],
        "lineage": state.lineage,
        "words": state.words,
        "kinds": state.kinds,
        "origins": [(place, list(values.items())) for place, values in sorted(state.mandate.authors.items())],
    }
    if state.counted:
        fixed["counted"] = {tool: counted.literal() for tool, counted in sorted(state.counted.items())}
    if (login := state.login) is not None:
        fixed["login"] = [login.issuer, login.subject, login.session, login.jti]
    return json.dumps(fixed)


def task_row(state: TaskState) -> Row:
    """Return the values of a new row of `tasks`."""
    changing = (str(state.status), state.calls, state.writes, json.dumps(state.history), state.untrusted)
    read = (int(state.sensitivity), state.labels, state.questions, state.choice_bits)
    return (state.id, fixed_text(state), state.deadline, state.deadline, *changing, *read)


def fixed_part(id_: str, fixed: str, deadline: float) -> TaskState:
    """Decode the part of a task that its calls do not change."""
    form = json.loads(fixed)
    subject, actor, chain = form["identity"]
    # tasks of older versions hold no limit of questions, or none of choice bits
    limits = form["budget"]
    calls, writes, questions, choice_bits = limits + [QUESTIONS, CHOICE_BITS][len(limits) - 2 :]
    return TaskState(
        id=id_,
        purpose=form["purpose"],
        identity=Identity(subject=subject, actor=actor, chain=tuple(chain)),
        mandate=Mandate.of(form["mandate"]).with_authors(
            {place: dict(pairs) for place, pairs in form["origins"]}
        ),
        deadline=deadline,
        budget=Budget(calls=calls, writes=writes, questions=questions, choice_bits=choice_bits),
        lineage=tuple(form["lineage"]),
        words=form["words"],
        kinds=tuple(form["kinds"]),
        login=_login(form.get("login")),
        counted={tool: Counted.of(literal) for tool, literal in form.get("counted", {}).items()},
    )


def changing_part(fixed: TaskState, history: tuple[str, ...], row: Row) -> TaskState:
    """Return the task with the part that changes: status, calls, writes, history and what it has read.

    The fields are written out because `dataclasses.replace` takes three times as long, on each call.
    """
    status, calls, writes, untrusted, sensitivity, labels, questions, choice_bits = row
    return TaskState(
        id=fixed.id,
        purpose=fixed.purpose,
        identity=fixed.identity,
        mandate=fixed.mandate,
        deadline=fixed.deadline,
        budget=fixed.budget,
        lineage=fixed.lineage,
        status=STATUS[status],
        calls=calls,
        writes=writes,
        history=history,
        untrusted=bool(untrusted),
        words=fixed.words,
        kinds=fixed.kinds,
        sensitivity=LEVELS[sensitivity],
        labels=labels,
        questions=questions,
        login=fixed.login,
        choice_bits=choice_bits,
        counted=fixed.counted,
    )


def _login(names: list[str] | None) -> Login | None:
    if names is None:  # the task has no subject token, or an opaque one
        return None
    issuer, subject, session, jti = names
    return Login(issuer=issuer, subject=subject, session=session, jti=jti)


def history(text: str) -> tuple[str, ...]:
    """Decode the names of the tools that were called."""
    return tuple(json.loads(text))


def label_row(family: str, label: Label) -> Row:
    """Return the values of a new row of `labels`."""
    return (family, label.digest, label.source, label.trusted, int(label.sensitivity))


def label(row: Row) -> Label:
    """Read a row of `labels`, which does not hold the column `family`."""
    digest, source, trusted, sensitivity = row
    return Label(digest, source, bool(trusted), LEVELS[sensitivity])


def credential(row: Row) -> LiveCredential:
    """Read a row of `credentials`."""
    call_id, task_id, broker, handle, expires_at, owner = row
    return LiveCredential(
        call_id=call_id, task_id=task_id, broker=broker, handle=handle, expires_at=expires_at, owner=owner
    )


def approval_row(approval: Approval, family: str) -> Row:
    """Return the values of a new row of `approvals`, without its number."""
    call = (approval.call_key, approval.task_id, approval.tool, approval.digest, approval.policy_version)
    answer = (str(approval.status), approval.approver, approval.reason)
    question = (str(approval.path), approval.purpose, approval.display, approval.shown_digest)
    return (approval.id, *call, approval.expires_at, *answer, *question, family)


def approval(row: Row) -> Approval:
    """Read a row of `approvals`, which does not hold its number and its family."""
    (
        id_,
        call_key,
        task_id,
        tool,
        digest,
        policy_version,
        expires_at,
        *answer,
        path,
        purpose,
        display,
        alike,
    ) = row
    status, approver, reason = answer
    return Approval(
        id=id_,
        call_key=call_key,
        task_id=task_id,
        tool=tool,
        digest=digest,
        policy_version=policy_version,
        expires_at=expires_at,
        status=ApprovalStatus(status),
        approver=approver,
        reason=reason,
        path=ToolPath(path),
        purpose=purpose,
        display=display,
        shown_digest=alike,
    )
