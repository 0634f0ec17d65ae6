"""The HTTP client of one MCP call: it brings no other credential along, and reads no answer without end.

An answer is read while the call's credential lives. So its bytes are counted, and its lists and objects,
before anything parses it. It comes uncompressed, or a small answer could stand for a large one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from mcp.shared._httpx_utils import create_mcp_http_client

from agentguard.errors import DenialCode, Denied
from agentguard.langchain.mcp.trace import describe_session
from agentguard.lease import current, secrets_of

__all__ = ["HEADERS", "NO_AUTH", "client_factory"]

NO_AUTH = httpx.Auth()  # where there is no auth, httpx takes a name and a password from the URL
# what a connection brings along beside our credential: any other header may be a credential of its own
HEADERS = frozenset({
    "accept", "accept-encoding", "accept-language", "user-agent", "traceparent", "tracestate",
    "x-correlation-id", "x-request-id", "x-tenant", "x-tenant-id",
})  # fmt: skip
_BYTES = 8_000_000  # of one answer at most
_PARTS = 20_000  # lists and objects in one answer at most; they take about 0.3 s to parse
_SEPARATED = 100_000  # commas in one answer at most; so many values of a wrong type take about 0.6 s

Factory = Callable[..., httpx.AsyncClient]


def client_factory(factory: Factory | None) -> Factory:
    """Return a factory of clients with the call's credential, no other one, and bounded answers.

    *factory* is the connection's own. A client that it made without the credential is refused.
    """

    def make(**options: Any) -> httpx.AsyncClient:
        client = (factory or create_mcp_http_client)(**options)
        if options["auth"] is NO_AUTH:
            client.auth = NO_AUTH
        elif client.auth is not options["auth"]:
            reason = "the connection's httpx_client_factory leaves out `auth`"
            raise Denied.of(DenialCode.NO_CREDENTIAL, reason)
        client.headers = httpx.Headers([(n, v) for n, v in client.headers.items() if n.lower() in HEADERS])
        client.headers["accept-encoding"] = "identity"
        client.cookies, client.params = httpx.Cookies(), httpx.QueryParams()
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "response": [_bound, describe, *hooks.get("response", ())]}
        return client

    lease = current()
    secrets = () if lease is None else secrets_of(lease)

    async def describe(response: httpx.Response) -> None:
        describe_session(response.headers.get("mcp-session-id"), secrets)

    return make


async def _bound(response: httpx.Response) -> None:
    """Bound an answer. One that is no stream of events is read here, since the session hides a later error.

    Raises:
        httpx.RemoteProtocolError: It is compressed, or holds too much.
    """
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise httpx.RemoteProtocolError("the MCP server's answer is compressed, which was not asked for")
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101  the client is asynchronous
    counted = _Counted(stream)
    if response.headers.get("content-type", "").lower().startswith("text/event-stream"):
        response.stream = counted
        return
    try:
        body = b"".join([chunk async for chunk in counted])
    finally:
        await counted.aclose()
    response.stream = httpx.ByteStream(body)


class _Counted(httpx.AsyncByteStream):
    """An answer whose bytes and parts are counted as they come. A stream of events is cut off."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = parts = separated = 0
        async for chunk in self._stream:
            size += len(chunk)
            parts += chunk.count(b"[") + chunk.count(b"{")
            separated += chunk.count(b",")
            if size > _BYTES or parts > _PARTS or separated > _SEPARATED:
                raise httpx.RemoteProtocolError("the MCP server's answer holds more than is read of one")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
