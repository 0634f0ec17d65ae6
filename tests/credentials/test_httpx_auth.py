"""A credential travels to its resource's own origins, and nowhere else, whatever a server answers."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from agentguard.credentials.httpx_auth import ResourceAuth, auth
from agentguard.credentials.local_issuer import LocalIssuer
from agentguard.errors import CredentialUnavailable, DestinationRefused
from agentguard.jose import decode
from agentguard.lease import Lease
from agentguard.model import Credential, Grant, Identity, Resource, ToolPath
from agentguard.stores.memory import MemoryStore

Answer = Callable[["Server", BaseHTTPRequestHandler, str], tuple[int, dict[str, str]]]
DPOP = frozenset({"dpop+jwt"})


class Server(ThreadingHTTPServer):
    """A real server on loopback that notes every connection and every request."""

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections = 0
        self.answer = answer
        super().__init__(("127.0.0.1", 0), _Respond)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()

    def proofs(self) -> list[dict[str, Any]]:
        return [dict(decode(headers["dpop"], None, typ=DPOP).claims) for _, _, headers, _ in self.requests]


class _Respond(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.command, self.path, headers, body))
        status, answer = self.server.answer(self.server, self, self.path)
        self.send_response(status)
        for name, value in {"Content-Length": "2", **answer}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"ok")

    do_GET = do_POST = _serve

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    server = Server(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fine(_server: Server, _request: BaseHTTPRequestHandler, _path: str) -> tuple[int, dict[str, str]]:
    return 200, {}


@pytest.fixture
def evil() -> Iterator[Server]:
    with serving(fine) as server:
        yield server


def minted(resource: Resource) -> Credential:
    grant = Grant(
        id="call-1",
        task_id="task-1",
        identity=Identity(subject="user:4", actor="agent://support"),
        tool="pay",
        path=ToolPath.WRITE,
        resource=resource,
        scopes=frozenset({"pay"}),
        digest="d",
        lifetime=60.0,
    )
    return LocalIssuer(ToolPath.WRITE, issuer="https://guard.example", store=MemoryStore()).issue(grant)


@contextmanager
def running(*origins: str, credential: Credential | None = None) -> Iterator[Credential]:
    """Stand inside a guarded call of the tool `pay`, which holds a credential for `payments`."""
    resource = Resource(name="payments", origins=origins)
    value = credential or minted(resource)
    lease = Lease("pay", resource, value)
    token = lease.open()
    try:
        yield value
    finally:
        lease.release(token)


Fetch = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
async def fetch(request: pytest.FixtureRequest) -> AsyncIterator[Fetch]:
    """Send one request with the ambient credential, by either client."""
    if request.param == "sync":
        with httpx.Client(auth=auth("payments"), follow_redirects=True, trust_env=False) as client:

            async def once(method: str, url: str, **options: Any) -> httpx.Response:
                return client.request(method, url, **options)  # noqa: ASYNC212  that it blocks is the point

            yield once
    else:
        async with httpx.AsyncClient(
            auth=auth("payments"), follow_redirects=True, trust_env=False
        ) as aclient:
            yield aclient.request


async def test_token_and_proof_are_attached_for_this_very_request(fetch: Fetch) -> None:
    with serving(fine) as server, running(server.origin) as credential:
        response = await fetch("POST", server.origin + "/pay?q=1", json={"amount": 1})
        assert response.status_code == 200
        [(method, path, headers, body)] = server.requests
        assert (method, path, body) == ("POST", "/pay?q=1", b'{"amount":1}')
        assert headers["authorization"] == f"DPoP {credential.reveal()}"
        [proof] = server.proofs()
        assert (proof["htm"], proof["htu"]) == ("POST", server.origin + "/pay")


@pytest.mark.promise("own-origins-only")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_origin_reaches_nobody(fetch: Fetch, evil: Server, status: int) -> None:
    def away(_server: Server, _request: BaseHTTPRequestHandler, _path: str) -> tuple[int, dict[str, str]]:
        return status, {"Location": evil.origin + "/steal"}

    with serving(away) as server, running(server.origin) as credential:
        with pytest.raises(DestinationRefused) as caught:
            await fetch("POST", server.origin + "/pay", json={"amount": 1})
        assert len(server.requests) == 1
        assert (evil.requests, evil.connections) == ([], 0)
        assert credential.reveal() not in _shown(caught.value)


@pytest.mark.promise("own-origins-only")
async def test_a_redirect_over_a_connection_that_is_already_open_reaches_nobody(
    fetch: Fetch, evil: Server
) -> None:
    def away(_server: Server, _request: BaseHTTPRequestHandler, _path: str) -> tuple[int, dict[str, str]]:
        return 307, {"Location": evil.origin + "/steal"}

    with serving(away) as server:
        with running(evil.origin):
            await fetch("GET", evil.origin)
        with running(server.origin) as credential, pytest.raises(DestinationRefused) as caught:
            await fetch("POST", server.origin + "/pay", content=b"x")
        assert len(evil.requests) == 1
        assert credential.reveal() not in _shown(caught.value)


@pytest.mark.parametrize(
    "location", ["//127.0.0.1:{port}/x", "HTTP://127.0.0.1:{port}", "http://localhost:{port}/"]
)
async def test_a_redirect_in_another_spelling_reaches_nobody(
    fetch: Fetch, evil: Server, location: str
) -> None:
    def away(_server: Server, _request: BaseHTTPRequestHandler, _path: str) -> tuple[int, dict[str, str]]:
        return 302, {"Location": location.format(port=evil.server_address[1])}

    with serving(away) as server, running(server.origin):
        with pytest.raises(DestinationRefused):
            await fetch("GET", server.origin)
        assert evil.connections == 0


async def test_a_redirect_that_is_not_followed_is_handed_over_without_the_credential(
    fetch: Fetch, evil: Server
) -> None:
    def away(_server: Server, _request: BaseHTTPRequestHandler, _path: str) -> tuple[int, dict[str, str]]:
        return 307, {"Location": evil.origin + "/steal"}

    with serving(away) as server, running(server.origin):
        response = await fetch("GET", server.origin, follow_redirects=False)
        assert response.status_code == 307
        assert not {"authorization", "dpop"} & set(response.next_request.headers)


async def test_a_redirect_within_the_origin_is_answered_with_one_new_proof(fetch: Fetch) -> None:
    def moved(_server: Server, request: BaseHTTPRequestHandler, path: str) -> tuple[int, dict[str, str]]:
        if path == "/old":
            return 307, {"Location": "/new"}
        htu = decode(request.headers["DPoP"], None, typ=DPOP).claims["htu"]
        return (200 if htu.endswith("/new") else 401), {}

    with serving(moved) as server, running(server.origin):
        response = await fetch("POST", server.origin + "/old", content=b"body")
        assert response.status_code == 200
        assert [path for _, path, _, _ in server.requests] == ["/old", "/new", "/new"]
        assert [body for *_, body in server.requests] == [b"body"] * 3


@pytest.mark.parametrize(
    "challenge",
    [
        'DPoP error="use_dpop_nonce", error_description="Resource server requires nonce in DPoP proof"',
        'DPoP algs="ES256 EdDSA", error="use_dpop_nonce"',
        'Bearer realm="x", DPoP error=use_dpop_nonce',
    ],
)
async def test_a_nonce_is_answered_once(fetch: Fetch, challenge: str) -> None:
    def asks(server: Server, _request: BaseHTTPRequestHandler, _path: str) -> tuple[int, dict[str, str]]:
        if server.proofs()[-1].get("nonce") == "n-1":
            return 200, {}
        return 401, {"WWW-Authenticate": challenge, "DPoP-Nonce": "n-1"}

    with serving(asks) as server, running(server.origin):
        assert (await fetch("POST", server.origin, content=b"x")).status_code == 200
        first, second = server.proofs()
        assert "nonce" not in first
        assert first["jti"] != second["jti"]


async def test_a_server_that_is_never_satisfied_is_asked_twice_and_not_more(fetch: Fetch) -> None:
    def never(server: Server, _request: BaseHTTPRequestHandler, _path: str) -> tuple[int, dict[str, str]]:
        nonce = f"n-{len(server.requests)}"
        return 401, {"WWW-Authenticate": 'DPoP error="use_dpop_nonce"', "DPoP-Nonce": nonce}

    with serving(never) as server, running(server.origin):
        assert (await fetch("GET", server.origin)).status_code == 401
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"WWW-Authenticate": 'DPoP error="invalid_token"', "DPoP-Nonce": "n"},
        {"WWW-Authenticate": 'DPoP error="use_dpop_nonce"'},
        {"WWW-Authenticate": 'Bearer error="use_dpop_nonce"', "DPoP-Nonce": "n"},
        {"DPoP-Nonce": "n"},
    ],
)
async def test_another_refusal_is_not_repeated(fetch: Fetch, headers: dict[str, str]) -> None:
    with serving(lambda *_: (401, headers)) as server, running(server.origin):
        assert (await fetch("GET", server.origin)).status_code == 401
        assert len(server.requests) == 1


def test_a_streamed_body_is_never_sent_twice() -> None:
    def asks(_server: Server, _request: BaseHTTPRequestHandler, _path: str) -> tuple[int, dict[str, str]]:
        return 401, {
            "WWW-Authenticate": 'DPoP error="use_dpop_nonce"',
            "DPoP-Nonce": "n",
            "Connection": "close",
        }

    with serving(asks) as server, running(server.origin), httpx.Client(auth=auth("payments")) as client:
        response = client.post(server.origin, content=iter([b"x"]), headers={"Content-Length": "1"})
        assert (response.status_code, len(server.requests)) == (401, 1)


def test_a_streamed_response_is_read_without_the_credential() -> None:
    with serving(fine) as server, httpx.Client(auth=auth("payments")) as client:
        with running(server.origin):
            response = client.send(client.build_request("GET", server.origin), stream=True)
        assert "dpop" not in response.request.headers
        assert response.read() == b"ok"


@pytest.mark.promise("own-origins-only")
@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/", "https://127.0.0.1:{port}/", "http://localhost:{port}/", "http://evil.example/",
     "http://user:pw@127.0.0.1:{port}/"],
)  # fmt: skip
async def test_another_origin_is_refused_before_anything_is_sent(fetch: Fetch, url: str) -> None:
    with serving(fine) as server, running(server.origin):
        with pytest.raises(DestinationRefused):
            await fetch("GET", url.format(port=server.server_address[1]))
        assert server.connections == 0


def test_a_url_that_names_a_user_is_refused_for_any_kind_of_credential() -> None:
    key = Credential("s3cret", id="k", expires_at=2e9, headers=lambda *_: {"X-Api-Key": "s3cret"})
    with running("https://api.example", credential=key):
        assert send(lambda request: httpx.Response(200), "https://api.example/").status_code == 200
        with pytest.raises(DestinationRefused, match="names a user"):
            send(lambda request: httpx.Response(200), "https://user:pw@api.example/")


async def test_a_static_key_in_a_header_of_its_own_does_not_cross_a_redirect(
    fetch: Fetch, evil: Server
) -> None:
    """httpx itself would carry such a header anywhere."""

    def away(_server: Server, _request: BaseHTTPRequestHandler, _path: str) -> tuple[int, dict[str, str]]:
        return 307, {"Location": evil.origin}

    key = Credential("s3cret", id="k", expires_at=2e9, headers=lambda *_: {"X-Api-Key": "s3cret"})
    with serving(away) as server, running(server.origin, credential=key):
        with pytest.raises(DestinationRefused):
            await fetch("GET", server.origin)
        assert server.requests[0][2]["x-api-key"] == "s3cret"
        assert evil.connections == 0


@pytest.mark.promise("own-origins-only")
@pytest.mark.parametrize("origin", ["http://api.example", "http://127.0.0.1.api.example", "http://10.0.0.1"])
def test_plain_http_is_refused_beyond_loopback(origin: str) -> None:
    with running(origin), pytest.raises(DestinationRefused, match="must be reached by https"):
        send(lambda request: httpx.Response(200), origin)


@pytest.mark.parametrize(
    "origin", ["http://127.0.0.2:80", "http://[::1]:8000", "http://localhost", "https://api.example"]
)
def test_loopback_and_https_are_served(origin: str) -> None:
    with running(origin):
        assert send(lambda request: httpx.Response(200), origin + "/x").status_code == 200


def test_an_origin_is_the_same_with_its_default_port_and_in_capitals() -> None:
    with running("https://API.example:443"):
        assert send(lambda request: httpx.Response(200), "https://api.EXAMPLE/x").status_code == 200


def send(answer: Callable[[httpx.Request], httpx.Response], url: str, **options: Any) -> httpx.Response:
    with httpx.Client(transport=httpx.MockTransport(answer), auth=auth("payments"), **options) as client:
        return client.get(url)


def test_a_transport_that_ignores_the_trace_is_found_out_afterwards() -> None:
    def away(request: httpx.Request) -> httpx.Response:
        if request.url.host == "api.example":
            return httpx.Response(302, headers={"Location": "https://evil.example/"})
        return httpx.Response(200)

    with running("https://api.example"), pytest.raises(DestinationRefused, match=r"evil\.example"):
        send(away, "https://api.example/", follow_redirects=True)


def test_the_applications_own_trace_still_sees_everything() -> None:
    events: list[str] = []
    with serving(fine) as server, running(server.origin), httpx.Client(auth=auth("payments")) as client:
        client.get(server.origin, extensions={"trace": lambda event, _info: events.append(event)})
    assert "connection.connect_tcp.started" in events
    assert "http11.response_closed.complete" in events


async def test_the_applications_own_asynchronous_trace_still_sees_everything() -> None:
    events: list[str] = []

    async def trace(event: str, _info: object) -> None:
        events.append(event)

    with serving(fine) as server, running(server.origin):
        async with httpx.AsyncClient(auth=auth("payments")) as client:
            await client.get(server.origin, extensions={"trace": trace})
    assert "connection.connect_tcp.started" in events


def test_a_proxy_sees_a_tunnel_to_the_own_origin_only() -> None:
    """The proxy learns the target of the CONNECT, and of a plain request nothing at all."""
    connects: list[tuple[str, str]] = []

    def refuse(_server: Server, request: BaseHTTPRequestHandler, path: str) -> tuple[int, dict[str, str]]:
        connects.append((request.command, path))
        return 403, {}

    setattr(_Respond, "do_CONNECT", _Respond._serve)  # noqa: B010  http.server finds its methods by name
    with serving(refuse) as proxy, httpx.Client(auth=auth("payments"), proxy=proxy.origin) as client:
        with running("https://api.example"), pytest.raises(httpx.ProxyError):
            client.get("https://api.example/x")
        with running("http://127.0.0.1:9"), pytest.raises(DestinationRefused):
            client.get("http://127.0.0.1:9/x")
        assert connects == [("CONNECT", "api.example:443")]
        assert "authorization" not in proxy.requests[0][2]


@pytest.mark.promise("lease-dead-after-call")
async def test_without_a_running_call_there_is_no_credential(fetch: Fetch) -> None:
    with serving(fine) as server:
        with pytest.raises(CredentialUnavailable):
            await fetch("GET", server.origin)
        with running(server.origin):
            assert (await fetch("GET", server.origin)).status_code == 200
        with pytest.raises(CredentialUnavailable):
            await fetch("GET", server.origin)
        assert len(server.requests) == 1


@pytest.mark.promise("lease-dead-after-call")
def test_a_closed_lease_or_another_resource_gives_nothing() -> None:
    resource = Resource(name="payments", origins=("https://api.example",))
    lease = Lease("pay", resource, minted(resource))
    token = lease.open()
    lease.close()
    with pytest.raises(CredentialUnavailable, match="over"):
        send(lambda request: httpx.Response(200), "https://api.example/")
    lease.release(token)
    with running("https://api.example"), pytest.raises(CredentialUnavailable, match="none for orders"):
        httpx.get("https://api.example/", auth=auth("orders"))


async def test_the_credential_is_taken_back_from_request_and_response(fetch: Fetch) -> None:
    with serving(fine) as server, running(server.origin) as credential:
        response = await fetch("GET", server.origin)
        assert not {"authorization", "dpop"} & set(response.request.headers)
        assert credential.reveal() not in _shown(response)


@pytest.mark.promise("no-secret-in-exceptions")
async def test_no_exception_and_no_log_holds_the_secret(
    fetch: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(lambda *_: (200, {"Connection": "close"})) as server:
        origin = server.origin
        with running(origin) as credential:
            await fetch("GET", origin)
    with running(origin, credential=credential):
        for expected, url in ((httpx.ConnectError, origin), (DestinationRefused, "https://evil.example")):
            with pytest.raises(expected) as caught:
                await fetch("GET", url)
            assert credential.reveal() not in _shown(caught.value)
            request = getattr(caught.value, "request", None)
            assert request is None or "authorization" not in request.headers
    assert caplog.text.count("send_request_headers") >= 2
    assert credential.reveal() not in caplog.text


def _shown(thing: object) -> str:
    """All that a log, or an error tracker that captures the locals of all frames, would show."""
    texts = [repr(thing), repr(vars(thing))]
    if isinstance(thing, BaseException):
        walked = [
            step for step in traceback.walk_tb(thing.__traceback__) if step[0].f_globals is not globals()
        ]
        summary = traceback.StackSummary.extract(iter(walked), capture_locals=True)
        texts += [str(frame.locals) for frame in summary] + traceback.format_exception(thing)
    return "\n".join(texts)


def test_an_auth_holds_no_secret_itself() -> None:
    assert vars(auth("payments")) == {"resource": "payments"}
    assert isinstance(auth("payments"), ResourceAuth)
