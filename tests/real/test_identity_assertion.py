"""oidc-provider asserts who the user is, and a Keycloak of another company issues a token for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
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
from agentguard.jose import Signer
from agentguard.model import Resource, ToolPath
from agentguard.resource import Claims, Introspection, Issuer, Verifier
from tests.conftest import Mode
from tests.real.conftest import needed
from tests.real.keycloak_realm import Realm, audience, client, scope
from tests.servers.oidc import trust

AGENT, THERE, ORIGIN, USER = "agent://support", "agent-at-saas", "https://crm.example", "user:ada"
CRM = Resource(name="crm", origins=(ORIGIN,), audiences={ToolPath.READ: "crm"})
SETTINGS = """
[agent]
id = "agent://support"
[policy]
cedar = ["policy.cedar"]
[brokers.saas]
kind = "identity_assertion"
idp = "{idp}"
idp_client_id = "agent://support"
idp_client_key = "idp.pem"
issuer = "{issuer}"
client_id = "agent-at-saas"
client_key = "saas.pem"
linked = true
details_scope = "agentguard_call"
paths = ["read"]
[resources.crm]
origins = ["https://crm.example"]
audiences = {{ read = "crm" }}
broker = {{ read = "saas" }}
[tools.get_contact]
path = "read"
resource = "crm"
scopes = ["crm:read"]
"""


@dataclass
class World:
    """A user's company with its identity provider, and another one with a realm and an API."""

    idp: str
    realm: Realm
    folder: Path

    def __post_init__(self) -> None:
        names = ("idp", "saas", "users", "crm")
        self.keys = {name: load_key(self.folder / f"{name}.pem") for name in names}
        trust("users", self.idp, {"keys": [self.keys["users"].public_jwk]})
        self.assert_for()
        self._configure()
        (self.folder / "policy.cedar").write_text('@id("all") permit(principal, action, resource);')
        settings = SETTINGS.format(idp=self.idp, issuer=self.realm.issuer)
        (self.folder / "agentguard.toml").write_text(settings)
        self.guard = Guard.from_file(self.folder / "agentguard.toml")
        self.requests: list[dict[str, str]] = []
        prove = PrivateKeyJwt("crm", self.keys["crm"]).prove(self.realm.issuer)
        url = f"{self.realm.issuer}/protocol/openid-connect/token/introspect"
        self.http = httpx.Client(trust_env=False, timeout=10)
        self.verifier = Verifier(
            issuer=Issuer(self.realm.issuer, "azp"),
            keys=self.realm.keys(),
            resource=CRM,
            store=self.guard.enforcement.ports.store,
            by_audience=(ToolPath.READ,),
            introspection=Introspection(url, self.http, proof=prove),
        )

    def assert_for(self, **claims: Any) -> None:
        """Have the identity provider assert identities for the realm; *claims* are what it says instead."""
        key = self.keys["idp"]
        jwks = {"keys": [{**key.public_jwk, "kid": key.kid}]}
        value = {"jwks": jwks, "elsewhere": {self.realm.issuer: THERE}, "claims": claims}
        trust("clients", AGENT, value)

    def _configure(self) -> None:
        admin, name = self.realm.admin, f"/{self.realm.name}"
        self.realm.sign_by_es256()
        self.realm.add_call_scope()
        granting = {
            "issuer": self.idp,
            "useJwksUrl": "true",
            "jwksUrl": f"{self.idp}/jwks",
            "jwtAuthorizationGrantEnabled": "true",
            "jwtAuthorizationGrantAssertionSignatureAlg": "ES256",
            "jwtAuthorizationGrantMaxAllowedAssertionExpiration": "300",
        }
        provider = {
            "alias": "corp",
            "providerId": "jwt-authorization-grant",
            "enabled": True,
            "config": granting,
        }
        admin("POST", f"{name}/identity-provider/instances", provider)
        admin("POST", f"{name}/client-scopes", scope("crm:read", audience("crm")))
        admin("POST", f"{name}/clients", client("crm", self.keys["crm"]))
        of_agent = {
            "oauth2.jwt.authorization.grant.enabled": "true",
            "oauth2.jwt.authorization.grant.idp": "corp",
            "access.token.signed.response.alg": "ES256",
            "access.token.header.type.rfc9068": "true",
            "access.token.lifespan": "60",
        }
        scopes = {"defaultClientScopes": ["basic"], "optionalClientScopes": ["crm:read", "agentguard_call"]}
        admin("POST", f"{name}/clients", client(THERE, self.keys["saas"], of_agent, **scopes))
        (alice,) = admin("GET", f"{name}/users?exact=true&username=alice")
        self.account = alice["id"]
        link = {"identityProvider": "corp", "userId": USER, "userName": "ada"}
        admin("POST", f"{name}/users/{self.account}/federated-identity/corp", link)

    def id_token(self, key: Signer | None = None) -> str:
        """Return the ID token of ada's login at her company."""
        key = key or self.keys["users"]
        claims = {"iss": self.idp, "sub": USER, "aud": self.idp, "exp": int(time.time()) + 60}
        return key.sign(key.head(typ="JWT"), claims)

    def check(self, headers: Mapping[str, str], **call: Any) -> Claims:
        expected = {"path": ToolPath.READ, "scope": "crm:read", "tool": "get_contact", **call}
        return self.verifier.verify("GET", f"{ORIGIN}/contacts/7", headers, **expected)

    async def get_contact(self, mode: Mode, token: str) -> str:
        def serve(request: httpx.Request) -> httpx.Response:
            self.requests.append(dict(request.headers))
            claims = self.check(self.requests[-1], arguments={"id": "7"})
            with pytest.raises(VerificationError, match="other arguments"):
                self.check(self.requests[-1], arguments={"id": "8"})
            return httpx.Response(200, text=f"{claims.subject} by {claims.actor}")

        @tool
        def get_contact(id: str) -> str:
            """Read a contact."""
            transport = httpx.MockTransport(serve)
            with httpx.Client(transport=transport, auth=agentguard.auth("crm")) as http:
                return http.get(f"{ORIGIN}/contacts/{id}").text

        (guarded,) = self.guard.wrap([get_contact])
        async with self.guard.task("Look", subject=USER, mandate={"tools": "*"}, subject_token=token):
            answer: str = await mode.call(guarded, "invoke", {"id": "7"})
        return answer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    server = needed("AGENTGUARD_TEST_KEYCLOAK")
    with httpx.Client(base_url=server, trust_env=False, timeout=30) as http:
        realm = Realm(server, http)
        realm.make(needed("AGENTGUARD_TEST_KEYCLOAK_PASSWORD"))
        try:
            world = World(needed("AGENTGUARD_TEST_OIDC_JWT"), realm, tmp_path_factory.mktemp("world"))
            with suppress(Denied):  # a Java program's first answer may take longer than a call may
                asyncio.run(world.get_contact(Mode("sync"), world.id_token()))
            yield world
            world.guard.close()
            world.http.close()
        finally:
            realm.delete()


