"""Cedar rules about what was done: typed, exact, asked for only where a rule looks, the same in each form."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentguard.analysis.changes import changes
from agentguard.audit.requests import recorded, replayed
from agentguard.cli import main
from agentguard.errors import ConfigurationError
from agentguard.model import AccessRequest, Arguments, Counted, ToolPath, ToolSpec
from agentguard.policies import CedarPolicy, FunctionPolicy
from agentguard.policies._question import question
from agentguard.policies.combine import Combine, Rule
from agentguard.testing import sample_request

ORDER = {"order_id": {"type": "string"}}
REFUND = ToolSpec(
    name="refund_order",
    path=ToolPath.WRITE,
    schema={"properties": {**ORDER, "amount": {"type": "number"}}, "required": ["order_id", "amount"]},
    counted=Counted(sum=("amount",), per=("order_id",), user={"day": 86400}, agent={"hour": 3600}),
)
CANCEL = ToolSpec(
    name="cancel_order", path=ToolPath.WRITE, schema={"properties": ORDER, "required": ["order_id"]}
)
VERIFY = ToolSpec(name="verify identity", path=ToolPath.READ, schema={"properties": {}}, counted=Counted())
TOOLS = (REFUND, CANCEL, VERIFY)


def bound(condition: str, head: str = 'action == Action::"refund_order"') -> CedarPolicy:
    """Return a policy that permits under one condition."""
    policy = CedarPolicy.from_text(
        f'@id("one")\npermit (principal, {head}, resource)\nwhen {{\n  {condition}\n}};\n', "rules.cedar"
    )
    policy.check_tools(TOOLS)
    return policy


def tally(count: int, total: str, this: str | None = None) -> dict[str, Any]:
    sums = {} if this is None else {"sum_with_this": {"amount": Decimal(this)}}
    return {"count": count, "sum": {"amount": Decimal(total)}, **sums}


def request(tool: ToolSpec = REFUND, **facts: Any) -> AccessRequest:
    values = {"order_id": "4711"} if tool is CANCEL else {"order_id": "4711", "amount": 30}
    defaults: dict[str, Any] = {
        "tallies": {
            "refund_order": {**tally(2, "60.1", "90.1"), "per": {"order_id": tally(0, "0", "30")}},
            "verify identity": {"count": 1},
        },
        "user_tallies": {"day": {"refund_order": tally(3, "99.9999", "129.9999")}},
        "agent_tallies": {"hour": {"refund_order": tally(7, "1000")}},
    }
    return sample_request(tool=tool, arguments=Arguments.of(values), **(defaults | facts))


@pytest.mark.promise("done-is-counted")
@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("context.task.done.refund_order.count < 3", True),
        ("context.task.done.refund_order.count + 1 < 3", False),
        ('context.task.done.refund_order.sum.amount.lessThanOrEqual(decimal("60.1"))', True),
        ('context.task.done.refund_order.sum.amount.lessThan(decimal("60.1"))', False),
        ('context.task.done.refund_order.sum_with_this.amount.lessThanOrEqual(decimal("90.1"))', True),
        ('context.task.done.refund_order.sum_with_this.amount.lessThan(decimal("90.1"))', False),
        ("context.task.done.refund_order.per.order_id.count == 0", True),
        ('context.task.done.refund_order.per.order_id.sum_with_this.amount == decimal("30.0")', True),
        ('context.task.done["verify identity"].count > 0', True),
        ('context.done_by_user.day.refund_order.sum.amount.lessThan(decimal("99.9998"))', False),
        ("context.done_by_user.day.refund_order.count == 3", True),
        ("context.done_by_agent.hour.refund_order.count == 7", True),
        ("context.task.done has refund_order && context.task.done.refund_order has per", True),
    ],
)
def test_a_rule_sees_counts_and_exact_sums(condition: str, holds: bool) -> None:
    decision = bound(condition).decide(request())
    assert (decision.permitted, "error" in decision.reason) == (holds, False)


@pytest.mark.promise("done-is-counted")
@pytest.mark.parametrize(
    ("condition", "problem", "hint"),
    [
        ("context.task.done.refund_ordr.count == 0", "refund_ordr", "refund_order"),
        ("context.task.done.refund_order.cuont == 0", "cuont", "count"),
        ('context.task.done.refund_order.sum.amout == decimal("1.0")', "amout", "amount"),
        ("context.task.done.refund_order.per.ordr_id.count == 0", "ordr_id", "order_id"),
        ("context.done_by_user.dya.refund_order.count == 0", "dya", "day"),
        ("context.done_by_agent.day.refund_order.count == 0", "day", "hour"),
        ("context.task.done.cancel_order.count == 0", "cancel_order", "refund_order"),
        ("context.task.done has refnd_order", "refnd_order", "refund_order"),
        ("context.done_by_user has week", "week", "day"),
    ],
)
def test_a_name_that_is_not_counted_is_an_error_with_its_line(
    condition: str, problem: str, hint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        bound(condition)
    assert (caught.value.file, caught.value.line) == ("rules.cedar", 4)
    assert problem in caught.value.problem
    assert hint in caught.value.hint


def test_the_sum_with_this_call_is_known_in_calls_of_the_tool_alone() -> None:
    head = 'action == Action::"cancel_order"'
    assert (
        bound("context.task.done.refund_order.per.order_id.count == 0", head)
        .decide(request(CANCEL))
        .permitted
    )
    with pytest.raises(ConfigurationError, match="sum_with_this"):
        bound('context.task.done.refund_order.sum_with_this.amount == decimal("1.0")', head)
    verify = 'action == Action::"verify identity"'
    with pytest.raises(ConfigurationError, match="per"):
        bound("context.task.done.refund_order.per.order_id.count == 0", verify)


def test_where_nothing_is_counted_the_error_says_what_to_write() -> None:
    policy = CedarPolicy.from_text('@id("one") permit (principal, action, resource) when { 0 < 1 };')
    plain = ToolSpec(name="look", path=ToolPath.READ, schema={"properties": {}})
    policy.check_tools([plain])
    assert "done" not in policy.schema
    policy = CedarPolicy.from_text(
        '@id("one") permit (principal, action, resource) when { context.task.done.look.count == 0 };'
    )
    with pytest.raises(ConfigurationError) as caught:
        policy.check_tools([plain])
    assert "counted = true" in caught.value.hint


@pytest.mark.parametrize(
    ("condition", "looks"),
    [
        ("context.args.amount == context.args.amount", set()),
        ("context.task.done.refund_order.count == 0", {("task", "refund_order")}),
        ('context.task.done["verify identity"].count == 0', {("task", "verify identity")}),
        ("context.done_by_user.day.refund_order.count == 0", {("user", "refund_order")}),
        ("context.done_by_agent.hour.refund_order.count == 0", {("agent", "refund_order")}),
        ("context.task.done == context.task.done", {("task", "refund_order"), ("task", "verify identity")}),
        (
            "context.task == context.task",
            {
                ("task", "refund_order"),
                ("task", "verify identity"),
                *((s, "refund_order") for s in ("user", "agent")),
            },
        ),
    ],
)
def test_only_what_rules_look_at_is_asked_for(condition: str, looks: set[tuple[str, str]]) -> None:
    policy = bound(condition)
    assert set(policy.counts_for(REFUND)) == looks
    assert set(policy.counts_for(CANCEL)) == set()
    both = Combine([policy, bound("context.task.done.refund_order.count == 0")], Rule.UNANIMOUS)
    assert set(both.counts_for(REFUND) or ()) == looks | {("task", "refund_order")}
    assert Combine([policy, FunctionPolicy(lambda _: True)], Rule.UNANIMOUS).counts_for(REFUND) is None


def test_other_pdps_a_record_and_its_replay_have_the_same_numbers() -> None:
    sent = json.loads(json.dumps(question(request())["context"]))
    assert sent["task"]["done"]["refund_order"]["sum"] == {"amount": 60.1}
    assert sent["done_by_user"]["day"]["refund_order"]["sum_with_this"] == {"amount": 129.9999}
    assert sent["done_by_agent"]["hour"]["refund_order"] == {"count": 7, "sum": {"amount": 1000}}
    empty = question(request(tallies={}, user_tallies={}, agent_tallies={}))["context"]
    assert "done" not in empty["task"]
    assert not {"done_by_user", "done_by_agent"} & set(empty)
    again = replayed(json.loads(json.dumps(recorded(request()))), REFUND)
    assert (again.tallies, again.user_tallies, again.agent_tallies) == (
        request().tallies,
        request().user_tallies,
        request().agent_tallies,
    )
    older = recorded(request())
    for name in ("tallies", "user_tallies", "agent_tallies"):
        del older[name]
    assert replayed(older, REFUND).tallies == {}
    with pytest.raises(ValueError, match="no recorded request"):
        replayed({**older, "tallies": {"refund_order": {"count": "many"}}}, REFUND)


@pytest.mark.promise("done-is-counted")
def test_what_a_rule_looks_at_and_nobody_has_counted_is_denied() -> None:
    policy = bound("!(context.task.done.refund_order.count > 3)")
    decision = policy.decide(request(tallies={}))
    assert not decision.permitted
    assert "could not be evaluated" in decision.reason


def test_explain_tries_other_numbers() -> None:
    rule = 'context.task.done.refund_order.sum_with_this.amount.lessThan(decimal("50.0"))'
    policy = bound(rule)
    permitted = [
        change.words
        for change in changes(request(), [rule])
        if policy.decide(change.make(request())).permitted
    ]
    assert "task.done.refund_order.sum_with_this.amount were 0" in permitted


def test_the_command_explains_an_imagined_call_by_what_was_done(tmp_path: Path) -> None:
    (tmp_path / "agentguard.toml").write_text("""
[policy]
cedar = ["rules.cedar"]
[tools.verify]
path = "read"
args = { name = "string" }
counted = true
[tools.refund_order]
path = "write"
args = { order_id = "string", amount = "number" }
counted = { sum = ["amount"], per = ["order_id"], user = { day = 86400 } }
""")
    (tmp_path / "rules.cedar").write_text("""
@id("refunds") permit (principal, action == Action::"refund_order", resource) when {
  context.task.done.verify.count > 0
  && context.done_by_user.day.refund_order.sum_with_this.amount.lessThanOrEqual(decimal("100.0"))
};
""")

    def explained(amount: int, *options: str) -> str:
        args = ["--args", json.dumps({"order_id": "1", "amount": amount}), *options]
        file = ["--config", str(tmp_path / "agentguard.toml")]
        result = CliRunner().invoke(main, ["explain", "refund_order", *args, *file])
        assert result.exit_code == 0, result.output
        return result.output

    assert "task.done.verify.count were 100" in explained(60)
    assert "permit" in explained(60, "--history", "verify").splitlines()[0]
    assert "done_by_user.day.refund_order.sum_with_this.amount were 0" in explained(
        101, "--history", "verify"
    )
