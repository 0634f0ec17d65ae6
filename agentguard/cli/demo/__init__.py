"""`agentguard demo`: an agent obeys an injected instruction, a thief copies a token, and neither does harm.

story     what happens, and which outcome is promised: data only
play      plays the story and compares each outcome with the promised one
narrator  prints it; picture draws it
agent     a real create_agent loop with ordinary tools
shop      the resource server, and thief: each is a process of its own, which processes starts and ends

picture.svg is the picture of the README. `agentguard demo --svg agentguard/cli/demo/picture.svg` makes it. No
other generated file is committed: this one is, because the README has to show it, and a test compares it with
a new performance.
"""

from __future__ import annotations

import logging
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
from agentguard.cli.demo.narrator import Narrator
from agentguard.cli.demo.picture import draw
from agentguard.cli.demo.story import STORY, Story

__all__ = ["command", "perform"]


def command(
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write the audit log to this empty directory, not to a temporary one."
        ),
    ] = None,
    svg: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw what happened as a picture, and write it to this file."),
    ] = None,
) -> None:
    """Show what happens when an agent obeys an injected instruction. Needs no server and no API key.

    Exit codes: 0 each outcome is as promised; 1 an outcome differs.
    """
    if any(find_spec(name) is None for name in ("langchain", "starlette", "uvicorn")):
        fail("The demo needs its extra: pip install 'agentguard[demo]'")
    if keep is not None and keep.exists() and not (keep.is_dir() and not any(keep.iterdir())):
        fail(f"{keep} is not an empty directory")
    try:
        broken = perform(STORY, Console(highlight=False), keep, svg)
    except OSError as error:
        if svg is None or error.filename != str(svg):
            raise
        fail(f"{svg}: {error.strerror}")
    raise typer.Exit(1 if broken else 0)


def perform(story: Story, console: Console, keep: Path | None = None, svg: Path | None = None) -> list[str]:
    """Play *story*, print it, and return the promises that were broken.

    The audit log stays in *keep*, or in a temporary directory, which is removed if the play is interrupted.
    The picture is written to *svg*.

    Raises:
        OSError: *keep* or *svg* cannot be written.
    """
    from agentguard.cli.demo.play import Play  # imports langchain, which the other commands do not need

    with _directory(keep) as directory, _no_log_lines():
        play = Play(story, directory, Narrator(console))
        play.perform()
    if svg is not None:
        svg.write_text(draw(story, play.results, play.answers), "utf-8")
    return play.broken


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield keep.absolute()
        return
    temporary = Path(tempfile.mkdtemp(prefix="agentguard-demo-"))
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def _no_log_lines() -> Iterator[None]:
    """Keep the guard's warnings out of the terminal. The play provokes them; the narrator explains them."""
    handler = logging.NullHandler()  # without any handler, Python prints warnings to stderr
    logger = logging.getLogger("agentguard")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
