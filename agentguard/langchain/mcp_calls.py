"""Whether the MCP calls of a running tool had its credential, seen at the client while they are made.

What a tool runs cannot always be looked into: it may open its client in its own code. So the client of
``mcp``, which that of ``fastmcp`` uses too, notes in the lease of the running call when a server's tool was
called, and the credential was neither attached to a request meanwhile nor given to the tool before. Of calls
that overlap, each needs an attachment of its own.

Not seen are calls in a thread of the tool's own without `agentguard.bind`, and those of another client.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from agentguard.concurrency.fork import ProcessLock
from agentguard.lease import Lease, current

__all__ = ["is_unwatched", "watch"]

_MODULE = "mcp.client.session"
_WATCHED = "_agentguard_watched"
_lock = ProcessLock()


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
        if lease is None or method != "tools/call" or lease.attachments is None:
            return await send_request(session, request, *args, **kwargs)
        _begin(lease)
        try:
            return await send_request(session, request, *args, **kwargs)
        finally:
            _end(lease)

    return send


def _begin(lease: Lease) -> None:
    with _lock:
        if not lease.mcp_calls.running:
            lease.mcp_calls.before, lease.mcp_calls.over = lease.attachments or 0, 0
        lease.mcp_calls.running += 1


def _end(lease: Lease) -> None:
    """Note the end of a call, for which, as for each one that ended before, the credential was attached."""
    with _lock:
        calls = lease.mcp_calls
        calls.running, calls.over = calls.running - 1, calls.over + 1
        if lease.attachments is not None and lease.attachments - calls.before < calls.over:
            lease.is_undelivered = True
