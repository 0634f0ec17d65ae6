"""Keycloak issues the token of each call: by agentguard.toml alone, and verified at the resource."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.tools import tool

import agentguard
from agentguard import Guard
from agentguard.credentials.local_issuer import load_key
from agentguard.credentials.oauth import PrivateKeyJwt
from agentguard.errors import Denied, VerificationError
from agentguard.jose import unverified_claims
from agentguard.model import Resource, ToolPath
from agentguard.resource import Claims, Introspection, Issuer, Verifier
from agentguard.tasks.task import Task
from tests.conftest import Mode
from tests.real.conftest import needed
from tests.real.keycloak_realm import Realm, audience, client, mapper, scope

AGENT, ORIGIN = "agent://support", "https://orders.example"
ORDERS = Resource(
    name="orders",
    origins=(ORIGIN,),
    audiences={ToolPath.READ: "orders/read", ToolPath.WRITE: "orders/write"},
)
CARRIERS = ("scope", "mapper", "none")
"""What carries the call into a token: a parameterized scope, the provider of the examples, or nothing."""

SETTINGS = Path(__file__).parents[2] / "examples" / "keycloak" / "agentguard.toml"
LINES_LEFT_OUT = {
    "scope": ("ca = ",),
    "mapper": ("ca = ", "actor = ", "details_scope = "),
    "none": ("ca = ", "details_scope = "),
}


def settings_of(issuer: str, account: str, carrier: str) -> str:
    """Return the example's settings for a realm, as its comments say for what carries the call."""
    lines = SETTINGS.read_text("utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith(LINES_LEFT_OUT[carrier]))
    text = text.replace("https://login.corp.example/realms/corp", issuer).replace("corp.example", "example")
    text = text.replace("00000000-0000-0000-0000-000000000000", account)
    return text.replace(
        "[resources.orders]",
        "details = false\n[resources.orders]" if carrier == "none" else "[resources.orders]",
    )


AUDIENCE_OF = {"orders:read": "orders/read", "orders:refund": "orders/write"}


def hardcoded(claim: str) -> dict[str, Any]:
    return mapper(claim, "oidc-hardcoded-claim-mapper", **{"claim.name": claim, "claim.value": AGENT})


@dataclass
class World:
    """A realm as the page of the example says, an agent that is guarded, and the API that it calls."""

    realm: Realm
    folder: Path
    carrier: str
    requests: list[dict[str, str]] = field(default_factory=list)
    arguments: dict[str, str] = field(default_factory=lambda: {"order_id": "4711"})
    expected: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.agent, self.app, self.orders = (
            load_key(self.folder / f"{name}.pem") for name in ("agent", "app", "orders")
        )
        self._configure()
        (self.folder / "policy.cedar").write_text('@id("all") permit(principal, action, resource);')
        (entry,) = self._admin("GET", f"clients?clientId={AGENT.replace('/', '%2F')}")
        self.account = self._admin("GET", f"clients/{entry['id']}/service-account-user")["id"]
        settings = settings_of(self.realm.issuer, self.account, self.carrier)
        (self.folder / "agentguard.toml").write_text(settings)
        self.guard = Guard.from_file(self.folder / "agentguard.toml")
        self.verifier = self._verifier(Issuer(self.realm.issuer, "azp", binds_calls=self.carrier != "none"))

    def _admin(self, method: str, path: str, body: object = None) -> Any:
        return self.realm.admin(method, f"/{self.realm.name}/{path}", body)

    def _configure(self) -> None:
        self.realm.sign_by_es256()
        self.realm.add_call_scope()
        for name in AUDIENCE_OF.values():
            self._admin("POST", "clients", client(name, self.orders))
        for name, of in AUDIENCE_OF.items():
            self._admin("POST", "client-scopes", scope(name, audience(of)))
        app = client(
            "shop-app",
            self.app,
            directAccessGrantsEnabled=True,
            defaultClientScopes=["basic", "profile"],
            protocolMappers=[audience(AGENT)],
        )
        self._admin("POST", "clients", app)
        of_agent = {
            "standard.token.exchange.enabled": "true",
            "access.token.header.type.rfc9068": "true",
            "access.token.signed.response.alg": "ES256",
            "access.token.lifespan": "60",
        }
        mappers = [mapper("call", "agentguard-call-detail"), hardcoded("act.sub"), hardcoded("client_id")]
        agent = client(
            AGENT,
            self.agent,
            of_agent,
            serviceAccountsEnabled=True,
            defaultClientScopes=["basic"],
            optionalClientScopes=[*AUDIENCE_OF, *(["agentguard_call"] if self.carrier == "scope" else [])],
            protocolMappers=mappers if self.carrier == "mapper" else [],
        )
        self._admin("POST", "clients", agent)

    def _verifier(self, issuer: Issuer) -> Verifier:
        self.http = http = httpx.Client(trust_env=False, timeout=10)
        prove = PrivateKeyJwt("orders/read", self.orders).prove(self.realm.issuer)
        url = f"{self.realm.issuer}/protocol/openid-connect/token/introspect"
        return Verifier(
            issuer=issuer,
            keys=self.realm.keys(),
            resource=ORDERS,
            store=self.guard.enforcement.ports.store,
            by_audience=(ToolPath.READ, ToolPath.WRITE),
            introspection=Introspection(url, http, proof=prove),
        )

    def token(self, user: str) -> str:
        proof = PrivateKeyJwt("shop-app", self.app).prove(self.realm.issuer)()
        answer = self.realm.post("token", grant_type="password", username=user, password=user, **proof.form)
        assert answer.is_success, answer.text
        token: str = answer.json()["access_token"]
        return token

    def task(self, user: str = "alice", *, token: str | None = None, **changes: Any) -> Task:
        token = token or self.token(user)
        options = {"subject": f"user:{user}", "mandate": {"tools": "*"}, "subject_token": token, **changes}
        return self.guard.task("Look", **options)

    def serve(self, request: httpx.Request) -> httpx.Response:
        """Answer as the API would: with what the verifier knows of the request."""
        self.requests.append(dict(request.headers))
        claims = self.check(dict(request.headers), arguments=self.arguments, **self.expected)
        return httpx.Response(200, text=f"{claims.subject} by {claims.actor}")

    def check(self, headers: Mapping[str, str], **call: Any) -> Claims:
        expected = {"path": ToolPath.READ, "scope": "orders:read", "tool": "get_order", **call}
        return self.verifier.verify("GET", f"{ORIGIN}/orders/4711", headers, **expected)

    async def get_order(self, mode: Mode, task: Task) -> str:
        transport = httpx.MockTransport(self.serve)

        @tool
        def get_order(order_id: str) -> str:
            """Read an order."""
            with httpx.Client(transport=transport, auth=agentguard.auth("orders")) as http:
                return http.get(f"{ORIGIN}/orders/{order_id}").text

        (guarded,) = self.guard.wrap([get_order])
        async with task:
            answer: str = await mode.call(guarded, "invoke", {"order_id": "4711"})
        return answer


@pytest.fixture(params=CARRIERS, scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    server = needed("AGENTGUARD_TEST_KEYCLOAK")
    with httpx.Client(base_url=server, trust_env=False, timeout=30) as http:
        realm = Realm(server, http)
        realm.make(needed("AGENTGUARD_TEST_KEYCLOAK_PASSWORD"))
        try:
            world = World(realm, tmp_path_factory.mktemp("world"), request.param)
            with suppress(Denied):  # a Java program's first answer may take longer than a call may
                asyncio.run(world.get_order(Mode("sync"), world.task()))
            yield world
            world.guard.close()
            world.http.close()
        finally:
            realm.delete()


async def test_keycloaks_token_is_for_one_call_and_dead_after_it(world: World, mode: Mode) -> None:
    token = world.token("alice")
    assert await world.get_order(mode, world.task(token=token)) == f"{subject_of(token)} by {AGENT}"
    with pytest.raises(VerificationError, match="revoked"):
        world.check(world.requests[-1])


async def test_keycloaks_token_is_refused_for_other_arguments_where_it_carries_the_call(
    world: World, mode: Mode
) -> None:
    world.arguments = {"order_id": "4712"}
    try:
        if world.carrier == "none":  # which the verifier's `binds_calls = False` has said
            assert "by" in await world.get_order(mode, world.task())
        else:
            with pytest.raises(VerificationError, match="other arguments"):
                await world.get_order(mode, world.task())
    finally:
        world.arguments = {"order_id": "4711"}


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ({"path": ToolPath.WRITE}, "another audience"),
        ({"scope": "orders:refund"}, "lacks the scope"),
    ],
)
async def test_keycloaks_token_is_refused_on_another_path_and_for_another_scope(
    world: World, mode: Mode, expected: dict[str, Any], text: str
) -> None:
    world.expected = expected
    try:
        with pytest.raises(VerificationError, match=text):
            await world.get_order(mode, world.task())
    finally:
        world.expected = {}


