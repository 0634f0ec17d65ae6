"""Where a tool comes from: what it is known by when it is wrapped again, and who has classified it.

langchain-mcp-adapters makes a function for a tool each time that it loads it, and writes into its
metadata what the server says of it. A server does not classify its tools. So a classification is known by
its class, which no JSON, and so no server, can give to a value.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from types import MethodType
from typing import Any, final

from langchain_core.tools import BaseTool

__all__ = ["METADATA_KEY", "Classification", "classified", "facts_of", "original_of"]

METADATA_KEY = "agentguard"
log = logging.getLogger("agentguard")


@final
class Classification(dict[str, Any]):
    """What the application says that a tool is; made by `classified` and by `guard.tool`.

    It is a dict, because tracers and event streams write a tool's metadata as JSON.
    """

    def __init_subclass__(cls) -> None:
        raise TypeError("a classification has no subclass: it is known by its class")


def classified(**facts: Any) -> Classification:
    """Return a classification for the metadata of a tool that is wrapped later, or that the middleware meets.

    ``tool.metadata = {"agentguard": agentguard.classified(path="read", resource="orders")}``

    It takes what ``[tools.name]`` in agentguard.toml takes; the file has precedence. A plain dict in its
    place is ignored with a warning, since a dict in the metadata of an MCP tool is what its server says.
    The facts are checked by `guard.wrap` and the middleware, and not here.
    """
    return Classification(facts)


def original_of(tool: BaseTool) -> object:
    """Return what runs, by which a tool that is wrapped again is known to be the same.

    That is a function, a method of one object, or a BaseTool. Of a tool from langchain-mcp-adapters it
    is the server's place and the tool's name, unless a session stands in their stead.
    """
    body = _body(tool)
    if isinstance(body, MethodType):  # made anew at each look, and equal if function and object are the same
        return ("method", body)
    found = _adapted(body)
    connection, mcp_tool = found.get("connection"), found.get("tool")
    if found.get("session") is not None or not isinstance(connection, Mapping) or mcp_tool is None:
        return body
    place = tuple(str(connection.get(name)) for name in ("transport", "url", "command", "args", "cwd"))
    return ("mcp", found.get("server_name"), *place, mcp_tool.name)


def facts_of(tool: BaseTool) -> Classification | None:
    """Return the classification that the application has written into the tool's metadata, if any.

    Only an object of the class `Classification` is one. Of anything else under the key, from a server, a
    file or the application itself, a warning is logged.
    """
    facts = (tool.metadata or {}).get(METADATA_KEY)
    if type(facts) is Classification:
        return facts
    if facts is not None:
        log.warning(
            "tool %s: its metadata classifies it and is ignored: use guard.tool, agentguard.classified or "
            "agentguard.toml",
            tool.name,
        )
    return None


def _body(tool: BaseTool) -> Any:
    return getattr(tool, "func", None) or getattr(tool, "coroutine", None) or tool


def _adapted(body: Any) -> Mapping[str, Any]:
    """Return what langchain-mcp-adapters keeps for a tool that it has made; of any other, nothing."""
    if getattr(body, "__module__", None) != "langchain_mcp_adapters.tools":
        return {}
    return inspect.getclosurevars(body).nonlocals
