"""Why a call is judged as it is, and what would turn the decision."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from agentguard.analysis.changes import changes
from agentguard.analysis.decide import verdict
from agentguard.analysis.explain import ASKS, turning
from agentguard.audit import JsonLinesAudit
from agentguard.audit.requests import recorded
from agentguard.cli import main
from agentguard.model import (
    AccessRequest,
    Approval,
    Arguments,
    Decision,
    Effect,
    Identity,
    Mandate,
    Provenance,
    Sensitivity,
    TaskState,
    ToolPath,
    ToolSpec,
)
from agentguard.policies.cedar import CedarPolicy
from tests.doubles.deciding import deciding

SECRETS = ToolSpec(name="secrets", path=ToolPath.READ)
PAY = ToolSpec(
    name="pay",
    path=ToolPath.WRITE,
    schema={
        "properties": {
            "to": {"type": "string"},
            "amount": {"type": "integer"},
            "note": {"type": "string"},
        },
        "required": ["to", "amount"],
    },
)
POLICY = """
@id("small") permit (principal, action == Action::"pay", resource)
when { context.provenance.args.to.user && context.args.amount <= 100 };
@id("asked") permit (principal, action == Action::"pay", resource) when { context has approval };
@id("after-secrets") forbid (principal, action == Action::"pay", resource)
when { context.history.contains("secrets") };
@id("kinds") permit (principal, action == Action::"pay", resource)
when { context.task.kinds.contains("payroll") && context.args.amount <= 5000 };
"""
UNKNOWN = Provenance(user=False, trusted=False, untrusted=True)


def request(amount: int = 50, to: Provenance = UNKNOWN, **task: object) -> AccessRequest:
    identity = Identity(subject="user:ada", actor="agent://a")
    mandate = Mandate.of({"tools": "*"})
    state = TaskState(id="t", purpose="p", identity=identity, mandate=mandate, deadline=2e9)
    return AccessRequest(
        identity=identity,
        tool=PAY,
        arguments=Arguments.of({"to": "bob", "amount": amount}),
        task=replace(state, **task),  # type: ignore[arg-type]  # any of its fields
        provenance={"to": to, "amount": Provenance()},
    )


@pytest.fixture(scope="module")
def policy() -> CedarPolicy:
    cedar_policy = CedarPolicy.from_text(POLICY)
    cedar_policy.check_tools([PAY, SECRETS])
    return cedar_policy


def told(policy: CedarPolicy, request: AccessRequest) -> list[str]:
    return [
        str(turned)
        for turned in turning(
            deciding(policy, PAY, SECRETS), request, rules=[rule.text for rule in policy.rules]
        )
    ]


def test_one_change_is_said_before_two(policy: CedarPolicy) -> None:
    assert told(policy, request())[:3] == [
        "permitted if a person has approved it",
        "permitted if to was named by the user",
        "denied if 'secrets' had been called",
    ]
    both = told(policy, request(amount=101))
    assert "permitted if to was named by the user and amount were 100" in both
    assert told(policy, request(history=("secrets",)))[0] == "asked if secrets had not been called"


def test_an_approval_a_kind_or_a_bound_may_be_what_is_lacking(policy: CedarPolicy) -> None:
    named_by_user = Provenance(sources=frozenset({"user"}))
    assert "permitted if a person has approved it" in told(policy, request(amount=101))
    assert "permitted if the task were of the kind 'payroll'" in told(policy, request(amount=101))
    assert "asked if amount were 101" in told(policy, request(to=named_by_user))
    assert "asked if nobody vouched for to" in told(policy, request(to=named_by_user))


def test_the_same_is_said_each_time(policy: CedarPolicy) -> None:
    assert told(policy, request()) == told(policy, request())


@pytest.mark.promise("explain-turns-decision")
@given(
    st.integers(0, 6000),
    st.booleans(),
    st.lists(st.sampled_from(["secrets", "look"]), unique=True, max_size=2),
    st.lists(st.sampled_from(["payroll", "other"]), unique=True, max_size=1),
)
@settings(max_examples=15, deadline=None)
def test_what_is_shown_turns_the_decision_and_no_part_of_it_does(
    policy: CedarPolicy, amount: int, by_user: bool, history: list[str], kinds: list[str]
) -> None:
    origin = Provenance(sources=frozenset({"user"})) if by_user else UNKNOWN
    access_request = request(amount, origin, history=tuple(history), kinds=tuple(kinds))
    decide = deciding(policy, PAY, SECRETS)
    before = verdict(decide(access_request))
    for turned in turning(
        deciding(policy, PAY, SECRETS), access_request, rules=[rule.text for rule in policy.rules]
    ):
        changed = access_request
        for change in turned.changes:
            changed = change.make(changed)
            alone = verdict(decide(change.make(access_request)))
            assert len(turned.changes) == 1 or alone is before
        assert verdict(decide(changed)) is turned.verdict is not before


def test_no_more_is_asked_than_was_said(policy: CedarPolicy) -> None:
    class Counting:
        version, count = "1", 0

        def decide(self, request: AccessRequest) -> Decision:
            self.count += 1
            return Decision(effect=Effect.DENY)

    counting = Counting()
    constants = [f'"text {n}" {n}' for n in range(200)]
    assert turning(deciding(counting, PAY), request(), rules=constants, asks=300) == ()
    assert counting.count == 301
    assert len(list(changes(request(), constants))) < ASKS


def test_a_policy_that_shows_no_rules_is_asked_all_the_same() -> None:
    class Careful:
        version = "1"

        def decide(self, request: AccessRequest) -> Decision:
            return Decision(effect=Effect.PERMIT if request.provenance["to"].trusted else Effect.DENY)

    assert [str(turn) for turn in turning(deciding(Careful(), PAY), request())] == [
        "permitted if to was named by the user",
        "permitted if to came from a trusted source",
        "permitted if to were left out",
    ][:2]


def test_a_change_of_everything_else_is_found(policy: CedarPolicy) -> None:
    access_request = replace(
        request(untrusted=True, sensitivity=Sensitivity.INTERNAL), environment={"stage": "test"}, legacy=True
    )
    words = {
        change.words for change in changes(access_request, ['context.environment.stage == "production"'])
    }
    assert words >= {
        "nothing untrusted had been read",
        "what was read had been public at most",
        "stage were 'production'",
        "its key were not long-lived",
    }
    approved = Approval(
        id="", call_key="", task_id="t", tool="pay", digest="", policy_version="", expires_at=0.0
    )
    assert "approval" not in {change.place for change in changes(replace(access_request, approval=approved))}


# --- the command

CONFIG = """
policy.cedar = ["p.cedar"]
[tools]
pay = { path = "write", args = { to = "string", amount = "integer", note = "string?" } }
[tasks.pay]
when = ["pay"]
tools = ["pay"]
"""
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "agentguard.toml").write_text(CONFIG)
    (tmp_path / "p.cedar").write_text(POLICY.replace('"secrets"', '"pay"'))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, ["explain", *map(str, arguments)])


def test_an_imagined_call_is_explained(run: Run) -> None:
    result = run("pay", "--args", '{"to": "bob", "amount": 50}', "--words", "please pay bob")
    assert result.exit_code == 0, result.output
    assert "permitted pay: permitted by small" in result.output
    assert "to by user" in result.output
    assert "p.cedar:2" in result.output
    assert "asked if amount were 101" in result.output
    outside = run("pay", "--args", '{"to": "bob", "amount": 50}', "--words", "hello")
    assert "mandate: tool pay is outside the mandate" in outside.output


PAYS = """
from langchain_core.tools import tool

