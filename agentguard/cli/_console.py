"""What all commands use to print."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

from agentguard.text import printable

__all__ = ["fail", "note", "out"]

STYLES = {"error": "bold red", "warning": "yellow", "torn": "yellow", "ok": "bold green", "wrote": "green"}


def out() -> Console:
    """Return a console of the present stdout. It does not break lines, so that they can be searched."""
    return Console(highlight=False, soft_wrap=True)


def note(console: Console, word: str, text: str) -> None:
    """Print one finding: a colored word, and a text whose further lines are indented like the first."""
    body = ("\n" + " " * 10).join(map(printable, text.split("\n")))
    console.print(Text.assemble((f"{word:<10}", STYLES.get(word, "cyan")), body))


def fail(problem: object, code: int = 1) -> NoReturn:
    """Print the problem on stderr, and exit with *code*."""
    note(Console(stderr=True, highlight=False, soft_wrap=True), "error", str(problem))
    raise typer.Exit(code)
