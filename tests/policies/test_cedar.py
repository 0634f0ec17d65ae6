"""Cedar answers for the agent's real tools, and whatever it cannot judge is a deny."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.analysis.lint import find_unmentioned
from agentguard.errors import ConfigurationError
from agentguard.model import (
    AccessRequest,
    Approval,
    ApprovalStatus,
    Arguments,
    Effect,
    Identity,
    Mandate,
    Obligation,
    Provenance,
    TaskState,
    ToolPath,
    ToolSpec,
)
from agentguard.policies.cedar import CedarPolicy
from agentguard.policies.cedar.view import View, view_of
from agentguard.ports import CatalogAware, Policy
from tests.doubles.texts import texts
from tests.tiers import examples

REFUND = ToolSpec(
    name="refund_order",
    path=ToolPath.WRITE,
    resource="payments",
    schema={
        "type": "object",
        "properties": {
            "order_id": {"type": "string"},
            "amount": {"type": "integer"},
            "fee": {"type": "number", "default": 0.0},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "meta": {"type": "object"},
        },
        "required": ["order_id", "amount"],
    },
)
READ = ToolSpec(
    name="get_order",
    path=ToolPath.READ,
    schema={"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
)
DELETE = ToolSpec(name="delete_account", path=ToolPath.ESCALATION, resource="accounts")
TOOLS = (REFUND, READ, DELETE)

POLICIES = """\
// the policies of the design page
@id("small-refunds")
permit (principal, action == Action::"refund_order", resource == Resource::"payments")
when { context.args.amount <= 100 && context.task.purpose like "Refund*" };

@id("no-untrusted-writes") // a comment; with a semicolon
forbid (principal, action in Action::"write", resource)
when { context.provenance.untrusted } unless { context has approval };

@id("reads")
permit (principal, action in Action::"read", resource);

