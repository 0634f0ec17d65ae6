"""Cedar's own analysis says what a change of rules does, for all calls at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentguard.cli import main
from tests.real.conftest import needed

Prove = Callable[..., tuple[int, str]]
CONFIG = """
policy.cedar = ["policy.cedar"]
[tools.pay]
path = "write"
sinks = ["to"]
args = { to = "string", amount = "number", note = "string?" }
[tools.look]
path = "read"
args = { what = "string" }
"""
POLICY = """
@id("reads") permit (principal, action in Action::"read", resource);
@id("small") permit (principal, action == Action::"pay", resource)
when { context.provenance.args.to.user && context.args.amount.lessThanOrEqual(decimal("100.0")) };
@id("asked") permit (principal, action == Action::"pay", resource) when { context has approval };
"""
OFFSHORE = """
@id("offshore") forbid (principal, action == Action::"pay", resource) when { context.args.to like "KY*" }"""


@pytest.fixture
def prove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prove:
    """Prove with these old and new rules, and return the exit code and the output."""
    monkeypatch.setenv("CEDAR", needed("AGENTGUARD_TEST_CEDAR"))
    monkeypatch.setenv("CVC5", needed("AGENTGUARD_TEST_SOLVER"))

    def run(old: str, new: str | None = None, config: str = CONFIG) -> tuple[int, str]:
        files = []
        for name, rules, text in (("old", old, CONFIG), ("new", new, config)):
            if rules is None:
                continue
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            (folder / "agentguard.toml").write_text(text)
            (folder / "policy.cedar").write_text(rules)
            files.append(str(folder / "agentguard.toml"))
        result = CliRunner().invoke(main, ["prove", *files])
        return result.exit_code, result.output

    return run


@pytest.mark.promise("proved-narrower")
def test_a_change_that_only_narrows_is_proved_so(prove: Prove) -> None:
    code, output = prove(POLICY, POLICY.replace("100.0", "50.0"))
    assert (code, "permit nothing that the old ones do not, for 2 tools" in output) == (0, True), output
    assert "each of 3 rules can match" in output


WIDER = {
    "a higher limit": (POLICY.replace("100.0", "500.0"), "pay"),
    "another source": (POLICY.replace("args.to.user", "args.to.trusted"), "pay"),
    "no condition": (POLICY.replace("when { context has approval }", ""), "pay"),
    "an exception of a forbid": (POLICY + OFFSHORE + " unless { context.args has note };", "pay"),
}


@pytest.mark.promise("proved-narrower")
@pytest.mark.parametrize("change", WIDER)
def test_a_change_that_permits_more_shows_a_call(change: str, prove: Prove) -> None:
    new, tool = WIDER[change]
    old = POLICY + OFFSHORE + ";" if "forbid" in change else POLICY
    code, output = prove(old, new)
    assert code == 1
    assert f"{tool}: the new rules permit what the old ones do not" in output
    assert "amount" in output


def test_rules_in_another_order_and_the_same_rules_are_no_wider(prove: Prove) -> None:
    shuffled = "\n".join(f"{rule};" for rule in reversed(POLICY.strip().rstrip(";").split(";\n")))
    assert prove(POLICY, shuffled)[0] == 0
    assert prove(POLICY)[0] == 0


@pytest.mark.promise("proved-narrower")
def test_a_rule_that_can_never_match_is_named(prove: Prove) -> None:
    rules = (
        POLICY
        + """
@id("both") permit (principal, action == Action::"pay", resource)
when { context.args.amount.lessThan(decimal("1.0")) && context.args.amount.greaterThan(decimal("2.0")) };"""
    )
    code, output = prove(rules)
    assert code == 1
    assert "both (" in output
    assert "can never match" in output


@pytest.mark.promise("proved-narrower")
def test_a_forbid_that_an_approval_lifts_is_named_and_one_that_none_lifts_is_not(prove: Prove) -> None:
    assert prove(POLICY + OFFSHORE + ";")[0] == 0
    code, output = prove(POLICY + OFFSHORE + " unless { context has approval };")
    assert code == 1
    assert "offshore (" in output
    assert "an approval lets through what this rule names" in output


def test_an_approval_that_another_rule_forbids_reaches_nothing(prove: Prove) -> None:
    rules = (
        POLICY + OFFSHORE + " unless { context has approval };" + OFFSHORE.replace("offshore", "never") + ";"
    )
    code, output = prove(rules)
    assert code == 0, output


def test_a_new_tool_that_the_old_rules_do_not_permit_is_wider(prove: Prove) -> None:
    config = CONFIG + '[tools.send]\npath = "write"\nargs = { text = "string" }\n'
    new = POLICY + '@id("sends") permit (principal, action == Action::"send", resource);'
    code, output = prove(POLICY, new, config)
    assert code == 1
    assert "send: the new rules permit" in output


def test_old_rules_that_do_not_fit_the_new_tools_are_an_error(prove: Prove) -> None:
    config = CONFIG.replace("amount", "sum")
    code, output = prove(POLICY, POLICY.replace("args.amount", "args.sum"), config)
    assert code == 2
    assert "args.amount" in output


LIFTED = {
    "in a when": 'when { context.args.to like "KY*" && !(context has approval) }',
    "deep in a when": (
        'when { context.args.to like "KY*" && (context.args has note || !(context has approval)) }'
    ),
    "by the number of persons": (
        'when { context.args.to like "KY*" && !(context has approval && context.approval.approvers > 1) }'
    ),
    "in an if": 'when { context.args.to like "KY*" && (if context has approval then false else true) }',
}


@pytest.mark.promise("proved-narrower")
@pytest.mark.parametrize("place", LIFTED)
def test_an_approval_that_lifts_a_forbid_is_found_wherever_the_forbid_asks_for_it(
    place: str, prove: Prove
) -> None:
    rules = f'{POLICY}@id("offshore") forbid (principal, action == Action::"pay", resource) {LIFTED[place]};'
    code, output = prove(rules)
    assert code == 1, output
    assert "an approval lets through what this rule names" in output


@pytest.mark.promise("proved-narrower")
def test_a_rule_about_tools_that_do_not_exist_is_named(prove: Prove) -> None:
    code, output = prove(POLICY + '@id("up") permit (principal, action in Action::"escalation", resource);')
    assert code == 1, output
    assert "up (" in output
    assert "can never match" in output


@pytest.mark.promise("proved-narrower")
def test_the_same_rules_for_a_tool_on_another_path_are_not_called_narrower(prove: Prove) -> None:
    code, output = prove(POLICY, POLICY, CONFIG.replace('"write"', '"read"'))
    assert code == 1, output
    assert "unproved  the catalog has another classification of pay" in output
