"""`agentguard watch`: recorded calls and scenarios, decided anew each time a file of the rules is saved."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from agentguard import ConfigurationError
from agentguard.cli import simulate, test
from agentguard.cli._console import fail, note, out
from agentguard.cli._policies import records_of
from agentguard.cli._target import load_object, tools_of
from agentguard.cli.test.scenarios import files_beside, read_scenarios

__all__ = ["command"]

LOOK = 0.3
"""Seconds between two looks at the files."""


def command(
    logs: Annotated[
        list[Path] | None, typer.Argument(help="Audit logs that were written with requests.")
    ] = None,
    config: Annotated[Path, typer.Option(help="The file with the rules.")] = Path("agentguard.toml"),
    tools: Annotated[
        str | None, typer.Option(metavar="MODULE:TOOLS", help="An agent, or its tools, for their arguments.")
    ] = None,
) -> None:
    """Decide recorded calls and scenarios anew whenever a file beside the configuration is saved.

    It looks at the files ending in .toml and .cedar in the folder of the configuration and below. What is
    wrong in them is told, and the next save tried. Ctrl-C ends it. Exit codes: 1 a tool cannot be loaded; 2 a
    log is altered or not readable.
    """
    records = [record for log in logs or () for record in records_of(log)]
    try:
        agent_tools = [] if tools is None else list(tools_of(load_object(tools)))
    except ConfigurationError as error:
        fail(error)
    try:
        for _ in saves(config.parent):
            note(out(), "decided", time.strftime("%H:%M:%S"))
            try:
                _decide(config, agent_tools, records)
            except ConfigurationError as error:
                note(out(), "error", str(error))
    except KeyboardInterrupt:
        pass


def _decide(config: Path, tools: list[Any], records: list[dict[str, Any]]) -> None:
    if records:
        simulate.report(simulate.simulation_of(config, tools, records))
    if scenarios := read_scenarios(files_beside(config)):
        test.report(*test.results_of(config, tools, scenarios), gaps=False)
    if not records and not scenarios:
        note(out(), "warning", "there is neither a log nor a file *scenarios.toml")


def saves(folder: Path) -> Iterator[None]:
    """Yield at once, and then each time that a file of rules has another time, size or inode."""
    before: object = None
    while True:
        now = _state(folder)
        if now != before:
            before = now
            yield
        time.sleep(LOOK)


def _state(folder: Path) -> dict[Path, tuple[int, int, int]]:
    state = dict[Path, tuple[int, int, int]]()
    for pattern in ("**/*.toml", "**/*.cedar"):
        for file in folder.glob(pattern):
            try:
                status = file.stat()
            except OSError:  # it was renamed meanwhile; the next look sees what it is now
                continue
            state[file] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return state
