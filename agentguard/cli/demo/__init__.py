"""`agentguard demo`: an agent that falls for an injection, a thief that steals its token, and nothing lost.

story     what happens, and what is promised of it: data
play      acts it out and compares; teller prints it
agent     a real create_agent loop with ordinary tools
shop      the resource server, and thief: processes of their own; stage starts and ends them
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentguard.cli.demo.story import STORY, Story

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["command", "perform"]


def command(
    keep: Annotated[
        Path | None, typer.Option(help="An empty directory for the audit log, instead of a temporary one.")
    ] = None,
) -> None:
    """Watch an injected agent and a thief come to nothing. Needs no server; exits 1 if anything differs."""
    from rich.console import Console

    raise typer.Exit(0 if perform(STORY, Console(highlight=False), keep) else 1)


def perform(story: Story, console: Console, keep: Path | None = None) -> bool:
    """Act *story* out, print it, and return whether every promise was kept."""
    from agentguard.cli.demo.play import Play
    from agentguard.cli.demo.teller import Teller

    directory = Path(tempfile.mkdtemp(prefix="agentguard-demo-")) if keep is None else keep
    play = Play(story, directory, Teller(console))
    play.perform()
    return not play.broken
