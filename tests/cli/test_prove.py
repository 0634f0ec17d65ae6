"""`agentguard prove` without its programs says what to install; the solver's program splits what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentguard.cli import main
from agentguard.cli.prove.cvc5_program import commands
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
