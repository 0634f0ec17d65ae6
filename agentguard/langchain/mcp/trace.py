"""What a trace has of an MCP call: attributes of the span, and the trace itself in the request's `_meta`.

By the GenAI conventions of OpenTelemetry, the span of the tool's execution has the attributes of the MCP
request, and the trace context travels in `params._meta` with the unprefixed keys of SEP-414. A session that
the application has opened itself is called by the adapter, which takes no `_meta`: the trace ends there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.trace import get_current_span

from agentguard.outbound.trace_context import current_trace
from agentguard.text import label

__all__ = ["describe_call"]

_PIPE = "stdio"


def describe_call(version: str, connection: Mapping[str, Any]) -> dict[str, Any] | None:
    """Note the MCP attributes of a `tools/call` in the current span, and return the request's `_meta`.

    *version* is that of the protocol which the session speaks.
    """
    span = get_current_span()
    if span.is_recording():
        span.set_attributes(_attributes(version, connection))
    return dict(current_trace()) or None


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
