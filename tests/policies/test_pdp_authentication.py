"""The guard authenticates itself to a PDP: by a bearer token of a secret source, or by a certificate."""

from __future__ import annotations

import itertools
import json
import ssl
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from agentguard.config.pdps import AuthZenSettings, ClientSettings, OpaSettings
from agentguard.credentials.local_issuer import load_key
from agentguard.errors import AgentGuardError, ConfigurationError, IssueError
from agentguard.model import Secret
from agentguard.policies.authzen import AuthZen
from agentguard.policies.opa import Opa
from agentguard.testing.samples import sample_request
from agentguard.testing.scenarios import AwaitedPort
from tests.doubles.loopback import Connection, Respond, certificate, response, serving

URL = "https://pdp.example"
PERMIT = {"result": {"allow": True}, "decision": True}
CLIENT = {"issuer": "https://login.example", "client_id": "guard", "client_key": "client.pem"}
Settings = type[OpaSettings] | type[AuthZenSettings]


class Source:
    """A source whose token changes from one reading to the next."""

    def __init__(self, *tokens: str) -> None:
        self.tokens, self.readings = list(tokens), 0

    def read(self) -> Secret:
        self.readings += 1
        return Secret(self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0])


@pytest.fixture(params=[Opa, AuthZen])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Make a policy over a PDP that permits whoever sends the token ``current``."""

    def make(source: Any, headers: list[str | None], **settings: Any) -> Any:
        def handle(question: httpx.Request) -> httpx.Response:
            headers.append(question.headers.get("authorization"))
            if headers[-1] != "Bearer current":
                return httpx.Response(401)
            if "/.well-known/" in question.url.path:
                return httpx.Response(404)
            return httpx.Response(200, json=PERMIT)

        transport = httpx.MockTransport(handle)
        options = {"version": "1", "transport": transport, "async_transport": transport, **settings}
        return request.param(URL, token=source, **options)

    return make


@pytest.mark.promise("pdp-authenticated")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_token_is_sent_and_read_again_only_when_it_is_refused(
    make: Callable[..., Any], asynchronous: bool
) -> None:
    headers: list[str | None] = []
    source = Source("old", "current")
    port = AwaitedPort(make(source, headers), asynchronous=asynchronous)
    for _ in range(3):
        assert (await port.decide(sample_request())).permitted
    assert source.readings == 2
    assert headers.count("Bearer old") == 1


@pytest.mark.promise("pdp-authenticated")
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("token", ["wrong", "two words", "line\r\nX: y", ""])
async def test_without_a_token_that_counts_nothing_is_permitted_and_no_error_shows_it(
    make: Callable[..., Any], token: str, asynchronous: bool
) -> None:
    headers: list[str | None] = []
    port = AwaitedPort(make(Source(token), headers), asynchronous=asynchronous)
    with pytest.raises(AgentGuardError) as raised:
        await port.decide(sample_request())
    assert not token or token not in str(raised.value)
    assert set(headers) <= {"Bearer wrong"}


@pytest.mark.promise("pdp-authenticated")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_source_that_fails_is_a_deny_that_shows_no_secret(
    make: Callable[..., Any], asynchronous: bool
) -> None:
    class Failing:
        def read(self) -> Secret:
            raise RuntimeError("the secret is 4711")

    headers: list[str | None] = []
    with pytest.raises(AgentGuardError, match="no token to authenticate with") as raised:
        await AwaitedPort(make(Failing(), headers), asynchronous=asynchronous).decide(sample_request())
    assert "4711" not in str(raised.value)
    assert raised.value.__context__ is None
    assert not headers


def settings_of(kind: Settings, url: str, **values: Any) -> OpaSettings | AuthZenSettings:
    name = "opa" if kind is OpaSettings else "authzen"
    return kind.model_validate({"kind": name, "url": url, "version": "1", **values})


@pytest.mark.promise("pdp-authenticated")
@pytest.mark.parametrize("kind", [OpaSettings, AuthZenSettings])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_settings_give_a_token_and_a_certificate(
    kind: Settings, asynchronous: bool, tmp_path: Path
) -> None:
    file = certificate(tmp_path, expires=timedelta(days=1))
    (tmp_path / "token").write_text("current")
    (tmp_path / "token").chmod(0o600)
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(file))
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_cert_chain(file)
    requests: list[bytes] = []

    def answer(connection: Connection) -> None:
        requests.append(connection.request())
        found = b"/.well-known/" not in requests[-1]
        body = json.dumps(PERMIT).encode() if found else b"{}"
        content = response("200 OK" if found else "404 Not Found", body)
        connection.send(content.replace(b"\r\n", b"\r\nContent-Type: application/json\r\n", 1))

    with serving(answer, server_context) as server:
        values = {"ca": file.name, "token": f"file:{tmp_path}/token"}
        alone = settings_of(kind, server.url, **values).policy(tmp_path.joinpath)
        with pytest.raises(AgentGuardError):
            await AwaitedPort(alone, asynchronous=asynchronous).decide(sample_request())
        assert not requests
        both = settings_of(kind, server.url, certificate=file.name, **values).policy(tmp_path.joinpath)
        assert (await AwaitedPort(both, asynchronous=asynchronous).decide(sample_request())).permitted
        assert all(b"Authorization: Bearer current" in request for request in requests)


@pytest.mark.promise("pdp-authenticated")
@pytest.mark.parametrize("kind", [OpaSettings, AuthZenSettings])
def test_a_mistake_about_authentication_is_told_at_the_start(kind: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for values in (
        {"ca": "missing.pem"},
        {"certificate": "empty.pem"},
        {"key": "empty.pem"},
        {"token": "nowhere"},
        {"token": "env:TOKEN", "client": CLIENT},
        {"client": {**CLIENT, "ca": "missing.pem"}},
    ):
        with pytest.raises(ConfigurationError):
            settings_of(kind, URL, **values).policy(tmp_path.joinpath)


def tokens(lifetime: float, *, kind: str = "Bearer") -> Respond:
    """Return an authorization server that numbers the tokens that it gives to a client."""
    numbers = itertools.count(1)

    def answer(connection: Connection) -> None:
        request = connection.request()
        origin = f"http://127.0.0.1:{connection.stream.getsockname()[1]}"
        members: dict[str, Any] = {"issuer": origin, "token_endpoint": f"{origin}/token"}
        if b"grant_type=client_credentials" in request:
            members = {"access_token": f"t{next(numbers)}", "token_type": kind, "expires_in": lifetime}
        connection.send(response("200 OK", json.dumps(members).encode()))

    return answer


@pytest.mark.promise("pdp-authenticated")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_token_of_client_credentials_is_replaced_before_it_ends(
    asynchronous: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_key(tmp_path / "client.pem")
    now = time.monotonic()
    monkeypatch.setattr("agentguard.policies._bearer.time", SimpleNamespace(monotonic=lambda: now))
    headers: list[str | None] = []

    def permit(request: httpx.Request) -> httpx.Response:
        headers.append(request.headers.get("authorization"))
        return httpx.Response(200, json=PERMIT)

    with serving(tokens(60)) as server:
        client = ClientSettings(**{**CLIENT, "issuer": server.url, "scope": "pdp"})
        transport = httpx.MockTransport(permit)
        source = client.token_source(tmp_path.joinpath)
        opa = Opa(URL, version="1", token=source, transport=transport, async_transport=transport)
        port = AwaitedPort(opa, asynchronous=asynchronous)
        for seconds in (0, 47, 2):
            now += seconds
            assert (await port.decide(sample_request())).permitted
        (request,) = (r for r in server.requests[:2] if b"client_credentials" in r)
    assert headers == ["Bearer t1", "Bearer t1", "Bearer t2"]
    assert b"scope=pdp" in request
    assert b"client_assertion=" in request


@pytest.mark.promise("pdp-authenticated")
def test_a_token_that_is_no_bearer_token_is_not_sent(tmp_path: Path) -> None:
    load_key(tmp_path / "client.pem")
    with serving(tokens(60, kind="DPoP")) as server:
        source = ClientSettings(**{**CLIENT, "issuer": server.url}).token_source(tmp_path.joinpath)
        with pytest.raises(IssueError, match="not Bearer"):
            source.read()


class HungOnce:
    """A source of tokens whose first reading hangs."""

    def __init__(self) -> None:
        self.end, self.readings = threading.Event(), 0

    def read(self) -> Secret:
        self.readings += 1
        if self.readings == 1:
            self.end.wait(10)
        return Secret("current")


@pytest.mark.promise("secret-source-bounded")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_token_that_hangs_once_costs_one_decision_its_time_out(
    make: Callable[..., Any], asynchronous: bool
) -> None:
    source = HungOnce()
    port = AwaitedPort(make(source, [], timeout=0.2), asynchronous=asynchronous)
    started = time.monotonic()
    with pytest.raises(AgentGuardError, match=r"no token to authenticate with \(TimeoutError\)"):
        await port.decide(sample_request())
    assert time.monotonic() - started < 1.0
    assert (await port.decide(sample_request())).permitted
    source.end.set()


@pytest.mark.promise("pdp-authenticated")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_pdp_that_refuses_every_token_has_the_source_read_once_in_a_while(
    make: Callable[..., Any], asynchronous: bool
) -> None:
    source = Source("old")
    port = AwaitedPort(make(source, []), asynchronous=asynchronous)
    for _ in range(10):
        with pytest.raises(AgentGuardError):
            await port.decide(sample_request())
    assert source.readings == 2
