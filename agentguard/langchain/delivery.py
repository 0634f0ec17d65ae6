"""Whether the credential of an MCP tool's call would arrive at the tool's server.

An adapter makes a tool of what a server offers, and sends the tool's calls by a client of its own. Such a
client sends our credential only if the application has told it so: langchain-mcp-adapters by
`guard.mcp_interceptor()`, and `langchain.mcp` by `agentguard.auth` in its client. Without that the call would
reach the server without a credential. So a call that needs one is denied before it begins, unless it is seen
here by which way the credential would travel.

What cannot be seen before is seen after: the result of an MCP tool that has not used its credential is
withheld (`agentguard.langchain.seal`). A tool counts as an MCP tool there also if it holds a client of
``mcp`` or ``fastmcp``. Of any other tool the result is withheld if an MCP server's tool was called without
the credential while it ran (`agentguard.langchain.mcp_calls`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from types import FunctionType
from typing import Any, NamedTuple

import httpx
from langchain_core.tools import BaseTool

from agentguard.errors import DenialCode, Denied
from agentguard.langchain.identification import ADAPTER, OWN_ADAPTER, adapted_by, transport_of
from agentguard.langchain.mcp_calls import is_unwatched
from agentguard.langchain.objects import module_of, package_of
from agentguard.langchain.reach import Reach
from agentguard.lease import Lease
from agentguard.model import Resource
from agentguard.outbound.destinations import origin_of

__all__ = ["RemoteTool", "delivery_problem", "remote_tool", "require_carrier"]

PROTOCOL = frozenset({"fastmcp", "langchain_mcp_adapters", "mcp", "mcp_types"})
OWN_CODE = "application"
log = logging.getLogger("agentguard")
_INTERCEPTOR = ("agentguard.langchain.mcp.interceptor", "McpInterceptor")
_INSTALLED_BY = "agentguard.credentials.httpx2_auth"


class RemoteTool(NamedTuple):
    """An MCP tool: which adapter made it, and what the adapter keeps for it.

    `adapter` is the module of the adapter's function, ``""`` for an adapter that is not known, and `OWN_CODE`
    where the application's own code speaks the protocol.
    """

    adapter: str
    adapted: Mapping[str, Any]

    def obstacle(self, resource: Resource) -> str | None:
        """Say why a credential for *resource* would not arrive, and what to do; None if nothing is seen."""
        if self.adapter == ADAPTER:
            return self._obstacle_of_interceptors()
        if self.adapter == OWN_ADAPTER:
            return self._obstacle_of_client(resource)
        if self.adapter == OWN_CODE:
            return None
        return (
            "no way is known by which the adapter of this MCP tool carries a credential: load it by "
            'langchain.mcp with agentguard.auth(..., library="httpx2"), or by langchain-mcp-adapters with '
            "guard.mcp_interceptor(), and make a decorator around its function with functools.wraps"
        )

    def _obstacle_of_interceptors(self) -> str | None:
        interceptors = self.adapted.get("tool_interceptors") or ()
        if any((type(i).__module__, type(i).__name__) == _INTERCEPTOR for i in interceptors):
            return None  # which itself denies where the credential would not arrive
        return (
            "the MCP tool was loaded without guard.mcp_interceptor(), which carries the credential: give it "
            "to MultiServerMCPClient as the last of tool_interceptors"
        )

    def _obstacle_of_client(self, resource: Resource) -> str | None:
        transport = transport_of(self.adapted)
        url = getattr(transport, "url", None)
        if not isinstance(url, str):
            return f"an MCP server over {type(transport).__name__} takes no credential for a call"
        parsed = httpx.URL(url)
        if origin_of(parsed) not in {origin_of(httpx.URL(origin)) for origin in resource.origins}:
            return f"{parsed.scheme}://{parsed.netloc.decode()} is no origin of {resource.name}"
        if _carries(getattr(transport, "auth", None), resource):
            return None
        return (
            f"the client of the MCP tool does not carry the credential: make it with "
            f'fastmcp.Client(url, auth=agentguard.auth("{resource.name}", library="httpx2"))'
        )


def remote_tool(tool: BaseTool, reach: Reach) -> RemoteTool | None:
    """Return what is known of an MCP tool, whichever adapter made it; None for any other tool.

    *reach* is what the tool runs. A server's own words, in the metadata of the tool, can make it an MCP tool,
    and never another one.
    """
    adapter = None
    speaks = isinstance((tool.metadata or {}).get("mcp"), Mapping)
    for part in reach.objects:
        if adapted := adapted_by(part):
            if adapted.adapter == OWN_ADAPTER or "tool_interceptors" in adapted.nonlocals:
                return RemoteTool(*adapted)
            speaks = True  # an adapter of a version that is not known
        elif isinstance(part, FunctionType) and module_of(part) in (ADAPTER, OWN_ADAPTER):
            speaks = True  # another part of an adapter
        elif package_of(_defined_in(part)) in PROTOCOL:
            adapter = OWN_CODE
    return RemoteTool("", {}) if speaks else None if adapter is None else RemoteTool(adapter, {})


def _defined_in(part: object) -> str:
    if isinstance(part, FunctionType):
        return module_of(part)
    return part.__module__ if isinstance(part, type) else type(part).__module__


def require_carrier(name: str, remote: RemoteTool | None, resource: Resource | None) -> None:
    """Deny a call whose credential would not arrive, and tell the operator what to do.

    Raises:
        Denied: It is an MCP tool's call that needs a credential, and no way is seen for it.
    """
    if remote is None or resource is None or (obstacle := remote.obstacle(resource)) is None:
        return
    log.warning("%s is denied, since its credential would not arrive: %s", name, obstacle)
    raise Denied.of(DenialCode.NO_CREDENTIAL, obstacle)


def delivery_problem(lease: Lease, *, delivers: bool, failed: bool) -> Denied | None:
    """Say why what a tool has returned or raised is withheld; None if it is not.

    With *delivers* it is an MCP tool. Then the server may have refused the credential for its scope (RFC 6750
    section 3.1), or the tool has not used the credential. One that has *failed* may have failed before it
    could use the credential. Any tool may have called an MCP server without it.
    """
    challenge = lease.challenge if delivers else None
    if challenge is not None and challenge.error == "insufficient_scope":
        scope = f"the scope {challenge.scope}" if challenge.scope else "a scope that it does not name"
        reason = f"the MCP server refuses the credential: it demands {scope}"
    elif lease.is_undelivered:
        reason = "an MCP server's tool was called without the credential of this call"
    elif failed or not lease.is_unused:
        return None
    elif delivers:
        reason = "the MCP tool was done without its credential, so the server was called without it"
    elif is_unwatched():
        reason = "the tool has loaded mcp and not used its credential: import mcp before the first call"
    else:
        return None
    log.warning("%s is withheld: %s", lease.tool, reason)
    return Denied.of(DenialCode.NO_CREDENTIAL, reason)


def _carries(auth: object, resource: Resource) -> bool:
    module = sys.modules.get(
        _INSTALLED_BY
    )  # httpx2 is an extra: where the module is not loaded, nobody made one
    return (
        module is not None
        and getattr(auth, "resource", None) == resource.name
        and type(auth) is module.Httpx2Auth
    )
