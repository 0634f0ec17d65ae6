"""A function that answers in place of a page is told all that a page shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import InjectedState
from pydantic import BaseModel

from agentguard import AccessRequest, Guard
from agentguard.approvals import CallbackApprover
from tests.approvals.bank import THREAD, asks_a_person
from tests.approvals.test_run_state import BY, HELLO, Bank
from tests.conftest import Kit, Mode, classified, scripted, tool_call


class Draft(BaseModel):
    text: str


class Publish(BaseModel):
    text: str


def paying(paid: list[Any]) -> BaseTool:
    @tool
    def pay(amount: int, what: Draft | Publish, more: Annotated[Any, InjectedState("more")]) -> str:
        """Pay."""
        paid.append(more["to"])
        return "ok"

    return pay


def an_agent(kit: Kit, guard: Guard, pay: BaseTool, by: str) -> Any:
    kit.rule.answer = asks_a_person
    tools, middleware = [classified(pay, path="write")], [guard.middleware()]
    if by == "wrap":
        tools, middleware = list(guard.wrap(tools)), []
    model = scripted(tool_call("pay", "c1", amount=5, what={"text": "t"}))
    return create_agent(model, tools, middleware=middleware, checkpointer=InMemorySaver(), state_schema=Bank)


def asking(mode: Mode, answer: Callable[[AccessRequest], bool]) -> CallbackApprover:
    async def later(request: AccessRequest) -> bool:
        return answer(request)

    return CallbackApprover(later if mode.asynchronous else answer, approver="user:carol")


@pytest.mark.promise("state-is-approved")
@BY
@pytest.mark.parametrize("to", ["alice", "mallory"])
async def test_a_function_sees_the_state_that_the_tool_is_given(
    to: str, by: str, mode: Mode, kit: Kit
) -> None:
    questions = list[Any]()

    def answer(request: AccessRequest) -> bool:
        questions.append(request.question)
        return bool(request.question["state"]["more"]["to"] == "alice")

    guard = kit.another(approver=asking(mode, answer))
    agent = an_agent(kit, guard, paying(paid := list[Any]()), by)
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(agent, {**HELLO, "more": {"to": to}}, THREAD)
    assert paid == (["alice"] if to == "alice" else [])
    (question,) = questions
    assert question["arguments"] == {"amount": 5, "what": {"text": "t"}}
    assert "Draft" in str(question["distinctions"])
    assert {
        "type",
        "approval_id",
        "task",
        "purpose",
        "tool",
        "path",
        "digest",
        "expires_at",
    } < question.keys()


async def test_rules_are_asked_without_the_question(mode: Mode, kit: Kit) -> None:
    guard = kit.another(approver=asking(mode, lambda _request: True))
    agent = an_agent(kit, guard, paying([]), "wrap")
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(agent, {**HELLO, "more": {"to": "alice"}}, THREAD)
    assert [request.question for request in kit.rule.asked] == [{}, {}]


@pytest.mark.promise("state-is-approved")
@BY
async def test_a_state_that_changes_while_a_person_thinks_is_not_that_which_they_approved(
    by: str, mode: Mode, kit: Kit
) -> None:
    box = {"to": "alice"}

    def answer(request: AccessRequest) -> bool:
        box["to"] = "mallory"
        return True

    guard = kit.another(approver=asking(mode, answer))
    agent = an_agent(kit, guard, paying(paid := list[Any]()), by)
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(agent, {**HELLO, "more": box}, THREAD)
    assert paid == []
    assert kit.decisions() == ["approval_refused"]


@pytest.mark.promise("state-is-approved")
@BY
async def test_a_state_that_changes_between_the_yes_and_the_tool_is_not_that_which_was_approved(
    by: str, mode: Mode, kit: Kit
) -> None:
    box = {"to": "alice"}

    def rule(request: AccessRequest) -> Any:
        if request.approval:  # the last question of a call before its credential
            box["to"] = "mallory"
        return asks_a_person(request)

    guard = kit.another(approver=asking(mode, lambda _request: True))
    agent = an_agent(kit, guard, paying(paid := list[Any]()), by)
    kit.rule.answer = rule
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(agent, {**HELLO, "more": box}, THREAD)
    assert paid == []
    assert "arguments_changed" in kit.decisions() + [r.get("error", "") for r in kit.audit.records()]
    assert box == {"to": "mallory"}


@BY
async def test_a_state_that_the_tool_is_not_given_may_change_while_a_person_thinks(
    by: str, mode: Mode, kit: Kit
) -> None:
    other = {"count": 1}

    def answer(_request: AccessRequest) -> bool:
        other["count"] += 1
        return True

    def rule(request: AccessRequest) -> Any:
        other["count"] += 1
        return asks_a_person(request)

    guard = kit.another(approver=asking(mode, answer))
    agent = an_agent(kit, guard, paying(paid := list[Any]()), by)
    kit.rule.answer = rule
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(agent, {**HELLO, "more": {"to": "alice"}, "account": other}, THREAD)
    assert paid == ["alice"]
    assert other["count"] > 2
