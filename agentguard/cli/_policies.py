"""What the commands about rules share: a guard with stores and keys of its own, and the records of a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool

from agentguard import ConfigurationError, Guard
from agentguard.audit import verify
from agentguard.audit.chain import parse
from agentguard.cli._console import fail, note, out
from agentguard.config import Parts, build, load
from agentguard.config.audit import AuditSettings
from agentguard.config.issuer import IssuerSettings
from agentguard.config.store import StoreSettings
from agentguard.langchain import GuardedTool
from agentguard.langchain.definition import definition_of
from agentguard.langchain.identification import facts_of
from agentguard.langchain.schema import ArgumentSchema
from agentguard.model.definition import Digests
from agentguard.text import printable

__all__ = ["attach", "definitions", "guard_of", "parts_of", "records_of", "warn_of_unknown_arguments"]


@contextmanager
def guard_of(config: Path) -> Iterator[Guard]:
    """Yield a guard with the rules of *config*, but with a store, keys and a log of its own."""
    with parts_of(config) as parts:
        guard = Guard.from_parts(parts)
        try:
            yield guard
        finally:
            guard.close()


@contextmanager
def parts_of(config: Path) -> Iterator[Parts]:
    """Yield the parts of such a guard."""
    settings = load(config)
    with TemporaryDirectory() as directory:
        replaced = {
            "store": StoreSettings(kind="memory"),
            "issuer": IssuerSettings(keys=f"{directory}/keys"),
            "audit": AuditSettings(path=f"{directory}/audit.jsonl"),
        }
        yield build(settings.model_copy(update=replaced))


def attach(guard: Guard, tools: list[Any]) -> None:
    """Give the guard the tools' own arguments, so that the policies are checked against them."""
    for tool in tools:
        if isinstance(
            tool, GuardedTool
        ):  # it belongs to another guard: this one only learns its name and arguments
            gate = tool.gate
            guard.catalog.attach(
                tool.name, gate.original, facts_of(tool), gate.schema.schema, tool.description
            )
    try:
        guard.wrap(tools)
    except ValueError as error:  # a function without docstring or with types that have no schema
        raise ConfigurationError(f"this is no tool: {error}", hint="see langchain's @tool") from error


def definitions(tools: list[Any]) -> dict[str, Digests]:
    """Return the digests of the tools' definitions as the application sees them, by name."""
    digests_by_name: dict[str, Digests] = {}
    for item in tools:
        try:
            tool = item if isinstance(item, BaseTool) else as_tool(item)
        except ValueError as error:  # a function without docstring or with types that have no schema
            raise ConfigurationError(f"this is no tool: {error}", hint="see langchain's @tool") from error
        if isinstance(tool, GuardedTool):
            digests = tool.gate.definition
        else:
            digests = definition_of(tool, ArgumentSchema(tool).schema)
        if digests_by_name.setdefault(tool.name, digests) != digests:
            raise ConfigurationError(f"two tools are named {tool.name}", hint="rename one of them")
    return digests_by_name


def warn_of_unknown_arguments(guard: Guard) -> None:
    """Warn of tools whose arguments are not known, so that every call of them is denied."""
    if names := [spec.name for spec in guard.catalog if spec.schema is None]:
        tools = printable(", ".join(sorted(names)))
        note(
            out(),
            "warning",
            f"the arguments of {tools} are not known; name the tools (--tools), or give args",
        )


def records_of(log: Path) -> list[dict[str, Any]]:
    """Return the records of an audit log. Exits with code 2 if the log is altered or not readable."""
    try:
        with log.open("rb") as lines:
            faults = verify(lines).faults
            lines.seek(0)
            records = [record for line in lines if (record := parse(line)) is not None]
    except OSError as error:
        fail(f"{log}: {error.strerror}", 2)
    if faults:
        fail(f"{log}:{faults[0].line}: {faults[0].detail}: this log was altered, so it proves nothing", 2)
    return records
