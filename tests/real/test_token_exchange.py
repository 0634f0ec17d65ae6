"""oidc-provider issues for one call of one agent for one user; nobody else can use it, or after the call."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from langchain_core.tools import tool

import agentguard
from agentguard import Guard
from agentguard.catalog import Catalog
from agentguard.credentials.local_issuer import load_key
from agentguard.credentials.oauth import AuthorizationServer, PrivateKeyJwt, TokenExchange
from agentguard.credentials.oauth.response import claims_of
from agentguard.credentials.presentation import ProofKey
from agentguard.credentials.sealing import SealingKey
from agentguard.errors import IssueError, VerificationError
from agentguard.identity.local import LocalIdentity
from agentguard.jose import Signer, revocation_key
from agentguard.model import Arguments, Grant, Identity, Resource, Secret, ToolPath
from agentguard.resource import Claims, Introspection, Verifier, asgi
from agentguard.stores.sqlite import SqliteStore
from agentguard.testing import RecordingAudit
from agentguard.testing.samples import sample_grant
from tests.conftest import Mode, Rule, tool_call
from tests.servers.oidc import trust

ORIGIN = "https://orders.example"
URL = f"{ORIGIN}/orders/4711"
ARGS = {"order_id": "4711"}
PROOFS = ProofKey()
AGENT, USERS = "agent://support", "https://users.example"
# the server has one audience for orders; that of WRITE is one which it never issues for
ORDERS = Resource(
    name="orders",
    origins=(ORIGIN,),
    audiences={ToolPath.READ: ORIGIN, ToolPath.WRITE: "https://reports.example"},
)


class Kept(TokenExchange):
    """Lets a test keep what a call was given, as a thief would."""

    last_credential: agentguard.Credential

    async def aissue(self, grant: Grant) -> agentguard.Credential:
        self.last_credential = await super().aissue(grant)
        return self.last_credential


@dataclass
class World:
    """An agent, a user, a resource, and the issuer between them; what they share is a store."""

    issuer: str
    folder: Path
    store: SqliteStore = field(init=False)
    opened: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.store = self.opened.enter_context(closing(SqliteStore(self.folder / "state.db")))
        self.agent, self.users, self.orders = (
            load_key(self.folder / f"{name}.pem") for name in ("agent", "users", "orders")
        )
        trust("users", USERS, {"keys": [self.users.public_jwk]})
        jwks = {"keys": [{**self.agent.public_jwk, "kid": self.agent.kid}]}
        trust("agents", AGENT, jwks)
        trust("clients", AGENT, {"jwks": jwks})
        trust("clients", ORIGIN, {"jwks": {"keys": [{**self.orders.public_jwk, "kid": self.orders.kid}]}})

    def broker(self, *, client_auth: PrivateKeyJwt | None = None, **changes: Any) -> Kept:
        options: dict[str, Any] = {
            "paths": {ToolPath.READ},
            "identity": LocalIdentity(AGENT, self.agent),
            "store": self.store,
            **changes,
        }
        server = AuthorizationServer(self.issuer, client_auth or PrivateKeyJwt(AGENT, self.agent))
        return self.opened.enter_context(closing(Kept(server, **options)))

    def user_token(self, name: str = "user:ada") -> Secret:
        claims = {"iss": USERS, "sub": name, "aud": self.issuer, "exp": int(time.time()) + 60}
        return Secret(self.users.sign(self.users.head(typ="JWT"), claims))

    @cached_property
    def http(self) -> httpx.Client:
        return self.opened.enter_context(httpx.Client(trust_env=False, timeout=5))

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        document: Mapping[str, str] = self.http.get(f"{self.issuer}/.well-known/openid-configuration").json()
        return document

    @cached_property
    def usual(self) -> Kept:
        """A broker that any test may use; what it remembers is a nonce."""
        return self.broker(proof_key=PROOFS)

    @property
    def signs(self) -> bool:
        return self.issuer == os.environ["AGENTGUARD_TEST_OIDC_JWT"]

    def grant(self, user: str = "user:ada", **changes: Any) -> Grant:
        facts = {
            "identity": Identity(subject=user, actor=AGENT),
            "tool": "get_order",
            "path": ToolPath.READ,
            "resource": ORDERS,
            "scopes": frozenset({"orders:read"}),
            "digest": Arguments.of(ARGS).digest,
            "subject_token": self.user_token(user),
        }
        return sample_grant("call-1", **(facts | changes))

    @cached_property
    def verifier(self) -> Verifier:
        introspection = Introspection(
            self.metadata["introspection_endpoint"],
            self.http,
            proof=PrivateKeyJwt(ORIGIN, self.orders).prove(self.issuer),
            opaque=True,
        )
        return Verifier(
            issuer=self.issuer,
            keys=self.http.get(self.metadata["jwks_uri"]).json() if self.signs else {"keys": []},
            resource=ORDERS,
            store=self.store,
            by_audience=(ToolPath.READ, ToolPath.WRITE),
            introspection=None if self.signs else introspection,
        )


@pytest.fixture(scope="module")
def world(oidc: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(oidc, tmp_path_factory.mktemp("world"))
    with world.opened:
        yield world


async def verify(
    mode: Mode, at: Verifier, headers: Mapping[str, str], method: str = "GET", url: str = URL, **call: Any
) -> Claims:
    expected = {"path": ToolPath.READ, "scope": "orders:read", "tool": "get_order", "arguments": ARGS, **call}
    claims: Claims = await mode.call(at, "verify", method, url, headers, **expected)
    return claims


async def test_the_resource_believes_the_call_and_knows_both_user_and_agent(world: World, mode: Mode) -> None:
    credential = await mode.call(world.usual, "issue", world.grant())
    claims = await verify(mode, world.verifier, credential.headers("GET", URL, None))
    assert (claims.subject, claims.act["sub"], claims.scopes) == ("user:ada", AGENT, world.grant().scopes)
    assert (claims.tool, claims.digest) == ("get_order", Arguments.of(ARGS).digest)
    assert claims.thumbprint == PROOFS.thumbprint


async def test_an_agent_may_act_for_itself(world: World, mode: Mode) -> None:
    alone = Identity(subject=AGENT, actor=AGENT)
    credential = await mode.call(world.usual, "issue", world.grant(identity=alone, subject_token=None))
    claims = await verify(mode, world.verifier, credential.headers("GET", URL, None))
    assert (claims.subject, claims.act) == (AGENT, {})


# the theft matrix, at the resource

Steal = Callable[[agentguard.Credential], Mapping[str, str]]


def proven(by: ProofKey, method: str = "GET", url: str = URL) -> Steal:
    def steal(credential: agentguard.Credential) -> Mapping[str, str]:
        token = credential.reveal()
        return {"Authorization": f"DPoP {token}", "DPoP": by.proof(method, url, access_token=token)}

    return steal


def presented(method: str = "GET", url: str = URL) -> Steal:
    """Use the true key: what an agent that was talked into it may do."""
    return lambda credential: credential.headers(method, url, None)


THEFTS: dict[str, tuple[Steal, dict[str, Any], str]] = {
    "as a bearer token": (lambda c: {"Authorization": f"Bearer {c.reveal()}"}, {}, "invalid_token"),
    "no key": (lambda c: {"Authorization": f"DPoP {c.reveal()}"}, {}, "invalid_dpop_proof"),
    "own key": (proven(ProofKey()), {}, "invalid_dpop_proof"),
    "other URL": (presented(url=f"{ORIGIN}/orders/4712"), {}, "invalid_dpop_proof"),
    "other host": (presented(url="https://reports.example/orders/4711"), {}, "invalid_dpop_proof"),
    "other method": (presented("PUT"), {}, "invalid_dpop_proof"),
    "other scope": (presented(), {"scope": "orders:write"}, "insufficient_scope"),
    "other arguments": (presented(), {"arguments": {"order_id": "4712"}}, "insufficient_scope"),
    "other tool": (presented(), {"tool": "refund_order"}, "insufficient_scope"),
    "write path": (presented(), {"path": ToolPath.WRITE}, "invalid_token"),
    "a path without the issuer": (presented(), {"path": ToolPath.ESCALATION}, "invalid_token"),
}


@pytest.mark.promise("theft-refused")
@pytest.mark.parametrize("theft", THEFTS)
async def test_a_stolen_credential_is_refused(world: World, mode: Mode, theft: str) -> None:
    steal, call, error = THEFTS[theft]
    credential = await mode.call(world.usual, "issue", world.grant())
    with pytest.raises(VerificationError) as caught:
        await verify(mode, world.verifier, steal(credential), **call)
    assert caught.value.error == error


@pytest.mark.promise("theft-refused")
async def test_a_replayed_proof_is_refused(world: World, mode: Mode) -> None:
    credential = await mode.call(world.usual, "issue", world.grant())
    headers, at = credential.headers("GET", URL, None), world.verifier
    await verify(mode, at, headers)
    with pytest.raises(VerificationError, match="invalid_dpop_proof: the proof was used before"):
        await verify(mode, at, headers)


@pytest.mark.promise("theft-refused")
async def test_after_the_call_it_is_refused(world: World, mode: Mode) -> None:
    broker, at = world.usual, world.verifier
    credential = await mode.call(broker, "issue", world.grant())
    await verify(mode, at, credential.headers("GET", URL, None))
    for _ in range(2):
        await mode.call(broker, "revoke", credential.handle, credential.expires_at)
    with pytest.raises(VerificationError, match=r"invalid_token: the token is (revoked|not active)"):
        await verify(mode, at, credential.headers("GET", URL, None))


def guarded(world: World, broker: Kept, transport: httpx.AsyncBaseTransport) -> tuple[Guard, Any]:
    """Return a guard, and a tool that asks a protected application over HTTP."""

    @tool
    async def get_order(order_id: str) -> str:
        """Read an order."""
        async with httpx.AsyncClient(transport=transport, auth=agentguard.auth("orders")) as client:
            return (await client.get(f"{ORIGIN}/orders/{order_id}")).text

    facts = agentguard.classified(path="read", resource="orders", scopes=["orders:read"])
    get_order.metadata = {"agentguard": facts}
    guard = Guard(
        catalog=Catalog(resources=[ORDERS]),
        policy=Rule(),
        identity=LocalIdentity(AGENT, world.agent),
        brokers={(None, ToolPath.READ): broker},
        store=world.store,
        audit=RecordingAudit(),
    )
    return guard, guard.wrap(get_order)[0]


async def stolen(broker: Kept, transport: httpx.AsyncBaseTransport) -> httpx.Response:
    async with httpx.AsyncClient(transport=transport) as thief:
        return await thief.get(URL, headers=broker.last_credential.headers("GET", URL, None))


@pytest.mark.promise("theft-refused")
@pytest.mark.parametrize("reuse", [(), (ToolPath.READ,)], ids=["one call", "one task"])
async def test_a_credential_of_a_guard_dies_with_its_call_or_its_task(
    world: World, reuse: tuple[ToolPath, ...]
) -> None:
    transport = httpx.ASGITransport(_application(world.verifier))
    broker = world.broker(seal=SealingKey.from_file(world.folder / "seal.key"), reuse=reuse)
    guard, get_order = guarded(world, broker, transport)
    token = world.user_token().reveal()
    async with guard.task("read", subject="user:ada", mandate={"tools": "*"}, subject_token=token):
        answer = await get_order.ainvoke(tool_call("get_order", **ARGS))
        assert answer.content == "order 4711 for user:ada"
        first = broker.last_credential
        assert (await stolen(broker, transport)).status_code == (200 if reuse else 401)
        await get_order.ainvoke(tool_call("get_order", **ARGS))
        assert (broker.last_credential is first) is bool(reuse)
    refusal = await stolen(broker, transport)
    assert refusal.status_code == 401
    assert 'error="invalid_token"' in refusal.headers["WWW-Authenticate"]
    assert world.store.live() == ()


@contextmanager
def serving(application: Any) -> Iterator[str]:
    """Serve over a real socket, for another process."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.mark.promise("theft-refused")
