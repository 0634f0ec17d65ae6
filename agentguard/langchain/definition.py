"""What a tool says of itself to the application and to the model, as `agentguard pin` pins it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from langchain_core.tools import BaseTool

from agentguard.langchain.identification import mcp_target, mcp_tool_of
from agentguard.model.definition import Digests, digests_of

__all__ = ["definition_of"]


def definition_of(tool: BaseTool, schema: Mapping[str, Any]) -> Digests:
    """Return the digests of a tool's definition, of which *schema* is the argument schema.

    The definition of an MCP tool has the annotations and the ``_meta`` of its server, and the server's name
    and origin. It has no other part of a URL and no arguments of a command: these may hold keys or paths.
    What a tool does is no part of its definition.
    """
    offered = mcp_tool_of(tool)
    annotations = (
        None if offered is None else offered.model_dump(mode="json", include={"annotations", "meta"})
    )
    return digests_of(
        {
            "description": tool.description,
            "schema": schema,
            "annotations": annotations,
            "server": _server(tool),
        }
    )


def _server(tool: BaseTool) -> Mapping[str, str | None] | None:
    target = mcp_target(tool)
    if target is None:
        return None
    url = target.connection.get("url") if isinstance(target.connection, Mapping) else None
    return {"name": target.server, "origin": None if url is None else _origin(str(url))}


def _origin(url: str) -> str:
    parsed = httpx.URL(url)
    return f"{parsed.scheme}://{parsed.host}:{parsed.port or ''}"
