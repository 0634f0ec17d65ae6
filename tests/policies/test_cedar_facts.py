"""Facts in Cedar: typed, checked with file and line, and exact."""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from cedarpy import Schema

from agentguard.errors import ConfigurationError
from agentguard.model import (
    AccessRequest,
    Arguments,
    Decision,
    Facts,
    FactSpec,
    FactType,
    Identity,
    Sensitivity,
    ToolPath,
    ToolSpec,
)
from agentguard.policies import CedarPolicy
from agentguard.policies.cedar import ReloadingCedar
from agentguard.testing import sample_request, sample_task

NOON = 1_790_000_000.0
RECENT = datetime.fromtimestamp(NOON - 3_600, UTC)


class Status(StrEnum):
    PENDING = "pending"
    SHIPPED = "shipped"


@dataclass
class Address:
    country: str
    lines: list[str] = field(default_factory=list)


@dataclass
class Item:
    sku: str
    count: int


@dataclass
class Order:
    owner: str = "user:ada"
    status: Status = Status.PENDING
    total: Decimal = Decimal("99.99")
    placed: datetime = RECENT
    due: date = date(2026, 10, 1)
    address: Address = field(default_factory=lambda: Address("FR"))
    items: list[Item] = field(default_factory=lambda: [Item("a", 1)])
    tags: list[str] = field(default_factory=list)
    note: str | None = None
    count: int = 3
    extra: dict[str, int] = field(default_factory=dict)


@dataclass
class Customer:
    tier: str = "gold"


def declared(name: str, kind: Any, **options: Any) -> FactSpec:
    keys = {"refund": ("order_id",), "cancel": ("order_id",)}
    return FactSpec(**{"name": name, "keys": keys, "type": FactType(kind), **options})


ORDER, CUSTOMER = declared("order", Order), declared("customer", Customer | None)
THING = replace(ORDER, resource=True)
SCHEMA = {
    "type": "object",
    "properties": {"order_id": {"type": "string"}, "amount": {"type": "number"}, "order": {"type": "string"}},
    "required": ["order_id", "amount"],
}
LOOK = ToolSpec(name="look", path=ToolPath.READ, resource="shop", schema=SCHEMA)


def tool(*facts: FactSpec, name: str = "refund") -> ToolSpec:
    return ToolSpec(name=name, path=ToolPath.WRITE, resource="shop", schema=SCHEMA, facts=facts)


def policy_of(text: str, *facts: FactSpec, others: tuple[ToolSpec, ...] = (LOOK,)) -> CedarPolicy:
    policy = CedarPolicy.from_text(text, "rules.cedar")
    policy.check_tools([tool(*facts), *others])
    return policy


def asking(spec: ToolSpec, order_id: str = "4711", **facts: Any) -> AccessRequest:
    values = {f.name: f.type.canonical(facts[f.name], 65_536) for f in spec.facts if f.name in facts}
    return sample_request(
        identity=Identity(subject="user:ada", actor="agent:one"),
        tool=spec,
        arguments=Arguments.of({"order_id": order_id, "amount": 10.5}),
        task=sample_task(),
        facts=Facts(values),
        at=NOON,
    )


def decide(condition: str, *facts: FactSpec, order_id: str = "4711", **values: Any) -> Decision:
    text = f'@id("rule")\npermit (principal, action == Action::"refund", resource) when {{ {condition} }};'
    policy = policy_of(text, *facts)
    return policy.decide(asking(tool(*facts), order_id, **values))


def mistake(text: str, *facts: FactSpec) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        policy_of(text, *facts)
    return caught.value


# --- what rules can say

YES: dict[str, tuple[str, Order]] = {
    "status": ('{o}.status == "pending"', Order(status=Status.SHIPPED)),
    "ownership": ("{o}.owner == context.subject", Order(owner="user:bob")),
    "amount": ("context.args.amount.lessThanOrEqual({o}.total)", Order(total=Decimal("10.4999"))),
    "within 24 hours": (
        'context.now.durationSince({o}.placed) <= duration("24h")',
        Order(placed=datetime.fromtimestamp(NOON - 86_401, UTC)),
    ),
    "date": ('{o}.due > datetime("2026-09-30")', Order(due=date(2026, 9, 30))),
    "nested": ('{o}.address.country == "FR"', Order(address=Address("DE"))),
    "list of texts": ('!{o}.tags.contains("final")', Order(tags=["final"])),
    "list of records": ('{o}.items.contains({{"sku": "a", "count": 1}})', Order(items=[Item("b", 1)])),
    "count": ("{o}.count < 5", Order(count=5)),
    "optional": ('!({o} has note && {o}.note == "fraud")', Order(note="fraud")),
}


