"""`agentguard init`: writes a first agentguard.toml, a policy, and a test of the policy, for a user's tools.

Closed by default: each tool starts on the escalation path, where a person is asked. The path that the tool's
name suggests is written beside it as a comment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool

from agentguard import ConfigurationError
from agentguard.cli._console import fail, note, out
from agentguard.cli._target import load_object, tools_of
from agentguard.cli.init.texts import Draft, policy, settings, test
from agentguard.langchain.identification import UNNAMED, mcp_target
from agentguard.langchain.objects import is_foreign
from agentguard.langchain.original import original_of
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
    if (existing := next((file for file in texts if file.exists()), None)) is not None:
        fail(
            f"{existing} exists, and nothing was written\n"
            "  hint: remove it, or name another directory with --directory"
        )
    console = out()
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
        note(console, "wrote", str(file))
    lint = f"agentguard lint {target or ''}".rstrip()
    note(console, "next", f"read the files, correct each path, then run: {lint}")


def _draft(tool: object) -> Draft:
    try:
        base = tool if isinstance(tool, BaseTool) else as_tool(tool)  # type: ignore[call-overload]  # a function
        target = mcp_target(base)
        server = None if target is None else "" if target.server == UNNAMED else target.server
        schema = ArgumentSchema(base).schema
        module = original_of(base, schema).module
        module = "" if module in ("", "__main__") or is_foreign(module) else module
        return Draft(base.name, base.description, schema, base.metadata or {}, server, module)
    except (ValueError, TypeError) as error:  # no docstring, or types that have no schema
        raise ConfigurationError(
            f"this is no tool: {error}",
            hint="give the function a docstring and types, as langchain's @tool needs them",
        ) from error
