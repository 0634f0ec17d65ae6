"""What other rules would have said to calls that were recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool
from typer.testing import CliRunner, Result

from agentguard import Denied, Guard
from agentguard.analysis.decide import Verdict, verdict
from agentguard.analysis.explain import turning
from agentguard.analysis.simulate import simulate
from agentguard.audit import JsonLinesAudit
from agentguard.audit.requests import recorded, replayed
from agentguard.cli import main
from agentguard.model import AccessRequest, Decision, Effect, Mandate, Obligation, ToolPath, ToolSpec
from agentguard.testing.samples import sample_request
from tests.doubles.deciding import deciding

POLICY = """
@id("small") permit (principal, action == Action::"pay", resource) when { context.args.amount <= 100 };
@id("asked") permit (principal, action == Action::"pay", resource)
when { context has approval && context.args.amount <= 500 };
"""
CONFIG = """
policy.cedar = ["p.cedar"]
store.kind = "memory"
[audit]
path = "audit.jsonl"
requests = true
[tools.pay]
path = "write"
args = { amount = "integer" }
"""
TOOL = sample_request().tool
Run = Callable[..., Result]


@tool
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the log of a guard: permitted, asked and approved, asked and refused, denied, out of budget."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agentguard.toml").write_text(CONFIG)
    (tmp_path / "p.cedar").write_text(POLICY)
    guard = Guard.from_file("agentguard.toml", approver=lambda r: r.arguments.values["amount"] == 200)
    (paying,) = guard.wrap(pay)
    with guard.task("Pay", subject="user:ada", mandate={"tools": "*"}, calls=2):
        for amount in (50, 200, 300, 600, 60):
            try:
                paying.invoke({"amount": amount})
            except Denied:
                continue
    with guard.task("Look", subject="user:ada", mandate={"tools": []}), pytest.raises(Denied):
        paying.invoke({"amount": 1})
    guard.close()
    return tmp_path / "audit.jsonl"


@pytest.fixture
def run(recording: Path) -> Run:
    return lambda *arguments: CliRunner().invoke(main, ["simulate", *map(str, arguments)])


def records(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.promise("explain-turns-decision")
def test_the_same_rules_turn_nothing(run: Run, recording: Path) -> None:
    result = run(recording)
    assert result.exit_code == 0, result.output
    # the call beyond the budget was no matter of rules
    assert "0 of 5 calls would turn" in result.output


@pytest.mark.parametrize(
    ("change", "turned"),
    [
        (("<= 100", "<= 10"), {("permitted", "asked", 1)}),
        (("context has approval && ", ""), {("asked", "permitted", 2)}),
        (("<= 500", "<= 250"), {("asked", "denied", 1)}),
        (("<= 500", "<= 5000"), {("denied", "asked", 1)}),
    ],
)
def test_what_would_turn_is_told_and_fails_a_build(
    run: Run, recording: Path, change: tuple[str, str], turned: set[tuple[str, str, int]]
) -> None:
    out = recording.parent / "out.json"
    (recording.parent / "p.cedar").write_text(POLICY.replace(*change))
    result = run(recording, "--json", out)
    assert result.exit_code == 1, result.output
    report = json.loads(out.read_text())
    assert {(turn["before"], turn["after"], turn["count"]) for turn in report["turns"]} == turned
    assert report["turns"][0]["example"] in recording.read_text()
    after = {turn["after"] for turn in report["turns"]}
    assert run(recording, *(f"--allow={verdict}" for verdict in after)).exit_code == 0


def test_what_a_mandate_has_refused_stays_refused(run: Run, recording: Path) -> None:
    (recording.parent / "p.cedar").write_text('@id("all") permit (principal, action, resource);')
    result = run(recording)
    assert "3 of 5 calls would turn" in result.output


def test_a_tool_that_is_classified_no_more_is_denied(run: Run, recording: Path) -> None:
    (recording.parent / "agentguard.toml").write_text(CONFIG.replace("[tools.pay]", "[tools.pays]"))
    (recording.parent / "p.cedar").write_text(POLICY.replace('"pay"', '"pays"'))
    result = run(recording)
    assert result.exit_code == 1
    assert "not classified" in result.output


@pytest.mark.promise("explain-turns-decision")
def test_an_altered_log_is_no_evidence(run: Run, recording: Path) -> None:
    recording.write_text(recording.read_text().replace('"amount":50', '"amount":51'))
    assert run(recording).exit_code == 2
    assert run(recording.with_name("nowhere.jsonl")).exit_code == 2


def test_records_without_requests_cannot_be_decided(run: Run, tmp_path: Path) -> None:
    log = JsonLinesAudit(tmp_path / "bare.jsonl")
    log.append({"event": "decision", "effect": "permit", "tool": "pay", "call": "c"})
    log.append({"event": "decision", "effect": "permit", "tool": "pay", "call": "d", "request": {"x": 1}})
    log.close()
    result = run(tmp_path / "bare.jsonl")
    assert result.exit_code == 2
    assert "2 calls cannot be decided" in result.output


@pytest.mark.promise("explain-turns-decision")
def test_no_recorded_text_reaches_the_terminal_raw(run: Run, recording: Path, tmp_path: Path) -> None:
    log = JsonLinesAudit(tmp_path / "hostile.jsonl")
    (record,) = [
        r["request"] for r in records(recording) if r.get("request", {}).get("arguments") == {"amount": 50}
    ]
    name = "pay\x1b]0;gone\x07"
    log.append({"event": "decision", "effect": "permit", "tool": name, "call": "\x1b[2J", "request": record})
    log.close()
    output = run(tmp_path / "hostile.jsonl").output
    assert "\x1b" not in output
    assert "\x07" not in output


def test_a_policy_that_errs_denies() -> None:
    class Erring:
        version = "1"

        def decide(self, request: AccessRequest) -> Decision:
            raise OSError("dead")

    record = {"event": "decision", "effect": "permit", "tool": "refund_order", "call": "c"}
    record["request"] = recorded(sample_request())  # type: ignore[assignment]  # JSON
    simulation = simulate(deciding(Erring(), TOOL), [record], lambda _name: sample_request().tool)
    assert [(turn.after, turn.reason) for turn in simulation.turns] == [
        (Verdict.DENIED, "policy_error: policy failed: OSError")
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "policy_error: policy answered with NoneType"),
        (
            Decision(effect=Effect.PERMIT, obligations=(Obligation(kind="sing"),)),
            "obligation: sing is not understood",
        ),
    ],
)
def test_what_a_guard_would_not_accept_is_denied(answer: Decision | None, reason: str) -> None:
    class Lying:
        version = "1"

        def decide(self, request: AccessRequest) -> Decision:
            return answer  # type: ignore[return-value]  # None is what a policy must not answer

    record = {"event": "decision", "tool": "refund_order", "call": "c", "request": recorded(sample_request())}
    tool = sample_request().tool
    simulation = simulate(deciding(Lying(), TOOL), [{**record, "effect": "permit"}], lambda _name: tool)
    assert [(turn.after, turn.reason) for turn in simulation.turns] == [(Verdict.DENIED, reason)]
    denied = {**record, "effect": "deny", "code": "obligation"}
    assert simulate(deciding(Lying(), TOOL), [denied], lambda _name: tool).same == 1
    assert turning(deciding(Lying(), TOOL), sample_request()) == ()


def test_arguments_that_are_not_known_are_told(run: Run, recording: Path) -> None:
    (recording.parent / "agentguard.toml").write_text(CONFIG.replace('args = { amount = "integer" }', ""))
    assert "the arguments of pay are not known" in run(recording).output


def test_a_request_comes_back_as_it_was_recorded() -> None:
    request = sample_request()
    spec = ToolSpec(name="refund_order", path=ToolPath.READ)
    there = json.loads(json.dumps(recorded(request)))
    assert replayed(there, spec) == replace(
        request, tool=spec, task=replace(request.task, mandate=Mandate.of(request.task.mandate.literal()))
    )
    assert verdict(Decision(effect=Effect.DENY)) is Verdict.DENIED
    for broken in ({}, {**there, "task": None}, {**there, "origins": {"a": 1}}, {**there, "arguments": []}):
        with pytest.raises(ValueError, match="no recorded request"):
            replayed(broken, spec)
