"""agentguard.toml names identities and brokers, and each mistake in them has its place."""

from __future__ import annotations

import json
import os
import ssl
from datetime import timedelta
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agentguard import Guard
from agentguard.config import build, load
from agentguard.credentials import LocalIssuer
from agentguard.credentials.aws import AwsRole
from agentguard.credentials.github import GitHubApp
from agentguard.credentials.long_lived import LegacySecret
from agentguard.credentials.oauth import DiscoveringBroker, IssuerProfile, TokenExchange
from agentguard.credentials.openbao import OpenBao
from agentguard.enforcement.routing import Routes
from agentguard.errors import ConfigurationError, IssueError
from agentguard.identity.file import FileIdentity
from agentguard.jose import Signer
from agentguard.model import Identity, Resource, ToolPath
from agentguard.testing.samples import sample_grant
from tests.doubles.loopback import Connection, certificate, response, serving

READ, WRITE, ESCALATION = ToolPath.READ, ToolPath.WRITE, ToolPath.ESCALATION

BROKERS = {
    "token_exchange": (
        'issuer = "https://login.example"\nclient_id = "agent"\nclient_key = "client.pem"\n'
        'seal = "seal"\nreuse = ["read"]',
        TokenExchange,
        {READ, WRITE, ESCALATION},
    ),
    "openbao": (
        'address = "https://bao.example"\naudience = "bao"\nroles = { read = "r", write = "w" }\n'
        'creds = { read = "database/creds/r", write = "database/creds/w" }\nserver = { host = "db" }',
        OpenBao,
        {READ, WRITE},
    ),
    "aws": (
        'region = "eu-central-1"\nrevoker = "arn:aws:iam::123456789012:role/revoker"\n'
        'roles = { read = "arn:aws:iam::123456789012:role/reader" }\n'
        'statements = { "s3:read" = [{ actions = ["s3:GetObject"], resources = ["*"] }] }',
        AwsRole,
        {READ},
    ),
    "github": (
        'client_id = "Iv1"\ninstallation = 7\nkey = "app.pem"\nseal = "seal"\n'
        'permissions = { read = { contents = "read" } }\nrepositories = { code = ["website"] }',
        GitHubApp,
        {READ},
    ),
    "secret": ('source = "env:API_KEY"\npaths = ["read"]\nheader = "X-Api-Key"', LegacySecret, {READ}),
}


def exchange(more: str) -> str:
    """Return settings with a broker of tokens, *more* in its table, for the resource "code"."""
    text, _, _ = BROKERS["token_exchange"]
    return f'[resources.code]\nbroker = "named"\n[brokers.named]\nkind = "token_exchange"\n{text}\n{more}\n'


TRAITS = attrgetter("traits")  # a broker need not have any, so the Protocol has none


