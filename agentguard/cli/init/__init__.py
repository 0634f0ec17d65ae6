"""`agentguard init`: a first agentguard.toml, its policy, and a test of it, from a user's own tools.

Closed by default: every tool begins on the escalation path, where a person is asked, and what its
name suggests stands beside it as a comment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool

from agentguard import ConfigurationError
from agentguard.cli._console import fail, load_object, note, out, tools_of
from agentguard.cli.init.texts import Draft, policy, settings, test
from agentguard.langchain.schema import ArgumentSchema

__all__ = ["command"]


def command(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[MODULE:TOOLS]", help="Your tools: a list of tools or functions."),
    ] = None,
    directory: Annotated[Path, typer.Option(help="Where to write.")] = Path(),
) -> None:
    """Write agentguard.toml, policies/agent.cedar and tests/test_agent_policy.py. Overwrites nothing."""
    try:
        drafts = [] if target is None else [_draft(tool) for tool in tools_of(load_object(target))]
    except ConfigurationError as error:
        fail(error)
    texts = {
        directory / "agentguard.toml": settings(drafts, target),
        directory / "policies" / "agent.cedar": policy(drafts),
    }
    if target is not None:
        texts[directory / "tests" / "test_agent_policy.py"] = test(drafts, target)
    if there := [file for file in texts if file.exists()]:
        fail(
            f"{there[0]} exists, and nothing was written\n  hint: remove it, or write elsewhere: --directory"
        )
    console = out()
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
        note(console, "wrote", str(file))
    note(console, "next", f"read it, correct each path, then: agentguard lint {target or ''}".rstrip())


def _draft(tool: object) -> Draft:
    try:
        made = tool if isinstance(tool, BaseTool) else as_tool(tool)  # type: ignore[call-overload]  # a function
        return Draft(made.name, made.description, ArgumentSchema(made).schema, made.metadata or {})
    except (ValueError, TypeError) as error:  # no docstring, or types that have no schema
        raise ConfigurationError(f"this is no tool: {error}", hint="see langchain's @tool") from error
