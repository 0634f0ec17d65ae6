"""`Guard.decide` says what a call would be told, and does nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from langchain_core.tools import tool

from agentguard import Denied, Effect, Obligation, ToolPath
from agentguard.catalog import Catalog
from agentguard.model import ToolSpec
from tests.conftest import ASK, DENY, PERMIT, Kit, Mode, classified


@tool
def refund(order: str, amount: int) -> str:
    """Refund an order."""
    return f"{order}: {amount}"


def facts_of(kit: Kit) -> tuple[Any, ...]:
    """Return all that a call would have changed."""
    (task,) = kit.store.active("alice")
    state = kit.store.task(task)
    assert state is not None
    return (
        state.calls,
        state.history,
        len(list(kit.audit.records())),
        kit.broker.issued,
        kit.store.live(),
        state,
    )


@pytest.mark.parametrize(
    ("answer", "arguments", "effect", "reason"),
    [
        (PERMIT, {"order": "1", "amount": 2}, Effect.PERMIT, ""),
        (DENY, {"order": "1", "amount": 2}, Effect.DENY, "policy: the internal reason"),
        (ASK, {"order": "1", "amount": 2}, Effect.PERMIT, ""),
        (PERMIT, {"order": "1", "amount": "many"}, Effect.DENY, "invalid_arguments"),
        (PERMIT, {"order": "1"}, Effect.DENY, "invalid_arguments"),
        (PERMIT, {"order": "9", "amount": 2}, Effect.DENY, "mandate"),
    ],
)
async def test_a_decision_is_that_of_the_call_and_leaves_no_trace(
    kit: Kit, mode: Mode, answer: Any, arguments: dict[str, Any], effect: Effect, reason: str
) -> None:
    kit.rule.answer = lambda _request: answer
    wrapped = kit.wrap(refund, path="write", resource="orders")
    mandate = {"tools": ["refund"], "args": {"order": ["1"]}}
    with kit.guard.task("test", subject="alice", mandate=mandate) as task:
        before = facts_of(kit)
        decision = await mode.call(kit.guard, "decide", "refund", arguments)
        elsewhere = await mode.call(kit.guard, "decide", "refund", arguments, task=task)
        assert facts_of(kit) == before
        assert (decision.effect, elsewhere) == (effect, decision)
        assert decision.reason.startswith(reason)
        assert (decision.obliges("approve") is not None) == (answer is ASK and effect is Effect.PERMIT)
        if answer is not ASK:  # there is nobody to ask in this test
            try:
                await mode.invoke(wrapped, arguments)
            except (Denied, ValueError):
                assert effect is Effect.DENY
            else:
                assert effect is Effect.PERMIT


async def test_no_task_an_ended_task_and_an_unknown_tool_are_denied(kit: Kit, mode: Mode) -> None:
    kit.wrap(refund, path="write", resource="orders")
    arguments = {"order": "1", "amount": 2}
    assert (await mode.call(kit.guard, "decide", "refund", arguments)).reason.startswith("no_task")
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}) as task:
        unknown = await mode.call(kit.guard, "decide", "nothing", {})
        assert (unknown.permitted, unknown.reason.partition(":")[0]) == (False, "unknown_tool")
    ended = await mode.call(kit.guard, "decide", "refund", arguments, task=task)
    assert (ended.permitted, ended.reason.partition(":")[0]) == (False, "task_ended")


async def test_a_tool_that_the_middleware_alone_has_seen_is_validated_too(kit: Kit, mode: Mode) -> None:
    kit.guard._gates.at_first_sight(classified(refund, path="write", resource="orders"))
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}):
        wrong = await mode.call(kit.guard, "decide", "refund", {"order": "1", "amount": "many"})
    assert wrong.reason.startswith("invalid_arguments")


async def test_obligations_that_leave_no_scope_are_a_deny_as_they_are_of_the_call(
    kit: Kit, mode: Mode
) -> None:
    nothing = Obligation(kind="narrow_scopes", parameters={"scopes": []})
    kit.rule.answer = lambda _request: replace(PERMIT, obligations=(nothing,))
    wrapped = kit.wrap(refund, path="write", resource="orders", scopes=["orders:write"])
    arguments = {"order": "1", "amount": 2}
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}):
        decision = await mode.call(kit.guard, "decide", "refund", arguments)
        with pytest.raises(Denied) as caught:
            await mode.invoke(wrapped, arguments)
    assert (decision.permitted, decision.reason.partition(":")[0]) == (False, caught.value.code)


@pytest.mark.promise("limits-hold")
@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    ("value", "limit"), [("x" * 1_100_000, "1048576 bytes"), (list(range(20_001)), "20000 parts")]
)
async def test_the_limits_of_a_call_are_those_of_its_decision_also_for_a_tool_that_was_never_wrapped(
    kit: Kit, mode: Mode, wrapped: bool, value: Any, limit: str
) -> None:
    if wrapped:
        kit.wrap(refund, path="write", resource="orders")
    else:
        kit.guard = kit.another(catalog=Catalog([ToolSpec(name="refund", path=ToolPath.WRITE)]))
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}):
        decision = await mode.call(kit.guard, "decide", "refund", {"order": value, "amount": 1})
    assert decision.effect is Effect.DENY
    assert f"the arguments hold more than {limit}" in decision.reason
    assert kit.rule.asked == []
