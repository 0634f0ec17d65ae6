"""`agentguard prove`: what a change of rules does, for all calls at once, by Cedar's symbolic analysis.

questions     what is asked about old and new rules
surroundings  what decides beside the rules, and differs
analyzer      the program that answers: ``cedar symcc``
cvc5_program  the solver that it asks, where only the package cvc5 is installed
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from agentguard import ConfigurationError
from agentguard.cli._console import fail, note, out
from agentguard.cli._policies import attach, guard_of, warn_of_unknown_arguments
from agentguard.cli._target import load_object, tools_of
from agentguard.cli.prove.analyzer import Analyzer
from agentguard.cli.prove.questions import Rules, joint_schema, never_matching, reached, widened
from agentguard.cli.prove.surroundings import Surroundings

__all__ = ["command"]


def command(
    old: Annotated[Path, typer.Argument(help="The agentguard.toml with the rules in force.")],
    new: Annotated[
        Path | None,
        typer.Argument(help="The configuration with the new rules; without it, OLD is looked at."),
    ] = None,
    tools: Annotated[
        str | None, typer.Option(metavar="MODULE:TOOLS", help="An agent, or its tools, for their arguments.")
    ] = None,
) -> None:
    """Say whether new rules permit anything that the old ones do not, and which rules never match.

    The answer is about all calls of the tools, with and without an approval, and not about samples. Where a
    property does not hold, a call is shown for which it does not. It also says of each forbid whether an
    approval lets through what it names. Facts, counts and origins may have any value of their type. Rules of
    other decision points and mandates are not looked at; mandates only take away. Where the files differ in
    what else decides (other policies, the classification of tools, the environment), that is not proved.

    Needs ``cedar`` with its analyzer, and the solver of the extra `prove`. Exit codes: 0 nothing
    is wider, each rule can match, and no approval reaches what a forbid names; 1 something of this is not
    so, or not proved; 2 a file is wrong, the old rules do not fit the new tools, or the analyzer fails.
    """
    console, is_sound = out(), True
    try:
        for word, text in _findings(
            old, new or old, [] if tools is None else list(tools_of(load_object(tools)))
        ):
            is_sound = is_sound and word == "ok"
            note(console, word, text)
    except ConfigurationError as error:
        fail(error, 2)
    raise typer.Exit(0 if is_sound else 1)


def _findings(old: Path, new: Path, tools: list[Any]) -> Iterator[tuple[str, str]]:
    with guard_of(new) as guard, TemporaryDirectory() as directory:
        around = Surroundings.of(guard)
        attach(guard, tools)
        warn_of_unknown_arguments(guard)
        specs, rules = list(guard.catalog), around.rules
        around_before = around if old == new else _surroundings_of(old)
        before = around_before.rules
        environment = guard.enforcement.options.environment
        analyzer = Analyzer(Path(directory), joint_schema(before, rules, specs, environment))
        now = Rules.of(rules, specs)
        if old != new:
            wider = list(widened(analyzer.ask, Rules.of(before, specs), now))
            for finding in wider:
                yield (
                    "wider",
                    f"{finding.subject}: the new rules permit what the old ones do not\n{finding.example}",
                )
            for text in around_before.unproved(around):
                yield "unproved", text
            if not wider:
                yield "ok", f"the new rules permit nothing that the old ones do not, for {len(specs)} tools"
        idle = list(never_matching(analyzer.ask, now))
        for finding in idle:
            yield "idle", f"{finding.subject} can never match"
        if not idle:
            yield "ok", f"each of {len(rules)} rules can match"
        for finding in reached(analyzer.ask, now):
            yield (
                "reached",
                f"{finding.subject}: an approval lets through what this rule names\n{finding.example}",
            )


def _surroundings_of(config: Path) -> Surroundings:
    with guard_of(config) as guard:
        return Surroundings.of(guard)
