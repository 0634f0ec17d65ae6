"""The rules of a support desk: each kind permits the right and denies each wrong, in Cedar alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentguard.cli import main

SUPPORT = Path(__file__).parents[2] / "examples/policies/support"
FILES = ("retail.cedar", "flights.cedar")
# what can be left out or turned around in a condition, and what stands there then
TURNS = {
    "==": "!=",
    "<=": ">",
    "> 0": ">= 0",
    "> 5": "> 6",
    "> 1": "> 2",
    "> 3": "> 4",
    " has line": " has line || true",
    '"24h"': '"48h"',
    "200.0": "300.0",
    "* 100": "* 101",
    "* 50": "* 51",
    "* 2": "* 3",
    "* 3": "* 4",
}


def mutants() -> list[tuple[str, int, str]]:
    """Return a file, a place in it, and the text whose turn there makes another rule."""
    return [
        (file, match.start(), part)
        for file in FILES
        for part in TURNS
        for match in re.finditer(re.escape(part), (SUPPORT / file).read_text("utf-8"))
        # in a head it names a tool, and of an id in a comment nobody asks
        if not (SUPPORT / file)
        .read_text("utf-8")[: match.start()]
        .rsplit("\n", 1)[-1]
        .startswith(("permit", "forbid"))
    ]


def run(folder: Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["test", "--config", str(folder / "agentguard.toml"), "--strict"])
    return result.exit_code, result.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SUPPORT, tmp_path / "support"))


def test_each_rule_decides_and_each_condition_is_tried_both_ways(folder: Path) -> None:
    code, output = run(folder)
    assert code == 0, output
    rules = sum((folder / file).read_text("utf-8").count("@id") for file in FILES)
    assert f"{rules} of {rules} rules have decided a call" in output
    met, conditions = map(int, re.findall(r"and (\d+) of (\d+) conditions", output)[0])
    assert met == conditions > rules


@pytest.mark.exhaustive
@pytest.mark.parametrize(("file", "place", "part"), mutants())
def test_a_rule_that_says_something_else_fails_a_scenario(
    file: str, place: int, part: str, folder: Path
) -> None:
    text = (folder / file).read_text("utf-8")
    (folder / file).write_text(text[:place] + TURNS[part] + text[place + len(part) :])
    code, output = run(folder)
    assert code == 1, output
