"""`agentguard suggest`: the least-privilege rules of recorded runs, each line beside its evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool
from rich.console import Console

from agentguard.analysis.suggest import Kind, Suggestion, Usage, evidence, suggest
from agentguard.analysis.suggested_cedar import policies_text
from agentguard.catalog import Catalog, spec_of
from agentguard.cli._console import fail, note, out
from agentguard.cli._policies import records_of
from agentguard.cli._target import load_object, tools_of
from agentguard.cli.init.texts import Draft
from agentguard.cli.init.toml import key_of, toml
from agentguard.config import load
from agentguard.config.settings import schema_of
from agentguard.errors import ConfigurationError
from agentguard.langchain import GuardedTool
from agentguard.langchain.identification import facts_of
from agentguard.langchain.original import original_of
from agentguard.langchain.schema import ArgumentSchema
from agentguard.model import Resource, Sensitivity, ToolSpec
from agentguard.text import printable

__all__ = ["command"]

Schemas = dict[str, Mapping[str, Any]]


def command(
    logs: Annotated[list[Path], typer.Argument(help="Audit logs that were written with requests.")],
    tools: Annotated[
        str | None, typer.Option(metavar="MODULE:TOOLS", help="An agent, or its tools, for their arguments.")
    ] = None,
    config: Annotated[Path, typer.Option(help="The file that classifies the tools.")] = Path(
        "agentguard.toml"
    ),
    directory: Annotated[
        Path | None, typer.Option("--out", help="Where to write; nothing there is overwritten.")
    ] = None,
) -> None:
    """Write the catalog, mandate templates and Cedar policies that recorded runs have needed.

    First run the agent with policy.mode = "observe" and audit.requests = true. Read the result line by
    line: runs may hold an attack. Exit codes: 0 done; 1 the configuration is wrong, or there is no
    run; 2 a log is altered or not readable.
    """
    records = [record for log in logs for record in records_of(log)]
    try:
        catalog, schemas = _read_catalog(config, tools)
        suggestion = suggest(records, catalog, schemas)
        texts = {
            "agentguard.toml": settings_text(suggestion, catalog, schemas),
            "policy.cedar": _cedar(suggestion),
        }
    except ConfigurationError as error:
        fail(error)
    if not suggestion.usages:
        fail(f"these records hold no call that ran with its request ({suggestion.unread} have no request)")
    _write(texts, directory)
    _report(suggestion)


def settings_text(suggestion: Suggestion, catalog: Catalog, attached: Mapping[str, object]) -> str:
    """Return the text of agentguard.toml, without the arguments of *attached* tools."""
    lines = [*_HEADER.splitlines(), *_heading(suggestion), 'policy.cedar = ["policy.cedar"]']
    usages = [usage for usage in suggestion.usages if usage.runs]
    for name in sorted({usage.spec.resource for usage in usages if usage.spec.resource is not None}):
        if (resource := catalog.resource(name)) is not None:
            lines += ["", *_resource(resource)]
    lines += ["", "[tools]"]
    for usage in suggestion.usages:
        lines += _tool(usage, known_arguments=usage.spec.name in attached)
    lines += ["", "[tasks]"]
    for kind in suggestion.kinds:
        lines += _task(kind)
    # all other characters stand in strings, where an escape means the same
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in "\n".join(lines) + "\n")


def _read_catalog(config: Path, target: str | None) -> tuple[Catalog, Schemas]:
    """Return the catalog of the configuration and of the tools, and the argument schemas of the tools."""
    settings = load(config)
    catalog = Catalog(
        [
            spec_of(name, tool.model_dump(exclude={"args"}), schema_of(name, tool.args))
            for name, tool in settings.tools.items()
        ],
        [resource.resource(name) for name, resource in settings.resources.items()],
    )
    schemas: Schemas = {}
    for tool in () if target is None else tools_of(load_object(target)):
        try:
            attached_tool = tool if isinstance(tool, BaseTool) else as_tool(tool)
        except ValueError as error:  # a function without docstring or with types that have no schema
            raise ConfigurationError(f"this is no tool: {error}", hint="see langchain's @tool") from error
        if isinstance(attached_tool, GuardedTool):
            schema, original = attached_tool.gate.schema.schema, attached_tool.gate.original
        else:
            schema = ArgumentSchema(attached_tool).schema
            original = original_of(attached_tool, schema)
        schemas[attached_tool.name] = schema
        catalog.attach(
            attached_tool.name, original, facts_of(attached_tool), schema, attached_tool.description
        )
    return catalog, schemas


def _write(texts: Mapping[str, str], directory: Path | None) -> None:
    if directory is None:
        typer.echo("\n".join(texts.values()), nl=False)
        return
    files = {directory / name: text for name, text in texts.items()}
    if existing := [file for file in files if file.exists()]:
        fail(f"{existing[0]} exists, so nothing was written\n  hint: remove it, or write elsewhere: --out")
    directory.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        with file.open("x", encoding="utf-8", newline="") as stream:
            stream.write(text)
        note(out(), "wrote", str(file))


def _report(suggestion: Suggestion) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if suggestion.unread:
        note(
            console,
            "warning",
            f"{suggestion.unread} calls are left out: they have no request that can be read",
        )
    if aside := sum(len(usage.aside) for usage in suggestion.usages):
        note(console, "warning", f"{aside} calls would not be permitted: see NOT SUGGESTED")


# --- the lines of agentguard.toml


def _heading(suggestion: Suggestion) -> Iterator[str]:
    if runs := [run for usage in suggestion.usages for run in usage.runs]:
        yield f"# {evidence(runs)}"


def _resource(resource: Resource) -> Iterator[str]:
    yield f"[resources.{key_of(resource.name)}]"
    yield f"origins = {toml(list(resource.origins))}"
    if resource.audiences:
        audiences = {path.value: audience for path, audience in resource.audiences.items()}
        yield f"audiences = {toml(audiences)}"


def _tool(usage: Usage, *, known_arguments: bool) -> Iterator[str]:
    spec = usage.spec
    if not usage.runs:
        yield f"# NOT SUGGESTED: {printable(spec.name)}, {evidence([run for run, _ in usage.aside])}"
        return
    yield f"# {evidence(usage.runs)}"
    if not usage.classified:
        yield f"# not classified, so it counts as the worst: write what {printable(spec.name)} is"
    yield f"{key_of(spec.name)} = {toml(_facts(spec, with_arguments=not known_arguments))}"


def _facts(spec: ToolSpec, *, with_arguments: bool) -> dict[str, Any]:
    """Return the classification of a tool for agentguard.toml, without defaults."""
    facts: dict[str, Any] = {"path": spec.path.value, "resource": spec.resource, "server": spec.server}
    facts |= {name: sorted(getattr(spec, name)) for name in ("scopes", "sinks", "trusted")}
    facts["untrusted"] = spec.untrusted
    if spec.sensitivity is not Sensitivity.PUBLIC:
        facts["sensitivity"] = spec.sensitivity.name.lower()
    if spec.clearance is not Sensitivity.RESTRICTED:
        facts["clearance"] = spec.clearance.name.lower()
    facts = {name: value for name, value in facts.items() if value}
    if with_arguments:
        facts["args"] = Draft(spec.name, "", spec.schema or {}, {}).arguments()
    return facts


def _task(kind: Kind) -> Iterable[str]:
    purposes = ", ".join(toml(purpose) for purpose in kind.purposes[:3])
    more = " and more" if len(kind.purposes) > 3 else ""
    limits = {"tools": list(kind.tools), "calls": kind.calls, "writes": kind.writes}
    return (
        f"# {evidence(kind.runs)}; at most {kind.calls} in one: {printable(purposes)}{more}",
        f"{key_of(kind.name)} = {toml(limits)}",
    )


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _cedar(suggestion: Suggestion) -> str:
    heading = "// Suggested by `agentguard suggest`: it permits only calls like the recorded ones."
    return f"{heading}\n\n{policies_text(suggestion.usages)}"


_HEADER = """\
# Suggested by `agentguard suggest`: the least that recorded runs have needed. Read it line by line: a run may
# hold an attack. Keep [agent], [brokers], [store] and all else of your own file. Give each kind of task its
# `when`, the patterns that the user's words match, and limit its values by `args` and `params`."""
