"""The reference has every setting, reason for a denial and command, and is the one of the code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

from agentguard.cli import main
from agentguard.cli.reference import Part
from agentguard.config.settings import Settings
from agentguard.config.tables import Table
from agentguard.errors import DenialCode

PAGE = Path(__file__).parents[2] / "REFERENCE.md"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def tables(annotation: Any) -> Iterator[type[Table]]:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation
    for part in get_args(annotation):
        yield from tables(part)


def test_the_page_in_the_repository_is_the_one_of_the_code() -> None:
    assert PAGE.read_text("utf-8") == run("reference"), "run: agentguard reference > REFERENCE.md"


def test_every_key_of_the_settings_stands_in_the_section_of_its_table() -> None:
    sections = run("reference", "settings").split("\n### ")
    count = 0
    for name, field in Settings.model_fields.items():
        if name == "file":
            continue
        mine = [text for text in sections if text.startswith(f"[{name}")]
        assert mine, name
        for kind in tables(field.annotation):
            keys = {of.alias or key for key, of in kind.model_fields.items()} - {"kind"}
            assert any(all(f"| `{key}` |" in text for key in keys) for text in mine), (name, kind)
            count += len(keys)
    assert count > 100


def test_every_reason_for_a_denial_has_something_to_do() -> None:
    rows = run("reference", "denials").splitlines()
    for code in DenialCode:
        (row,) = (row for row in rows if row.startswith(f"| `{code}` |"))
        assert all(len(cell.strip()) > 20 for cell in row.split(" | ")[1:]), code


def test_every_command_and_each_of_its_options_has_its_help() -> None:
    text = run("reference", "commands")
    names = {
        f"### agentguard {name}" for name in ("demo", "lint", "audit verify", "store check", "reference")
    }
    assert names <= set(text.splitlines())
    options = [line for line in text.splitlines() if line.startswith("- `--")]
    assert len(options) > 20
    assert [line for line in options if len(line.partition("`: ")[2]) < 10] == []


def helps(command: Any) -> Iterator[str]:
    yield command.help or ""
    yield from (getattr(option, "help", None) or "" for option in command.params)
    for part in getattr(command, "commands", {}).values():
        yield from helps(part)


def test_no_help_loses_a_word_in_square_brackets_which_rich_reads_as_markup() -> None:
    texts = list(helps(get_command(main)))
    assert len(texts) > 50
    assert [text for text in texts if Text.from_markup(text).plain != text] == []


@pytest.mark.parametrize("part", list(Part))
def test_a_part_is_printed_alone(part: Part) -> None:
    assert run("reference", part).strip() in PAGE.read_text("utf-8")


def test_the_version_is_told() -> None:
    assert run("--version").startswith("agentguard 0.")


def test_the_shell_can_complete_commands() -> None:
    words = {"_AGENTGUARD_COMPLETE": "complete_bash", "COMP_WORDS": "agentguard sto", "COMP_CWORD": "1"}
    assert CliRunner().invoke(main, [], prog_name="agentguard", env=words).output.split() == ["store"]


@pytest.mark.process
def test_the_package_runs_as_a_module() -> None:
    ran = subprocess.run([sys.executable, "-m", "agentguard", "--version"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout[:13]) == (0, "agentguard 0.")
