"""What the commands about rules share: a guard that touches nothing of the application's, and its records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from langchain_core.tools import BaseTool

from agentguard import ConfigurationError, Guard
from agentguard.analysis.suggest import printable
from agentguard.audit import verify
from agentguard.audit.chain import parse
from agentguard.cli._console import fail, note, out
from agentguard.config import build, load
from agentguard.config.settings import AuditSettings, IssuerSettings, StoreSettings
from agentguard.langchain import GuardedTool
from agentguard.langchain.identification import facts_of

__all__ = ["attach", "facts_told", "guard_of", "plain", "records_of", "warn_of_unknown_arguments"]


@contextmanager
def guard_of(config: Path) -> Iterator[Guard]:
    """Give a guard by the rules of *config*, whose state, keys and log are not the application's."""
    settings = load(config)
    with TemporaryDirectory() as nowhere:
        elsewhere = {
            "store": StoreSettings(kind="memory"),
            "issuer": IssuerSettings(),
            "audit": AuditSettings(path=f"{nowhere}/audit.jsonl"),
        }
        guard = Guard.from_parts(build(settings.model_copy(update=elsewhere)))
        try:
            yield guard
        finally:
            guard.close()


def facts_told(tool: BaseTool) -> Mapping[str, Any] | None:
    """Return how a tool classifies itself; one that is guarded, as its own guard has believed it."""
    return None if isinstance(tool, GuardedTool) and tool.gate.spec is None else facts_of(tool)


def attach(guard: Guard, tools: list[Any]) -> None:
    """Tell the guard of the tools' own arguments, so that the policies are checked against them."""
    for tool in tools:
        if isinstance(tool, GuardedTool):  # by a guard of its own: this one knows it by name alone
            guard.catalog.attach(tool.name, tool, facts_told(tool), tool.gate.shape.schema, tool.description)
    try:
        guard.wrap(tools)
    except ValueError as error:  # a function without docstring or with types that have no schema
        raise ConfigurationError(f"this is no tool: {error}", hint="see langchain's @tool") from error


def warn_of_unknown_arguments(guard: Guard) -> None:
    """Say of which tools no rule can judge a call, since their arguments are told neither here nor there."""
    if names := [spec.name for spec in guard.catalog if spec.schema is None]:
        told = plain(", ".join(sorted(names)))
        note(
            out(), "warning", f"the arguments of {told} are not known; name the tools (--tools), or give args"
        )


def records_of(log: Path) -> list[dict[str, Any]]:
    """Return the records of an audit log, or leave with 2 where it is altered or not readable."""
    try:
        with log.open("rb") as lines:
            faults = verify(lines).faults
            lines.seek(0)
            read = [record for line in lines if (record := parse(line)) is not None]
    except OSError as error:
        fail(f"{log}: {error.strerror}", 2)
    if faults:
        fail(f"{log}:{faults[0].line}: {faults[0].detail}: this log was altered, and is no evidence", 2)
    return read


def plain(text: object) -> str:
    """Return a recorded text without what a terminal would obey."""
    return printable(str(text))
