"""`agentguard pin`: writes which definitions of tools were reviewed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentguard import ConfigurationError
from agentguard.cli._console import fail, note, out
from agentguard.cli._policies import definitions
from agentguard.cli._target import load_object, tools_of
from agentguard.config import load
from agentguard.config.lock import lock_of, write_pins

__all__ = ["command"]


def command(
    target: Annotated[str, typer.Argument(metavar="MODULE:TOOLS", help="An agent, or its tools.")],
    config: Annotated[Path, typer.Option(help="The file beside which agentguard.lock is written.")] = Path(
        "agentguard.toml"
    ),
) -> None:
    """Write agentguard.lock, with digests of the tools' definitions as the application sees them now.

    Review the definitions first: name, description, schema, annotations and server. From then on a tool whose
    definition differs is denied, and so is a tool that is not in the file: who pins tools expects that no
    definition acts that nobody has reviewed, as package managers refuse what their lock file lacks. The file
    is replaced whole, so name all tools at once. It says nothing about a tool's code.

    Exit codes: 0 written; 1 the configuration or the tools are wrong.
    """
    try:
        load(config)
        pins = definitions(tools_of(load_object(target)))
    except ConfigurationError as error:
        fail(error)
    write_pins(lock_of(config), pins)
    note(out(), "wrote", f"{lock_of(config)}: {len(pins)} tools")
