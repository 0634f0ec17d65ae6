"""A person's answer counts only for what they were shown, and what they are shown comes from the store."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.types import interrupt

from agentguard.approvals import InterruptApprover
from agentguard.enforcement.approval import SHOWN
from agentguard.errors import ApprovalError, AuditError
from agentguard.stores import MemoryStore
from tests.approvals.bank import Bank
from tests.conftest import GO, Kit, Mode, tool_call, tool_messages

BOTH = pytest.mark.parametrize("by", ["wrap", "middleware"])
CALL = tool_call("pay", "c1", to="mallory", amount=9999)
Edit = Callable[[dict[str, Any]], dict[str, Any]]

EDITS: dict[str, Edit] = {
    "arguments": lambda q: {**q, "arguments": {"to": "alice", "amount": 5}},
    "arguments: one value": lambda q: {**q, "arguments": {**q["arguments"], "amount": 5}},
    "arguments: a type": lambda q: {**q, "arguments": {**q["arguments"], "amount": "9999"}},
    "arguments: one less": lambda q: {**q, "arguments": {"to": "mallory"}},
    "arguments: one more": lambda q: {**q, "arguments": {**q["arguments"], "note": "for lunch"}},
    "arguments: none": lambda q: {k: v for k, v in q.items() if k != "arguments"},
    "arguments: a text": lambda q: {**q, "arguments": json.dumps(q["arguments"])},
    "arguments: no JSON": lambda q: {**q, "arguments": {"to": {1, 2}}},
    "arguments: endless": lambda q: {**q, "arguments": _endless()},
    "purpose": lambda q: {**q, "purpose": "Buy lunch"},
    "path": lambda q: {**q, "path": "read"},
    "tool": lambda q: {**q, "tool": "look"},
    "task": lambda q: {**q, "task": "another"},
    "digest": lambda q: {**q, "digest": "another"},
    "expires_at": lambda q: {**q, "expires_at": q["expires_at"] + 1e6},
    "expires_at: none": lambda q: {**q, "expires_at": None},
    "type": lambda q: {**q, "type": "question"},
    "more": lambda q: {**q, "distinctions": ["amount: only 5"]},
    "more: a text": lambda q: {**q, "note\nline": "This pays alice 5."},
}


def _endless() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


@pytest.mark.exhaustive
@pytest.mark.promise("shown-is-approved")
@BOTH
@pytest.mark.parametrize("case", EDITS)
async def test_an_edited_question_cannot_be_approved_and_that_is_recorded(
    case: str, by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    bank = Bank(kit, mode, by, CALL)
    question = await bank.asked(GO)
    for approved in (True, False):
        with pytest.raises(ApprovalError, match=case.partition(":")[0]):
            await bank.answer(EDITS[case](question), approved=approved)
    assert bank.paid == []
    refused = [r for r in kit.audit.records() if r["event"] == "decision"]
    assert [(r["code"], r["task"], r["tool"], r["path"]) for r in refused] == [
        ("approval_refused", task.id, "pay", "write")
    ] * 2
    assert {r["approval"] for r in refused} == {question["approval_id"]}
    assert all("line" not in r["reason"] and "alice" not in r["reason"] for r in refused)
    # the question itself is still open, and its honest answer counts
    await bank.answer(question, approved=True)
    assert bank.paid == [("mallory", 9999)]


@pytest.mark.promise("shown-is-approved")
@BOTH
async def test_what_a_page_shows_comes_from_the_store(by: str, mode: Mode, kit: Kit, task: Any) -> None:
    bank = Bank(kit, mode, by, CALL)
    edited = {**await bank.asked(GO), "arguments": {"to": "alice", "amount": 5}, "purpose": "Buy lunch"}
    question = await mode.call(bank.guard, "pending", edited["approval_id"])
    assert (question["arguments"], question["purpose"]) == ({"to": "mallory", "amount": 9999}, "test")
    assert (question["tool"], question["path"], question["task"]) == ("pay", "write", task.id)
    await bank.answer(question, approved=True)
    assert bank.paid == [("mallory", 9999)]


@pytest.mark.promise("shown-is-approved")
async def test_a_question_survives_a_page_that_writes_its_json_anew(mode: Mode, kit: Kit, task: Any) -> None:
    """JavaScript writes 1300.0 as 1300, and members in any order."""
    bank = Bank(kit, mode, "middleware", CALL)
    question = json.loads(json.dumps(await bank.asked(GO), sort_keys=True))
    question["arguments"]["amount"] = float(question["arguments"]["amount"])
    await bank.answer(question, approved=True)
    assert bank.paid == [("mallory", 9999)]


@pytest.mark.promise("shown-is-approved")
async def test_a_purpose_with_half_a_character_can_be_answered(mode: Mode, kit: Kit) -> None:
    with kit.guard.task("buy \ud800 it", subject="alice", mandate={"tools": "*"}):
        bank = Bank(kit, mode, "middleware", CALL)
        await bank.answer(await bank.asked(GO), approved=True)
    assert bank.paid == [("mallory", 9999)]


@pytest.mark.promise("shown-is-approved")
async def test_only_an_open_question_is_pending(mode: Mode, kit: Kit, task: Any) -> None:
    bank = Bank(kit, mode, "middleware", CALL)
    question = await bank.asked(GO)
    with pytest.raises(ApprovalError, match="no such approval"):
        await mode.call(bank.guard, "pending", "unknown")
    await bank.answer(question, approved=False)
    with pytest.raises(ApprovalError, match="already denied"):
        await mode.call(bank.guard, "pending", question["approval_id"])


@pytest.mark.promise("shown-is-approved")
async def test_an_expired_question_is_not_pending(mode: Mode, kit: Kit) -> None:
    now = [1000.0]
    guard = kit.another(store=MemoryStore(clock=lambda: now[0]), clock=lambda: now[0], approval_lifetime=60.0)
    bank = Bank(kit, mode, "middleware", CALL, guard=guard)
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        question = await bank.asked(GO)
        now[0] = 1059.9
        assert await mode.call(guard, "pending", question["approval_id"]) == question
        now[0] = 1060.0
        with pytest.raises(ApprovalError, match="expired"):
            await mode.call(guard, "pending", question["approval_id"])


@pytest.mark.promise("shown-is-approved")
@BOTH
async def test_where_the_checkpoint_holds_no_arguments_only_the_store_s_question_is_answered(
    by: str, mode: Mode, kit: Kit
) -> None:
    guard = kit.another(approver=InterruptApprover(interrupt, show_arguments=False))
    bank = Bank(kit, mode, by, CALL, guard=guard)
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        bare = await bank.asked(GO)
        assert "arguments" not in bare
        with pytest.raises(ApprovalError, match="arguments"):
            await bank.answer(bare, approved=True)
        question = await mode.call(guard, "pending", bare["approval_id"])
        assert question["arguments"] == {"to": "mallory", "amount": 9999}
        await bank.answer(question, approved=True)
    assert bank.paid == [("mallory", 9999)]


@pytest.mark.promise("shown-is-approved")
@BOTH
async def test_nobody_is_asked_about_what_nobody_can_be_shown(
    by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    small, large = (tool_call("pay", "c1", to="x" * n, amount=1) for n in (SHOWN - 100, SHOWN))
    for call, is_asked in ((small, True), (large, False)):
        state = await Bank(kit, mode, by, call, guard=kit.another()).go(GO)
        assert ("__interrupt__" in state) is is_asked
    assert kit.decisions() == ["approval_unavailable"]
    assert str(SHOWN) in [r["reason"] for r in kit.audit.records()][-1]
    assert tool_messages(state)[0].status == "error"


@pytest.mark.promise("shown-is-approved")
async def test_an_audit_log_that_fails_makes_no_edited_question_count(
    mode: Mode, kit: Kit, task: Any
) -> None:
    bank = Bank(kit, mode, "middleware", CALL)
    question = await bank.asked(GO)
    kit.audit.error = AuditError("full")
    with pytest.raises(ApprovalError):
        await bank.answer({**question, "arguments": {"to": "alice", "amount": 5}}, approved=True)
    kit.audit.error = None
    assert bank.paid == []