@pytest.mark.promise("rules-about-facts-are-checked-and-exact")
@pytest.mark.parametrize("form", ["context.facts.order", "resource"])
@pytest.mark.parametrize("case", YES)
def test_a_rule_looks_at_a_field_of_the_record(case: str, form: str) -> None:
    condition, other = YES[case]
    spec = THING if form == "resource" else ORDER
    text = condition.format(o=form)
    assert decide(text, spec, order=Order()).permitted
    refused = decide(text, spec, order=other)
    assert not refused.permitted
    assert refused.reason == "no policy permits refund here"


@pytest.mark.parametrize("cut", [0.0, 0.000_9])
def test_a_time_has_milliseconds_and_an_offset(cut: float) -> None:
    placed = datetime.fromisoformat("2026-01-01T12:00:00.123+02:00")
    placed = placed.replace(microsecond=placed.microsecond + int(cut * 1_000_000))
    text = 'context.facts.order.placed == datetime("2026-01-01T10:00:00.123Z")'
    assert decide(text, ORDER, order=Order(placed=placed)).permitted


def test_a_record_that_may_be_absent_is_tested_for() -> None:
    condition = 'context.facts has customer && context.facts.customer.tier == "gold"'
    assert decide(condition, CUSTOMER, customer=Customer()).permitted
    assert not decide(condition, CUSTOMER, customer=None).permitted
    assert decide("!(context.facts has customer)", CUSTOMER, customer=None).permitted


def test_a_tool_that_has_facts_has_them_also_where_a_rule_names_none() -> None:
    policy = policy_of(PERMIT + FORBID.format("resource", "context has facts"), CUSTOMER)
    assert policy.decide(asking(tool(CUSTOMER), customer=None)).policy_ids == ("no",)
    assert policy.decide(asking(LOOK)).policy_ids == ("yes",)


def test_a_rule_sees_how_trusted_and_how_sensitive_a_fact_is() -> None:
    trusted = replace(ORDER, trusted=True, sensitivity=Sensitivity.CONFIDENTIAL)
    condition = "context.provenance.facts.order.trusted && context.provenance.facts.order.sensitivity == 2"
    assert decide(condition, trusted, order=Order()).permitted
    assert not decide(condition, ORDER, order=Order()).permitted


# --- mistakes are told with their line

RULE = '@id("rule")\npermit (principal, action == Action::"refund", resource)\nwhen {{\n  {}\n}};'


@pytest.mark.promise("rules-about-facts-are-checked-and-exact")
@pytest.mark.parametrize(
    ("condition", "problem", "hint"),
    [
        ('context.facts.order.statuz == "x"', "`facts.order.statuz`", "did you mean status?"),
        ('context.facts.ordre.status == "x"', "`facts.ordre`", "did you mean order?"),
        ("context.facts.order.address.countri == 1", "address.countri`", "did you mean country?"),
        ("context.facts.order.status == 1", "String", ""),
        ('context.facts.order.note == "x"', "`facts.order.note`", "context.facts.order has note"),
        ('context.facts.customer.tier == "x"', "`facts.customer`", "context.facts has customer"),
        ("context.facts.order.extra == 1", "`facts.order.extra`", "Cedar has no type for order.extra"),
        ("context.facts has ordr", "`ordr` is never in context.facts", "did you mean order?"),
        ("context.facts.order has notte", "`notte` is never in context.facts.order", "did you mean note?"),
        ("context.provenance.facts has ordr", "`ordr` is never in", "did you mean order?"),
        ("context.provenance.facts.order has trust", "`trust` is never in", "did you mean trusted?"),
        ("resource has status", "`status` is never in resource", "there are: none"),
    ],
)
def test_a_mistake_about_a_fact_is_an_error_with_its_line(condition: str, problem: str, hint: str) -> None:
    error = mistake(RULE.format(condition), ORDER, CUSTOMER)
    assert problem in error.problem
    assert hint in error.hint
    assert (error.file, error.line) == ("rules.cedar", 2 if problem == "String" else 4) or problem == "String"


@pytest.mark.promise("rules-about-facts-are-checked-and-exact")
@pytest.mark.parametrize(
    ("condition", "problem", "hint"),
    [
        ('resource.statuz == "x"', "attribute `statuz` on entity type `Order`", "did you mean status?"),
        ('resource.note == "x"', "optional attribute `note`", "resource has note"),
        ("resource has notte", "`notte` is never in resource", "did you mean note?"),
        ('resource == Resource::"shop"', "`resource` of refund is one Order", 'in Resource::"shop"'),
        ('Resource::"shop" != resource', "`resource` of refund is one Order", 'in Resource::"shop"'),
        ("resource is Resource", "`resource` of refund is one Order", 'in Resource::"shop"'),
        ('[Resource::"shop"].contains(resource)', "not compatible", ""),
        ('(if true then resource else resource).status == "x"', "`resource` of refund is one Order", ""),
    ],
)
def test_a_mistake_about_the_thing_that_a_tool_acts_on_is_an_error(
    condition: str, problem: str, hint: str
) -> None:
    error = mistake(RULE.format(condition), THING)
    assert problem in error.problem
    assert hint in error.hint


