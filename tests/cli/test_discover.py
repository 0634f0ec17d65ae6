"""`agentguard discover` prints settings to choose from: no server can write more than values into them."""

from __future__ import annotations

import json
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from agentguard.cli import main
from agentguard.cli.discover import fragment
from agentguard.config import build, load
from agentguard.credentials.local_issuer import load_key
from agentguard.credentials.oauth.discovery import discover
from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import ToolPath
from agentguard.outbound.client import Limits, Outbound
from tests.doubles.loopback import Connection, response, serving

URL = "https://api.example/mcp"
ISSUER = "https://login.example"
METADATA = "https://api.example/.well-known/oauth-protected-resource/mcp"
SERVER = "https://login.example/.well-known/oauth-authorization-server"
GRANT = "urn:ietf:params:oauth:grant-type:"
EXCHANGES = {
    "issuer": ISSUER,
    "token_endpoint": f"{ISSUER}/token",
    "revocation_endpoint": f"{ISSUER}/revoke",
    "grant_types_supported": [f"{GRANT}token-exchange"],
    "token_endpoint_auth_methods_supported": ["private_key_jwt"],
    "dpop_signing_alg_values_supported": ["ES256"],
    "authorization_details_types_supported": ["agentguard_tool_call"],
}


class Web:
    """Answers by URL, and remembers what was asked for."""

    def __init__(self, **resource: Any) -> None:
        members = {"resource": URL, "authorization_servers": [ISSUER], **resource}
        self.answers: dict[str, Any] = {METADATA: members, SERVER: EXCHANGES}
        self.asked: list[httpx.Request] = []

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.get(str(request.url))
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(404) if answer is None else httpx.Response(200, json=answer)

    def open(self, place: str) -> Outbound:
        limits = Limits(timeout=2.0, attempts=1)
        return Outbound(place, place, limits=limits, transport=httpx.MockTransport(self._answer))

    def printed(self, name: str = "api-example", url: str = URL) -> str:
        return "\n".join(fragment(discover(url, self.open), name))

    def settings(self) -> Any:
        return tomllib.loads(self.printed())


def test_what_is_printed_is_a_part_of_agentguard_toml(tmp_path: Path) -> None:
    web = Web(scopes_supported=["orders:read", "orders:write"])
    printed = web.printed()
    settings = tomllib.loads(printed)
    assert settings["brokers"]["api-example"] == {
        "kind": "token_exchange",
        "issuer": ISSUER,
        "client_id": "<the id of the agent's client there>",
        "client_key": "client.pem",
    }
    resource = settings["resources"]["api-example"]
    assert (resource["origins"], resource["discover"]) == (["https://api.example"], URL)
    assert resource["audiences"] == {"read": URL}
    assert resource["broker"] == {"read": "api-example"}
    assert "# scopes that it names, for the tools: orders:read orders:write" in printed
    (tmp_path / "policy.cedar").write_text('@id("all") permit(principal, action, resource);')
    load_key(tmp_path / "client.pem")
    head = '[agent]\nid = "agent://support"\n[policy]\ncedar = ["policy.cedar"]\n'
    (tmp_path / "agentguard.toml").write_text(head + printed)
    parts = build(load(tmp_path / "agentguard.toml"))
    broker: Any = parts.ports.brokers["api-example", ToolPath.READ]
    assert broker.issuer == ISSUER
    broker.close()


def test_no_credential_is_sent_and_nobody_else_is_asked() -> None:
    web = Web()
    web.printed()
    assert [str(request.url) for request in web.asked] == [METADATA, SERVER]
    assert not any("authorization" in request.headers for request in web.asked)


def test_a_server_without_dpop_or_our_details_is_said_to_be_so() -> None:
    web = Web()
    web.answers[SERVER] = {"issuer": ISSUER, "grant_types_supported": [f"{GRANT}token-exchange"]}
    printed = web.printed()
    broker = tomllib.loads(printed)["brokers"]["api-example"]
    assert (broker["bearer"], broker["details"], broker["seal"]) == (True, False, ".agentguard/seal")
    assert "no revocation_endpoint" in printed


@pytest.mark.parametrize(
    ("members", "kind", "remark"),
    [
        (
            {"authorization_grant_profiles_supported": ["urn:ietf:params:oauth:grant-profile:id-jag"]},
            "identity_assertion",
            "",
        ),
        ({"grant_types_supported": [f"{GRANT}jwt-bearer"]}, "identity_assertion", "RFC 7523"),
        ({"grant_types_supported": ["authorization_code"]}, "token_exchange", "ask who runs it"),
        ({"grant_types_supported": None}, "token_exchange", "ask who runs it"),
    ],
)
def test_the_kind_of_broker_is_the_one_that_the_server_allows(
    members: dict[str, Any], kind: str, remark: str
) -> None:
    web = Web()
    web.answers[SERVER] = {**EXCHANGES, "grant_types_supported": [], **members}
    printed = web.printed()
    assert tomllib.loads(printed)["brokers"]["api-example"]["kind"] == kind
    assert remark in printed


