"""`agentguard test`: scenarios in a file beside the policy are run against the rules, with stand-ins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from agentguard.cli import main

Run = Callable[..., Result]

CONFIG = """
policy.cedar = ["policy.cedar"]
[resources.shop]
origins = ["https://shop.example"]
[tools.get_order]
path = "read"
trusted = ["owner"]
args = { order_id = "string" }
[tools.read_mail]
path = "read"
untrusted = true
args = { id = "string" }
[tools.refund]
path = "write"
resource = "shop"
sinks = ["to"]
args = { order_id = "string", to = "string", amount = "number" }
"""
POLICY = """
@id("reads") permit (principal, action in Action::"read", resource);
@id("small") permit (principal, action == Action::"refund", resource)
when { context.provenance.args.to.trusted && context.args.amount.lessThanOrEqual(decimal("100.0")) };
@id("asked") permit (principal, action == Action::"refund", resource) when { context has approval };
"""
GOOD = """
[[scenario]]
name = "a refund to the owner of the order"
words = "Refund order A-1."
[[scenario.step]]
tool = "get_order"
args = { order_id = "A-1" }
result = { owner = "ada", note = "mallory" }
[[scenario.step]]
tool = "refund"
args = { order_id = "A-1", to = "ada", amount = 30 }
by = "small"
[[scenario.step]]
tool = "refund"
args = { order_id = "A-1", to = "mallory", amount = 30 }
expect = "ask"
answer = "yes"
by = "asked"
[[scenario.step]]
says = "And 20 to mallory."
[[scenario.step]]
tool = "refund"
args = { order_id = "A-1", to = "mallory", amount = 20 }
by = "small"
[[scenario.step]]
renew = { tools = ["get_order"] }
[[scenario.step]]
tool = "refund"
args = { order_id = "A-1", to = "ada", amount = 20 }
expect = "deny"
code = "mandate"

