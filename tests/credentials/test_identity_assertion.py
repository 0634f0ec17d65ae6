"""An assertion is for one user at one other server; what that server issues is checked as any token is."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard.credentials import oauth
from agentguard.credentials.oauth import IdentityAssertion, IdentityProvider, IssuerProfile, PrivateKeyJwt
from agentguard.credentials.presentation import ProofKey
from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import Grant, ToolPath
from agentguard.stores.memory import MemoryStore
from agentguard.testing import BrokerContract
from tests.conftest import Mode
from tests.doubles.authorization_server import (
    CLIENT,
    ISSUER,
    NOW,
    TYPE,
    AuthorizationServer,
    grant,
    own_grant,
    user_token,
)

OTHER = "https://saas.example"
KEY = ProofKey(clock=lambda: NOW)


class World:
    """The company's identity provider, and another company's server that believes it."""

    def __init__(self) -> None:
        self.idp, self.other = AuthorizationServer("jwt"), AuthorizationServer("jwt", OTHER)
        self.other.idp_key = self.idp.idp_key

    def broker(self, *, linked: bool = False, **changes: Any) -> IdentityAssertion:
        names = IssuerProfile.__dataclass_fields__.keys() & changes.keys()
        profile = {"actor_client": "client-1", **{name: changes.pop(name) for name in names}}
        auth = PrivateKeyJwt("client-1", CLIENT, clock=lambda: NOW)
        options: dict[str, Any] = {
            "paths": {ToolPath.READ},
            "store": MemoryStore(clock=lambda: NOW),
            "proof_key": KEY,
            "profile": IssuerProfile(**profile),
            "clock": lambda: NOW,
            **changes,
        }
        idp = oauth.AuthorizationServer(ISSUER, auth, self.idp.http())
        other = oauth.AuthorizationServer(OTHER, auth, self.other.http())
        return IdentityAssertion(other, idp=IdentityProvider(idp, linked), **options)


@pytest.fixture
def world() -> World:
    return World()


def id_token_grant(id: str = "call-1", **changes: Any) -> Grant:
    return grant(id, **{"subject_token": user_token(iss=ISSUER), **changes})


class TestIdentityAssertion(BrokerContract):
    def make(self) -> IdentityAssertion:
        return World().broker()

    def grant(self, id: str, path: ToolPath) -> Grant:
        return id_token_grant(id, path=path)


async def refusal(mode: Mode, broker: IdentityAssertion, request: Grant) -> str:
    with pytest.raises(IssueError) as caught:
        await mode.call(broker, "issue", request)
    return str(caught.value)


@pytest.mark.promise("assertion-for-one")
async def test_the_other_server_issues_for_an_assertion_of_the_users_own_provider(
    world: World, mode: Mode
) -> None:
    request = id_token_grant()
    credential = await mode.call(world.broker(), "issue", request)
    (asked,) = world.idp.calls("token")
    assert (asked["requested_token_type"], asked["audience"]) == (f"{TYPE}id-jag", OTHER)
    assert asked["subject_token_type"] == f"{TYPE}id_token"
    form = world.other.calls("token")[-1]
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    assert form["scope"] == "orders:read"
    claims = world.other.alive[credential.reveal()]
    assert (claims["sub"], claims["cnf"]) == ("user:ada", {"jkt": KEY.thumbprint})
    assert claims["authorization_details"] == [request.detail()]


@pytest.mark.promise("assertion-for-one")
@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://evil.example"}, "by another issuer"),
        ({"aud": "https://evil.example"}, "for another server"),
        ({"aud": [OTHER, "https://evil.example"]}, "for another server"),
        ({"sub": "user:bob"}, "for another subject"),
        ({"client_id": "client-2"}, "for another client"),
        ({"client_id": ...}, "for another client"),
        ({"exp": NOW}, "is over"),
        ({"exp": ...}, "does not end"),
        ({"cnf": {"jkt": "x" * 43}}, "not bound to our key"),
        ({"cnf": {"x5t#S256": "x"}}, "not bound to our key"),
        ({"scope": "orders:read orders:write"}, "wider than asked"),
        ({"scope": 1}, "wider than asked"),
    ],
)
async def test_an_assertion_for_anything_else_is_sent_nowhere(
    world: World, mode: Mode, claims: dict[str, Any], reason: str
) -> None:
    world.idp.claims = claims
    assert reason in await refusal(mode, world.broker(), id_token_grant())
    assert not world.other.sent


@pytest.mark.promise("assertion-for-one")
async def test_what_is_no_assertion_is_sent_nowhere(world: World, mode: Mode) -> None:
    world.idp.assertion_typ = "JWT"
    assert "no ID-JAG" in await refusal(mode, world.broker(), id_token_grant())
    world.idp.assertion_typ, world.idp.says = "oauth-id-jag+jwt", {"issued_token_type": f"{TYPE}jwt"}
    assert "another type of token" in await refusal(mode, world.broker(), id_token_grant())
    world.idp.says = {"access_token": "opaque"}
    assert "no ID-JAG" in await refusal(mode, world.broker(), id_token_grant())
    assert not world.other.sent


@pytest.mark.promise("assertion-for-one", "wrong-answer-revoked")
async def test_a_server_that_does_not_hold_to_the_assertion_has_its_token_revoked(
    world: World, mode: Mode
) -> None:
    wide = id_token_grant(scopes=frozenset({"orders:read", "items:read"}))
    world.idp.claims = {"scope": "items:read"}
    world.other.claims = {"scope": "items:read orders:read"}
    assert "wider than asked" in await refusal(mode, world.broker(), wide)
    world.idp.claims = {}
    for claims, reason in (
        ({"sub": "user:bob"}, "another subject"),
        ({"client_id": "client-2"}, "another client"),
        ({"cnf": {"jkt": "x" * 43}}, "not bound to our key"),
        ({"aud": "orders/write"}, "another audience"),
    ):
        world.other.claims = claims
        assert reason in await refusal(mode, world.broker(), id_token_grant())
    assert len(world.other.calls("revocation")) == 5


async def test_accounts_that_are_linked_may_have_another_name(world: World, mode: Mode) -> None:
    world.other.claims = {"sub": "account-9"}
    credential = await mode.call(world.broker(linked=True), "issue", id_token_grant())
    assert world.other.alive[credential.reveal()]["sub"] == "account-9"


@pytest.mark.promise("no-impersonation")
async def test_an_agent_without_a_user_or_with_anothers_id_token_gets_nothing(
    world: World, mode: Mode
) -> None:
    assert "only a user's agent" in await refusal(mode, world.broker(), own_grant())
    bob = id_token_grant(subject_token=user_token("user:bob", iss=ISSUER))
    assert "not of the task's subject" in await refusal(mode, world.broker(), bob)
    assert not world.idp.sent


def test_a_broker_that_does_not_know_its_own_client_id_is_a_mistake(world: World) -> None:
    with pytest.raises(ConfigurationError, match="client id"):
        world.broker(actor_client=None)
