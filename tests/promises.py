"""Read the list of promises and the marks of the tests that prove them, and write the page of both.

A test names what it proves with ``@pytest.mark.promise("id", ...)``. ``python -m tests.promises`` writes
``tests/promises.md`` from the list in ``tests/promises.toml`` and from these marks.
`tests/house/test_promises.py` fails when the page is not current, when a promise has no test, and when a
mark names no promise or is not on a test.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["MARK", "PAGE", "PROMISES", "Mark", "marked", "mistakes", "page", "tests_of"]

TESTS = Path(__file__).parent
PAGE = TESTS / "promises.md"
MARK = "pytest.mark.promise"
HEAD = """\
# What agentguard promises, and what proves it

Each promise is one of security. Each test below it fails when the promise is broken. `pytest -m promise` runs
the tests of the promises that need no real server. The contract suites of `agentguard.testing` hold every
adapter to its port besides.

`python -m tests.promises` writes this page: the promises are listed in `tests/promises.toml`, and a test
names what it proves with `@pytest.mark.promise("...")`. A test fails when this page is not current or when a
promise has no test.
"""

PROMISES: Mapping[str, Mapping[str, str]] = tomllib.loads((TESTS / "promises.toml").read_text("utf-8"))
"""The promises by subject: the id, and the promise."""


class Mark(NamedTuple):
    """One mark: the file's path, the name of the test (``Class::name`` in a class), and the promises' ids."""

    path: str
    name: str
    ids: Sequence[str]

    def is_on_a_test(self) -> bool:
        """Return whether pytest collects what bears the mark."""
        return Path(self.path).name.startswith("test_") and self.name.rpartition("::")[2].startswith("test_")


def marked(folder: Path = TESTS) -> Iterator[Mark]:
    """Find the marks in the files below *folder*, without importing the files.

    Paths are relative to *folder*. An argument of a mark that is no literal counts as the id ``"?"``.
    """
    for file in sorted(folder.rglob("*.py")):
        text = file.read_text("utf-8")
        if f"@{MARK}(" in text:
            path = file.relative_to(folder).as_posix()
            yield from (Mark(path, name, ids) for name, ids in _marks(ast.parse(text), ""))


def _marks(node: ast.AST, prefix: str) -> Iterator[tuple[str, list[str]]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = prefix + child.name
            for call in child.decorator_list:
                if isinstance(call, ast.Call) and ast.unparse(call.func) == MARK:
                    yield name, [_literal(argument) for argument in call.args]
            yield from _marks(child, f"{name}::")


def _literal(argument: ast.expr) -> str:
    return str(argument.value) if isinstance(argument, ast.Constant) else "?"


def tests_of(marks: Sequence[Mark]) -> dict[str, list[str]]:
    """Return the tests of each id, as ``file::name``."""
    tests: dict[str, list[str]] = {}
    for mark in marks:
        for promise in mark.ids:
            tests.setdefault(promise, []).append(f"{mark.path}::{mark.name}")
    return tests


def mistakes(marks: Sequence[Mark], promises: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Say which promise has no test, which mark names no promise, and which mark is not on a test."""
    ids = [promise for section in promises.values() for promise in section]
    tests = tests_of(marks)
    return [
        *(f"{promise} has no test" for promise in ids if promise not in tests),
        *(f"{promise} is in two sections" for promise in set(ids) if ids.count(promise) > 1),
        *(
            f"{', '.join(tests[promise])}: no promise has the id {promise}"
            for promise in tests.keys() - set(ids)
        ),
        *(f"{m.path}::{m.name} has the mark and is no test" for m in marks if not m.is_on_a_test()),
    ]


def page(marks: Sequence[Mark], promises: Mapping[str, Mapping[str, str]]) -> str:
    """Return the page: a section for each subject, and below each promise the list of its tests."""
    tests = tests_of(marks)
    lines = [HEAD]
    for section, texts in promises.items():
        lines.append(f"## {section}\n")
        for promise, text in texts.items():
            lines.append(f"**{text}** (`{promise}`)\n")
            lines += [f"- `{test}`" for test in tests.get(promise, ())]
            lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(list(marked()), PROMISES), "utf-8")
