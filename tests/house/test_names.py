"""The names of variables and parameters: nouns, never a participle or a pronoun without its noun."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.test_house import FORMER, ROOT

# `found` and `each` name a state or a position. A reader has to search for the thing that is found.
WORDS = """
    asked born done each every found given gone got heard held it kept known left made meant named others ones
    owed own said seen sent shown spent such taken them these those told tried used wanted what written
"""
NO_NOUNS = frozenset(word + end for word in WORDS.split() for end in ("", "_"))


def bound_names(source: str) -> Iterator[tuple[str, int]]:
    """Yield each name that Python source binds as a variable or a parameter, and its line."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.arg(arg=name) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield name, node.lineno
            case ast.MatchAs(name=str(name)) | ast.ExceptHandler(name=str(name)):
                yield name, node.lineno


def uses_in(paths: list[Path]) -> list[str]:
    """Return the place of each name without a noun in these files of the package."""
    uses = []
    for path in paths:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        words = NO_NOUNS.difference(FORMER.get(module, ()))  # names that users import stay
        uses += [
            f"{path.relative_to(ROOT)}:{line}: {name}"
            for name, line in bound_names(path.read_text())
            if name in words
        ]
    return uses


PATHS = sorted(ROOT.glob("agentguard/**/*.py"))


def test_no_participle_and_no_pronoun_is_the_name_of_a_variable() -> None:
    assert uses_in(PATHS) == []


@pytest.mark.parametrize(
    "source",
    [
        "found = 1",
        "found: int = 1",
        "found += 1",
        "first, *found = (1, 2)",
        "if (found := 1): pass",
        "for found in (): pass",
        "with open('x') as found: pass",
        "[found for found in ()]",
        "def function(found): pass",
        "def function(*found): pass",
        "def function(*, found=1): pass",
        "async def function(**found): pass",
        "lambda found: 1",
        "class Record:\n    found: int",
        "try: pass\nexcept OSError as found: pass",
        "match 1:\n    case found: pass",
        "match 1:\n    case [*found]: pass",
        "match 1:\n    case {**found}: pass",
    ],
)
def test_every_way_to_bind_a_name_is_looked_at(source: str) -> None:
    assert "found" in [name for name, _ in bound_names(source)]


def test_a_name_that_is_only_read_is_no_variable_of_the_reader() -> None:
    assert [name for name, _ in bound_names("print(found, row.found, call(found=1))")] == []