async def test_a_token_of_another_user_is_sent_nowhere(
    world: World, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    before = len(world.requests)
    with pytest.raises(Denied):
        await world.get_order(mode, world.task("alice", token=world.token("bob")))
    assert "not of the task's subject" in caplog.text
    assert len(world.requests) == before


async def test_an_agent_without_a_user_gets_a_token_of_its_own(
    world: World, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    task = world.guard.task("Look", subject=AGENT, mandate={"tools": "*"})
    if world.carrier == "mapper":  # whose `act` stands in every token of the client
        with pytest.raises(Denied):
            await world.get_order(mode, task)
        assert "the token is for another actor" in caplog.text
        return
    assert await world.get_order(mode, task) == f"{world.account} by {AGENT}"


async def test_keycloaks_reason_is_in_the_log_for_an_operator_and_not_in_the_denial(
    world: World, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "agentguard")
    token = world.token("alice")
    proof = PrivateKeyJwt("shop-app", world.app).prove(world.realm.issuer)()
    assert world.realm.post("revoke", token=token, **proof.form).is_success
    with pytest.raises(Denied) as denial:
        await world.get_order(mode, world.task(token=token))
    assert "answered 400 invalid_" in caplog.text
    _, _, reason = caplog.text.partition(f"{world.realm.issuer} answered 400: ")
    assert reason
    assert reason.partition("\n")[0] not in str(denial.value)


def subject_of(token: str) -> str:
    return str((unverified_claims(token) or {})["sub"])