@cache
def app_key() -> bytes:
    key = generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def write(tmp_path: Path) -> Any:
    app = tmp_path / "app.pem"
    with open(os.open(app, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as stream:
        stream.write(app_key())

    def write(text: str) -> Path:
        (tmp_path / "agentguard.toml").write_text(text)
        return tmp_path / "agentguard.toml"

    return write


@pytest.mark.promise("resource-has-own-broker")
@pytest.mark.parametrize("kind", BROKERS)
def test_each_kind_of_broker_serves_its_own_paths_and_no_other_does(kind: str, write: Any) -> None:
    text, kind_of_broker, paths = BROKERS[kind]
    toml = f'[brokers.named]\nkind = "{kind}"\n{text}\n[resources.code]\nbroker = "named"\n'
    parts = build(load(write(toml)))
    routes = Routes(parts.ports.brokers, parts.ports.store)
    for path in ToolPath:
        route = routes.find(Resource(name="code"), path)
        if path in paths:
            assert route is not None
            assert isinstance(route.broker, kind_of_broker)
            assert path in route.broker.paths
        else:
            assert route is None
        other = routes.find(Resource(name="other"), path)
        assert other is not None
        assert isinstance(other.broker, LocalIssuer)


@pytest.mark.promise("resource-has-own-broker")
def test_a_broker_of_one_path_shares_no_key_with_that_of_another(write: Any) -> None:
    text, _, _ = BROKERS["token_exchange"]
    toml = f'[brokers.named]\nkind = "token_exchange"\n{text}\n[resources.code]\nbroker = "named"\n'
    brokers = build(load(write(toml))).ports.brokers
    built = [brokers["code", path] for path in ToolPath]
    assert len({id(broker) for broker in built}) == 3
    assert [broker.paths for broker in built] == [{path} for path in ToolPath]
    assert [TRAITS(broker).reuse for broker in built] == [{READ}, frozenset(), frozenset()]


@pytest.mark.promise("resource-has-own-broker")
def test_a_tool_on_a_path_that_its_resources_broker_does_not_serve_is_an_error(write: Any) -> None:
    text, _, _ = BROKERS["secret"]
    toml = (
        f'[brokers.named]\nkind = "secret"\n{text}\n[resources.code]\nbroker = "named"\n'
        '[tools.push]\npath = "write"\nresource = "code"\n'
    )
    with pytest.raises(ConfigurationError, match="no broker that serves write") as caught:
        build(load(write(toml)))
    assert caught.value.line == toml[: toml.index('path = "write"')].count("\n") + 1


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('[identity]\nkind = "spiffe"\nsokcet = "x"\n', 3, "did you mean socket"),
        ('[brokers.a]\nkind = "openbao"\nadress = "https://x"\n', 3, "did you mean address"),
        ('[identity]\nkind = "spife"\n', 2, '"spiffe"'),
        ('[brokers.a]\nissuer = "https://x"\n', 1, '"token_exchange"'),
        ('[brokers.a]\nkind = "openbao"\naddress = "https://x"\naudience = 1\n', 4, "audience"),
        ('[resources.a]\nbroker = "x"\n', 2, "no broker 'x'"),
        ('[resources.a]\nbroker = { red = "x" }\n', 2, "red"),
        ('[ceiling]\na = "x"\n', 2, "ceiling"),
    ],
)
def test_a_mistake_has_its_line_and_its_mend(text: str, line: int, message: str, write: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(write(text))
    assert caught.value.line == line
    assert message in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (('\nclient_key = "client.pem"', ""), "client_key is missing"),
        (('issuer = "https://login.example"', 'issuer = "http://login.example"'), "https"),
    ],
)
def test_what_an_adapter_refuses_has_its_place_too(
    changes: tuple[str, str], message: str, write: Any
) -> None:
    text, _, _ = BROKERS["token_exchange"]
    toml = f'\n[brokers.named]\nkind = "token_exchange"\n{text.replace(*changes)}\n'
    with pytest.raises(ConfigurationError, match=message) as caught:
        build(load(write(toml)))
    assert caught.value.line == 2


@pytest.mark.promise("outbound-leaks-nothing")
@pytest.mark.parametrize(
    ("ca", "reason"), [("", "certificate is not trusted"), ('ca = "server.pem"', "publishes no metadata")]
)
def test_a_broker_trusts_the_authority_of_its_settings_and_no_other(
    write: Any, tmp_path: Path, ca: str, reason: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path, expires=timedelta(days=1)))

    def answer(connection: Connection) -> None:
        connection.request()
        connection.send(response("404 Not Found"))

    toml = exchange(f'{ca}\n[identity]\nkind = "local"\nkey = "agent.pem"')
    agent = Identity(subject="agent://local", actor="agent://local")
    with serving(answer, context) as server:
        settings = load(write(toml.replace("https://login.example", server.url)))
        broker = build(settings).ports.brokers["code", READ]
        with pytest.raises(IssueError, match=reason):
            broker.issue(sample_grant(path=READ, identity=agent))


