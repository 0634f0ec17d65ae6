"""Facts in every engine and tool: Cedar, the question to other PDPs, records, replay, explain, simulate."""

import json
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.tools import tool

from agentguard import Decision, Guard, Resource
from agentguard.analysis.decide import decider, request_for
from agentguard.analysis.explain import turning
from agentguard.analysis.simulate import simulate
from agentguard.audit.requests import recorded, replayed
from agentguard.catalog import Catalog
from agentguard.errors import DenialCode, Denied
from agentguard.model import AccessRequest, Arguments, Facts, FactSpec, FactType, ToolPath, ToolSpec
from agentguard.policies import CedarPolicy, FunctionPolicy
from agentguard.policies._question import question
from agentguard.policies.combine import Combine
from agentguard.testing import sample_request
from tests.conftest import Kit, Mode, classified

SHOP = Resource(name="shop", origins=("https://shop.example",))
POLICY = """
@id("pending") permit (principal, action == Action::"refund_order", resource == Resource::"shop")
when { resource.status == "pending" && context.args.amount.lessThanOrEqual(resource.total)
       && resource.owner == context.subject };
@id("reads") permit (principal, action in Action::"read", resource);
"""
OTHER = '@id("gold") permit (principal, action, resource is Order) when { resource.status == "shipped" };'


@dataclass
class Order:
    status: str
    owner: str = "alice"
    total: Decimal = Decimal("10.10")


@tool
def refund_order(order_id: str, amount: float) -> str:
    """Refund an order."""
    return f"refunded {order_id}"


ORDERS = {"4711": Order("pending"), "4712": Order("shipped"), "4713": Order("pending", "bob")}


@pytest.fixture
def cedar(kit: Kit) -> Guard:
    guard = kit.another(
        policy=CedarPolicy.from_text(POLICY), catalog=Catalog(resources=[SHOP]), record_requests=True
    )
    guard.fact(tools=["refund_order"], key="order_id", name="order", type=Order, resource=True)(ORDERS.get)
    return guard


def refunding(guard: Guard) -> Any:
    return guard.wrap(classified(refund_order.model_copy(), path="write", resource="shop"))[0]


@pytest.mark.parametrize(
    ("order_id", "amount", "ids"),
    [
        ("4711", 10.1, ("pending",)),
        ("4711", 10.11, ()),
        ("4712", 1.0, ()),
        ("4713", 1.0, ()),
    ],
)
async def test_a_rule_in_cedar_decides_by_the_record(
    cedar: Guard, kit: Kit, mode: Mode, order_id: str, amount: float, ids: tuple[str, ...]
) -> None:
    refund = refunding(cedar)
    arguments = {"order_id": order_id, "amount": amount}
    with cedar.task("test", subject="alice", mandate={"tools": "*"}):
        if ids:
            assert await mode.invoke(refund, arguments) == f"refunded {order_id}"
        else:
            with pytest.raises(Denied) as caught:
                await mode.invoke(refund, arguments)
            assert caught.value.code is DenialCode.POLICY
    (record,) = (record for record in kit.audit.records() if record["event"] == "decision")
    assert tuple(record["policies"]) == ids
    assert record["request"]["facts"]["order"]["status"] == ORDERS[order_id].status
    assert record["facts"] == Facts.of(record["request"]["facts"]).digests


