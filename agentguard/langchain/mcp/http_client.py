"""The HTTP client of one MCP call: it brings no other credential along, and reads no answer without end.

An answer is read while the call's credential lives. So its bytes are counted, and its lists and objects
outside of strings, before anything parses it. It comes uncompressed, or a small answer could stand for a
large one. A server can also send events that are nothing, requests that the client has to answer, or one byte
a minute. So lines of events and requests are counted too, and the whole call has a deadline.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import httpx
from mcp.shared._httpx_utils import create_mcp_http_client

from agentguard.errors import CredentialUnavailable, DenialCode, Denied
from agentguard.langchain.mcp.json_structure import JsonStructure
from agentguard.langchain.mcp.trace import describe_session
from agentguard.lease import current, secrets_of

__all__ = ["HEADERS", "NO_AUTH", "CallBounds", "client_factory"]

NO_AUTH = httpx.Auth()  # where there is no auth, httpx takes a name and a password from the URL
# what a connection brings along beside our credential: any other header may be a credential of its own
HEADERS = frozenset({
    "accept", "accept-encoding", "accept-language", "user-agent", "traceparent", "tracestate",
    "x-correlation-id", "x-request-id", "x-tenant", "x-tenant-id",
})  # fmt: skip
_BYTES = 8_000_000  # of the answers in one call at most
_PARTS = 20_000  # lists and objects in them at most; they take about 0.3 s to parse
_SEPARATED = 100_000  # commas in them at most; so many values of a wrong type take about 0.6 s
_CHUNKS = 20_000  # parts of the body at most, of which each takes about 6 µs, however short it is
_LINES = 10_000  # lines of events at most: 3,300 notifications, which have three each with the empty one
_REQUESTS = 100  # of one call at most, of which an ordinary one has five; the others answer the server
_SECONDS = 3_600.0  # for one call at most, or as long as its credential lives

Factory = Callable[..., httpx.AsyncClient]


class CallBounds:
    """What one call may read of its server and send to it, in all its requests; beyond that it is cancelled.

    It is cancelled, since mcp's session goes on after most errors of its client: it would wait for an answer
    that was cut off. *seconds* is how long the call may take, or as long as its credential lives.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._failure: Exception | None = None
        self._scope = anyio.CancelScope()
        self._size = self._chunks = self._parts = self._separated = self._lines = self._requests = 0

    @contextmanager
    def around(self) -> Iterator[None]:
        """Bound the call that this block makes, in time too.

        Raises:
            httpx.RemoteProtocolError: The server has sent too much, or asked for too many requests.
            TimeoutError: The call has taken too long.
        """
        seconds = self._seconds
        with suppress(CredentialUnavailable):
            if (lease := current()) is not None:
                seconds = max(seconds, lease.expires_at - time.time())
        self._scope.deadline = anyio.current_time() + seconds
        with self._scope:
            yield
        if self._scope.cancelled_caught:
            raise self._failure or TimeoutError("the MCP server has not answered in time")

    def count_request(self) -> None:
        """Count a request.

        Raises:
            httpx.RemoteProtocolError: It is one too many.
        """
        self._requests += 1
        if self._requests > _REQUESTS:
            self._exceed("the MCP server has caused more requests than are made in one call")

    def count(self, chunk: bytes, structure: JsonStructure, is_events: bool) -> None:
        """Count a part of an answer, of which *structure* has seen the parts before.

        Raises:
            httpx.RemoteProtocolError: It is too much.
        """
        self._size += len(chunk)
        self._chunks += 1
        outside = structure.outside(chunk)
        self._parts += outside.count(b"[") + outside.count(b"{")
        self._separated += outside.count(b",")
        if is_events:
            self._lines += chunk.count(b"\n") + chunk.count(b"\r") - chunk.count(b"\r\n")
        if (
            self._size > _BYTES
            or self._chunks > _CHUNKS
            or self._parts > _PARTS
            or self._separated > _SEPARATED
            or self._lines > _LINES
        ):
            self._exceed("the MCP server's answer holds more than is read of one")

    def _exceed(self, reason: str) -> None:
        self._failure = httpx.RemoteProtocolError(reason)
        self._scope.cancel()
        raise self._failure


def client_factory(factory: Factory | None, bounds: CallBounds) -> Factory:
    """Return a factory of clients with the call's credential and no other one, within the bounds of a call.

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
        client.event_hooks = {
            "request": [count, *hooks.get("request", ())],
            "response": [bound, describe, *hooks.get("response", ())],
        }
        return client

    lease = current()
    secrets = () if lease is None else secrets_of(lease)

    async def count(_request: httpx.Request) -> None:
        bounds.count_request()

    async def bound(response: httpx.Response) -> None:
        await _bound(response, bounds)

    async def describe(response: httpx.Response) -> None:
        describe_session(response.headers.get("mcp-session-id"), secrets)

    return make


async def _bound(response: httpx.Response, bounds: CallBounds) -> None:
    """Bound an answer. One that is no stream of events is read here, since the session hides a later error.

    Raises:
        httpx.RemoteProtocolError: It is compressed, or holds too much.
    """
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise httpx.RemoteProtocolError("the MCP server's answer is compressed, which was not asked for")
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101  the client is asynchronous
    is_events = "text/event-stream" in response.headers.get("content-type", "").lower()
    counted = _Counted(stream, bounds, is_events)
    if is_events:
        response.stream = counted
        response.encoding = "utf-8"  # as the standard has it: in another one, other bytes are commas
        return
    try:
        body = b"".join([chunk async for chunk in counted])
    finally:
        await counted.aclose()
    response.stream = httpx.ByteStream(body)


class _Counted(httpx.AsyncByteStream):
    """An answer whose parts are counted as they come. A stream of events is cut off."""

    def __init__(self, stream: httpx.AsyncByteStream, bounds: CallBounds, is_events: bool) -> None:
        self._stream, self._bounds, self._is_events = stream, bounds, is_events
        self._structure = JsonStructure()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._bounds.count(chunk, self._structure, self._is_events)
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
