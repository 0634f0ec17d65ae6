"""The tools or the agent that a user names as ``module:attribute``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from langchain_core.tools import BaseTool

from agentguard.errors import ConfigurationError

__all__ = ["load_object", "tools_of"]

_TOOLS = "name an agent or a list of tools"


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
