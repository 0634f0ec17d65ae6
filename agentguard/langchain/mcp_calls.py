"""Whether the MCP calls of a running tool had its credential, seen at the client while they are made.

What a tool runs cannot always be looked into: it may open its client in its own code. So the client of
``mcp``, which that of ``fastmcp`` uses too, notes in the lease of the running call when a server's tool was
called, and the credential was neither attached to a request meanwhile nor given to the tool before.

Not seen are calls in a thread of the tool's own without `agentguard.bind`, and those of another client.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from agentguard.lease import current

__all__ = ["is_unwatched", "watch"]

_MODULE = "mcp.client.session"
_WATCHED = "_agentguard_watched"


def watch() -> None:
    """Have the sessions of ``mcp`` note their calls from now on, if that module is loaded."""
    kind = _session_class()
    if kind is not None and _WATCHED not in vars(kind):
        kind.send_request = _watched(kind.send_request)
        setattr(kind, _WATCHED, True)


def is_unwatched() -> bool:
    """Return whether ``mcp`` was loaded after the last call of `watch`: a tool may have called a server."""
    kind = _session_class()
    return kind is not None and _WATCHED not in vars(kind)


def _session_class() -> Any:
    return getattr(sys.modules.get(_MODULE), "ClientSession", None)


def _watched(send_request: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(send_request)
    async def send(session: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        lease = current()
        method = getattr(getattr(request, "root", request), "method", None)  # mcp 1 has a model around it
        attachments = None if lease is None or method != "tools/call" else lease.attachments
        if lease is None or attachments is None:
            return await send_request(session, request, *args, **kwargs)
        try:
            return await send_request(session, request, *args, **kwargs)
        finally:
            if lease.attachments == attachments:
                lease.is_undelivered = True

    return send