@pytest.mark.promise("discover-proposes")
@pytest.mark.parametrize(
    "issuer",
    [
        "http://login.example",
        "https://login.example?x",
        "https://login.example/#x",
        'https://login.example/"\n[policy]\nopen = true',
        "https://a@login.example",
        "file:///etc/passwd",
        "",
    ],
)
def test_an_issuer_that_is_no_plain_https_url_is_not_asked_and_no_setting(issuer: str) -> None:
    web = Web(authorization_servers=[issuer])
    settings = web.settings()
    assert "brokers" not in settings
    assert "broker" not in settings["resources"]["api-example"]
    assert len(web.asked) == 1


@pytest.mark.promise("discover-proposes")
@pytest.mark.parametrize(
    "issuer", ["http://127.0.0.1:8080", "http://localhost/admin", "http://[::1]:2375", "https://127.9.9.9"]
)
def test_a_server_elsewhere_has_no_service_of_this_machine_asked(issuer: str) -> None:
    web = Web(authorization_servers=[issuer])
    assert "brokers" not in web.settings()
    assert len(web.asked) == 1
    assert "on this machine" in web.printed()


@pytest.mark.promise("discover-proposes")
def test_what_servers_say_stands_in_one_line_and_adds_no_setting() -> None:
    bad = 'a"\n[policy]\nopen = "\x1b[2J\u202e'
    web = Web(scopes_supported=[bad], authorization_servers=[ISSUER, f"{ISSUER}/{bad}"])
    web.answers[SERVER] = {**EXCHANGES, "grant_types_supported": [bad], "token_endpoint": bad}
    printed = web.printed()
    assert tomllib.loads(printed).keys() == {"brokers", "resources"}
    assert all(line.isprintable() for line in printed.split("\n"))


@pytest.mark.promise("discover-proposes")
def test_a_server_whose_metadata_is_anothers_is_not_proposed() -> None:
    web = Web()
    web.answers[SERVER] = {**EXCHANGES, "issuer": "https://other.example"}
    assert "brokers" not in web.settings()


@pytest.mark.promise("discover-proposes")
def test_three_servers_are_asked_at_most_and_a_redirect_is_not_followed() -> None:
    servers = [f"https://login{n}.example" for n in range(9)]
    web = Web(authorization_servers=servers)
    for server in servers:
        redirect = httpx.Response(302, headers={"location": "https://evil.example"})
        web.answers[f"{server}/.well-known/oauth-authorization-server"] = redirect
    printed = web.printed()
    assert {request.url.host for request in web.asked} == {"api.example", *(s[8:] for s in servers[:3])}
    assert "6 more authorization servers" in printed


def test_the_second_server_has_a_name_of_its_own() -> None:
    web = Web(authorization_servers=[ISSUER, "https://second.example"])
    second = "https://second.example/.well-known/oauth-authorization-server"
    web.answers[second] = {**EXCHANGES, "issuer": "https://second.example"}
    settings = web.settings()
    assert list(settings["brokers"]) == ["api-example", "api-example-2"]
    assert settings["resources"]["api-example"]["broker"] == {"read": "api-example"}


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"resource": "https://other.example"}, "another resource's"),
        ({"authorization_servers": "all"}, "not a list"),
    ],
)
def test_a_resource_that_says_nothing_of_itself_is_an_error(members: dict[str, Any], text: str) -> None:
    with pytest.raises(IssueError, match=text):
        Web(**members).printed()


@pytest.mark.parametrize("url", ["http://api.example", "https://api.example?x=1", "api", ""])
def test_a_url_that_is_no_plain_https_url_is_an_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="https URL"):
        discover(url, Web().open)


@pytest.fixture
def loopback() -> Iterator[str]:
    """Serve metadata on loopback, and return the URL of the resource."""

    def respond(connection: Connection) -> None:
        connection.request()
        body = json.dumps({"resource": url, "authorization_servers": []}).encode()
        connection.send(response("200 OK", body))

    with serving(respond) as server:
        url = f"http://127.0.0.1:{server.port}/mcp"
        yield url


def test_the_command_prints_or_says_what_is_wrong(loopback: str) -> None:
    shown = CliRunner().invoke(main, ["discover", loopback, "--name", "my api"])
    assert shown.exit_code == 0, shown.output
    assert tomllib.loads(shown.stdout)["resources"].keys() == {"my api"}
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    assert CliRunner().invoke(main, ["discover", f"http://127.0.0.1:{port}"]).exit_code == 1