def test_another_process_of_another_user_gets_nothing_by_what_it_copied(world: World, nobody: int) -> None:
    credential = world.usual.issue(world.grant())
    first_headers, second_headers = (dict(credential.headers("GET", URL, None)) for _ in range(2))
    with serving(_application(world.verifier)) as server, httpx.Client(trust_env=False) as owner:
        assert owner.get(f"{server}/orders/4711", headers=first_headers).status_code == 200
        loot = {
            "server": server,
            "token": credential.reveal(),
            "url": URL,
            "path": "/orders/4711",
            "other": "/orders/4712",
            "used": first_headers,
            "unused": second_headers,
        }
        ran = subprocess.run(
            [sys.executable, "-m", "tests.real.thief", str(nobody)],
            cwd=Path(__file__).parents[2],
            input=json.dumps(loot),
            capture_output=True,
            text=True,
            check=True,
        )
    thief = json.loads(ran.stdout)
    assert thief["uid"] == nobody
    assert thief["found"] == {
        "no key": [401, "invalid_dpop_proof"],
        "as a bearer token": [401, "invalid_token"],
        "own key": [401, "invalid_dpop_proof"],
        "replayed proof": [401, "invalid_dpop_proof"],
        "other URL": [401, "invalid_dpop_proof"],
        "other method": [403, "insufficient_scope"],
    }


