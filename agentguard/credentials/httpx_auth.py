"""The credential of the running call as an `httpx.Auth`: `httpx.post(url, auth=auth("payments"))`.

httpx follows redirects inside one step of an auth flow. When a redirect leads to another origin, httpx
drops the header `Authorization` and no other, and a 307 sends the body again. So each request carries
a trace (the documented httpx extension). The trace stops the request before it connects to an origin
that is not one of the resource's.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import httpx

from agentguard.errors import CredentialUnavailable, DestinationRefused
from agentguard.lease import Lease, credential
from agentguard.outbound.challenges import Challenge
from agentguard.outbound.destinations import DEFAULT_PORTS, Origin, is_confidential, origin_of
from agentguard.outbound.trace_context import current_trace

if TYPE_CHECKING:
    from agentguard.credentials.httpx2_auth import Httpx2Auth

__all__ = ["AuthFlows", "ResourceAuth", "auth"]
_WANTS_NONCE = re.compile(r'(?:^|,)\s*DPoP\s(?:.*[\s,])?error\s*=\s*"?use_dpop_nonce\b', re.IGNORECASE)
_REFUSED = frozenset({401, 403})
_CONNECTS = {"connection.connect_tcp.started", "connection.connect_unix_socket.started"}


@overload
def auth(resource: str) -> ResourceAuth: ...


@overload
def auth(resource: str, *, library: Literal["httpx2"]) -> Httpx2Auth: ...


def auth(resource: str, *, library: Literal["httpx", "httpx2"] = "httpx") -> ResourceAuth | Httpx2Auth:
    """Return an `httpx.Auth` that attaches the running call's credential for *resource*.

    With *library* ``httpx2`` it is an `httpx2.Auth`, which the MCP clients of fastmcp and `langchain.mcp`
    take. It lets a client connect and list tools outside of a call, without a credential.

    Raises:
        ModuleNotFoundError: httpx2 is not installed; ``agentguard[mcp2]`` brings it.
    """
    if library == "httpx":
        return ResourceAuth(resource)
    from agentguard.credentials.httpx2_auth import Httpx2Auth  # an extra

    return Httpx2Auth(resource)


class AuthFlows:
    """The flows of a `ResourceAuth`, for `library`, which is httpx or has httpx's interface."""

    library: ClassVar[Any] = httpx

    def __init__(self, resource: str) -> None:
        self.resource = resource

    def lease_for(self, _request: Any) -> Lease | None:
        """Return the lease whose credential the request gets; None if it goes out without one.

        Raises:
            CredentialUnavailable: No guarded call runs here, or it is over or for another resource.
        """
        return credential(self.resource)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Run the flow for a synchronous client."""
        lease = self.lease_for(request)
        if lease is None:
            yield request
            return
        exchange = _Exchange(lease, request, self.library)
        request.extensions = {**request.extensions, "trace": exchange.trace}
        yield from exchange.flow(request)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Run the flow for an asynchronous client."""
        lease = self.lease_for(request)
        if lease is None:
            yield request
            return
        exchange = _Exchange(lease, request, self.library)
        request.extensions = {**request.extensions, "trace": exchange.atrace}
        flow = exchange.flow(request)
        try:
            outgoing = next(flow)
            while True:
                response = yield outgoing
                try:
                    outgoing = flow.send(response)
                except StopIteration:
                    return
        finally:
            flow.close()


class ResourceAuth(AuthFlows, httpx.Auth):
    """Attaches the credential of the running call to each request, and its trace (W3C Trace Context).

    Requests go to the resource's own origins only. The class answers ``use_dpop_nonce`` (RFC 9449
    section 9), and a redirect within an origin, with one new proof; it cannot do so for a body that is
    a stream, which cannot be sent twice. It removes its headers from the request when the response has
    arrived, so that neither the response nor an exception holds them. If a custom transport ignores
    httpx's ``trace``, a redirect to another origin is noticed only after it was followed.

    Raises (from the client's methods):
        CredentialUnavailable: No guarded call runs here, or it is over or for another resource.
        DestinationRefused: The URL, or a redirect, leads to an origin that is not the resource's.
    """