def test_a_rule_for_any_tool_says_of_which_kind_the_thing_is() -> None:
    text = '@id("rule")\npermit (principal, action, resource) when {{ {}resource.status == "pending" }};'
    assert mistake(text.format(""), THING).hint == "say of which kind it is: resource is Order && ..."
    policy = policy_of(text.format("resource is Order && "), THING)
    assert policy.decide(asking(tool(THING), order=Order())).permitted


def test_a_tool_without_the_fact_has_none_in_its_schema() -> None:
    text = '@id("rule")\npermit (principal, action, resource) when { context.facts.order.count > 1 };'
    assert mistake(text, ORDER).hint == "let the rule name tools that have facts: refund"
    schema = policy_of('@id("r") permit (principal, action, resource);', THING, CUSTOMER).schema
    Schema.from_str(schema)
    look = schema.partition('action "look"')[2].partition("};")[0]
    assert "facts" not in look
    assert "resource: [Resource]" in look
    assert "resource: [Order]" in schema.partition('action "refund"')[2]


@pytest.mark.parametrize(("name", "other"), [("agent", "agent"), ("order_", "order"), ("fact", "fact")])
def test_the_type_of_a_thing_is_of_one_fact_alone(name: str, other: str) -> None:
    second = tool(replace(THING, name=other), name="cancel")
    with pytest.raises(ConfigurationError, match="is that of something else"):
        policy_of(
            '@id("r") permit (principal, action, resource);', replace(THING, name=name), others=(second,)
        )


# --- the resource of the catalog stays what rules mean by it

FORBID = '@id("no") forbid (principal, action, {}) when {{ {} }};\n'
PERMIT = '@id("yes") permit (principal, action, resource);\n'


@pytest.mark.promise("a-thing-is-in-its-resource")
@pytest.mark.parametrize("gap", [" == ", "==", " ==  ", " in "])
@pytest.mark.parametrize("facts", [(), (ORDER,), (THING,)])
def test_a_head_about_a_resource_holds_for_the_things_in_it(gap: str, facts: tuple[FactSpec, ...]) -> None:
    policy = policy_of(PERMIT + FORBID.format(f'resource{gap}Resource::"shop"', "true"), *facts)
    assert policy.decide(asking(tool(*facts), order=Order())).policy_ids == ("no",)
    permit = policy_of(f'@id("yes") permit (principal, action, resource{gap}Resource::"shop");', *facts)
    assert permit.decide(asking(tool(*facts), order=Order())).permitted


@pytest.mark.promise("a-thing-is-in-its-resource")
@pytest.mark.parametrize(
    "head",
    [
        'resource == /* the shop */ Resource::"shop"',
        "resource is Resource",
        'resource is Resource in Resource::"shop"',
    ],
)
def test_a_head_that_would_not_hold_for_things_is_an_error(head: str) -> None:
    text = PERMIT + FORBID.format(head.replace("/* the shop */", "// the shop\n"), "true")
    assert policy_of(text).decide(asking(tool())).policy_ids == ("no",)
    assert "equals no Resource" in mistake(text, THING).problem


@pytest.mark.promise("a-thing-is-in-its-resource")
@pytest.mark.parametrize(
    "head", ['resource == Order::"4711"', 'resource in Order::"4711"', 'resource == // one\n Order::"4711"']
)
def test_a_rule_about_one_thing_holds_for_it_alone(head: str) -> None:
    policy = policy_of(PERMIT + FORBID.format(head, "true"), THING)
    assert policy.decide(asking(tool(THING))).policy_ids == ("no",)
    assert policy.decide(asking(tool(THING), "4712")).policy_ids == ("yes",)
    assert policy.decide(asking(tool(THING))).policy_ids == ("no",)


@pytest.mark.parametrize("order_id", ['"', "\\", "4711\u2028", '"}, {"uid": {"type": "Order", "id": "x"}}'])
def test_what_names_a_thing_is_only_its_name(order_id: str) -> None:
    policy = policy_of(PERMIT + FORBID.format('resource == Order::"4711"', "true"), THING)
    assert policy.decide(asking(tool(THING), order_id)).policy_ids == ("yes",)


def test_a_rule_may_ask_whether_a_thing_is_in_a_resource_and_of_which_kind_it_is() -> None:
    for condition in ('resource in Resource::"shop"', "resource is Order", 'resource != Order::"1"'):
        assert decide(condition, THING).permitted, condition
    policy = policy_of(PERMIT + FORBID.format("resource", "resource is Order"), THING)
    assert policy.decide(asking(LOOK)).policy_ids == ("yes",)
    assert policy.decide(asking(tool(THING))).policy_ids == ("no",)


