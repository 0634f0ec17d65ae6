"""`agentguard audit` rotates, verifies and shows the files of a log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentguard.audit import JsonLinesAudit, Limits
from agentguard.audit.files import history
from agentguard.cli import main
from agentguard.config import build, load

Run = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `agentguard audit` beside a configuration that names the log."""
    (tmp_path / "agentguard.toml").write_text('[audit]\npath = "audit.jsonl"\nkeep_files = 2\n')
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, ["audit", *args])

    return run


# --- rotate


def test_the_log_of_a_configuration_is_rotated_and_its_oldest_files_deleted(run: Run, path: Path) -> None:
    audit = JsonLinesAudit(path)
    for number in range(4):
        audit.append({"event": "x", "number": number})
        result = run("rotate")
        assert result.exit_code == 0
        assert f"{path.name}.2" in result.output
    assert len(history(path)) == 3


def test_a_log_that_is_named_is_rotated_and_nothing_of_it_is_deleted(run: Run, path: Path) -> None:
    audit = JsonLinesAudit(path)
    for number in range(4):
        audit.append({"event": "x", "number": number})
        assert run("rotate", str(path)).exit_code == 0
    assert len(history(path)) == 5


def test_a_log_that_is_not_there_is_not_made(run: Run, path: Path) -> None:
    result = run("rotate")
    assert result.exit_code == 2
    assert "there is no such file" in result.output
    assert not path.exists()


def test_a_log_without_a_record_stays_as_it_is(run: Run, path: Path) -> None:
    path.touch()
    result = run("rotate")
    assert result.exit_code == 0
    assert "holds no record yet" in result.output


def test_the_limits_of_a_configuration_are_those_of_its_log(tmp_path: Path) -> None:
    config = tmp_path / "agentguard.toml"
    config.write_text('[audit]\npath = "audit.jsonl"\nmax_size = "100KB"\nmax_age = "36h"\n')
    assert load(config).audit.limits() == Limits(max_size=100_000, max_age=36 * 3_600)
    audit = build(load(config)).ports.audit
    for number in range(120):
        audit.append({"event": "x", "number": number, "text": "x" * 1_000})
    assert len(history(tmp_path / "audit.jsonl")) == 2
    audit.close()  # type: ignore[attr-defined]  # it is a file


@pytest.mark.parametrize(
    "line", ['max_size = "99KB"', 'max_size = "1 MB"', 'max_age = "0d"', "keep_files = 0"]
)
def test_a_limit_that_is_none_is_an_error_with_its_line(tmp_path: Path, line: str, run: Run) -> None:
    (tmp_path / "agentguard.toml").write_text(f"[audit]\n{line}\n")
    result = run("rotate")
    assert result.exit_code == 2
    assert "agentguard.toml:2" in "".join(result.output.split())