def test_the_settings_of_an_issuer_that_lacks_something_reach_its_broker(write: Any) -> None:
    more = (
        'subject_token_type = "access_token"\nsubject = "user:{preferred_username}"\nactor = "client"\n'
        'agent_grant = "client_credentials"\nagent_subject = "7f3a"\ndetails_scope = "agentguard_call"'
    )
    broker: Any = build(load(write(exchange(more)))).ports.brokers["code", READ]
    assert broker._profile == IssuerProfile(
        subject_token_type="urn:ietf:params:oauth:token-type:access_token",
        subject="user:{preferred_username}",
        actor_client="agent",
        client_credentials=True,
        agent_subject="7f3a",
        details_scope="agentguard_call",
    )


def test_an_identity_comes_from_a_file_that_the_platform_writes(write: Any, tmp_path: Path) -> None:
    signer = Signer.generate()
    claims = {"sub": "system:serviceaccount:prod:agent", "aud": ["bao"], "exp": 2**33}
    token = tmp_path / "token"
    token.write_text(signer.sign(signer.head(typ="JWT"), claims))
    token.chmod(0o600)
    parts = build(load(write('[identity]\nkind = "file"\npath = "token"\n')))
    assert isinstance(parts.ports.identity, FileIdentity)
    assert parts.ports.identity.actor() == "system:serviceaccount:prod:agent"


def test_a_local_identity_proves_itself_by_a_key_of_its_own(write: Any, tmp_path: Path) -> None:
    toml = '[agent]\nid = "agent://support"\n[identity]\nkind = "local"\nkey = "agent.pem"\n'
    parts = build(load(write(toml)))
    assert parts.ports.identity.token("https://login.example").reveal().count(".") == 2
    assert (tmp_path / "agent.pem").stat().st_mode & 0o077 == 0


def test_a_ceiling_in_the_file_limits_the_agent(write: Any) -> None:
    guard = Guard.from_file(write('[ceiling]\norders = ["orders:read"]\n'))
    try:
        ceiling = guard.enforcement.options.ceiling
        assert ceiling is not None
        assert {name: list(scopes) for name, scopes in ceiling.items()} == {"orders": ["orders:read"]}
        assert json.dumps(list(ceiling))
    finally:
        guard.close()


def test_a_resource_may_demand_that_its_mcp_server_names_the_brokers_issuer(write: Any) -> None:
    text = exchange("").replace(
        "[resources.code]\n",
        '[resources.code]\norigins = ["https://mcp.example"]\ndiscover = "https://mcp.example/mcp"\n',
    )
    brokers = build(load(write(text))).ports.brokers
    built = [brokers["code", path] for path in ToolPath]
    assert all(isinstance(broker, DiscoveringBroker) for broker in built)
    assert [TRAITS(broker).reuse for broker in built] == [{READ}, frozenset(), frozenset()]


@pytest.mark.parametrize(
    ("discover", "expected"),
    [
        ("https://evil.example/mcp", "at no origin of the resource"),
        ("https://mcp.example:8443/mcp", "at no origin of the resource"),
        ("http://mcp.example/mcp", "at no origin of the resource"),
        ("https://mcp.example/mcp?x", "discover"),
        ("", "discover"),
    ],
)
@pytest.mark.promise("mcp-issuer-is-the-servers")
def test_metadata_is_fetched_from_no_origin_that_the_file_does_not_list(
    write: Any, discover: str, expected: str
) -> None:
    text = exchange("").replace(
        "[resources.code]\n",
        f'[resources.code]\norigins = ["https://mcp.example"]\ndiscover = "{discover}"\n',
    )
    with pytest.raises(ConfigurationError, match=expected) as caught:
        build(load(write(text)))
    assert caught.value.line == 3


def test_discover_needs_a_broker_of_an_authorization_server(write: Any) -> None:
    text, _, _ = BROKERS["secret"]
    toml = (
        '[resources.code]\nbroker = "named"\norigins = ["https://mcp.example"]\n'
        f'discover = "https://mcp.example/mcp"\n[brokers.named]\nkind = "secret"\n{text}\n'
    )
    with pytest.raises(ConfigurationError, match="needs a broker of an authorization server"):
        build(load(write(toml)))
