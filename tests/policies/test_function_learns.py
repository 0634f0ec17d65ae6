"""A Python policy is asked one question once, and learns how the calls that it permitted have ended."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from langchain_core.tools import BaseTool, StructuredTool

from agentguard import AccessRequest, Decision, Effect, Obligation
from agentguard.model import Outcome
from agentguard.policies import CedarPolicy, FunctionPolicy
from agentguard.policies._question import question
from agentguard.policies.combine import Combine, Rule
from tests.conftest import Kit, Mode, classified, tool_call

PROBLEMS: dict[str, BaseException] = {
    "failed": ValueError("broken"),
    "cancelled": asyncio.CancelledError(),
}


def look(order: str) -> str:
    """Look something up."""
    if order in PROBLEMS:
        raise PROBLEMS[order]
    return "found"


def tool() -> BaseTool:
    return classified(StructuredTool.from_function(look), path="read", counted=True)


class Listener:
    """A policy's function, and what it is asked and told."""

    def __init__(self, answer: Any = True) -> None:
        self.answer = answer
        self.questions: list[AccessRequest] = []
        self.endings: list[tuple[AccessRequest, Outcome]] = []

    def __call__(self, request: AccessRequest) -> Any:
        self.questions.append(request)
        return self.answer(request) if callable(self.answer) else self.answer

    def learn(self, request: AccessRequest, outcome: Outcome) -> None:
        self.endings.append((request, outcome))

    def policy(self) -> FunctionPolicy:
        return FunctionPolicy(self, learn=self.learn, looks_inside=True)

    def texts(self) -> list[str]:
        return [json.dumps(question(request), sort_keys=True) for request in self.questions]


async def call(kit: Kit, mode: Mode, policy: Any, *orders: str, **changes: Any) -> None:
    guard = kit.another(policy=policy, **changes)
    (wrapped,) = guard.wrap(tool())
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        for order in orders:
            try:
                await mode.invoke(wrapped, tool_call("look", f"c {order}", order=order))
            except (ValueError, asyncio.CancelledError) as error:
                assert error is PROBLEMS[order]  # noqa: PT017  both kinds of tools raise their own


@pytest.mark.promise("question-asked-once")
async def test_one_question_is_asked_once_and_its_outcome_told_once(kit: Kit, mode: Mode) -> None:
    listener = Listener(lambda request: request.arguments.values["order"] != "denied")
    await call(kit, mode, listener.policy(), "one", "denied", "failed", "cancelled")
    assert len(listener.questions) == len(set(listener.texts())) == 4
    permitted = [request for request in listener.questions if request.arguments.values["order"] != "denied"]
    assert [outcome for _, outcome in listener.endings] == [Outcome.DONE, Outcome.FAILED, Outcome.CANCELLED]
    assert all(a is b for (a, _), b in zip(listener.endings, permitted, strict=True))


@pytest.mark.promise("question-asked-once")
async def test_a_call_that_a_person_approves_is_two_questions_with_one_outcome(kit: Kit, mode: Mode) -> None:
    def answer(request: AccessRequest) -> bool | Decision:
        if request.approval is not None:
            return True
        return Decision(effect=Effect.PERMIT, obligations=(Obligation(kind="approve"),))

    listener = Listener(answer)
    await call(kit, mode, listener.policy(), "one", approver=lambda request: True)
    assert [request.approval is not None for request in listener.questions] == [False, True]
    assert len(set(listener.texts())) == 2
    ((request, outcome),) = listener.endings
    assert request is listener.questions[1]
    assert outcome is Outcome.DONE


async def test_a_combined_policy_hands_the_outcome_on_and_cedar_needs_none(kit: Kit, mode: Mode) -> None:
    listener = Listener()
    cedar = CedarPolicy.from_text('@id("all") permit (principal, action, resource);')
    await call(kit, mode, Combine([cedar, listener.policy()], Rule.UNANIMOUS), "one")
    assert [outcome for _, outcome in listener.endings] == [Outcome.DONE]
    assert Combine([cedar, FunctionPolicy(Listener())], Rule.UNANIMOUS).learn is None


async def test_a_policy_that_fails_to_learn_changes_nothing(
    kit: Kit, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    def learn(request: AccessRequest, outcome: Outcome) -> None:
        raise ValueError("4711 is no order")

    with caplog.at_level(logging.ERROR, "agentguard"):
        await call(kit, mode, FunctionPolicy(Listener(), learn=learn), "one")
    assert kit.outcomes() == ["done"]
    assert "telling the policy failed" in caplog.text