@id("escalations-need-a-person")
permit (principal, action in Action::"escalation", resource)
when { context has approval && context.approval.approvers >= 1 };
"""


def bound(text: str, tools: Iterable[ToolSpec] = TOOLS, **more: Any) -> CedarPolicy:
    policy = CedarPolicy.from_text(text, **more)
    policy.check_tools(tools)
    return policy


def ask(
    tool: ToolSpec = REFUND,
    /,
    *,
    purpose: str = "Refund order 4711",
    untrusted: bool = False,
    actor: str = "agent://support",
    approval: Approval | None = None,
    environment: dict[str, str] | None = None,
    **arguments: Any,
) -> AccessRequest:
    if tool is REFUND:
        arguments = {"order_id": "4711", "amount": 50, "fee": 0.0, "note": None, **arguments}
    identity = Identity(subject="user:ada", actor=actor)
    return AccessRequest(
        identity=identity,
        tool=tool,
        arguments=Arguments.of(arguments),
        task=TaskState(
            id="task-1",
            purpose=purpose,
            identity=identity,
            mandate=Mandate(tools=frozenset("*")),
            deadline=2e9,
            history=("get_order", "refund_order"),
            untrusted=untrusted,
        ),
        approval=approval,
        environment=environment or {},
    )


def approved(status: ApprovalStatus = ApprovalStatus.APPROVED) -> Approval:
    return Approval(
        id="a",
        call_key="k",
        task_id="task-1",
        tool="refund_order",
        digest="d",
        policy_version="v",
        expires_at=2e9,
        status=status,
        approver="user:bob",
    )


def anything(when: str) -> str:
    return f'@id("any") permit (principal, action == Action::"refund_order", resource) when {{ {when} }};'


@pytest.fixture
def policy() -> CedarPolicy:
    return bound(POLICIES)


def test_it_has_the_shape_of_the_ports(policy: CedarPolicy) -> None:
    assert isinstance(policy, Policy)
    assert isinstance(policy, CatalogAware)


def test_a_small_refund_is_permitted_and_names_its_policy(policy: CedarPolicy) -> None:
    decision = policy.decide(ask())
    assert decision.permitted
    assert decision.policy_ids == ("small-refunds",)
    assert decision.obligations == ()
    assert decision.policy_version == policy.version


@pytest.mark.promise("cedar-error-denies")
@pytest.mark.parametrize("changed", [{"amount": 101}, {"purpose": "Answer a question"}])
def test_what_no_policy_permits_is_denied_by_default(policy: CedarPolicy, changed: dict[str, Any]) -> None:
    decision = policy.decide(ask(**changed))
    assert decision.effect is Effect.DENY
    assert decision.policy_ids == ()
    assert decision.reason == "no policy permits refund_order here"


def test_an_untrusted_write_is_permitted_only_with_a_person(policy: CedarPolicy) -> None:
    decision = policy.decide(ask(untrusted=True))
    assert decision.permitted
    assert decision.obligations == (Obligation(kind="approve"),)
    assert decision.policy_ids == ("small-refunds",)
    again = policy.decide(ask(untrusted=True, approval=approved()))
    assert again.permitted
    assert again.obligations == ()


def test_an_escalation_needs_a_person(policy: CedarPolicy) -> None:
    assert policy.decide(ask(DELETE)).obliges("approve")
    assert policy.decide(ask(DELETE, approval=approved())).obligations == ()


def test_an_approval_does_not_lift_another_refusal(policy: CedarPolicy) -> None:
    assert not policy.decide(ask(amount=101, untrusted=True)).permitted
    assert not policy.decide(ask(amount=101, untrusted=True, approval=approved())).permitted


@pytest.mark.parametrize("status", [s for s in ApprovalStatus if s is not ApprovalStatus.APPROVED])
def test_an_approval_that_is_not_given_counts_for_nothing(
    policy: CedarPolicy, status: ApprovalStatus
) -> None:
    assert not policy.decide(ask(untrusted=True, approval=approved(status))).permitted


def test_a_rule_may_demand_four_eyes() -> None:
    policy = bound(
        anything("context has approval")
        + '@id("four-eyes") forbid (principal, action, resource) when { context has approval'
        " && context.approval has approver && context.approval.approver == context.subject };"
    )
    assert policy.decide(ask()).obliges("approve")
    assert policy.decide(ask(approval=approved())).permitted
    self_approval = replace(approved(), approver="user:ada")
    assert policy.decide(ask(approval=self_approval)).policy_ids == ("four-eyes",)


@pytest.mark.promise("cedar-error-denies")
def test_a_forbid_that_errs_denies_what_a_permit_allows() -> None:
    policy = bound(
        anything("true")
        + '@id("limit") forbid (principal, action in Action::"write", resource)'
        + " when { context.args.amount + 9223372036854775807 > 5 };",
        [REFUND],
    )
    decision = policy.decide(ask(amount=50))
    assert decision.effect is Effect.DENY
    assert decision.reason == "policy_error: limit could not be evaluated"
    assert policy.decide(ask(amount=0)).effect is Effect.DENY


def test_a_forbid_that_errs_only_without_an_approval_asks_no_person() -> None:
    most = 2**63 - 1
    rules = f"""