class _Exchange:
    """One request of the application, with its redirects and its repetition."""

    def __init__(self, lease: Lease, request: httpx.Request, library: Any) -> None:
        if lease.resource is None:
            raise CredentialUnavailable(f"{lease.tool} has no resource, so it holds no credential")
        self._lease, self._resource, self._library = lease, lease.resource.name, library
        self._origins = {origin_of(httpx.URL(origin)) for origin in lease.resource.origins}
        self._next_trace: Callable[..., Any] | None = request.extensions.get("trace")
        self._url, self._leaves_origin = request.url, False
        self._header_names: set[str] = set()

    def flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Attach the credential, send the request, and repeat it once if a new proof may help."""
        requests = [request]
        try:
            self._attach(request, None)
            response = yield request
            self._check_sent(response, requests)
            if _repeatable(response, self._library.ByteStream):
                self._attach(response.request, response.headers.get("DPoP-Nonce"))
                response = yield response.request
                self._check_sent(response, requests)
            self._note_refusal(response)
        finally:
            for message in requests:
                for name in self._header_names:
                    message.headers.pop(name, None)

    def _attach(self, request: httpx.Request, nonce: str | None) -> None:
        self._require_url(request.url)
        try:
            headers = dict(self._lease.transport_headers(request.method, str(request.url), nonce))
        except ValueError:
            raise DestinationRefused(f"{self._resource}: a proof cannot name this URL") from None
        if "traceparent" not in request.headers:  # an instrumentation of the client has its own span
            headers |= current_trace()
        self._header_names.update(headers)
        request.headers.update(headers)

    def _check_sent(self, response: httpx.Response, requests: list[httpx.Request]) -> None:
        """Note which requests were sent, and refuse the response if one of them went to another origin."""
        requests += [*(redirect.request for redirect in response.history), response.request]
        for request in requests:
            self._require_url(request.url)
        if response.next_request is not None:
            requests.append(response.next_request)

    def _note_refusal(self, response: Any) -> None:
        """Keep what a server says that refuses the credential, for the operator."""
        header = response.headers.get("WWW-Authenticate")
        if header is not None and response.status_code in _REFUSED:
            self._lease.challenge = Challenge.parse(header)

    def _require_url(self, url: httpx.URL) -> None:
        if url.userinfo:
            raise DestinationRefused(f"{self._resource}: the URL names a user")
        self._require_origin(origin_of(url))

    def _require_origin(self, origin: Origin) -> None:
        scheme, host, port = origin
        if origin not in self._origins:
            self._lease.report_anomaly("destination")
            raise DestinationRefused(f"{scheme}://{host}:{port} is no origin of {self._resource}")
        if not is_confidential(scheme, host):
            raise DestinationRefused(f"{self._resource}: {host} must be reached by https")

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Watch the transport of `httpx.Client`, then call the application's own trace."""
        self._watch(event, info)
        if self._next_trace is not None:
            self._next_trace(event, info)

    async def atrace(self, event: str, info: Mapping[str, Any]) -> None:
        """Do the same as `trace`, for `httpx.AsyncClient`."""
        self._watch(event, info)
        if self._next_trace is not None:
            await self._next_trace(event, info)

    def _watch(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(".receive_response_headers.complete"):
            self._leaves_origin = self._leads_away(info["return_value"][-1])
        elif event.endswith(".send_request_headers.started"):
            self._require_origin(_destination(info["request"]))
        elif self._leaves_origin and event in _CONNECTS:
            self._lease.report_anomaly("destination")
            raise DestinationRefused(f"a redirect leads away from the origins of {self._resource}")

    def _leads_away(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        location = next((value for name, value in headers if name.lower() == b"location"), None)
        if location is None:
            return False
        try:
            return origin_of(self._url.join(location.decode("latin-1"))) not in self._origins
        except self._library.InvalidURL:
            return True


def _destination(request: Any) -> Origin:
    """Return the origin that an httpcore request goes to. For a proxy's CONNECT, that is its target."""
    url = request.url
    if request.method == b"CONNECT":
        host, _, port = url.target.decode("ascii").rpartition(":")
        return "https", host.lower(), int(port)
    scheme = url.scheme.decode("ascii")
    return scheme, url.host.decode("ascii").lower(), url.port or DEFAULT_PORTS.get(scheme)


def _repeatable(response: httpx.Response, bytes_stream: type[Any]) -> bool:
    """Return whether a new proof may help: with a nonce, or for the URL of a redirect."""
    if response.status_code != 401 or not isinstance(response.request.stream, bytes_stream):
        return False
    challenge = response.headers.get("WWW-Authenticate", "")[:4096]  # the search is quadratic
    return bool(response.history or ("DPoP-Nonce" in response.headers and _WANTS_NONCE.search(challenge)))
