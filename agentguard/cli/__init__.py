"""The command line: one module or package for each command. The library imports none of them.

Typer and rich come with the extra ``agentguard[cli]``. The demo needs ``agentguard[demo]`` as well, and
imports it when it runs. For a new command: write `command` in a module of this package, and add its name
below. A module is imported when its command is first asked for, or the help of all.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

try:
    import typer
    from typer.core import TyperGroup
    from typer.main import get_group
except ImportError:  # users who run the console script read a sentence, not a traceback
    raise SystemExit("The command line needs its extra: pip install 'agentguard[cli]'") from None

__all__ = ["main"]

_NAMES = (
    "demo",
    "init",
    "lint",
    "doctor",
    "discover",
    "pin",
    "explain",
    "simulate",
    "test",
    "prove",
    "watch",
    "authority",
    "suggest",
    "exec",
    "status",
    "recover",
    "reference",
    "audit",
    "keys",
    "store",
)
"""The commands in the order of the help. Each is the name of its module, too."""


class _Commands(Mapping[str, Any]):
    """The commands by name. What langchain takes to be imported, only commands that use it wait for."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in _NAMES:
            raise KeyError(name)
        if name not in self._built:
            self._built[name] = _build(name)
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


def _build(name: str) -> Any:
    """Import the module of a command, and make a command of its function `command` or its group `app`."""
    module = import_module(f"{__name__}.{name}")
    apart = typer.Typer()
    if hasattr(module, "app"):
        apart.add_typer(module.app, name=name)
    else:
        apart.command(name, **getattr(module, "OPTIONS", {}))(module.command)
    return get_group(apart).commands[name]


class _CommandLine(TyperGroup):
    """The command line, whose commands are imported one by one."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": _Commands()})


main = typer.Typer(
    name="agentguard",
    cls=_CommandLine,
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
