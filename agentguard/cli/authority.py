"""`agentguard authority`: what an agent that obeys an attacker could still do by the rules of a file."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from agentguard import ConfigurationError, Guard
from agentguard.analysis.authority import Authority, authority
from agentguard.analysis.decide import decider, request_for
from agentguard.cli._console import fail, note, out
from agentguard.cli._policies import attach, guard_of, records_of, warn_of_unknown_arguments
from agentguard.cli._target import load_object, tools_of
from agentguard.model import ToolSpec
from agentguard.text import printable

__all__ = ["command"]


def command(
    logs: Annotated[list[Path], typer.Argument(help="Audit logs that were written with requests.")],
    config: Annotated[Path, typer.Option(help="The file with the rules.")] = Path("agentguard.toml"),
    tools: Annotated[
        str | None, typer.Option(metavar="MODULE:TOOLS", help="An agent, or its tools, for their arguments.")
    ] = None,
    most: Annotated[
        float | None, typer.Option(help="Fail if a larger share of the calls is permitted, such as 0.05.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--json", help="Where to write the result.")] = None,
) -> None:
    """Tell which calls the rules would let run beyond what the recorded tasks have needed.

    For each task, it decides calls of all tools that change something, with each value that stands anywhere
    in the records. That needs no attack and no luck. The share of what is permitted with nobody asked is the
    residual authority. Calls about facts are not decided: the records of other values are not known. Exit
    codes: 0 told; 1 the share is above --most, or the file is wrong; 2 a log is altered or not readable, or
    no call could be decided.
    """
    records = [record for log in logs for record in records_of(log)]
    try:
        with guard_of(config) as guard:
            attach(guard, [] if tools is None else list(tools_of(load_object(tools))))
            warn_of_unknown_arguments(guard)
            enforcement = guard.enforcement
            result = authority(
                decider(enforcement),
                partial(request_for, enforcement),
                partial(_looks_at_facts, guard),
                records,
                guard.catalog.tool,
            )
    except ConfigurationError as error:
        fail(error)
    if to is not None:
        to.write_text(json.dumps(asdict(result) | {"share": result.share}, indent=1) + "\n", "utf-8")
    _report(result)
    if not any(tool.calls for tool in result.tools):
        raise typer.Exit(2)
    raise typer.Exit(1 if most is not None and result.share > most else 0)


def _looks_at_facts(guard: Guard, tool: ToolSpec) -> bool:
    facts_for = getattr(guard.enforcement.ports.policy, "facts_for", None)
    return bool(tool.facts if facts_for is None else facts_for(tool))


def _report(result: Authority) -> None:
    console = out()
    table = Table("tool", "permitted", "a person is asked", "denied", "about facts", "such as")
    for tool in result.tools:
        example = json.dumps(tool.examples[0], ensure_ascii=True) if tool.examples else ""
        row = (
            tool.tool,
            f"{tool.share:.1%}",
            str(tool.questions),
            str(tool.denied),
            str(tool.untold),
            example,
        )
        table.add_row(*(printable(cell) for cell in row))
    console.print(table)
    if result.left_out:
        note(console, "warning", f"{result.left_out} calls were too many to be decided")
    calls = sum(tool.calls for tool in result.tools)
    note(console, "authority", f"{result.share:.2%} of {calls} calls in {result.tasks} tasks would run")
