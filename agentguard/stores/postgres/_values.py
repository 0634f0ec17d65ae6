"""What the functions of the PostgreSQL store take of a credential, an approval and numbers of calls."""

from __future__ import annotations

from collections.abc import Iterable

from agentguard.model import Approval, Call, CallKey, Cell, LiveCredential
from agentguard.model.counts import MOST, VALUES

Texts = list[str]


def counts(call: Call) -> tuple[Texts, Texts, int, int]:
    """Return the numbers by which a call was judged, what it adds to numbers, and the two limits."""
    numbers = [str(part) for cell, value in call.numbers for part in (*cell, value)]
    return numbers, [str(part) for addition in call.additions for part in addition], MOST, VALUES


def cells(numbers: Iterable[Cell], resumes: CallKey | None) -> tuple[Texts | str | None, ...]:
    """Return what names numbers, and the suspended call without which they are wanted."""
    same = (None,) * 4 if resumes is None else (*resumes[:3], str(resumes.path))
    return ([str(part) for cell in numbers for part in cell], *same)


def credential(live: LiveCredential | None) -> tuple[list[str] | None, float | None]:
    """Return a credential and its expiry."""
    if live is None:
        return None, None
    return [live.call_id, live.task_id, live.broker, live.handle, live.owner], live.expires_at


def approval(approval: Approval) -> list[str | None]:
    """Return an approval, but for its expiry."""
    call = (approval.call_key, approval.task_id, approval.tool, approval.digest, approval.policy_version)
    question = (str(approval.path), approval.purpose, approval.display, approval.shown_digest)
    return [approval.id, *call, str(approval.status), approval.reason, *question, approval.approver]
