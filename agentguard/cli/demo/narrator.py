"""Prints the play while it happens, in 80 columns, on a terminal or into a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agentguard.audit.timeline import Step
from agentguard.cli.demo.story import EVIL, Attempt, Call, Story

__all__ = ["Narrator"]

COLORS = {"read": "cyan", "write": "yellow", "escalation": "magenta"}
DECIDERS = {"mandate": "the mandate", "approval_refused": "a person: no", "task_ended": "the task's end"}
WIDTHS = (1, 10, 30, 23, 7)  # mark, path, call, decided by, token: 75 with the gaps between them


class Narrator:
    """Prints one line and a caption for each event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._utf = console.encoding.startswith("utf")
        mark, path, call, *right_columns = WIDTHS
        missing = max(0, sum(WIDTHS) + len(WIDTHS) - 1 - console.width)
        # rich would take the width that is missing from the column of marks first
        self._widths = (mark, path, max(8, call - missing), *right_columns)

    def opening(self, story: Story, origin: str) -> None:
        """Print what the task is, and which process verifies the calls."""
        args = ", ".join(f"{name} = {', '.join(values)}" for name, values in story.mandate["args"].items())
        self._console.print(f"[bold]{escape(story.purpose)}[/], for {story.subject}; mandate: {args}")
        self._console.print(f"[dim]The shop at {origin} is another process, and verifies each call.[/]")

    def act(self, title: str, *headings: str) -> None:
        """Print the title of an act, and the headings of its columns where they change."""
        self._console.print(f"\n[bold]{title}[/]")
        if headings:
            self.headings(*headings)

    def headings(self, *headings: str) -> None:
        """Print the headings of the columns below."""
        self._row("", *headings, style="dim")

    def call(self, call: Call, step: Step, success: bool) -> None:
        """Print a call: who decided, and how long its credential existed."""
        decider = DECIDERS.get(step.summary) or ", ".join(step.policies) or step.summary
        minted = step.credential is not None and step.seconds is not None
        life = f"{(step.seconds or 0) * 1000:.0f} ms" if minted else "none"
        path = Text(step.path, COLORS.get(step.path, ""))
        self._row(self._mark(success), path, _written(call), decider, life)
        self._caption(call.caption)

    def attempt(self, attempt: Attempt, answer: tuple[Any, ...]) -> None:
        """Print an attempt of the thief, and the shop's answer: status, error and reason."""
        status, error, reason = answer or ("-", "no answer", "")
        self._row(self._mark(status == 200), Text(str(status), "red"), attempt.caption, error, "")
        self._caption(reason)

    def ending(
        self, broken: Sequence[str], kept_count: int, refused: int, lives: Sequence[float], log: str
    ) -> None:
        """Print the result in two lines, each broken promise, and the command that verifies the log."""
        longest = max(lives, default=0) * 1000
        verdict = Text(f"All {kept_count} promises kept: ", "bold green")
        if broken:
            verdict = Text(f"{len(broken)} of {kept_count + len(broken)} promises BROKEN: ", "bold red")
        self._console.print()
        self._console.print(verdict.append(f"{refused} attempts failed, and the task is done.", "not bold"))
        self._console.print(
            f"{len(lives)} credentials were minted, and lived {longest:.0f} ms at most. All are revoked."
        )
        for promise in broken:
            self._console.print(Text(f"  {promise}", "red"))
        self._console.print(Text(f"\nagentguard audit verify {log}", "dim"), soft_wrap=True)

    def _row(self, *cells: str | Text, style: str = "") -> None:
        table = Table.grid(padding=(0, 1))
        for width in self._widths:
            table.add_column(width=width, no_wrap=True, overflow="ellipsis" if self._utf else "crop")
        table.add_row(*cells, style=style)
        self._console.print(table)

    def _mark(self, success: bool) -> Text:
        yes, no = "\u2713\u2717" if self._utf else "+x"
        return Text(yes, "bold green") if success else Text(no, "bold red")

    def _caption(self, text: str) -> None:
        self._console.print(Padding(Text(text, "dim italic"), (0, 0, 0, 2), expand=False))


def _written(call: Call) -> str:
    return f"{call.tool}({', '.join(str(v).replace(EVIL, 'evil') for v in call.args.values())})"
