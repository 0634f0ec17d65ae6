"""What the tools of authors of policies decide is what a guard decides on the real call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.tools import BaseTool, StructuredTool

from agentguard import Denied, Guard
from agentguard.analysis.changes import approved
from agentguard.analysis.decide import Verdict, decider, verdict
from agentguard.analysis.explain import turning
from agentguard.analysis.simulate import simulate
from agentguard.audit.requests import replayed
from agentguard.model import AccessRequest, Decision, Effect, Obligation, ToolPath, ToolSpec
from agentguard.policies.cedar import CedarPolicy
from tests.doubles.deciding import guard_with
from tests.tiers import examples

SCHEMA = {
    "type": "object",
    "properties": {"to": {"type": "string"}, "amount": {"type": "integer"}},
    "required": ["to", "amount"],
}
PAY = ToolSpec(
    name="pay",
    path=ToolPath.WRITE,
    resource="bank",
    scopes=frozenset({"pay"}),
    schema=SCHEMA,
    sinks=frozenset({"to"}),
)
WIPE = replace(PAY, name="wipe", path=ToolPath.ESCALATION, scopes=frozenset({"admin"}))
NOTE = ToolSpec(name="note", path=ToolPath.WRITE, schema=SCHEMA)
TOOLS = (PAY, WIPE, NOTE)
CEDAR = """
@id("small") permit (principal, action in [Action::"pay", Action::"note"], resource)
when { context.args.amount <= 100 };
@id("asked") permit (principal, action in [Action::"pay", Action::"wipe"], resource)
when { context has approval && context.args.amount <= 500 };
@id("vouched") forbid (principal, action == Action::"pay", resource)
when { !context.provenance.args.to.user && context.args.amount > 50 };
@id("narrow") @scopes("") permit (principal, action == Action::"pay", resource)
when { context.args.amount == 7 };
"""


def _obliging(*obligations: Obligation) -> Callable[[AccessRequest], Decision]:
    return lambda request: Decision(effect=Effect.PERMIT, policy_ids=("p",), obligations=obligations)


def _failing(request: AccessRequest) -> Decision:
    raise RuntimeError("in the policy")


APPROVE = Obligation(kind="approve")
NO_SCOPE = Obligation(kind="narrow_scopes", parameters={"scopes": []})


class Answering:
    """A policy that answers with what a function makes of the request."""

    inline, version = True, "1"

    def __init__(self, answer: Callable[[AccessRequest], Any]) -> None:
        self.decide = answer


POLICIES: dict[str, Callable[[], Any]] = {
    "cedar": lambda: CedarPolicy.from_text(CEDAR),
    "asks once": lambda: Answering(
        lambda request: _obliging(*([] if request.approval else [APPROVE]))(request)
    ),
    "asks again and again": lambda: Answering(_obliging(APPROVE)),
    "obliges to the unknown": lambda: Answering(_obliging(Obligation(kind="dance"))),
    "leaves no scope": lambda: Answering(
        _obliging(Obligation(kind="narrow_scopes", parameters={"scopes": []}))
    ),
    "fails": lambda: Answering(_failing),
    "lies": lambda: Answering(lambda request: True),
    "permits": lambda: Answering(_obliging()),
}
MANDATES: tuple[dict[str, Any], ...] = (
    {"tools": "*"},
    {"tools": ["note", "wipe"]},
    {"tools": "*", "args": {"amount": [7, 60]}},
    {"tools": "*", "counterparties": ["ada"]},
    {"tools": "*", "scopes": ["pay"]},
)
RIGHTS: tuple[dict[str, Any], ...] = (
    {},
    {"ceiling": {"bank": ["pay", "admin"]}},
    {"ceiling": {}},
    {"entitlements": {"user:ada": {"bank": ["pay"]}}},
    {"entitlements": {"user:bob": {"bank": ["pay"]}}},
    {"brokers": {}},
)


def _tool(name: str) -> BaseTool:
    def run(to: str, amount: int) -> str:
        return f"{amount} to {to}"

    return StructuredTool.from_function(run, name=name, description=name)


class Call:
    """One real call of a guarded tool, and what came of it."""

    def __init__(self, guard: Guard, tool: str, arguments: dict[str, Any], mandate: dict[str, Any]) -> None:
        self.asked, self.denied = False, False
        (guarded,) = guard.wrap([_tool(tool)])
        with guard.task("Pay", subject="user:ada", mandate=mandate, words="Pay 60 to ada"):
            try:
                guarded.invoke(arguments)
            except Denied:
                self.denied = True

    @property
    def verdict(self) -> Verdict:
        if self.denied:
            return Verdict.DENIED
        return Verdict.ASKED if self.asked else Verdict.PERMITTED


@pytest.mark.promise("explain-turns-decision")
@settings(max_examples=examples(150), deadline=None)
@given(
    policy=st.sampled_from(sorted(POLICIES)),
    tool=st.sampled_from([spec.name for spec in TOOLS]),
    amount=st.sampled_from([7, 60, 100, 101, 501]),
    to=st.sampled_from(["ada", "eve"]),
    mandate=st.sampled_from(MANDATES),
    rights=st.sampled_from(RIGHTS),
)
def test_explain_and_simulate_agree_with_the_real_call(
    policy: str, tool: str, amount: int, to: str, mandate: dict[str, Any], rights: dict[str, Any]
) -> None:
    questions: list[AccessRequest] = []

    def approver(request: AccessRequest) -> bool:
        questions.append(request)
        return True

    guard = guard_with(POLICIES[policy](), *TOOLS, approver=approver, **rights)
    call = Call(guard, tool, {"to": to, "amount": amount}, mandate)
    call.asked = bool(questions)
    decide = decider(guard.enforcement)
    records = list(guard.enforcement.ports.audit.records())
    (decision,) = (record for record in records if record["event"] == "decision")
    request = replayed(decision["request"], next(spec for spec in guard.catalog if spec.name == tool))
    issued = len(records)
    assert verdict(decide(request)) is call.verdict, decide(request).reason
    simulation = simulate(decide, records, guard.catalog.tool)
    assert (simulation.same, simulation.turns, simulation.untold) == (1, (), 0)
    for turned in turning(decide, request):
        assert turned.verdict is not call.verdict
    # deciding has left no trace
    assert len(list(guard.enforcement.ports.audit.records())) == issued
    assert len(questions) <= 1
    guard.close()


@pytest.fixture
def guard() -> Iterator[Guard]:
    guard = guard_with(CedarPolicy.from_text(CEDAR), *TOOLS)
    yield guard
    guard.close()


def test_after_an_approval_the_decision_is_that_of_the_second_question(guard: Guard) -> None:
    decide, request = decider(guard.enforcement), _request(guard)
    assert verdict(decide(request)) is Verdict.ASKED
    assert verdict(decide(approved(request))) is Verdict.PERMITTED
    always = guard_with(Answering(_obliging(APPROVE)), *TOOLS)
    assert "approval that it was given" in decider(always.enforcement)(approved(_request(always))).reason
    always.close()


def _request(guard: Guard) -> AccessRequest:
    (guarded,) = guard.wrap([_tool("pay")])
    with (
        guard.task("Pay", subject="user:ada", mandate={"tools": "*"}, words="Pay 200 to ada"),
        pytest.raises(Denied),
    ):
        guarded.invoke({"to": "ada", "amount": 200})
    *_, record = (r for r in guard.enforcement.ports.audit.records() if r["event"] == "decision")
    return replayed(record["request"], next(spec for spec in guard.catalog if spec.name == "pay"))