# --- which facts are asked


@pytest.mark.promise("facts-are-asked-once-and-only-where-needed")
@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("true", ()),
        ('context.args.order_id == "order"', ()),
        ('context.args has order && context.args.order == "x"', ()),
        ("context.facts.order.count > 1", ("order",)),
        ("context.facts has customer", ("customer",)),
        ('context["facts"]["order"].count > 1', ("customer", "order")),
        ('context.facts["\\u{6f}rder"].count > 1', ("customer", "order")),
        ("context.facts == context.facts", ("customer", "order")),
        ("context == context", ("customer", "order")),
    ],
)
def test_a_policy_asks_for_the_facts_that_its_rules_look_at(condition: str, names: tuple[str, ...]) -> None:
    policy = policy_of(RULE.format(condition), ORDER, CUSTOMER)
    assert sorted(policy.facts_for(tool(ORDER, CUSTOMER))) == list(names)
    assert list(policy.facts_for(LOOK)) == []


@pytest.mark.promise("facts-are-asked-once-and-only-where-needed")
@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("true", ()),
        ("resource.count > 1", ("order",)),
        ("resource has note", ("order",)),
        ('resource["status"] == "x"', ("order",)),
        ("context == context", ("order",)),
    ],
)
def test_the_thing_is_asked_for_where_a_rule_looks_at_it(condition: str, names: tuple[str, ...]) -> None:
    assert sorted(policy_of(RULE.format(condition), THING).facts_for(tool(THING))) == list(names)


@pytest.mark.promise("a-fact-that-is-not-known-denies")
@pytest.mark.parametrize("condition", ["context.facts has customer", "resource.count > 99"])
def test_a_request_without_a_fact_that_the_rules_look_at_is_denied(condition: str) -> None:
    """Rules may be replaced between the reading of the facts and the decision."""
    text = PERMIT + FORBID.format("resource", condition)
    specs = (tool(THING, CUSTOMER),)
    reloading = ReloadingCedar(
        lambda: CedarPolicy.from_text(text.replace("action,", 'action == Action::"refund",'))
    )
    reloading.check_tools(specs)
    decision = reloading.decide(asking(specs[0]))
    assert not decision.permitted
    assert "is not known" in decision.reason
    assert decision.advice == ""
    assert set(reloading.facts_for(specs[0])) <= {"order", "customer"}


@pytest.mark.promise("rules-about-facts-are-checked-and-exact")
@pytest.mark.parametrize(
    ("order", "problem"),
    [
        (Order(total=Decimal("1.00001")), "'total' has more than four decimals"),
        (Order(total=Decimal(10**15)), "'total' is outside the range"),
        (Order(count=2**63), "'count' is beyond 64 bits"),
        (Order(placed=datetime(2026, 1, 1, 12)), "'placed' has no time zone"),
        (Order(items=[Item("a", 2**63)]), "'items' has an entry"),
    ],
)
def test_a_record_without_an_exact_form_in_cedar_is_denied_without_its_values(
    order: Order, problem: str
) -> None:
    decision = decide("context.facts.order.count > 0", ORDER, order=order)
    assert not decision.permitted
    assert f"fact order: {problem}" in decision.reason
    assert decision.advice == ""


def test_decimals_are_exact_to_the_last_place() -> None:
    most = Decimal("922337203685477.5807")
    for total, limit in ((most, str(most)), (Decimal("0.10000"), "0.1"), (Decimal("-0.0001"), "-0.0001")):
        condition = f'context.facts.order.total == decimal("{limit}")'
        assert decide(condition, ORDER, order=Order(total=total)).permitted, limit


# --- known answers


@pytest.mark.promise("decisions-deterministic")
def test_an_answer_about_one_record_is_none_about_another() -> None:
    policy = policy_of(RULE.format('context.facts.order.status == "pending"'), ORDER)
    spec = tool(ORDER)
    for status in (Status.PENDING, Status.SHIPPED, Status.PENDING):
        decision = policy.decide(asking(spec, order=Order(status=status)))
        assert decision.permitted == (status is Status.PENDING)


@pytest.mark.promise("decisions-deterministic")
def test_an_answer_about_one_thing_is_none_about_another() -> None:
    policy = policy_of(RULE.format("resource.count < 5"), THING)
    spec = tool(THING)
    for count in (1, 9, 1, 5):
        assert policy.decide(asking(spec, order=Order(count=count))).permitted == (count < 5)


def test_the_version_of_rules_and_the_schema_name_the_facts() -> None:
    plain, typed = policy_of(PERMIT), policy_of(PERMIT, ORDER)
    assert plain.version != typed.version
    assert json.dumps(plain.schema).find("facts") == -1