@id("asked") permit (principal, action, resource) when {{ context has approval }};
@id("broken") forbid (principal, action == Action::"refund_order", resource)
when {{ !(context has approval) && context.args.amount + {most} > 0 }};"""
    answer = bound(rules).decide(ask(order_id="1"))
    assert not answer.permitted
    assert answer.reason == "policy_error: broken could not be evaluated"


def test_a_forbid_that_errs_only_with_an_approval_denies() -> None:
    policy = bound(
        anything("context has approval")
        + '@id("limit") forbid (principal, action in Action::"write", resource)'
        + " when { context has approval && context.args.amount + 9223372036854775807 > 5 };",
        [REFUND],
    )
    assert policy.decide(ask(amount=50)).effect is Effect.DENY


@pytest.mark.promise("cedar-context-exact")
@pytest.mark.parametrize("fee", [0.00001, 1e16])
def test_a_number_that_is_no_exact_decimal_denies_with_the_argument_named(fee: float) -> None:
    policy = bound(anything("true"))
    assert policy.decide(ask(fee=0.0001)).permitted
    decision = policy.decide(ask(fee=fee))
    assert decision.effect is Effect.DENY
    assert "'fee'" in decision.reason


def test_numbers_compare_as_decimals() -> None:
    policy = bound(anything('context.args.fee.lessThanOrEqual(decimal("2.5"))'))
    assert policy.decide(ask(fee=2.5)).permitted
    assert policy.decide(ask(fee=2)).permitted
    assert not policy.decide(ask(fee=2.5001)).permitted


def test_an_optional_argument_is_seen_by_has() -> None:
    policy = bound(anything('context.args has note && context.args.note == "gift"'))
    assert policy.decide(ask(note="gift")).permitted
    assert not policy.decide(ask(note=None)).permitted
    assert not policy.decide(ask(note="other")).permitted


def test_a_tool_that_was_not_bound_is_denied(policy: CedarPolicy) -> None:
    decision = policy.decide(ask(replace(READ, name="other"), order_id="1"))
    assert decision.effect is Effect.DENY
    assert "not checked against tool other" in decision.reason


def test_a_tool_that_changed_after_it_was_bound_is_denied(policy: CedarPolicy) -> None:
    assert policy.decide(ask(READ, order_id="1")).permitted
    assert not policy.decide(ask(replace(READ, path=ToolPath.ESCALATION), order_id="1")).permitted


@pytest.mark.promise("cedar-error-denies")
def test_before_any_tool_is_bound_everything_is_denied() -> None:
    assert not CedarPolicy.from_text(POLICIES).decide(ask()).permitted


@pytest.mark.promise("cedar-error-denies")
def test_no_policies_permit_nothing() -> None:
    assert not bound("").decide(ask()).permitted


ODD = ['"', '\\"', '") || true || ("', "\n", "\x00", "\u2028", "é", "日本", '"}, "task": {', "*", "\\u{22}"]


@pytest.mark.promise("cedar-context-exact")
@pytest.mark.parametrize("value", ODD)
def test_a_value_cannot_break_out_of_the_context(value: str) -> None:
    policy = bound(anything('context.args.order_id == "x" || context.task.purpose == "x"'))
    assert not policy.decide(ask(order_id=value, purpose=value, actor=value)).permitted
    # and it arrives whole: comparing it with itself, taken from another place, holds
    same = bound(anything("context.args.order_id == context.task.purpose"))
    assert same.decide(ask(order_id=value, purpose=value)).permitted


@pytest.mark.promise("cedar-context-exact")
def test_a_record_that_looks_like_a_cedar_value_is_refused() -> None:
    policy = bound(anything("true"))
    assert not policy.decide(ask(order_id={"__extn": {"fn": "decimal", "arg": "1.0"}})).permitted
    assert not policy.decide(ask(order_id={"__entity": {"type": "Agent", "id": "x"}})).permitted


@pytest.mark.parametrize("name", [*ODD, "a tool", "if", "Action", "__cedar"])
def test_a_tool_and_a_resource_may_have_any_name(name: str) -> None:
    tool = replace(READ, name=name, resource=name)
    policy = bound('@id("reads") permit (principal, action in Action::"read", resource);', [tool, REFUND])
    assert policy.decide(ask(tool, order_id="1")).permitted
    assert not policy.decide(ask()).permitted


@pytest.mark.parametrize("path", list(ToolPath))
def test_a_tool_named_like_a_path_is_an_error(path: ToolPath) -> None:
    with pytest.raises(ConfigurationError, match="like a path"):
        bound("", [replace(READ, name=str(path))])


def test_a_lone_surrogate_is_denied_and_not_raised(policy: CedarPolicy) -> None:
    assert not policy.decide(ask(actor="\ud800")).permitted
    assert not policy.decide(ask(purpose="Refund \ud800")).permitted


def test_what_a_policy_needs_of_the_environment_must_be_given() -> None:
    policy = bound(anything('context.environment.stage == "test"'), environment=["stage"])
    assert policy.decide(ask(environment={"stage": "test", "other": "x"})).permitted
    assert not policy.decide(ask(environment={"stage": "live"})).permitted
    assert "'stage'" in policy.decide(ask()).reason


@pytest.mark.promise("decisions-deterministic")
def test_a_decision_does_not_depend_on_any_order() -> None:
    parts = POLICIES.split("\n\n")
    one, two = bound(POLICIES), bound("\n\n".join(reversed(parts)), reversed(TOOLS))
    assert one.version == two.version
    forwards = ask(order_id="1", amount=5, note="n")
    backwards = replace(forwards, arguments=Arguments.of(dict(reversed(forwards.arguments.values.items()))))
    assert one.decide(forwards) == two.decide(backwards) == one.decide(backwards)


def test_the_version_changes_with_a_rule_and_with_a_tool(policy: CedarPolicy) -> None:
    assert bound(POLICIES.replace("100", "1000")).version != policy.version
    assert bound(POLICIES, [REFUND, READ, DELETE, replace(READ, name="more")]).version != policy.version
    assert bound(POLICIES).version == policy.version


def test_the_advice_of_a_forbid_reaches_the_decision() -> None:
    policy = bound('@id("never") @advice("Ask the person instead.") forbid (principal, action, resource);')
    decision = policy.decide(ask())
    assert decision.advice == "Ask the person instead."
    assert decision.policy_ids == ("never",)
    assert decision.reason == "forbidden by never"


@pytest.mark.promise("unknown-obligation-denies")
def test_permits_narrow_what_is_issued_and_the_narrowest_holds() -> None:
    policy = bound(
        '@id("a") @lifetime("30") @scopes("r w") permit (principal, action, resource);'
        '@id("b") @lifetime("5") @scopes("w x") permit (principal, action, resource);'
        '@id("c") @lifetime("1") permit (principal, action, resource) when { context.args has nothing };'
    )
    decision = policy.decide(ask())
    assert decision.policy_ids == ("a", "b")
    assert decision.obligations == (
        Obligation(kind="narrow_scopes", parameters={"scopes": ["w"]}),
        Obligation(kind="shorten_lifetime", parameters={"seconds": 5.0}),
    )


def test_what_a_caller_changes_in_a_decision_is_not_in_the_next_one() -> None:
    policy = bound('@id("a") @lifetime("30") @scopes("r w") permit (principal, action, resource);')
    first, expected = policy.decide(ask()), copy.deepcopy(policy.decide(ask()))
    for obligation in first.obligations:
        cast("dict[str, object]", obligation.parameters).clear()
    assert policy.decide(ask()) == expected


def test_no_more_than_a_few_decisions_of_a_tool_are_kept() -> None:
    count = 7
    policy = bound(
        "\n".join(
            f'@id("r{n}") permit (principal, action, resource) when {{ context.args has note && '
            f'context.args.note like "*{n}*" }};'
            for n in range(count)
        )
    )
    for chosen in range(1, 2**count):
        numbers = [n for n in range(count) if chosen >> n & 1]
        decision = policy.decide(ask(note="".join(map(str, numbers))))
        assert decision.policy_ids == tuple(f"r{n}" for n in numbers)
    tool = policy._bound.tools[REFUND.name]
    assert tool.known_decision.cache_info().currsize == 64  # type: ignore[attr-defined]  # it is an lru_cache


def mistake(text: str, tools: Iterable[ToolSpec] = TOOLS) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        bound(text, tools, name="rules.cedar")
    assert caught.value.file == "rules.cedar"
    assert caught.value.hint
    return caught.value


@pytest.mark.promise("cedar-rules-type-checked")
@pytest.mark.parametrize(
    ("right", "wrong", "line", "name", "hint"),
    [
        ("args.amount", "args.amonut", 4, "small-refunds", "did you mean amount?"),
        ("args.amount <=", "args.meta ==", 4, "small-refunds", "no type for meta"),
        (
            "context.args.amount",
            "context.args has amonut && context.args.amount",
            4,
            "small-refunds",
            "amount?",
        ),
        (
            "context.args.amount",
            "!(context has aproval) && context.args.amount",
            4,
            "small-refunds",
            "approval?",
        ),
        ('"refund_order"', '"refund_ordr"', 3, "small-refunds", "did you mean refund_order?"),
        ('"write"', '"wirte"', 7, "no-untrusted-writes", "did you mean write?"),
        ('"payments"', '"paymets"', 3, "small-refunds", "did you mean payments?"),
        ("args.amount", "args.fee", 2, "small-refunds", "lessThanOrEqual"),
        ("args.amount <= 100", 'args.note == "x"', 4, "small-refunds", "context.args has note"),
    ],
)
def test_a_rule_about_what_does_not_exist_is_an_error_with_its_place(
    right: str, wrong: str, line: int, name: str, hint: str
) -> None:
    error = mistake(POLICIES.replace(right, wrong, 1))
    assert error.line == line
    assert f'"{name}"' in error.problem
    assert hint in error.hint


@pytest.mark.promise("cedar-rules-type-checked")
@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('@id("a")\npermit (principal, action, resource)\nwhen { 1 < };', 3, "unexpected token"),
        ('\n\n@id("a")\npermit (principal, action, resource)', 4, "unexpected end"),
        ('@id("a") permit (principal, action, resource);\nhello', 2, "no Cedar policy"),
        ('@id("a") permit (principal, action, resource)\nwhen { "open };', 2, "invalid token"),
        ("// c\n\npermit (principal, action, resource);", 3, "no @id"),
        ('@id("")\npermit (principal, action, resource);', 1, "no @id"),
        ('\n@id("a") permit (principal == ?principal, action, resource);', 2, "template"),
        ('@id("a") @lifetime("soon") permit (principal, action, resource);', 1, "seconds"),
        ('@id("a") @lifetime("5") forbid (principal, action, resource);', 1, "forbid"),
        ('@id("a") @advice("x") permit (principal, action, resource);', 1, "permit"),
    ],
)
def test_a_malformed_policy_is_an_error_with_its_line(text: str, line: int, problem: str) -> None:
    error = mistake(text)
    assert error.line == line
    assert problem in error.problem


def test_two_files_are_one_set_and_errors_name_the_right_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one.cedar", tmp_path / "two.cedar"
    one.write_text('@id("reads") permit (principal, action in Action::"read", resource); // end', "utf-8")
    two.write_text("\ufeff" + POLICIES.replace('"reads"', '"more"').replace("amount", "amonut"), "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        CedarPolicy.from_files([one, two]).check_tools(TOOLS)
    assert (caught.value.file, caught.value.line) == (str(two), 4)
    two.write_text(POLICIES, "utf-8")
    with pytest.raises(ConfigurationError, match=r'another policy has @id\("reads"\).*one.cedar:1') as caught:
        CedarPolicy.from_files([one, two])
    assert (caught.value.file, caught.value.line) == (str(two), 10)


def test_one_id_twice_in_a_file_is_an_error() -> None:
    rule = '@id("a") permit (principal, action, resource);\n'
    assert mistake(rule + rule).line == 2


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "latin.cedar").write_bytes(b"// \xff")
    for name in ("missing.cedar", "latin.cedar", "."):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            CedarPolicy.from_files([tmp_path / name])


def test_a_failed_bind_leaves_the_former_one_in_force(policy: CedarPolicy) -> None:
    version = policy.version
    with pytest.raises(ConfigurationError):
        policy.check_tools([READ])
    assert policy.version == version
    assert policy.decide(ask()).permitted


@pytest.mark.promise("cedar-rules-type-checked")
def test_arguments_of_a_tool_without_a_schema_are_checked_when_it_has_one() -> None:
    early = replace(REFUND, schema=None)
    policy = bound(POLICIES.replace("amount", "amonut"), [early, READ])
    decision = policy.decide(replace(ask(), tool=early))
    assert decision.effect is Effect.DENY
    assert "not in the schema" in decision.reason
    with pytest.raises(ConfigurationError, match="amonut"):
        policy.check_tools([REFUND, READ])


def test_a_rule_about_a_path_without_tools_is_no_error() -> None:
    assert bound(POLICIES, [REFUND, READ]).decide(ask()).permitted


def test_tools_that_no_policy_mentions_are_listed(policy: CedarPolicy) -> None:
    assert find_unmentioned(policy.rules, TOOLS) == ()
    rules = CedarPolicy.from_text(POLICIES.split("\n\n")[0]).rules
    assert find_unmentioned(rules, TOOLS) == ("delete_account", "get_order")
    open_permit = CedarPolicy.from_text('@id("all") permit (principal, action, resource);')
    assert find_unmentioned(open_permit.rules, TOOLS) == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats() | texts(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FUZZED = bound(anything("true") + '@id("not") forbid (principal, action, resource) when { false };')


@pytest.mark.promise("cedar-error-denies")
@given(
    json_values, st.sampled_from(["order_id", "amount", "fee", "note", "meta", "other"]), texts(max_size=6)
)
@settings(max_examples=examples(150), deadline=None)
def test_no_argument_makes_decide_raise(value: Any, name: str, text: str) -> None:
    try:
        request = ask(purpose=text, actor=text, **{name: value})
    except ValueError:  # no canonical form: the guard refuses it before any policy
        return
    first, second = FUZZED.decide(request), FUZZED.decide(request)
    assert first == second
    if name == "order_id":
        assert first.permitted == isinstance(value, str)


@given(st.text(alphabet='@id("a")permit;{}/\n\\ ', max_size=40) | texts(max_size=20))
@settings(max_examples=examples(150), deadline=None)
def test_no_text_makes_anything_but_a_configuration_error(text: str) -> None:
    for rules in (text, POLICIES + text):
        with suppress(ConfigurationError):
            bound(rules)


@given(st.integers(0, len(POLICIES)), st.sampled_from([";", '"', "//", "}", "\n", "\\", "@", "é"]))
@settings(max_examples=examples(100), deadline=None)
def test_a_mutated_file_is_an_error_with_a_line_or_holds_whole_rules(at: int, piece: str) -> None:
    lines: list[int | None] = []
    try:
        lines += [r.line for r in CedarPolicy.from_text(POLICIES[:at] + piece + POLICIES[at:]).rules]
    except ConfigurationError as error:
        lines.append(error.line)
    assert all(line is not None and 1 <= line <= POLICIES.count("\n") + 2 for line in lines)
    assert len(lines) in {1, 3, 4}  # a comment may swallow a rule that stands on one line


def test_the_schema_is_readable_text(policy: CedarPolicy) -> None:
    assert 'action "refund_order" in [Action::"write"]' in policy.schema


@pytest.mark.promise("cedar-context-complete", "unvouched-is-untrusted")
@pytest.mark.parametrize(
    "when",
    [
        "context.provenance.args.order_id.trusted",
        "context . provenance . args.order_id . trusted",
        'context["provenance"]["args"]["order_id"]["trusted"]',
        "context.provenance\n  .args.order_id.trusted",
        'context.provenance has args && context.provenance["args"].order_id.trusted',
        'context.provenance.args["ord\\u{65}r_id"].trusted',
    ],
)
def test_however_a_rule_asks_for_an_origin_it_is_given(when: str) -> None:
    policy = bound(anything(f"{when} && !context.provenance.untrusted"))
    assert policy.decide(replace(ask(order_id="1"), provenance={"order_id": Provenance()})).permitted
    unknown = replace(ask(order_id="1"), provenance={"order_id": Provenance(user=False, trusted=False)})
    assert not policy.decide(unknown).permitted
    # and of what nobody says anything, nobody vouches
    assert not policy.decide(ask(order_id="1")).permitted


def test_a_rule_can_ask_for_the_time_the_history_and_the_kind_of_task() -> None:
    for when, at, permitted in (
        ('context.now < datetime("2027-01-01")', 1_790_000_000.0, True),
        ('context.now < datetime("2027-01-01")', 1_800_000_000.0, False),
        ('context.history.contains("get_order") && context.task.status == "active"', 0.0, True),
        ('context.task.kinds.contains("refund")', 0.0, False),
        ("context.provenance.sensitivity <= context.clearance", 0.0, True),
    ):
        request = replace(ask(order_id="1"), at=at)
        assert bound(anything(when)).decide(request).permitted is permitted, when


ASKED = [  # each true of the request below, however it is spelt
    "context.task.writes == 3",
    "context\n.\ttask\n.writes == 3",
    "context // a comment\n . task // another\n . writes == 3",
    "(context).task.writes == 3",
    "(if context has task then context else context).task.writes == 3",
    'context["task"]["writes"] == 3',
    'context["t\\u{61}sk"].writes == 3',
    'context.task["wr\\u{69}tes"] == 3',
    "{a: context.task}.a.writes == 3",
    "[context.task.writes].contains(3)",
    "[context.task].contains(context.task) && [context.task].containsAny([context.task])",
    "context.task == context.task && context.task has writes",
    "context has task.writes && context.task.writes == 3",
    'context has "history" && context has provenance.args',
    "context has legacy && context has clearance && context has subject && context has now",
    'context.args has note && context.args has "note" && context.args.note like "*hurry*"',
    'context.args["order_id"] == "4711"',
    '!(context.args has order_id && context.args.order_id != "4711")',
    "(context.args).amount > 10",
    'context.environment.stage == "test"',
    "context has environment && context.environment has stage",
    'context.history.containsAll(["get_order", "refund_order"])',
    'context.subject == "user:ada" && !context.legacy && context.clearance == 3',
    'context.now > datetime("2026-01-01") && context.task.id == "task-1" && context.task.calls == 5',
    "context.provenance has untrusted && context.provenance has sensitivity",
    'context.provenance["untrusted"] == false && context.provenance.sensitivity == 0',
    "context.provenance == {untrusted: false, sensitivity: 0, args: context.provenance.args}",
    "context has args && !(context.args has note && context.args.note == context.subject)",
    "[context.provenance].contains(context.provenance)",
    "context.provenance has args && context.provenance.args has note && context.provenance.args.note.user",
    "context.provenance == context.provenance",
    "!(context.args has amount && context.args.amount > 9999)",
]


@pytest.mark.promise("cedar-context-complete")
@pytest.mark.parametrize("when", ASKED)
def test_however_a_rule_asks_for_a_part_of_the_context_it_is_given(when: str) -> None:
    request = ask(order_id="4711", note="in a hurry", environment={"stage": "test"})
    task = replace(request.task, calls=5, writes=3)
    request = replace(request, task=task, at=1_790_000_000.0, provenance={"note": Provenance()})
    permitting, denied = anything(when), anything(f"!({when})")
    assert bound(permitting, environment=["stage"]).decide(request).permitted
    answer = bound(denied, environment=["stage"]).decide(request)
    assert not answer.permitted
    assert "policy_error" not in answer.reason


@pytest.mark.promise("cedar-context-complete")
def test_what_no_rule_looks_at_is_no_part_of_the_context() -> None:
    policy = bound(POLICIES)
    view = view_of((rule.text for rule in policy.rules), ["order_id", "amount", "note"])
    # one of the task because of what an @id says
    assert view == View(
        ("provenance",), False, True, ("purpose", "writes"), frozenset({"amount"}), None, ("untrusted",)
    )
    nothing = view_of(["permit (principal, action, resource);"], ["n"])
    assert nothing == View((), False, False, None, None, None)
    assert view_of(["context.task has other"], []).task == ()
    for record in ('context.args == {order_id: "4711"}', '{id: "task-1"} == context.task'):
        assert view_of([record], ["order_id", "amount"]).args == frozenset({"order_id", "amount"})
        assert "calls" in (view_of([record], []).task or ())
    everything = view_of(["permit (principal, action, resource) when { context == context };"], ["n"])
    assert everything.task == ("id", "purpose", "status", "kinds", "calls", "writes", "questions", "done")
    assert everything.environment
    assert everything.approval
    assert everything.args == frozenset({"n"})
    assert everything.provenance == ("n",)
    assert everything.family == ("untrusted", "sensitivity")
