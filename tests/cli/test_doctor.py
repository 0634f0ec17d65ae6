"""`agentguard doctor` tries what a configuration names, and issues nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentguard import Guard
from agentguard.cli import main
from agentguard.credentials.local_issuer import load_key
from agentguard.errors import IssueError
from tests.conftest import Mode
from tests.doubles.loopback import Connection, Respond, Server, response, serving

WORDS = "Client agent is disabled"


def run(config: Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["doctor", "--config", str(config)])
    return result.exit_code, result.output


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "policy.cedar").write_text('@id("all") permit(principal, action, resource);')
    (tmp_path / "agentguard.toml").write_text('[policy]\ncedar = ["policy.cedar"]\n')
    return tmp_path / "agentguard.toml"


def issuer(status: str, answer: object) -> Respond:
    """Return an authorization server that answers a revocation so."""

    def respond(connection: Connection) -> None:
        request = connection.request()
        origin = f"http://127.0.0.1:{connection.stream.getsockname()[1]}"
        places = {f"{name}_endpoint": f"{origin}/{name}" for name in ("token", "revocation")}
        if b"POST /revocation" in request:
            connection.send(response(status, json.dumps(answer).encode()))
        elif b"GET /.well-known/oauth-authorization-server " in request:
            connection.send(response("200 OK", json.dumps({"issuer": origin, **places}).encode()))
        else:
            connection.send(response("404 Not Found"))

    return respond


@pytest.fixture
def known() -> Iterator[Server]:
    with serving(issuer("200 OK", {})) as server:
        yield server


@pytest.fixture
def unknown() -> Iterator[Server]:
    refusal = {"error": "invalid_client", "error_description": WORDS}
    with serving(issuer("401 Unauthorized", refusal)) as server:
        yield server


def with_broker(config: Path, url: str, resource: str = "") -> None:
    load_key(config.parent / "client.pem")
    broker = f'[brokers.corp]\nkind = "token_exchange"\nissuer = "{url}"\nclient_id = "agent"\n'
    more = 'client_key = "client.pem"\n[resources.orders]\nbroker = "corp"\n'
    config.write_text(config.read_text() + broker + more + resource)


def test_a_configuration_that_works_is_told_so_part_by_part(config: Path, known: Server) -> None:
    with_broker(config, known.url)
    code, text = run(config)
    assert code == 0, text
    lines = text.splitlines()
    assert all(line.startswith("ok") for line in lines)
    words = ("well-formed", "store", "audit log", "broker", "rules")
    assert all(any(word in line for line in lines) for word in words)


@pytest.mark.promise("doctor-issues-nothing")
def test_the_issuer_is_asked_to_revoke_what_does_not_exist_and_for_nothing_else(
    config: Path, known: Server
) -> None:
    with_broker(config, known.url)
    run(config)
    posts = [request for request in known.requests if request.startswith(b"POST")]
    assert len(posts) == 3  # a broker for each path
    assert all(b"POST /revocation" in post and b"client_assertion=" in post for post in posts)
    assert (
        not (config.parent / ".agentguard" / "audit.jsonl").exists()
        or not (config.parent / ".agentguard" / "audit.jsonl").read_text()
    )


def test_the_issuers_own_words_about_a_client_are_shown(config: Path, unknown: Server) -> None:
    with_broker(config, unknown.url)
    code, text = run(config)
    assert code == 1
    assert f"answered 401 invalid_client: {WORDS}" in text


def test_an_issuer_that_is_not_there_does_not_keep_the_next_part_from_being_asked(config: Path) -> None:
    with_broker(config, "http://127.0.0.1:1")
    code, text = run(config)
    assert code == 1
    assert "no connection" in text
    assert "the rules" in text


@pytest.mark.parametrize(("answer", "code"), [({"result": {"allow": False}}, 0), ({"result": 1}, 1)])
def test_a_pdp_is_asked_about_a_user_whom_nobody_is_called(config: Path, answer: object, code: int) -> None:
    def respond(connection: Connection) -> None:
        connection.request()
        connection.send(response("200 OK", json.dumps(answer).encode(), "Content-Type: application/json"))

    with serving(respond) as server:
        pdp = f'[policy]\npdps = ["corp"]\n[pdps.corp]\nkind = "opa"\nurl = "{server.url}"\nversion = "1"\n'
        config.write_text(pdp)
        assert run(config)[0] == code
        assert b"agentguard-doctor" in server.requests[0]


def test_a_mistake_in_the_file_is_told_with_its_line(config: Path) -> None:
    config.write_text("[policy]\ncedar = 1\n")
    code, text = run(config)
    assert code == 1
    assert "agentguard.toml:2" in text


def test_each_callers_secret_is_read_and_the_key_that_gives_none_is_named(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOD_SECRET", "g" * 20)
    monkeypatch.setenv("SHORT_SECRET", "hunter2")
    monkeypatch.delenv("NO_SECRET", raising=False)
    tables = "".join(
        f'[introspection.callers.{name}]\nresources = ["orders"]\nbearer = "env:{name.upper()}_SECRET"\n'
        for name in ("no", "short", "good")
    )
    config.write_text(f"{config.read_text()}[resources.orders]\n{tables}")
    code, text = run(config)
    assert code == 1
    assert "introspection.callers.no.bearer: env:NO_SECRET" in text
    assert "agentguard.toml:9: introspection.callers.short.bearer: the bearer secret" in text
    assert "ok        the credential of the caller good can be read" in text
    assert "hunter2" not in text
    with closing(Guard.from_file(config)) as guard, pytest.raises(IssueError, match=r"callers\.no\.bearer"):
        guard.introspection()


NOBODY = "http://127.0.0.1:1"
PARTS = {
    "the keys of the source idp": (
        f'[sources.idp]\nissuer = "https://login.example"\nkeys = "{NOBODY}/jwks"\n'
    ),
    "the receiver of signals orders": (
        f'[signals.orders]\nurl = "{NOBODY}/signals"\n'
        'audience = "https://orders.example"\nkey = "signals.pem"\n'
    ),
    "the credential of the caller orders": (
        f'[introspection.callers.orders]\nresources = ["orders"]\nkeys = "{NOBODY}/jwks"\n'
        "[resources.orders]\n"
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_keys_and_receivers_that_are_not_there_are_told(config: Path, part: str) -> None:
    config.write_text(config.read_text() + PARTS[part])
    code, text = run(config)
    assert code == 1
    assert f"error     {part}: " in text


@pytest.mark.parametrize("names", ["the issuer", "another one", "nobody"])
async def test_with_discover_doctor_asks_the_resource_and_health_asks_both(
    config: Path, known: Server, names: str, mode: Mode
) -> None:
    resource = ""

    def metadata(connection: Connection) -> None:
        connection.request()
        server = known.url if names == "the issuer" else "https://other.example"
        body = json.dumps({"resource": resource, "authorization_servers": [server]})
        connection.send(response("404 Not Found" if names == "nobody" else "200 OK", body.encode()))

    with serving(metadata) as server:
        resource = f"{server.url}/mcp"
        with_broker(config, known.url, f'origins = ["{server.url}"]\ndiscover = "{resource}"\n')
        code, text = run(config)
        with closing(Guard.from_file(config)) as guard:
            healthy = bool(await mode.call(guard, "health"))
            names_of_breakers = {breaker.name for breaker in guard.health().breakers}
    assert (code == 0) is (names == "the issuer"), text
    assert healthy
    assert {known.url, resource} <= names_of_breakers
    with closing(Guard.from_file(config)) as guard:
        assert not await mode.call(guard, "health")  # the resource is gone
