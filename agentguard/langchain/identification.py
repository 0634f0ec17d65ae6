"""Where a tool comes from: what it is known by when it is wrapped again, and who has classified it.

langchain-mcp-adapters makes a function for a tool each time that it loads it, and writes into its
metadata what the server says of it. A server is not who classifies.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MethodType
from typing import Any

from langchain_core.tools import BaseTool

__all__ = ["METADATA_KEY", "facts_of", "original_of"]

METADATA_KEY = "agentguard"


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


def facts_of(tool: BaseTool) -> Mapping[str, Any] | None:
    """Return the classification that the application has written into the tool's metadata, if any.

    What a server says of its own tools is none; of any other way in which metadata can come from
    elsewhere nothing is known here.
    """
    facts: Mapping[str, Any] | None = (tool.metadata or {}).get(METADATA_KEY)
    told = getattr(_adapted(_body(tool)).get("tool"), "annotations", None)
    extra = getattr(told, "model_extra", None) or {}
    return None if facts == extra.get(METADATA_KEY) else facts


def _body(tool: BaseTool) -> Any:
    return getattr(tool, "func", None) or getattr(tool, "coroutine", None) or tool


def _adapted(body: Any) -> Mapping[str, Any]:
    """Return what langchain-mcp-adapters keeps for a tool that it has made; of any other, nothing."""
    if getattr(body, "__module__", None) != "langchain_mcp_adapters.tools":
        return {}
    return inspect.getclosurevars(body).nonlocals