@tool
def pay(to: str, amount: int, note: str = "rent") -> str:
    \"\"\"Pay.\"\"\"
    return "paid"

tools = [pay]
"""


def test_an_imagined_call_has_the_defaults_of_its_tool_and_is_validated_by_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "explained_shop.py").write_text(PAYS)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "p.cedar").write_text(
        '@id("rent") permit (principal, action == Action::"pay", resource)'
        ' when { context.args has note && context.args.note == "rent" };'
    )
    tools = ("--tools", "explained_shop:tools")
    result = run("pay", "--args", '{"to": "bob", "amount": 50}', *tools)
    assert result.exit_code == 0, result.output
    assert "permitted pay: permitted by rent" in result.output
    wrong = run("pay", "--args", '{"to": "bob", "amount": "much"}', *tools)
    assert wrong.exit_code == 1
    assert "the tool takes other arguments" in wrong.output


def test_a_recorded_call_is_explained_by_the_rules_of_today(run: Run, tmp_path: Path) -> None:
    log = JsonLinesAudit(tmp_path / "audit.jsonl")
    hostile = replace(request(), arguments=Arguments.of({"to": "bob\x1b[31m", "amount": 50}))
    escaped = {**recorded(hostile), "origins": {"to\x1b[2J": recorded(request())["origins"]["to"]}}
    for call, record in (("c1", recorded(request())), ("c2", None), ("c3", {"nonsense": 1}), ("c4", escaped)):
        facts = {} if record is None else {"request": record}
        log.append({"event": "decision", "call": call, "tool": "pay", "effect": "permit", **facts})
    log.close()
    result = run("--audit", tmp_path / "audit.jsonl", "--call", "c1")
    assert "asked" in result.output
    assert "permitted if to was named by the user" in result.output
    for call, problem in (
        ("c2", "requests = true"),
        ("c3", "this is no recorded request"),
        ("c9", "no call 'c9' is recorded"),
    ):
        result = run("--audit", tmp_path / "audit.jsonl", "--call", call)
        assert result.exit_code == 1
        assert problem in result.output
    assert "\x1b[" not in run("--audit", tmp_path / "audit.jsonl").output


def test_rules_about_other_tools_use_up_no_question(run: Run, tmp_path: Path) -> None:
    noise = "".join(
        f'@id("n{n}") permit (principal, action == Action::"other", resource)'
        f' when {{ context.task.purpose == "purpose {n}" }};\n'
        for n in range(300)
    )
    (tmp_path / "agentguard.toml").write_text(
        CONFIG.replace("[tools]", '[tools]\nother = { path = "write", args = {} }')
    )
    (tmp_path / "p.cedar").write_text(POLICY.replace('"secrets"', '"other"') + noise)
    result = run("pay", "--args", '{"to": "bob", "amount": 101}')
    assert "permitted if to was named by the user and amount were 100" in result.output


def test_an_imagined_task_may_be_of_a_kind(run: Run) -> None:
    result = run("pay", "--args", '{"to": "bob", "amount": 101}', "--kind", "payroll")
    assert "permitted pay: permitted by kinds" in result.output


@pytest.mark.promise("explain-turns-decision")
def test_an_altered_log_is_no_evidence(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    log = JsonLinesAudit(file)
    log.append({"event": "decision", "call": "c1", "tool": "pay", "request": recorded(request())})
    log.close()
    file.write_text(file.read_text().replace("bob", "eve"))
    assert run("--audit", file).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("refund",), "is not classified"),
        (("pay", "--args", "{"), "no JSON object"),
        (("pay", "--args", "[1]"), "no JSON object"),
    ],
)
def test_a_call_that_cannot_be_imagined_is_an_error(
    run: Run, arguments: tuple[str, ...], problem: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert problem in result.output


def test_an_explanation_says_whom_a_value_is_from(run: Run) -> None:
    result = run("pay", "--args", json.dumps({"to": "bob", "amount": 50}), "--trusted", "to", "--untrusted")
    assert "to by trusted" in result.output
