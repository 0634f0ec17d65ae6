"""`agentguard test`: scenarios in a file beside the policy, and which rules and conditions they have tried.

scenarios   the files of scenarios, and what stands in them
stage       the guard that a scenario runs on, with stand-ins for tools, credentials, facts and persons
run         a scenario is run, step by step
coverage    which rules and conditions were tried
junit       the results for a CI system
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agentguard import ConfigurationError, Guard
from agentguard.cli._console import fail, note, out
from agentguard.cli._policies import parts_of
from agentguard.cli._target import load_object, tools_of
from agentguard.cli.test.coverage import Coverage, coverage_of
from agentguard.cli.test.junit import write_junit
from agentguard.cli.test.run import Outcome, run
from agentguard.cli.test.scenarios import Scenario, files_beside, read_scenarios
from agentguard.cli.test.stage import Stage, specs_of

__all__ = ["command", "report", "results_of"]

Results = list[tuple[Path, Outcome]]


def command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files of scenarios; by default *scenarios.toml beside the configuration."),
    ] = None,
    config: Annotated[Path, typer.Option(help="The file with the rules.")] = Path("agentguard.toml"),
    tools: Annotated[
        str | None, typer.Option(metavar="MODULE:TOOLS", help="An agent, or its tools, for their arguments.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Where to write the results for a CI system.")] = None,
    gaps: Annotated[bool, typer.Option(help="Print the rules and conditions that were not tried.")] = False,
    strict: Annotated[bool, typer.Option(help="Fail where a rule has decided no call.")] = False,
) -> None:
    """Run scenarios against the rules: what users say, what is read and called, and what is to be decided.

    No tool of yours runs, and nothing leaves this process: tools, credentials, facts and persons are
    stand-ins. Exit codes: 0 all is decided as expected; 1 something is not, or a file is wrong; 2 there are
    no scenarios.
    """
    paths = files or files_beside(config)
    if not paths:
        fail(f"there is no file *scenarios.toml beside {config}", 2)
    try:
        scenarios = read_scenarios(paths)
        results, coverage = results_of(
            config, [] if tools is None else tools_of(load_object(tools)), scenarios
        )
    except ConfigurationError as error:
        fail(error)
    if junit is not None:
        write_junit(junit, results)
    report(results, coverage, gaps=gaps or strict)
    is_gap = strict and coverage is not None and coverage.rules < coverage.all_rules
    raise typer.Exit(1 if is_gap or any(outcome.problems for _, outcome in results) else 0)


def results_of(
    config: Path, tools: list[Any], scenarios: list[tuple[Path, Scenario]]
) -> tuple[Results, Coverage | None]:
    """Run scenarios by the rules of a file; return how each went, and what they have tried.

    Raises:
        ConfigurationError: The file or a tool is wrong.
    """
    results: Results = []
    with parts_of(config) as parts, Guard.from_parts(parts) as guard:
        specs, facts = specs_of(guard, tools)
        for file, scenario in scenarios:
            stage = Stage(parts, specs, facts, scenario)
            results.append((file, run(stage, scenario)))
        records = [record for _, outcome in results for record in outcome.decisions]
        # the rules were last checked against the stand-ins, and so are the requests
        coverage = coverage_of(parts.ports.policy, records, stage.guard.catalog.tool)
    return results, coverage


def report(results: Results, coverage: Coverage | None, *, gaps: bool) -> None:
    """Print how each scenario went."""
    console = out()
    for file, outcome in results:
        word = "error" if outcome.problems else "ok"
        note(console, word, "\n".join((f"{file.name}: {outcome.scenario.name}", *outcome.problems)))
    if coverage is not None:
        for gap in coverage.gaps if gaps else ():
            note(console, "untried", gap)
        note(console, "coverage", str(coverage))
