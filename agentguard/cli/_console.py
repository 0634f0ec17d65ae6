"""What all commands use to print, and to load the tools or the agent that a user names."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from langchain_core.tools import BaseTool
from rich.console import Console
from rich.text import Text

from agentguard.errors import ConfigurationError
from agentguard.text import printable

__all__ = ["fail", "load_object", "note", "out", "tools_of"]

STYLES = {"error": "bold red", "warning": "yellow", "torn": "yellow", "ok": "bold green", "wrote": "green"}
_TOOLS = "name an agent or a list of tools"


def out() -> Console:
    """Return a console of the present stdout. It does not break lines, so that they can be searched."""
    return Console(highlight=False, soft_wrap=True)


def note(console: Console, word: str, text: str) -> None:
    """Print one finding: a colored word, and a text whose further lines are indented like the first."""
    body = ("\n" + " " * 10).join(map(printable, text.split("\n")))
    console.print(Text.assemble((f"{word:<10}", STYLES.get(word, "cyan")), body))


def fail(problem: object, code: int = 1) -> NoReturn:
    """Print the problem on stderr, and exit with *code*."""
    note(Console(stderr=True, highlight=False, soft_wrap=True), "error", str(problem))
    raise typer.Exit(code)


def load_object(target: str) -> object:
    """Import ``module:attribute`` as seen from the working directory.

    Raises:
        ConfigurationError: There is no such module or attribute, or importing it fails.
    """
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise ConfigurationError(
            f"{target!r} is no module:attribute", hint="write module:attribute, as in app:tools"
        )
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        loaded: object = importlib.import_module(module)
        for name in attribute.split("."):
            loaded = getattr(loaded, name)
    except Exception as error:  # the user's own code runs here, and may raise anything
        raise ConfigurationError(
            f"{target} cannot be loaded: {type(error).__name__}: {error}", hint=_remedy(error, module)
        ) from error
    if loaded is None:
        raise ConfigurationError(f"{target} is None", hint=_TOOLS)
    return loaded


def _remedy(error: Exception, module: str) -> str:
    """Say what failed while *module* was imported or its attribute was read, and how to correct it."""
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        if f"{module}.".startswith(f"{error.name}."):
            return f"there is no module {error.name} here: correct the name, or run this in its folder"
        return f"{module} needs the module {error.name}: install it in this environment"
    if module not in sys.modules:
        return f"the import of {module} failed: correct the code that raised {type(error).__name__}"
    return f"the module {module} was imported, but its attribute was not found: correct the name"


def tools_of(target: object) -> list[BaseTool | Callable[..., Any]]:
    """Return the tools of *target*: a tool, a list of tools, or an agent, without those of its sub-agents.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(target, BaseTool):
        return [target]
    if isinstance(target, list | tuple):
        # a dict is a tool that the model's provider runs
        local = [tool for tool in target if not isinstance(tool, dict)]
        if strangers := [tool for tool in local if not isinstance(tool, BaseTool) and not callable(tool)]:
            raise ConfigurationError(
                f"an object of type {type(strangers[0]).__name__} is no tool", hint=_TOOLS
            )
        return local
    nodes = getattr(target, "nodes", None)
    if isinstance(nodes, dict):
        bound = (getattr(node, "bound", None) for node in nodes.values())
        return [tool for node in bound for tool in getattr(node, "tools_by_name", {}).values()]
    if isinstance(tools := getattr(target, "tools", None), list | tuple):
        return list(tools)
    if callable(target):
        return [target]
    raise ConfigurationError(f"an object of type {type(target).__name__} holds no tools", hint=_TOOLS)