@pytest.mark.promise("assertion-for-one")
async def test_a_token_of_the_other_company_is_for_one_call_and_dead_after_it(
    world: World, mode: Mode
) -> None:
    assert await world.get_contact(mode, world.id_token()) == f"{world.account} by {THERE}"
    with pytest.raises(VerificationError, match="revoked"):
        world.check(world.requests[-1])


@pytest.mark.promise("assertion-for-one")
@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"client_id": "other"}, "the assertion is for another client"),
        ({"scope": ""}, "the token is for another audience"),  # no more is asked for than is asserted
        ({"cnf": {"jkt": "x" * 43}}, "the assertion is not bound to our key"),
    ],
)
async def test_what_keycloak_does_not_hold_to_is_refused_here(
    world: World, mode: Mode, caplog: pytest.LogCaptureFixture, claims: dict[str, Any], reason: str
) -> None:
    world.assert_for(**claims)
    try:
        with pytest.raises(Denied):
            await world.get_contact(mode, world.id_token())
        assert reason in caplog.text
    finally:
        world.assert_for()


async def test_an_id_token_that_the_provider_does_not_believe_gives_nothing(
    world: World, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    before = len(world.requests)
    with pytest.raises(Denied):
        await world.get_contact(mode, world.id_token(Signer.generate()))
    assert f"{world.idp}: answered 400 invalid_request" in caplog.text
    assert len(world.requests) == before
