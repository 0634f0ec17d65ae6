"""The credential of the running call as an `httpx2.Auth`, which the clients of mcp 2 and fastmcp take.

    client = fastmcp.Client("https://shop.example/mcp", auth=agentguard.auth("shop", library="httpx2"))
    tools = await langchain.mcp.MCPAdapter(client).list_tools()

Needs ``agentguard[mcp2]``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import httpx2

from agentguard.credentials.httpx_auth import AuthFlows
from agentguard.jose import strict_json
from agentguard.lease import Lease, credential, current

__all__ = ["Httpx2Auth"]

DISCOVERY = frozenset({"initialize", "notifications/initialized", "ping", "server/discover", "tools/list"})


class Httpx2Auth(AuthFlows, httpx2.Auth):  # type: ignore[misc]  # mypy reads nothing of httpx2
    """Does for `httpx2.Client` and `httpx2.AsyncClient` what `agentguard.auth` does for httpx.

    A client of an MCP server connects, and reads which tools there are, before any call. Such a request goes
    out without a credential, and so does one that ends a session. Each other request outside of a running
    call is refused, and so is each call of a tool.
    """

    library: ClassVar[Any] = httpx2

    def lease_for(self, request: Any) -> Lease | None:
        """Return the lease of the running call; None if there is none and none is needed."""
        lease = current()
        if (lease is None or lease.is_over) and _is_discovery(request):
            return None
        return credential(self.resource)


def _is_discovery(request: Any) -> bool:
    """Return whether a request to an MCP server calls no tool, and reads at most which tools there are."""
    if request.method in ("GET", "DELETE"):  # the stream of a session, and its end
        return "mcp-session-id" in request.headers
    try:
        message = strict_json(request.content)
    except (ValueError, httpx2.RequestNotRead):
        return False
    return request.method == "POST" and isinstance(message, dict) and message.get("method") in DISCOVERY
