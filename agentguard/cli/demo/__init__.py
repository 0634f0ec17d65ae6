"""`agentguard demo`: an agent that falls for an injection, a thief with its token, and nothing lost.

story     what happens, and what is promised of it: data
play      acts it out and compares; teller prints it
agent     a real create_agent loop with ordinary tools
shop      the resource server, and thief: processes of their own; stage starts and ends them
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agentguard.cli._console import fail
from agentguard.cli.demo.story import STORY, Story

__all__ = ["command", "perform"]


def command(
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Leave the audit log in this empty directory, not a temporary one."),
    ] = None,
) -> None:
    """Watch an injected agent and a thief come to nothing. Needs no server.

    Exit codes: 0 every outcome is as promised; 1 one differs.
    """
    if any(find_spec(name) is None for name in ("langchain", "starlette", "uvicorn")):
        fail("The demo needs its extra: pip install 'agentguard[demo]'")
    if keep is not None and keep.exists() and not (keep.is_dir() and not any(keep.iterdir())):
        fail(f"{keep} is no empty directory")
    broken = perform(STORY, Console(highlight=False), keep)
    raise typer.Exit(1 if broken else 0)


def perform(story: Story, console: Console, keep: Path | None = None) -> list[str]:
    """Act *story* out, print it, and return the promises that were broken.

    The audit log stays: in *keep*, or in a temporary directory, which goes if the play is interrupted.
    """
    from agentguard.cli.demo.play import Play  # langchain, which the other commands do not need
    from agentguard.cli.demo.teller import Teller

    with _directory(keep) as directory:
        play = Play(story, directory, Teller(console))
        play.perform()
    return play.broken


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield keep.absolute()
        return
    made = Path(tempfile.mkdtemp(prefix="agentguard-demo-"))
    try:
        yield made
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
