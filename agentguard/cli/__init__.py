"""The command line: one module or package for each command. The library imports none of them.

Typer and rich come with the extra ``agentguard[cli]``. The demo needs ``agentguard[demo]`` as well, and
imports it when it runs. For a new command: write `command` in a module of this package, and register it
below.
"""

from __future__ import annotations

import io
import sys
from importlib.metadata import version
from typing import Annotated

try:
    import typer
except ImportError:  # users who run the console script read a sentence, not a traceback
    raise SystemExit("The command line needs its extra: pip install 'agentguard[cli]'") from None

from agentguard.cli import (
    audit,
    demo,
    discover,
    doctor,
    explain,
    init,
    keys,
    lint,
    pin,
    recover,
    reference,
    simulate,
    status,
    store,
    suggest,
)
from agentguard.cli import exec as execute

__all__ = ["main"]

main = typer.Typer(
    name="agentguard",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # a frame may hold a secret
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"agentguard {version('agentguard')}")
        raise typer.Exit


@main.callback()
def _begin(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """An authorization layer for LangChain agents: zero standing privilege."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # else a name that cannot be printed ends the command


main.command("demo")(demo.command)
main.command("init")(init.command)
main.command("lint")(lint.command)
main.command("doctor")(doctor.command)
main.command("discover")(discover.command)
main.command("pin")(pin.command)
main.command("explain")(explain.command)
main.command("simulate")(simulate.command)
main.command("suggest")(suggest.command)
main.command(
    "exec",
    help=execute.HELP,
    cls=execute.SplitCommand,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(execute.command)
main.command("status")(status.command)
main.command("recover")(recover.command)
main.command("reference")(reference.command)
main.add_typer(audit.app, name="audit")
main.add_typer(keys.app, name="keys")
main.add_typer(store.app, name="store")