@pytest.mark.promise("a-fact-is-what-was-read")
async def test_recorded_requests_are_decided_anew_by_the_values_of_then(
    cedar: Guard, kit: Kit, mode: Mode
) -> None:
    refund = refunding(cedar)
    with cedar.task("test", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(refund, {"order_id": "4711", "amount": 1.0})
        with pytest.raises(Denied):
            await mode.invoke(refund, {"order_id": "4712", "amount": 1.0})
    records = [json.loads(json.dumps(record)) for record in kit.audit.records()]
    try:
        ORDERS["4711"] = Order("shipped")
        assert simulate(decider(cedar.enforcement), records, cedar.catalog.tool).same == 2
    finally:
        ORDERS["4711"] = Order("pending")
    other = kit.another(policy=CedarPolicy.from_text(OTHER), catalog=cedar.catalog)
    turns = simulate(decider(other.enforcement), records, cedar.catalog.tool).turns
    assert {(turn.before, turn.after) for turn in turns} == {("permitted", "denied"), ("denied", "permitted")}


def test_a_recorded_request_without_a_fact_that_rules_look_at_now_is_denied(cedar: Guard) -> None:
    refunding(cedar)
    spec = cedar.catalog.tool("refund_order")
    assert spec is not None
    request = asking(spec, Facts({}))
    decision = decider(cedar.enforcement)(replayed(recorded(request), spec))
    assert decision.reason == "no_fact: fact order: it was not asked"


def asking(spec: ToolSpec, facts: Facts) -> AccessRequest:
    arguments = Arguments.of({"order_id": "4711", "amount": 5})
    task = replace(sample_request().task, mandate=replace(sample_request().task.mandate, args={}))
    return sample_request(tool=spec, arguments=arguments, task=task, facts=facts)


def test_explain_says_which_field_of_the_record_would_turn_the_decision(cedar: Guard) -> None:
    refunding(cedar)
    spec = cedar.catalog.tool("refund_order")
    assert spec is not None
    with cedar.task("test", subject="alice", mandate={"tools": "*"}) as task:
        state = cedar.enforcement.ports.store.task(task.id)
        assert state is not None
        request = request_for(
            cedar.enforcement, spec, Arguments.of({"order_id": "4712", "amount": 1.0}), state
        )
    assert request.facts["order"]["status"] == "shipped"
    turns = turning(decider(cedar.enforcement), request, rules=[POLICY])
    assert "permitted if order.status were 'pending'" in map(str, turns)


# --- other PDPs

ORDER = FactSpec(name="order", keys={"refund_order": ("order_id",)}, type=FactType(Order | None))
THING = replace(ORDER, type=FactType(Order), resource=True)
VALUES = {"status": "pending", "owner": "alice", "total": "10.10", "amount": 1}


def refund(*facts: FactSpec, **changes: Any) -> ToolSpec:
    return ToolSpec(name="refund_order", path=ToolPath.WRITE, resource="shop", facts=facts, **changes)


def test_another_pdp_is_sent_the_facts_in_the_context() -> None:
    sent = question(asking(refund(ORDER), Facts.of({"order": VALUES})))
    assert sent["context"]["facts"] == {"order": VALUES}
    assert sent["resource"]["id"] == "shop"
    assert question(asking(refund(ORDER), Facts.of({"order": None})))["context"]["facts"] == {"order": None}
    assert "facts" not in question(asking(refund(), Facts({})))["context"]


def test_another_pdp_is_sent_the_thing_as_the_resource_with_its_fields() -> None:
    sent = question(asking(refund(THING), Facts.of({"order": VALUES})))
    assert sent["resource"] == {
        "type": "shop",
        "id": "4711",
        # of an argument and a field of one name the argument is sent
        "properties": {**VALUES, "order_id": "4711", "amount": 5},
    }
    assert sent["context"]["facts"]["order"]["amount"] == 1


@pytest.mark.parametrize(
    ("instance", "id_"), [("order_id", "4711"), ("amount", "5"), ("note", "shop"), (None, "shop")]
)
def test_the_catalog_may_name_the_argument_that_is_the_id_of_the_resource(
    instance: str | None, id_: str
) -> None:
    assert question(asking(refund(instance=instance), Facts({})))["resource"]["id"] == id_


async def test_policies_side_by_side_are_given_what_any_of_them_looks_at(kit: Kit, mode: Mode) -> None:
    judged: list[AccessRequest] = []

    def other(request: AccessRequest) -> Decision | bool:
        judged.append(request)
        return bool(request.facts["customer"]["status"] == "shipped")

    policy = Combine([CedarPolicy.from_text(POLICY), FunctionPolicy(other)], "unanimous")
    guard = kit.another(policy=policy, catalog=Catalog(resources=[SHOP]))
    for name, order_id in (("order", "4711"), ("customer", "4712")):
        guard.fact(tools=["refund_order"], key="order_id", name=name, type=Order, resource=name == "order")(
            {"4711": ORDERS[order_id]}.get
        )
    tool_ = refunding(guard)
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        assert await mode.invoke(tool_, {"order_id": "4711", "amount": 1.0}) == "refunded 4711"
    assert sorted(judged[0].facts) == ["customer", "order"]