def _application(verifier: Verifier) -> Any:
    async def orders(scope: Any, receive: Any, send: Any) -> None:
        claims: Claims = scope["state"]["agentguard"]
        body = f"order {scope['path'].rpartition('/')[2]} for {claims.subject}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    rule = asgi.Rule(
        "GET",
        "/orders/{order_id}",
        ToolPath.READ,
        scope="orders:read",
        tool="get_order",
        arguments=lambda presented: dict(presented.params),
    )
    return asgi.Protected(orders, verifier, [rule], origin=ORIGIN, routes=())


# the theft matrix, at the issuer


@pytest.mark.promise("issuer-gives-no-more")
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        pytest.param({"scopes": frozenset({"reports:read"})}, "invalid_scope", id="another resource's scope"),
        pytest.param({"scopes": frozenset()}, "invalid_scope", id="no scope"),
        pytest.param(
            {"resource": Resource(name="x", audiences={ToolPath.READ: "https://elsewhere.example"})},
            "invalid_target",
            id="unknown resource",
        ),
        pytest.param({"resource": Resource(name="x")}, "invalid_target", id="an audience that is no URI"),
        pytest.param({"subject_token": Secret("e30.e30.e30")}, None, id="a forged subject"),
    ],
)
async def test_the_issuer_refuses_what_may_not_be_had(
    world: World, mode: Mode, changes: dict[str, Any], error: str | None
) -> None:
    with pytest.raises(IssueError) as caught:
        await mode.call(world.usual, "issue", world.grant(**changes))
    problem = (
        "the token of the user is not of the task's subject" if error is None else f"answered 400 {error}"
    )
    assert str(caught.value) == f"{world.issuer}: {problem}"