[[scenario]]
name = "a person says no"
mandate = { tools = ["refund"] }
[[scenario.step]]
tool = "refund"
args = { order_id = "A-1", to = "ada", amount = 500 }
expect = "ask"
[[scenario.step]]
tool = "refund"
args = { order_id = "A-1", to = "ada", amount = 500 }
expect = "deny"
code = "approval_refused"
[[scenario.step]]
tool = "refund"
args = { order_id = "A-1", to = "ada" }
expect = "deny"
code = "invalid_arguments"
"""


@pytest.fixture
def run() -> Run:
    return lambda *arguments: CliRunner().invoke(main, list(arguments), catch_exceptions=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agentguard.toml").write_text(CONFIG)
    (tmp_path / "policy.cedar").write_text(POLICY)
    (tmp_path / "scenarios.toml").write_text(GOOD)
    return tmp_path


def config(folder: Path) -> tuple[str, str]:
    return "--config", str(folder / "agentguard.toml")


def test_scenarios_that_are_decided_as_expected_pass(folder: Path, run: Run) -> None:
    result = run("test", *config(folder))
    assert result.exit_code == 0, result.output
    assert "ok        scenarios.toml: a refund to the owner of the order" in result.output
    assert "ok        scenarios.toml: a person says no" in result.output
    assert not (folder / ".agentguard").exists()


FAULTS = {
    'by = "small"': ('by = "other"', "expected permit by other, and it is by small"),
    "amount = 30 }\nby": ("amount = 300 }\nby", "expected permit, and it is ask"),
    'expect = "deny"\ncode = "mandate"': ("", "expected permit, and it is deny"),
    'code = "mandate"': ('code = "policy"', "expected the code policy, and it is mandate"),
    'tool = "get_order"': ('tool = "get_orders"', "there is no such tool"),
    "trusted": ("", ""),
}


@pytest.mark.parametrize("part", [part for part in FAULTS if part != "trusted"])
def test_a_step_that_is_decided_otherwise_fails_and_says_what_was_decided(
    part: str, folder: Path, run: Run
) -> None:
    text, words = FAULTS[part]
    (folder / "scenarios.toml").write_text(GOOD.replace(part, text, 1))
    result = run("test", *config(folder))
    assert result.exit_code == 1
    assert words in result.output
    assert "ok        scenarios.toml: a person says no" in result.output


def test_a_catalog_that_trusts_less_changes_the_outcome(folder: Path, run: Run) -> None:
    (folder / "agentguard.toml").write_text(CONFIG.replace('trusted = ["owner"]\n', ""))
    assert "step 2, refund: expected permit, and it is ask" in run("test", *config(folder)).output


def test_coverage_says_what_no_scenario_has_tried(folder: Path, run: Run) -> None:
    result = run("test", *config(folder), "--gaps")
    assert "coverage  3 of 3 rules have decided a call, and 3 of 3 conditions" in result.output
    (folder / "scenarios.toml").write_text(GOOD[GOOD.index("[[scenario]]", 5) :])
    result = run("test", *config(folder), "--gaps")
    assert "reads (" in result.output
    assert "has decided no call" in result.output
    assert "context.provenance.args.to.trusted was never met" in result.output
    assert 'context.args.amount.lessThanOrEqual(decimal("100.0")) was never met' in result.output


def test_strict_fails_where_a_rule_has_decided_no_call(folder: Path, run: Run) -> None:
    assert run("test", *config(folder), "--strict").exit_code == 0
    (folder / "scenarios.toml").write_text(GOOD[GOOD.index("[[scenario]]", 5) :])
    assert run("test", *config(folder)).exit_code == 0
    assert run("test", *config(folder), "--strict").exit_code == 1


def test_junit_has_a_case_for_each_scenario(folder: Path, run: Run) -> None:
    (folder / "scenarios.toml").write_text(GOOD.replace('by = "small"', 'by = "other"', 1))
    run("test", *config(folder), "--junit", str(folder / "out.xml"))
    (suite,) = ElementTree.parse(folder / "out.xml").getroot()  # noqa: S314  we have written it
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("scenarios.toml", "2", "1")
    messages = [failure.get("message") for failure in suite.iter("failure")]
    assert len(messages) == 1
    assert "by other" in str(messages[0])


BROKEN = {
    "no toml": "[[scenario",
    "no scenario": "",
    "another key": GOOD.replace('by = "small"', 'bye = "small"', 1),
    "two things in a step": GOOD.replace('says = "And 20', 'tool = "refund"\nsays = "And 20', 1),
    "a code of a permit": GOOD.replace('expect = "deny"\ncode = "mandate"', 'code = "mandate"', 1),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_file_that_is_wrong_is_an_error_with_its_name(fault: str, folder: Path, run: Run) -> None:
    (folder / "scenarios.toml").write_text(BROKEN[fault])
    result = run("test", *config(folder))
    assert result.exit_code == 1
    assert "scenarios.toml" in result.output


ORDERS = """
[tools.ship]
path = "write"
args = { order_id = "string" }
[facts.order]
kind = "sql"
url = "sqlite:///shop.db"
query = "SELECT status FROM orders WHERE id = ?"
tools = { ship = "order_id" }
type = { status = "string" }
[tasks.refunds]
when = ["refund"]
tools = ["refund", "ship"]
writes = 1
"""
SHIPPING = """
@id("pending") permit (principal, action == Action::"ship", resource)
when { context.facts.order.status == "pending" };
"""
ASKED = """tool = "refund"
args = { order_id = "A-9", to = "ada", amount = 30 }
expect = "ask"
answer = "yes"
"""
HOLLOW = {
    "a misspelled argument": (
        'tool = "refund"\nargs = { order = "A-1", to = "ada", amount = 30 }\nexpect = "deny"',
        "it could not be judged (name the code invalid_arguments?)",
    ),
    "a yes to a call beyond the budget": (
        f"{ASKED}[[scenario.step]]\n{ASKED}",
        "a person has said yes, and it is denied",
    ),
    "no record of the fact": (
        'tool = "ship"\nargs = { order_id = "A-2" }\nexpect = "deny"',
        "it could not be judged (name the code no_fact?)",
    ),
}


@pytest.mark.parametrize("fault", HOLLOW)
def test_a_step_does_not_pass_for_another_reason_than_a_decision(fault: str, folder: Path, run: Run) -> None:
    step, words = HOLLOW[fault]
    (folder / "agentguard.toml").write_text(CONFIG + ORDERS)
    (folder / "policy.cedar").write_text(POLICY + SHIPPING)
    (folder / "scenarios.toml").write_text(
        f'[[scenario]]\nname = "n"\nwords = "refund"\n[[scenario.step]]\n{step}\n'
    )
    result = run("test", *config(folder))
    assert result.exit_code == 1, result.output
    assert words in result.output


def test_a_misspelled_fact_is_an_error(folder: Path, run: Run) -> None:
    (folder / "agentguard.toml").write_text(CONFIG + ORDERS)
    (folder / "scenarios.toml").write_text(
        GOOD.replace("[[scenario.step]]", "facts.oder.A-1 = {}\n[[scenario.step]]", 1)
    )
    result = run("test", *config(folder))
    assert result.exit_code == 1
    assert "there is no fact oder" in result.output


def test_a_time_without_an_offset_is_an_error(folder: Path, run: Run) -> None:
    (folder / "scenarios.toml").write_text(
        GOOD.replace("[[scenario.step]]", "at = 2026-03-01T10:00:00\n[[scenario.step]]", 1)
    )
    result = run("test", *config(folder))
    assert result.exit_code == 1
    assert "scenario.1.at" in result.output


def test_a_call_that_the_rules_were_not_asked_about_covers_nothing(folder: Path, run: Run) -> None:
    (folder / "scenarios.toml").write_text(
        '[[scenario]]\nname = "n"\nmandate = { tools = ["get_order"] }\n[[scenario.step]]\ntool = "refund"\n'
        'args = { order_id = "A-1", to = "ada", amount = 500 }\nexpect = "deny"\ncode = "mandate"\n'
    )
    result = run("test", *config(folder))
    assert result.exit_code == 0, result.output
    assert "0 of 3 rules have decided a call, and 0 of 0 conditions" in result.output


def test_without_a_file_of_scenarios_nothing_passes(folder: Path, run: Run) -> None:
    (folder / "scenarios.toml").unlink()
    assert run("test", *config(folder)).exit_code == 2


def test_tools_of_an_application_are_not_run(folder: Path, run: Run, monkeypatch: Any) -> None:
    ran = folder / "ran"
    (folder / "shop_of_scenarios.py").write_text(
        f"def refund(order_id: str, to: str, amount: float) -> str:\n"
        f"    'Refund.'\n"
        f"    open({str(ran)!r}, 'w').close()\n"
        f"    return 'real'\n"
        f"tools = [refund]\n"
    )
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    result = run("test", *config(folder), "--tools", "shop_of_scenarios:tools")
    assert result.exit_code == 0, result.output
    assert not ran.exists()
