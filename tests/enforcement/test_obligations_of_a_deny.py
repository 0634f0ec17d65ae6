"""A policy's obligation to end the session is executed with its deny, and nothing else is done by a deny."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from agentguard.errors import DenialCode, Denied, StoreError
from agentguard.model import AccessRequest, Decision, Effect, Obligation
from agentguard.policies.authzen import AuthZen
from agentguard.policies.combine import Combine, Rule
from agentguard.policies.opa import Opa
from agentguard.stores.memory import MemoryStore
from agentguard.testing import FixedPolicy
from tests.conftest import Kit, Mode

END = Obligation(kind="session_termination")
STEP_UP = Obligation(kind="step-up", parameters={"acr_value": "gold"})
URL = "https://pdp.example"


def refusing(*obligations: Obligation) -> Decision:
    return Decision(effect=Effect.DENY, policy_ids=("stolen",), reason="r", obligations=obligations)


def says(decision: Decision) -> Callable[[AccessRequest], Decision]:
    return lambda _request: decision


class Family:
    """A task, its child, in which a tool is called, and another task of the same user."""

    def __init__(self, kit: Kit, **changes: Any) -> None:
        self.kit, self.guard = kit, kit.another(**changes) if changes else kit.guard
        self.ran = list[str]()

        @self.guard.tool(path="read", resource="orders")
        def get_order(order_id: str) -> str:
            """Read an order."""
            self.ran.append(order_id)
            return order_id

        self.tool = get_order
        self.root = self.guard.task("x", subject="alice", mandate={"tools": "*"}).begin()
        self.child = self.root.narrow("a part").begin()
        self.sibling = self.root.narrow("another part").begin()
        self.other = self.guard.task("x", subject="alice", mandate={"tools": "*"}).begin()

    async def call(self, mode: Mode) -> DenialCode | None:
        with self.child.active():
            try:
                await mode.call(self.tool, "invoke", {"order_id": "1"})
            except Denied as denied:
                return denied.code
        return None

    def active(self) -> list[bool]:
        tasks = (self.root, self.child, self.sibling, self.other)
        return [task.state().status.value == "active" for task in tasks]


ENDED, ALIVE = [False, False, False, True], [True] * 4


@pytest.mark.promise("pdp-deny-ends-session")
@pytest.mark.parametrize(
    ("decision", "code", "active"),
    [
        (refusing(), DenialCode.POLICY, ALIVE),
        (refusing(END), DenialCode.POLICY, ENDED),
        (refusing(STEP_UP, END), DenialCode.POLICY, ENDED),
        (refusing(STEP_UP), DenialCode.POLICY, ALIVE),
        (refusing(Obligation(kind="approve")), DenialCode.POLICY, ALIVE),
        (Decision(effect=Effect.PERMIT, obligations=(END,)), DenialCode.OBLIGATION, ENDED),
        (Decision(effect=Effect.PERMIT, obligations=(STEP_UP, END)), DenialCode.OBLIGATION, ENDED),
        (Decision(effect=Effect.PERMIT, obligations=(STEP_UP,)), DenialCode.OBLIGATION, ALIVE),
    ],
)
async def test_the_end_of_the_session_is_executed_and_the_call_does_not_run(
    kit: Kit, mode: Mode, decision: Decision, code: DenialCode, active: list[bool]
) -> None:
    family = Family(kit)
    kit.rule.answer = says(decision)
    assert await family.call(mode) is code
    assert (family.active(), family.ran) == (active, [])
    events = [record["event"] for record in kit.audit.records()]
    assert events == ["decision", *["task"] * (3 - sum(active[:3]))]
    for end in (record for record in kit.audit.records() if record["event"] == "task"):
        assert end["status"] == "revoked"
        assert "a policy ends the session" in end["cause"]
    kit.rule.answer = says(Decision(effect=Effect.PERMIT))
    assert await family.call(mode) is (None if active[0] else DenialCode.TASK_ENDED)


class Stuck(MemoryStore):
    """A store that ends no task while it is stuck."""

    stuck = True

    def end_task(self, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        if self.stuck:
            raise StoreError("down")
        return super().end_task(*args, **kwargs)


@pytest.mark.promise("pdp-deny-ends-session")
async def test_an_end_that_is_not_stored_acts_for_nobody_here_and_hides_no_denial(mode: Mode) -> None:
    store = Stuck()
    kit = Kit(store=store)
    family = Family(kit)
    kit.rule.answer = says(refusing(END))
    assert await family.call(mode) is DenialCode.POLICY
    kit.rule.answer = says(Decision(effect=Effect.PERMIT))
    assert await family.call(mode) is DenialCode.TASK_ENDED
    assert (family.active(), family.ran) == (ALIVE, [])
    store.stuck = False
    family.guard.recover()
    assert family.active() == ENDED


@pytest.mark.promise("pdp-deny-ends-session")
async def test_who_asks_for_a_decision_or_observes_ends_no_session(kit: Kit, mode: Mode) -> None:
    kit.rule.answer = says(refusing(END))
    family = Family(kit)
    decision = await mode.call(family.guard, "decide", family.tool.name, {"order_id": "1"}, task=family.child)
    assert not decision.permitted
    assert family.active() == ALIVE
    observing = Family(kit, observe=True)
    assert await observing.call(mode) is None
    assert observing.active() == ALIVE


# --- the policies that can say so


def answering(first: Any, second: Any) -> httpx.MockTransport:
    """Return a PDP that answers each question with *first*, and one with an approval with *second*."""

    def handle(request: httpx.Request) -> httpx.Response:
        if "/.well-known/" in request.url.path:
            return httpx.Response(404)
        body = json.loads(request.content)
        context = body.get("input", body)["context"]
        answer = second if "approval" in context else first
        return httpx.Response(200, json=answer)

    return httpx.MockTransport(handle)


def authzen(obligations: Any) -> AuthZen:
    transport = answering({"decision": False, "context": {"obligations": obligations}}, {"decision": True})
    return AuthZen(URL, version="1", transport=transport, async_transport=transport)


def opa(obligations: Any) -> Opa:
    transport = answering(
        {"result": {"allow": False, "obligations": obligations}}, {"result": {"allow": True}}
    )
    return Opa(URL, version="1", transport=transport, async_transport=transport)


def batch(obligations: Any) -> AuthZen:
    def handle(request: httpx.Request) -> httpx.Response:
        if "/.well-known/" in request.url.path:
            endpoint = {"access_evaluations_endpoint": f"{URL}/access/v1/evaluations"}
            return httpx.Response(200, json={"policy_decision_point": URL, **endpoint})
        items = [{"decision": False, "context": {"obligations": obligations}}, {"decision": True}]
        return httpx.Response(200, json={"evaluations": items})

    transport = httpx.MockTransport(handle)
    return AuthZen(URL, version="1", transport=transport, async_transport=transport)


OBLIGATION = {"id": "1", "type": "session_termination", "properties": {}}


@pytest.mark.promise("pdp-deny-ends-session")
@pytest.mark.parametrize("make", [authzen, opa, batch])
@pytest.mark.parametrize(
    "obligations", [[OBLIGATION], [{"id": "2"}, 5, OBLIGATION], [{"type": "narrow_scopes"}, OBLIGATION]]
)
async def test_a_pdps_deny_ends_the_session_and_asks_no_person(
    kit: Kit, mode: Mode, make: Callable[[Any], Any], obligations: Any
) -> None:
    policy = make(obligations)
    family = Family(kit, policy=policy)
    assert await family.call(mode) is DenialCode.POLICY
    assert family.active() == ENDED
    policy.close()


@pytest.mark.promise("pdp-deny-ends-session")
@pytest.mark.parametrize("make", [authzen, opa, batch])
@pytest.mark.parametrize("obligations", [[], None, "x", {"type": "session_termination"}, [{"type": 5}]])
async def test_a_deny_whose_obligations_cannot_be_read_is_a_deny_and_a_person_may_be_asked(
    kit: Kit, mode: Mode, make: Callable[[Any], Any], obligations: Any
) -> None:
    policy = make(obligations)
    family = Family(kit, policy=policy, approver=lambda _request: False)
    assert await family.call(mode) is DenialCode.APPROVAL_REFUSED
    assert family.active() == ALIVE
    policy.close()


@pytest.mark.promise("pdp-deny-ends-session")
@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("ends_first", [True, False])
async def test_beside_other_policies_each_one_may_end_the_session(
    kit: Kit, mode: Mode, rule: Rule, ends_first: bool
) -> None:
    policies = [FixedPolicy(refusing(END)), FixedPolicy(refusing())]
    family = Family(kit, policy=Combine(policies if ends_first else policies[::-1], rule))
    assert await family.call(mode) is DenialCode.POLICY
    # where the first opinion decides, the second policy is not asked
    assert family.active() == (ALIVE if rule is Rule.FIRST_APPLICABLE and not ends_first else ENDED)
