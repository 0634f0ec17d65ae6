"""`agentguard simulate`: how recorded calls would be decided by the rules of a file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from agentguard import ConfigurationError
from agentguard.analysis.decide import Verdict, decider
from agentguard.analysis.simulate import Simulation, simulate
from agentguard.cli._console import fail, note, out
from agentguard.cli._policies import (
    attach,
    guard_of,
    records_of,
    warn_of_unknown_arguments,
)
from agentguard.cli._target import load_object, tools_of
from agentguard.text import printable

__all__ = ["command", "report", "simulation_of"]


def command(
    logs: Annotated[list[Path], typer.Argument(help="Audit logs that were written with requests.")],
    config: Annotated[Path, typer.Option(help="The file with the rules to try.")] = Path("agentguard.toml"),
    tools: Annotated[
        str | None, typer.Option(metavar="MODULE:TOOLS", help="An agent, or its tools, for their arguments.")
    ] = None,
    allow: Annotated[
        list[Verdict] | None, typer.Option(help="Calls may turn into this; may be given several times.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--json", help="Where to write what has turned.")] = None,
) -> None:
    """Decide every call that was recorded with `audit.requests = true` by the rules of a file.

    Exit codes: 0 no decision would turn, or only as allowed; 1 some would, or the file is wrong; 2 a log is
    altered or not readable, or no call could be decided.
    """
    records = [record for log in logs for record in records_of(log)]
    try:
        simulation = simulation_of(
            config, [] if tools is None else list(tools_of(load_object(tools))), records
        )
    except ConfigurationError as error:
        fail(error)
    if to is not None:
        to.write_text(json.dumps(asdict(simulation), indent=1) + "\n", "utf-8")
    report(simulation)
    if not simulation.asked_again:
        raise typer.Exit(2)
    raise typer.Exit(1 if any(turn.after not in (allow or ()) for turn in simulation.turns) else 0)


def simulation_of(config: Path, tools: list[Any], records: list[dict[str, Any]]) -> Simulation:
    """Decide recorded calls by the rules of a file.

    Raises:
        ConfigurationError: The file or a tool is wrong.
    """
    with guard_of(config) as guard:
        attach(guard, tools)
        warn_of_unknown_arguments(guard)
        return simulate(decider(guard.enforcement), records, guard.catalog.tool)


def report(simulation: Simulation) -> None:
    """Print which calls would turn."""
    console = out()
    if simulation.turns:
        table = Table("tool", "was", "would be", "calls", "by", "such as")
        for turn in simulation.turns:
            by = ", ".join(turn.policies) or turn.reason
            row = (turn.tool, turn.before, turn.after, turn.count, by, turn.example)
            table.add_row(*(printable(cell) for cell in row))
        console.print(table)
    if simulation.untold:
        note(
            console,
            "warning",
            f"{simulation.untold} calls cannot be decided: their requests were not recorded",
        )
    word = "warning" if simulation.turns else "ok"
    turned = sum(turn.count for turn in simulation.turns)
    note(console, word, f"{turned} of {simulation.asked_again} calls would turn")
