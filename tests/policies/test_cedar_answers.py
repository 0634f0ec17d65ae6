"""An answer that is kept is the one that Cedar would give, whatever the numbers of the call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from cedarpy import PolicySet, is_authorized
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from agentguard.errors import ConfigurationError
from agentguard.model import AccessRequest, Decision, Sensitivity
from agentguard.policies.cedar import CedarPolicy, ReloadingCedar, bound_tool
from agentguard.policies.cedar.answers import MOST, constants_of
from tests.policies.test_cedar import REFUND, anything, ask, bound
from tests.tiers import examples

NUMBERS = (0, 1, 2, 3, 4, 5, 6, 9, 10, 11)
WHEN = [
    # compared with constants only
    "context.task.writes < 3",
    "context.task.writes <= 3 || context.task.writes > 5",
    'context["task"]["writes"] == 3 && 10 >= context.args.amount',
    "context.args.amount != 5 && !(context.task.writes == 10)",
    "context has args.amount && context.args has amount && context.args.amount > 4",
    "if context.task.writes > 2 then context.args.amount > 5 else context.args.amount <= 3",
    # looked at in another way too
    "context.task.writes + 1 > 3",
    "context.args.amount * 2 > 10 || context.args.amount == 3",
    "context.task.writes > 3 * 2",
    "1 + // (\n context.task.writes > 3",
    "-context.task.writes < -3 && context.task.writes >= 2",
    "context.args.amount == context.task.writes",
    "context.args.amount < context.task.writes && context.task.writes < 6",
    "[1, 4, context.args.amount].contains(context.task.writes)",
    "[2, 5].contains(context.args.amount) && context.args.amount < 5",
    "{n: context.args.amount} == {n: 4}",
    "{n: context.args.amount}.n > 4 && context.args.amount > 2",
    "(if context.task.calls > 0 then context.args.amount else context.task.writes) > 4",
    "(if context.task.calls > 0 then context.args else context.args).amount > 4",
    "[context.args].contains(context.args) && context.args.amount == 5",
    "context.task.writes < 3 && context.task == context.task",
    "context == context && context.args.amount == 4",
    'context.task.writes > 3 && context["\\u{74}ask"].writes < 6',
    "context.provenance.sensitivity > 2",
    "context.provenance.sensitivity > 5 || {a: context.provenance}.a.sensitivity > 1",
    "context.provenance.sensitivity > 5 || [context.provenance].contains(context.provenance) && "
    "(if context.legacy then context.provenance else context.provenance).sensitivity > 1",
]


def _request(amount: int, writes: int) -> AccessRequest:
    request = ask(amount=amount)
    return replace(request, task=replace(request.task, writes=writes, sensitivity=Sensitivity(writes % 4)))


@pytest.mark.exhaustive
@pytest.mark.promise("cedar-kept-answers")
@pytest.mark.parametrize("when", WHEN)
def test_a_kept_answer_is_what_cedar_would_say_again(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = bound(anything(when))
    for amount, writes in (*product(NUMBERS, NUMBERS), *product(NUMBERS[::-1], NUMBERS)):
        request = _request(amount, writes)
        decision = keeping.decide(request)
        assert decision == _of_cedar_alone(keeping, request, monkeypatch), (amount, writes)
        assert "policy_error" not in decision.reason


def _of_cedar_alone(policy: CedarPolicy, request: AccessRequest, monkeypatch: pytest.MonkeyPatch) -> Decision:
    tool = policy._bound.tools[REFUND.name]
    with monkeypatch.context() as patch:
        patch.setitem(tool.__dict__, "known_answers", None)
        return policy.decide(request)


@pytest.mark.parametrize(
    ("when", "constants"),
    [
        ("context.task.writes < 3 && 7 >= context.task.writes", {("task", "writes"): [3, 7]}),
        ("context.args.amount > -2 && context.args has amount", {("args", "amount"): [-2]}),
        ('context.history.contains("x") && context.task.calls > 2', {("task", "calls"): [2]}),
        ("context.args.amount > 2 && context.args.amount + 1 < 5", {}),
        ("context.task.writes < 3 && context.task == context.task", {}),
        (
            "context.provenance.sensitivity < 1 && {a: context.provenance} has a && context.args.amount > 2",
            {("args", "amount"): [2]},
        ),
        ("context.task.writes < 3 && [context].contains(context)", {}),
    ],
)
def test_a_number_stands_by_its_place_only_where_it_is_compared_with_constants(
    when: str, constants: dict[Any, list[int]]
) -> None:
    assert constants_of(PolicySet.from_str(anything(when))) == constants


def test_too_many_rules_and_trees_too_deep_are_not_read() -> None:
    rule = '@id("r{n}") permit (principal, action, resource) when {{ context.task.writes > 3 }};'
    assert constants_of(PolicySet.from_str("\n".join(rule.format(n=n) for n in range(50))))
    assert not constants_of(PolicySet.from_str("\n".join(rule.format(n=n) for n in range(51))))
    deep = (
        f"{rule.format(n=0)} {anything('!' * 3 + '(' * 0 + ' && '.join(['context.task.writes > 3'] * 200))}"
    )
    assert not constants_of(PolicySet.from_str(deep))


Asks = Callable[[CedarPolicy | ReloadingCedar, AccessRequest], tuple[Decision, int]]


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch) -> Asks:
    """Return what decides a request, and counts how often Cedar was asked for that."""
    questions = list[None]()

    def counted(*args: Any) -> Any:
        questions.append(None)
        return is_authorized(*args)

    def decide(policy: CedarPolicy | ReloadingCedar, request: AccessRequest) -> tuple[Decision, int]:
        questions.clear()
        return policy.decide(request), len(questions)

    monkeypatch.setattr(bound_tool, "is_authorized", counted)
    return decide


def test_cedar_is_not_asked_again_what_no_rule_can_tell_apart(asks: Asks) -> None:
    policy = bound(anything('context.args.amount <= 100 && context.task.purpose like "Refund*"'))
    assert asks(policy, _request(40, 0))[1] == 1
    assert asks(policy, _request(99, 7))[1] == 0
    assert asks(policy, _request(100, 7))[1] == 1
    assert asks(policy, _request(101, 7))[1] == 1
    assert asks(policy, ask(amount=40, purpose="Refund it twice"))[1] == 1
    decision, count = asks(policy, ask(amount=40, purpose="Refund it twice"))
    assert decision.permitted
    assert count == 0


@pytest.mark.promise("cedar-kept-answers")
def test_another_agent_and_an_approval_are_another_question(asks: Asks) -> None:
    policy = bound(
        '@id("one") permit (principal == Agent::"agent://support", action, resource);'
        '@id("two") forbid (principal, action, resource) unless { context has approval };'
    )
    decision, count = asks(policy, ask())
    assert (decision.obliges("approve") is not None, count) == (True, 2)
    decision, count = asks(policy, ask())
    assert (decision.obliges("approve") is not None, count) == (True, 0)
    decision, count = asks(policy, ask(actor="agent://other"))
    assert (decision.permitted, count) == (False, 2)


@pytest.mark.promise("cedar-kept-answers")
def test_new_rules_know_no_answer_of_the_old_ones(asks: Asks) -> None:
    texts = [anything("true"), anything("false")]
    policy = ReloadingCedar(lambda: CedarPolicy.from_text(texts[0]))
    policy.check_tools([REFUND])
    assert asks(policy, ask())[0].permitted
    assert texts.pop(0)
    assert policy.reload()
    decision, count = asks(policy, ask())
    assert (decision.permitted, count) == (False, 1)


def test_rules_that_look_at_the_time_are_asked_each_time(asks: Asks) -> None:
    policy = bound(anything('context.now > datetime("2020-01-01")'))
    request = replace(ask(), at=1_790_000_000.0)
    assert asks(policy, request)[1] == asks(policy, request)[1] == 1


def test_what_failed_is_asked_again(asks: Asks) -> None:
    policy = bound(anything("context.args.amount + 9223372036854775807 > 0"))
    for _ in range(2):
        decision, count = asks(policy, _request(1, 0))
        assert "policy_error" in decision.reason
        assert count == 1


def test_so_many_answers_are_kept_and_no_argument_with_them() -> None:
    policy = bound(anything('context.args.order_id like "secret*"'))
    memory = policy._bound.tools[REFUND.name].known_answers
    assert memory is not None
    for number in range(2 * MOST + 3):
        assert policy.decide(ask(order_id=f"secret{number}")).permitted
        assert len(memory) <= MOST
    assert "secret" not in repr(vars(memory))


LOOKS = (("args", "amount"), ("task", "writes"), ("provenance", "sensitivity"))
NUMBER = st.sampled_from(
    [
        *(f"context.{record}.{name}" for record, name in (*LOOKS, ("task", "calls"))),
        *(f"{{a: context.{record}}}.a.{name}" for record, name in LOOKS),
        *(
            f"(if context.legacy then context.{record} else context.{record}).{name}"
            for record, name in LOOKS
        ),
        *("0", "1", "3", "5", "-2"),
    ]
)
CONDITION = st.recursive(
    st.one_of(
        st.builds("{} {} {}".format, NUMBER, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), NUMBER),
        st.sampled_from(
            [
                'context.args.order_id like "47*"',
                "context.args has amount",
                'context["args"]["amount"] > 4',
                'context.task.purpose == "Refund order 4711"',
            ]
        ),
    ),
    lambda inner: st.one_of(
        st.builds("({} && {})".format, inner, inner),
        st.builds("({} || {})".format, inner, inner),
        st.builds("!({})".format, inner),
        st.builds("(if {} then {} else {})".format, inner, inner, inner),
        st.builds("((if {} then {} else {}) {} {})".format, inner, NUMBER, NUMBER, st.just("<"), NUMBER),
        st.builds("({} + {} > {})".format, NUMBER, NUMBER, NUMBER),
        st.builds("[{}, {}].contains({})".format, NUMBER, NUMBER, NUMBER),
        st.builds("({{a: {}, b: {}}} == {{a: {}, b: 1}})".format, NUMBER, NUMBER, NUMBER),
    ),
    max_leaves=6,
)


@pytest.mark.promise("cedar-kept-answers")
@settings(max_examples=examples(450), deadline=None)
@given(
    rules=st.lists(st.tuples(st.sampled_from(["permit", "forbid"]), CONDITION), min_size=1, max_size=3),
    requests=st.lists(st.tuples(st.integers(-3, 7), st.integers(0, 7)), min_size=4, max_size=16),
)
def test_whatever_the_rules_say_a_kept_answer_is_what_cedar_would_say_again(
    rules: list[tuple[str, str]], requests: list[tuple[int, int]]
) -> None:
    text = "".join(
        f'@id("r{n}") {effect} (principal, action == Action::"refund_order", resource) when {{ {when} }};'
        for n, (effect, when) in enumerate(rules)
    )
    try:
        keeping = bound(text)
    except ConfigurationError:  # Cedar's validator finds that a rule can never apply
        reject()
    with pytest.MonkeyPatch.context() as patch:
        for amount, writes in requests:
            request = _request(amount, writes)
            assert keeping.decide(request) == _of_cedar_alone(keeping, request, patch), (text, amount, writes)
