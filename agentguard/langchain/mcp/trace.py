"""What a trace has of an MCP call: attributes of the span, and the trace itself in the request's `_meta`.

By the GenAI conventions of OpenTelemetry, the span of the tool's execution has the attributes of the MCP
request, and the trace context travels in `params._meta` with the unprefixed keys of SEP-414. A session that
the application has opened itself is called by the adapter, which takes no `_meta` and shows neither the
session's id nor the request's: the trace ends there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.trace import get_current_span

from agentguard.outbound.trace_context import current_trace
from agentguard.redaction import redact
from agentguard.text import label

__all__ = ["describe_call", "describe_session"]

_PIPE = "stdio"


def describe_call(version: str, connection: Mapping[str, Any], session: object) -> dict[str, Any] | None:
    """Note the MCP attributes of a `tools/call` in the current span, and return the request's `_meta`.

    *version* is that of the protocol which the session speaks. *session* is the call's own, so the number
    that it gives next is that of the call's request.
    """
    span = get_current_span()
    if span.is_recording():
        span.set_attributes(_attributes(version, connection))
        if isinstance(number := getattr(session, "_request_id", None), int):
            span.set_attribute("jsonrpc.request.id", str(number))
    return dict(current_trace()) or None


def describe_session(session_id: str | None, secrets: tuple[str, ...]) -> None:
    """Note the id that the server has given to the session, without the *secrets* that it may hold.

    The session is the call's own, and ends with it.
    """
    span = get_current_span()
    if session_id and span.is_recording():
        span.set_attribute("mcp.session.id", label(redact(session_id, secrets)))


def _attributes(version: str, connection: Mapping[str, Any]) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {"mcp.method.name": "tools/call"}
    if version:
        attributes["mcp.protocol.version"] = label(version)
    if connection.get("transport") == _PIPE:
        return {**attributes, "network.transport": "pipe"}
    try:
        url = urlsplit(str(connection.get("url", "")))
        port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    except ValueError:
        return attributes
    if url.hostname is None or port is None:
        return attributes
    place: dict[str, str | int] = {"server.address": label(url.hostname), "server.port": port}
    return {**attributes, "network.transport": "tcp", "network.protocol.name": "http", **place}