@pytest.mark.promise("issuer-gives-no-more")
async def test_the_issuer_gives_no_more_than_the_users_rights(world: World, mode: Mode) -> None:
    writing = frozenset({"orders:write"})
    await mode.call(world.usual, "issue", world.grant("user:ada", scopes=writing))
    with pytest.raises(IssueError, match="answered 400 invalid_scope"):
        await mode.call(world.usual, "issue", world.grant("user:bob", scopes=writing))


@pytest.mark.promise("issuer-gives-no-more")
async def test_the_issuer_refuses_a_client_with_another_key(world: World, mode: Mode) -> None:
    thief = world.broker(client_auth=PrivateKeyJwt(AGENT, Signer.generate()))
    with pytest.raises(IssueError, match="answered 401 invalid_client"):
        await mode.call(thief, "issue", world.grant())


@pytest.mark.promise("issuer-gives-no-more")
async def test_the_issuer_refuses_an_agent_that_is_not_this_client(world: World, mode: Mode) -> None:
    other = Signer.generate()
    trust("agents", "agent://other", {"keys": [{**other.public_jwk, "kid": other.kid}]})
    thief = world.broker(identity=LocalIdentity("agent://other", other))
    with pytest.raises(IssueError, match="answered 400 invalid_request"):
        await mode.call(thief, "issue", world.grant())


@pytest.mark.promise("foreign-metadata-refused")
async def test_metadata_of_another_issuer_is_refused(world: World, mode: Mode) -> None:
    alias = world.issuer.replace("127.0.0.1", "localhost")
    mixed = replace(world, issuer=alias).broker()
    with pytest.raises(IssueError, match="another issuer's"):
        await mode.call(mixed, "issue", world.grant())


# a crash

DIES = """
import os, sys
from pathlib import Path
from tests.real.test_token_exchange import SealingKey, World

world = World(sys.argv[1], Path(sys.argv[2]))
credential = world.broker(seal=SealingKey.from_file(world.folder / "seal.key")).issue(world.grant())
print(credential.handle, credential.reveal(), flush=True)
sys.stdin.read()
"""


@pytest.mark.promise("revoked-after-kill")
def test_killed_between_issue_and_revoke_another_process_revokes(world: World) -> None:
    handle, token = _killed(world)
    assert token not in handle
    after = world.broker(seal=SealingKey.from_file(world.folder / "seal.key"))
    after.revoke(handle, 0.0)
    if world.signs:
        claims = claims_of(Secret(token))
        assert claims is not None
        assert world.store.known(revocation_key(world.issuer, claims["jti"]))
    else:
        members, _ = PrivateKeyJwt(AGENT, world.agent).prove(world.issuer)()
        form = {"token": token, **members}
        response = world.http.post(world.metadata["introspection_endpoint"], data=form)
        assert response.json() == {"active": False}


def _killed(world: World) -> list[str]:
    """Return the handle and the token of a process that was killed when it had both."""
    command = [sys.executable, "-c", DIES, world.issuer, str(world.folder)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parent.parent.parent, **pipes) as child:
        assert child.stdout is not None
        handle_and_token: list[str] = child.stdout.readline().split()
        child.send_signal(signal.SIGKILL)
    return handle_and_token


def test_the_example_shows_a_token_of_user_and_agent_that_is_gone(
    oidc_jwt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = Path(__file__).parent.parent.parent / "examples"
    copy = shutil.copytree(
        examples, tmp_path / "examples", ignore=shutil.ignore_patterns(".*", "__pycache__")
    )
    folder = copy / ".agentguard"
    folder.mkdir()
    world = World(oidc_jwt, folder)
    with world.opened:
        monkeypatch.setenv("ISSUER", oidc_jwt)
        monkeypatch.setenv("SUBJECT_TOKEN", world.user_token().reveal())
        runpy.run_path(str(copy / "token_exchange.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert "order 4711 for user:ada by agent://support, get_order only" in output
    assert "left: 0 credentials alive" in output
    assert world.user_token().reveal()[:20] not in output
