"""The conditions of rules one by one: which hold for a request, and the values that they see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.analysis.close_rules import close_rules
from agentguard.model import AccessRequest, Arguments, Decision, ToolPath, ToolSpec
from agentguard.policies.cedar import CedarPolicy
from agentguard.policies.cedar.conditions import conditions_of
from agentguard.testing import sample_request
from tests.tiers import examples

REFUND = ToolSpec(
    name="refund",
    path=ToolPath.WRITE,
    schema={
        "type": "object",
        "properties": {
            "order_id": {"type": "string"},
            "amount": {"type": "number"},
            "note": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["order_id", "amount"],
    },
)
RULES = """
@id("small") permit (principal, action == Action::"refund", resource)
when { context.args.amount.lessThanOrEqual(decimal("100.0")) && context.args.order_id like "A-*" }
unless { context.provenance.untrusted || context.args has note && context.args.note == "hold" };
@id("asked") permit (principal, action == Action::"refund", resource)
when { context has approval && context.approval.approvers >= 1 };
@id("notes") forbid (principal, action == Action::"refund", resource)
when { context.args has note && context.args.note == "stop" };
@id("reads") permit (principal, action in Action::"read", resource);
"""


def policy(text: str = RULES) -> CedarPolicy:
    cedar = CedarPolicy.from_text(text)
    cedar.check_tools([REFUND])
    return cedar


def request(**arguments: Any) -> AccessRequest:
    values = {"order_id": "A-1", "amount": 30, **arguments}
    return replace(sample_request(tool=REFUND), arguments=Arguments.of(values))


def examined(rule: str, asked: AccessRequest) -> list[tuple[str, bool | None]]:
    (found,) = (one for one in policy().examine(asked) if one.rule.id == rule)
    return [(condition.text, condition.is_met) for condition in found.conditions]


def test_parentheses_in_a_text_are_a_part_of_the_text() -> None:
    texts = r'context.args.note == "(stop)" && context.args.order_id like "*\"(A)*"'
    body = f"context.args has note && {texts}"
    cedar = policy(f'@id("r") permit (principal, action == Action::"refund", resource) when {{ {body} }};')
    for note, order_id, met in (
        ("(stop)", 'x"(A)', [True, True, True]),
        ("stop", 'x"A', [True, False, False]),
    ):
        (rule,) = cedar.examine(request(note=note, order_id=order_id))
        assert [condition.is_met for condition in rule.conditions] == met
    assert rule.conditions[1].text == 'context.args.note == "(stop)"'


def test_each_part_that_must_hold_is_told_with_whether_it_does() -> None:
    assert examined("small", request(amount=500.5, note="hold")) == [
        ('context.args.amount.lessThanOrEqual(decimal("100.0"))', False),
        ('context.args.order_id like "A-*"', True),
        ("unless context.provenance.untrusted", True),
        ('unless (context.args has note) && (context.args.note == "hold")', False),
    ]


def test_a_part_that_cannot_be_evaluated_alone_is_neither_met_nor_unmet() -> None:
    (rule,) = (one for one in policy().examine(request()) if one.rule.id == "notes")
    assert [condition.is_met for condition in rule.conditions] == [False, None]
    assert rule.unmet == rule.conditions


def test_rules_about_other_tools_are_not_examined() -> None:
    assert {one.rule.id for one in policy().examine(request())} == {"small", "asked", "notes"}
    unknown = replace(request(), tool=replace(REFUND, name="other"))
    assert policy().examine(unknown) == ()


def test_a_condition_tells_the_values_that_it_looks_at() -> None:
    (rule,) = (one for one in policy().examine(request(amount=500)) if one.rule.id == "small")
    assert [dict(condition.values) for condition in rule.conditions] == [
        {"context.args.amount": "500.0"},
        {"context.args.order_id": "A-1"},
        {"context.provenance.untrusted": False},
        {},
    ]


def test_a_condition_inside_a_condition_is_part_of_it() -> None:
    texts = [
        part.text
        for part in conditions_of(
            "permit (principal, action, resource) when { if 1 < 2 then true && false else (1 < 2 || 2 < 1) };"
        )._parts
    ]
    assert len(texts) == 1


def test_a_denied_call_is_told_the_permits_that_came_close_nearest_first() -> None:
    lines = list(close_rules(policy(), request(amount=500), permitted=False))
    assert lines == [
        'small (policy.cedar:2): context.args.amount.lessThanOrEqual(decimal("100.0")) does not hold; '
        "context.args.amount is '500.0'",
        "asked (policy.cedar:5): context has approval does not hold",
        "asked (policy.cedar:5): context.approval.approvers >= 1 cannot be evaluated for this call",
    ]


def test_a_permitted_call_is_told_the_forbids_that_came_close() -> None:
    lines = list(close_rules(policy(), request(note="go"), permitted=True))
    assert lines == [
        "notes (policy.cedar:7): context.args.note == \"stop\" does not hold; context.args.note is 'go'"
    ]


def test_a_policy_that_examines_nothing_and_a_request_without_a_form_tell_nothing() -> None:
    assert list(close_rules(object(), request(), permitted=False)) == []
    assert list(close_rules(policy(), request(amount="many"), permitted=False)) == []


# a rule applies exactly where none of its conditions is unmet

atoms = st.sampled_from(
    [
        'context.args.amount.lessThan(decimal("50.0"))',
        "context.provenance.untrusted",
        'context.args.order_id == "A-1"',
        "context.args has note",
        'context.args.tags.contains("x")',
        "context.task.calls > 2",
    ]
)
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        inner.map(lambda text: f"!({text})"),
    ),
    max_leaves=6,
)
clauses = st.lists(st.tuples(st.sampled_from(["when", "unless"]), expressions), min_size=1, max_size=3)


@given(
    clauses,
    st.booleans(),
    st.sampled_from([10, 50, 90]),
    st.sampled_from(["A-1", "B"]),
    st.booleans(),
    st.sampled_from([["x"], []]),
    st.sampled_from([0, 5]),
)
@settings(max_examples=examples(200))
def test_a_rule_applies_exactly_where_no_condition_of_it_is_unmet(
    parts: list[tuple[str, str]],
    untrusted: bool,
    amount: int,
    order: str,
    noted: bool,
    tags: list[str],
    calls: int,
) -> None:
    text = " ".join(f"{kind} {{ {expression} }}" for kind, expression in parts)
    cedar = policy(
        f'@id("r") permit (principal, action == Action::"refund", resource) {text};'.replace(
            "context.args.tags.contains", "context.args has tags && context.args.tags.contains"
        )
    )
    asked = request(order_id=order, amount=amount, tags=tags, **({"note": "n"} if noted else {}))
    asked = replace(asked, task=replace(asked.task, untrusted=untrusted, calls=calls))
    (rule,) = cedar.examine(asked)
    decision: Decision = cedar.decide(asked)
    assert decision.permitted is (not rule.unmet)
