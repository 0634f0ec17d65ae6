"""`agentguard lint`: errors in the rules, and gaps that are no errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from langchain_core.tools import BaseTool

from agentguard import ConfigurationError, Guard
from agentguard.analysis.lint import (
    find_overruled,
    find_unclassified,
    find_ungiven,
    find_unknown_fields,
    find_unknown_kinds,
    find_unmentioned,
    find_unsatisfiable,
    find_unseen_arguments,
    find_unvouched,
    find_unvouching,
)
from agentguard.analysis.lint_records import find_unasked_facts, find_unmet
from agentguard.catalog import Catalog
from agentguard.cli._console import note, out
from agentguard.cli._policies import attach, definitions, guard_of, records_of
from agentguard.cli._target import load_object, tools_of
from agentguard.langchain import GuardedTool
from agentguard.langchain.reviewed_limits import idle_keywords
from agentguard.model.definition import Digests, Pins
from agentguard.policies.cedar.source import Rule, closest

__all__ = ["Finding", "command", "findings"]


class Finding(NamedTuple):
    """One line of the report; `word` is error, warning or gated."""

    word: str
    text: str


def command(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[MODULE:ATTRIBUTE]", help="An agent, or its tools, to look at as well."),
    ] = None,
    config: Annotated[Path, typer.Option(help="The file to check.")] = Path("agentguard.toml"),
    logs: Annotated[
        list[Path] | None,
        typer.Option("--log", help="An audit log with requests: which rules no recorded call meets."),
    ] = None,
) -> None:
    """Check agentguard.toml and its policies, and which tools of an agent are guarded.

    Exit codes: 0 no errors, though there may be warnings; 1 errors.
    """
    console = out()
    try:
        records = [record for log in logs or () for record in records_of(log)]
        report = list(findings(config, None if target is None else load_object(target), records))
    except ConfigurationError as error:
        report = [Finding("error", str(error))]
    for finding in report:
        note(console, *finding)
    errors, warnings = (sum(f.word == word for f in report) for word in ("error", "warning"))
    note(console, "error" if errors else "ok", f"{_many(errors, 'error')}, {_many(warnings, 'warning')}")
    raise typer.Exit(1 if errors else 0)


def findings(
    config: Path, target: object = None, records: Sequence[Mapping[str, Any]] = ()
) -> Iterator[Finding]:
    """Yield the findings about a configuration, an agent or tools, and recorded calls; it writes nothing.

    Raises:
        ConfigurationError: The configuration, a policy, or the fit of either to the tools is wrong.
    """
    with guard_of(config) as guard:
        tools = [] if target is None else tools_of(target)
        attach(guard, tools)
        names = {getattr(tool, "name", getattr(tool, "__name__", "")) for tool in tools}
        if target is not None:
            reaches = guard.coverage(target).reaches
            names |= {reach.tool for reach in reaches if reach.gated_by != "outside"}
        yield from _gaps(guard, names, target is not None)
        yield from _untried(guard, records)
        if target is not None:
            yield from _pins(guard.catalog.pins, definitions(tools))
        if target is not None:
            yield from _coverage(guard, target, tools)


def _pins(pins: Pins | None, present: Mapping[str, Digests]) -> Iterator[Finding]:
    """Yield how the tools differ from agentguard.lock, if there is one."""
    if pins is None:
        return
    for name, digests in sorted(present.items()):
        if differences := pins.differences(name, digests):
            hint = "review it, and run: agentguard pin"
            yield Finding("error", f"{name}: its calls are denied: {'; '.join(differences)}; {hint}")
    for name in sorted(pins.tools.keys() - present.keys()):
        yield Finding("warning", f"{name}: pinned in agentguard.lock, but not among the tools")


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _gaps(guard: Guard, names: set[str], complete: bool) -> Iterator[Finding]:
    catalog, policy = guard.catalog, guard.enforcement.ports.policy
    for name in find_unclassified(names, catalog):
        yield Finding("warning", f"{name}: not classified, so its calls are denied; add [tools.{name}]")
    if (rules := getattr(policy, "rules", None)) is not None:  # Cedar's, alone or among others
        yield from _rules(rules, guard)
    for name, texts in catalog.differences().items():
        yield Finding("warning", f"{name}: its calls must satisfy both schemas: {'; '.join(texts)}")
    yield from _idle(catalog)
    for name, places in find_unseen_arguments(spec for spec in catalog if spec.schema is not None).items():
        yield Finding("warning", f"{name}: no rule can see {', '.join(places)}")
    for spec in catalog:
        if complete and spec.name not in names:
            yield Finding("warning", f"{spec.name}: classified, but not among the tools")
        elif not complete and spec.schema is None:
            yield Finding(
                "warning", f"{spec.name}: its arguments are not known; name the tools, or give args"
            )


def _untried(guard: Guard, records: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    policy = guard.enforcement.ports.policy
    for name in find_unasked_facts(policy, guard.catalog):
        yield Finding("warning", f"fact {name}: no rule looks at it")
    for rule in find_unmet(policy, records, guard.catalog.tool) if records else ():
        yield Finding("warning", f'{rule.file}:{rule.line}: policy "{rule.id}" applies to no call of the log')


def _idle(catalog: Catalog) -> Iterator[Finding]:
    for spec in catalog:
        if (schema := catalog.declared_schema(spec.name)) and (idle := idle_keywords(schema)):
            yield Finding("error", f"{spec.name}: keywords of its schema bind nothing: {', '.join(idle)}")
    for spec, field, name in find_unvouching(catalog):
        yield Finding("error", f"{spec.name}: {name} vouches for no {field}: nothing of that name can")


def _rules(rules: tuple[Rule, ...], guard: Guard) -> Iterator[Finding]:
    catalog, templates = guard.catalog, guard.intent.templates
    for name in find_unmentioned(rules, catalog):
        yield Finding("warning", f"{name}: no policy mentions it, so its calls are denied")
    for rule, why in find_unsatisfiable(rules, catalog, [template.name for template in templates]):
        yield Finding("warning", f'{rule.file}:{rule.line}: policy "{rule.id}" can never apply: {why}')
    yield from _unknown_names(rules, guard)
    for rule, source in find_unvouched(rules, catalog):
        place = f"{rule.file}:{rule.line}"
        yield Finding(
            "warning", f'{place}: policy "{rule.id}" relies on {source}, which is not listed as trusted'
        )
    for rule in find_overruled(rules, catalog):
        yield Finding(
            "warning",
            f'{rule.file}:{rule.line}: policy "{rule.id}" permits only what other rules always forbid',
        )
    in_templates = {tool for template in templates for tool in template.tools}
    for rule, name in find_ungiven(rules, catalog, in_templates) if templates else ():
        place = f"{rule.file}:{rule.line}"
        yield Finding(
            "warning",
            f'{place}: policy "{rule.id}" permits {name}, which no [tasks] gives: it is wider than needed',
        )


def _unknown_names(rules: tuple[Rule, ...], guard: Guard) -> Iterator[Finding]:
    kinds = [template.name for template in guard.intent.templates]
    for rule, kind in find_unknown_kinds(rules, kinds) if kinds else ():
        yield Finding(
            "error",
            f'{rule.file}:{rule.line_of(f"`{kind}`")}: policy "{rule.id}" asks about the kind {kind}, '
            f"and there is no [tasks.{kind}]; {closest(kind, kinds)}",
        )
    for rule, source, suggestion in find_unknown_fields(rules, guard.catalog):
        place = f'{rule.file}:{rule.line_of(f"`{source}`")}: policy "{rule.id}" names {source}'
        if suggestion is not None:
            yield Finding("error", f"{place}, which is not listed as trusted; did you mean {suggestion}?")
        elif rule.node.effect == "forbid":  # of a permit, a warning says so already
            yield Finding("warning", f"{place}, which is not listed as trusted: nobody checks this name")


def _coverage(guard: Guard, target: object, tools: list[Any]) -> Iterator[Finding]:
    coverage = guard.coverage(target)
    plain = isinstance(target, list | tuple | BaseTool) or not coverage.reaches
    for reach in sorted(coverage.reaches, key=lambda reach: (reach.agent, reach.tool)):
        place = reach.tool if reach.agent == "agent" else f"{reach.agent} > {reach.tool}"
        if reach.gated:
            yield Finding("gated", f"{place}: by {reach.gated_by}")
        elif reach.gated_by == "outside":
            yield Finding("warning", f"{place}: NOT GATED, it runs at the model's provider")
        elif not plain:
            yield Finding("error", f"{place}: NOT GATED; wrap it, or use guard.middleware()")
    if plain and (bare := [tool for tool in tools if not isinstance(tool, GuardedTool)]):
        yield Finding(
            "warning", f"{len(bare)} tools are not wrapped: they are guarded only behind guard.middleware()"
        )
    if not coverage.complete:
        yield Finding("warning", "the agent is too large: not all of it was checked")
