"""`agentguard prove` without its programs says what to install; the solver's program splits what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentguard.cli import main
from agentguard.cli._policies import guard_of
from agentguard.cli.prove.cvc5_program import commands
from agentguard.cli.prove.surroundings import Surroundings
from tests.cli.test_scenarios import CONFIG, POLICY


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("CEDAR", "CVC5"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "agentguard.toml").write_text(CONFIG)
    (tmp_path / "policy.cedar").write_text(POLICY)
    return str(tmp_path / "agentguard.toml")


def test_without_the_analyzer_the_command_says_what_to_install(config: str) -> None:
    result = CliRunner().invoke(main, ["prove", config])
    assert result.exit_code == 2
    assert "cargo install cedar-policy-cli --features analyze" in result.output


def test_without_the_solver_the_command_says_what_to_install(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEDAR", "/bin/false")
    result = CliRunner().invoke(main, ["prove", config])
    assert result.exit_code == 2
    assert "agentguard[prove]" in result.output


@pytest.mark.promise("proved-narrower")
def test_an_analyzer_that_fails_proves_nothing(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CVC5", "/bin/true")
    for program in ("/bin/false", "/bin/true"):  # the second one says nothing, and ends well
        monkeypatch.setenv("CEDAR", program)
        result = CliRunner().invoke(main, ["prove", config])
        assert result.exit_code == 2
        assert "the analyzer has failed" in result.output


def test_commands_are_split_where_their_parentheses_end() -> None:
    lines = ['(set-logic ALL)(echo "a ) (")\n', "(assert (= |x)| 1\n", '))(echo "b""c")\n', "(check"]
    assert [text.strip() for text in commands(iter(lines))] == [
        "(set-logic ALL)",
        '(echo "a ) (")',
        "(assert (= |x)| 1\n))",
        '(echo "b""c")',
    ]


PDP = """
[pdps.opa]
kind = "opa"
url = "http://127.0.0.1:1"
version = "1"
"""
BESIDE = f'policy.pdps = ["opa"]\n{CONFIG}{PDP}'
EITHER = 'policy.rule = "deny-overrides"\n'
FORBID = '@id("never") forbid (principal, action == Action::"refund", resource);'
OTHERWISE = {
    "another path": (CONFIG, CONFIG.replace('"write"', '"read"')),
    "a result that is not called untrusted": (CONFIG, CONFIG.replace("untrusted = true\n", "")),
    "a tool under an old rule": (CONFIG, CONFIG + '[tools.dump]\npath = "read"\n'),
    "another environment": (CONFIG, CONFIG + '[environment]\nstage = "test"\n'),
    "a guard that observes": (CONFIG, f'policy.mode = "observe"\n{CONFIG}'),
    "a policy that is gone": (BESIDE, CONFIG),
    "another version of a policy": (BESIDE, BESIDE.replace('version = "1"', 'version = "2"')),
    "another combination": (BESIDE, EITHER + BESIDE),
    "a forbid that is gone, and a policy that may permit alone": (EITHER + BESIDE, EITHER + BESIDE),
}


def surroundings(folder: Path, text: str, rules: str) -> Surroundings:
    folder.mkdir()
    (folder / "agentguard.toml").write_text(text)
    (folder / "policy.cedar").write_text(rules)
    with guard_of(folder / "agentguard.toml") as guard:
        return Surroundings.of(guard)


@pytest.mark.promise("proved-narrower")
@pytest.mark.parametrize("change", OTHERWISE)
def test_what_decides_beside_the_rules_and_differs_is_not_called_proved(change: str, tmp_path: Path) -> None:
    old = surroundings(tmp_path / "old", OTHERWISE[change][0], POLICY + FORBID)
    new = surroundings(tmp_path / "new", OTHERWISE[change][1], POLICY)
    assert len(list(old.unproved(new))) == 1


@pytest.mark.promise("proved-narrower")
@pytest.mark.parametrize("text", [CONFIG, BESIDE], ids=["alone", "beside another policy"])
def test_the_same_surroundings_leave_nothing_unproved(text: str, tmp_path: Path) -> None:
    old = surroundings(tmp_path / "old", text, POLICY + FORBID)
    assert list(old.unproved(surroundings(tmp_path / "new", text, POLICY))) == []
