"""A token from an authorization server is used only if it is exactly what was asked for, and then ends."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest

from agentguard.credentials.oauth import ClientSecretBasic, SpiffeJwt, TokenExchange, tokens
from agentguard.credentials.oauth.request import _issuers_of
from agentguard.credentials.presentation import ProofKey
from agentguard.credentials.sealing import SealingKey
from agentguard.errors import ConfigurationError, IdentityError, IssueError, RevocationUnknown
from agentguard.identity.local import LocalIdentity
from agentguard.jose import b64url, decode, public_key, revocation_key
from agentguard.model import Credential, Grant, Identity, Resource, Secret, ToolPath
from agentguard.outbound.client import Limits, Outbound
from agentguard.ports import Broker, Store
from agentguard.stores.memory import MemoryStore
from agentguard.testing.contracts import BrokerContract
from tests.conftest import Mode
from tests.doubles.authorization_server import (
    AGENT,
    AGENTS,
    ISSUER,
    NOW,
    ORDERS,
    TYPE,
    USER,
    AuthorizationServer,
    grant,
    own_grant,
    user_token,
)

SEAL = SealingKey(bytes(32))


@pytest.fixture(params=["opaque", "jwt"])
def server(request: pytest.FixtureRequest) -> AuthorizationServer:
    return AuthorizationServer(request.param)


@pytest.fixture
def opaque() -> AuthorizationServer:
    return AuthorizationServer("opaque")


class Contract(BrokerContract):
    form = "opaque"
    seal: SealingKey | None = None

    def make(self) -> TokenExchange:
        return AuthorizationServer(self.form).broker(seal=self.seal)

    def grant(self, id: str, path: ToolPath) -> Grant:
        return grant(id, path=path)


class TestOpaque(Contract): ...


class TestOpaqueSealed(Contract):
    seal = SEAL


class TestJwt(Contract):
    form = "jwt"


class TestJwtSealed(Contract):
    form, seal = "jwt", SEAL


async def refused(mode: Mode, broker: TokenExchange, request: Grant) -> str:
    with pytest.raises(IssueError) as caught:
        await mode.call(broker, "issue", request)
    return str(caught.value).removeprefix(f"{ISSUER}: ")


# the attack: a token that is another's, for more, or for somebody else to use


@pytest.mark.promise("no-impersonation")
async def test_a_token_of_another_user_is_refused_before_anything_is_sent(
    server: AuthorizationServer, mode: Mode
) -> None:
    broker = server.broker()
    for token in (user_token("user:bob"), user_token("user:ada "), user_token(AGENT)):
        assert await refused(mode, broker, grant(subject_token=token)) == (
            "the token of the user is not of the task's subject"
        )
    assert await refused(mode, broker, grant(subject_token=Secret("opaque"))) == (
        "the token of the user is no JWT"
    )
    assert server.sent == []


@pytest.mark.promise("no-impersonation")
async def test_a_user_without_a_token_is_not_acted_for_and_an_agent_needs_none(
    server: AuthorizationServer, mode: Mode
) -> None:
    broker = server.broker()
    for wrong in (grant(subject_token=None), own_grant(subject_token=user_token(AGENT))):
        assert "a task with a user needs" in await refused(mode, broker, wrong)
    assert server.sent == []


ACT = {"sub": AGENT}
OTHER = [{**grant().detail(), "digest": "another"}]


@pytest.mark.exhaustive
@pytest.mark.promise("wrong-answer-revoked")
@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"act": ...}, "impersonates"),
        ({"act": {}}, "impersonates"),
        ({"act": "agent://support"}, "impersonates"),
        ({"act": {"sub": "agent://other", "act": ACT}}, "another actor"),
        ({"act": {**ACT, "iss": "https://partner.example"}}, "another issuer's actor"),
        ({"act": {**ACT, "iss": None}}, "another issuer's actor"),
        ({"act": {**ACT, "iss": [ISSUER]}}, "another issuer's actor"),
        ({"sub": "user:bob"}, "another subject"),
        ({"sub": AGENT}, "another subject"),
        ({"aud": "orders/write"}, "another audience"),
        ({"aud": ["orders/read", "orders/write"]}, "another audience"),
        ({"aud": [{}]}, "another audience"),
        ({"aud": ...}, "another audience"),
        ({"cnf": ...}, "not bound to our key"),
        ({"cnf": {"jkt": "another"}}, "not bound to our key"),
        ({"scope": "orders:read orders:write"}, "scope is wider"),
        ({"scope": ["orders:read"]}, "scope is wider"),
        ({"authorization_details": OTHER}, "another call"),
        ({"authorization_details": [*OTHER, grant().detail()]}, "exactly one call"),
        ({"authorization_details": ...}, "exactly one call"),
        ({"exp": NOW - 1}, "over already"),
    ],
)
async def test_a_token_for_anything_else_is_refused_and_revoked(
    server: AuthorizationServer, mode: Mode, claims: dict[str, Any], reason: str
) -> None:
    store = MemoryStore(clock=lambda: NOW)
    server.claims = claims
    broker = server.broker(store=store)
    assert reason in await refused(mode, broker, grant())
    (token,) = [form["token"] for form in server.calls("revocation")]
    if server.jwt:
        assert store.known(revocation_key(ISSUER, server.alive[token]["jti"]))
    else:
        assert server.alive == {}


@pytest.mark.exhaustive
@pytest.mark.promise("wrong-answer-revoked")
@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ({"token_type": "Bearer"}, "type is not DPoP"),
        ({"token_type": "N_A"}, "type is not DPoP"),
        ({"token_type": ...}, "type is not DPoP"),
        ({"issued_token_type": f"{TYPE}refresh_token"}, "another type"),
        ({"issued_token_type": ...}, "another type"),
        ({"scope": "orders:read orders:write"}, "scope is wider"),
        ({"scope": 7}, "scope is wider"),
        ({"expires_in": "60"}, "when the token ends"),
        ({"expires_in": -1}, "when the token ends"),
        ({"expires_in": True}, "when the token ends"),
        ({"expires_in": 1e300}, "when the token ends"),
    ],
)
async def test_an_answer_that_says_anything_else_is_refused_and_revoked(
    server: AuthorizationServer, mode: Mode, says: dict[str, Any], reason: str
) -> None:
    server.says = says
    assert reason in await refused(mode, server.broker(), grant())
    assert len(server.calls("revocation")) == 1


async def test_a_jwt_that_could_not_be_revoked_or_is_anothers_is_refused(mode: Mode) -> None:
    for claims in ({"jti": ...}, {"exp": ...}, {"jti": 7}, {"exp": "soon"}, {"iss": "https://other.example"}):
        server = AuthorizationServer("jwt")
        server.claims = claims
        assert ("revoked" if "iss" not in claims else "another issuer") in await refused(
            mode, server.broker(), grant()
        )


async def test_an_opaque_token_that_cannot_be_seen_or_revoked_is_refused(
    opaque: AuthorizationServer, mode: Mode
) -> None:
    endpoint = opaque.metadata.pop("introspection_endpoint")
    assert "no introspection_endpoint" in await refused(mode, opaque.broker(), grant())
    assert opaque.alive == {}
    unseen = await mode.call(opaque.broker(introspect=False), "issue", grant())
    assert unseen.reveal() in opaque.alive
    opaque.metadata |= {"introspection_endpoint": endpoint}
    opaque.faults["/introspection"] = lambda _: httpx.Response(200, json={"active": False})
    assert "not active" in await refused(mode, opaque.broker(), grant())
    del opaque.metadata["revocation_endpoint"]
    assert "no revocation_endpoint" in await refused(mode, opaque.broker(), grant())


async def test_an_agent_that_acts_for_itself_is_its_own_subject_and_has_no_actor(
    server: AuthorizationServer, mode: Mode
) -> None:
    credential = await mode.call(server.broker(), "issue", own_grant())
    assert server.alive[credential.reveal()]["sub"] == AGENT
    (first, _) = server.calls("token")
    assert "actor_token" not in first
    for act in ({"sub": "agent://other"}, {}):
        server.claims = {"act": act}
        assert "another actor" in await refused(mode, server.broker(), own_grant())


# what is asked


@pytest.mark.promise("wrong-answer-revoked")
async def test_exactly_the_grant_is_asked_for(server: AuthorizationServer, mode: Mode) -> None:
    wide_grant = grant(scopes=frozenset({"orders:read", "items:read"}))
    proofs = ProofKey(clock=lambda: NOW)
    credential: Credential = await mode.call(server.broker(proof_key=proofs), "issue", wide_grant)
    form = server.calls("token")[-1]
    token, actor = form.pop("subject_token"), form.pop("actor_token")
    assert {**form, "client_assertion": "", "authorization_details": ""} == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "requested_token_type": f"{TYPE}access_token",
        "subject_token_type": f"{TYPE}jwt",
        "actor_token_type": f"{TYPE}jwt",
        "audience": "orders/read",
        "scope": "items:read orders:read",
        "client_id": "client-1",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": "",
        "authorization_details": "",
    }
    assert json.loads(form["authorization_details"]) == [wide_grant.detail()]
    assert wide_grant.subject_token is not None
    assert token == wide_grant.subject_token.reveal()
    assert (
        decode(actor, lambda _: public_key(AGENTS.public_jwk), typ=frozenset({"jwt"})).claims["aud"] == ISSUER
    )
    assert (credential.id, credential.expires_at) == ("call-1", NOW + 60)
    headers = credential.headers("GET", "https://orders.example/1", None)
    assert headers["Authorization"] == f"DPoP {credential.reveal()}"
    assert server.alive[credential.reveal()]["cnf"] == {"jkt": proofs.thumbprint}


async def test_a_resource_is_named_by_its_uri_where_it_has_one(
    server: AuthorizationServer, mode: Mode
) -> None:
    uri_resource = Resource(name="orders", audiences={ToolPath.READ: "https://orders.example/read"})
    uri = {"orders/read": "https://api.example/orders"}
    for request, uris, resource in (
        (grant(resource=uri_resource), {}, "https://orders.example/read"),
        (grant(), uri, "https://api.example/orders"),
    ):
        await mode.call(server.broker(resource_uris=uris), "issue", request)
        form = server.calls("token")[-1]
        assert form["resource"] == resource
        assert "audience" not in form


async def test_names_are_translated_for_the_issuer(server: AuthorizationServer, mode: Mode) -> None:
    broker = server.broker(party_name=lambda name: name.removeprefix("user:"))
    await mode.call(broker, "issue", grant(subject_token=user_token("ada")))
    assert "not of the task's subject" in await refused(mode, broker, grant())


async def test_another_type_of_subject_token_may_be_opaque_but_never_anothers(
    server: AuthorizationServer, mode: Mode
) -> None:
    broker = server.broker(subject_token_type=f"{TYPE}access_token")
    assert "400 invalid_request" in await refused(mode, broker, grant(subject_token=Secret("opaque")))
    assert server.calls("token")[0]["subject_token_type"] == f"{TYPE}access_token"
    count = len(server.sent)
    assert "subject" in await refused(mode, broker, grant(subject_token=user_token("user:bob")))
    assert len(server.sent) == count


async def test_a_nonce_is_asked_for_once_and_remembered(server: AuthorizationServer, mode: Mode) -> None:
    broker = server.broker()
    for _ in range(3):
        await mode.call(broker, "issue", grant())
    assert len(server.calls("token")) == 4
    server.nonce = "nonce-2"
    await mode.call(broker, "issue", grant())
    assert len(server.calls("token")) == 6
    server.faults["/token"] = lambda _: httpx.Response(400, json={"error": "use_dpop_nonce"})
    assert await refused(mode, broker, grant()) == "answered 400 use_dpop_nonce"
    assert len(server.calls("token")) == 8


async def test_an_issuer_that_gives_longer_is_cut_and_the_note_outlives_the_token(mode: Mode) -> None:
    entries: dict[str, float] = {}
    server = AuthorizationServer("jwt")
    server.lifetime = 3600.0

    class Noting:
        inline = True

        def remember(self, key: str, until: float) -> bool:
            entries[key] = until
            return True

    broker = server.broker(store=cast(Store, Noting()))
    credential = await mode.call(broker, "issue", grant(lifetime=30.0))
    assert credential.expires_at == NOW + 30
    await mode.call(broker, "revoke", credential.handle, credential.expires_at)
    assert list(entries.values()) == [NOW + 3600 + 60]
    server.lifetime, server.claims = 7 * 86_400.0, {"sub": "user:bob"}
    assert "another subject" in await refused(mode, broker, grant())
    assert list(entries.values())[1:] == [NOW + 7 * 86_400 + 60]


async def test_a_shorter_token_or_a_narrower_scope_is_taken(server: AuthorizationServer, mode: Mode) -> None:
    server.lifetime, server.claims = 10.0, {"scope": ""}
    credential = await mode.call(server.broker(), "issue", grant())
    assert credential.expires_at == NOW + 10


@pytest.mark.promise("wrong-answer-revoked")
@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"scp": "orders:read orders:write"}, "scp are wider"),
        ({"scp": ["orders:write"]}, "scp are wider"),
        ({"roles": ["admin"]}, "roles are wider"),
        ({"entitlements": ["orders"]}, "entitlements are wider"),
        ({"permissions": ["orders:read", "orders:write"]}, "permissions are wider"),
        ({"roles": {"admin": True}}, "roles cannot be read"),
        ({"scp": None}, "scp cannot be read"),
        ({"scope": "orders:read", "scp": ["orders:read"], "roles": []}, ""),
    ],
)
async def test_rights_under_another_name_are_scopes_too(
    server: AuthorizationServer, mode: Mode, claims: dict[str, Any], reason: str
) -> None:
    server.claims = claims
    if not reason:
        await mode.call(server.broker(), "issue", grant())
        return
    assert reason in await refused(mode, server.broker(), grant())
    assert len(server.calls("revocation")) == 1
    server.claims, server.says = {}, claims
    assert reason in await refused(mode, server.broker(), grant())


async def test_without_scopes_none_is_accepted(server: AuthorizationServer, mode: Mode) -> None:
    server.claims = {"scope": "orders:read"}
    assert "scope is wider" in await refused(mode, server.broker(), grant(scopes=frozenset()))
    assert "scope" not in server.calls("token")[-1]


async def test_details_may_be_enriched_or_left_out_of_the_request(
    server: AuthorizationServer, mode: Mode
) -> None:
    server.claims = {"authorization_details": [{**grant().detail(), "approved": True}]}
    await mode.call(server.broker(), "issue", grant())
    server.claims = {}
    broker = server.broker(details=False)
    await mode.call(broker, "issue", grant())
    assert "authorization_details" not in server.calls("token")[-1]
    assert (broker.traits.binds_arguments, server.broker().traits.binds_arguments) == (False, True)


# the end


async def test_a_revoked_token_is_dead_where_it_was_issued_or_noted(
    server: AuthorizationServer, mode: Mode
) -> None:
    for seal in (None, SEAL):
        store = MemoryStore(clock=lambda: NOW)
        broker = server.broker(seal=seal, store=store)
        credential = await mode.call(broker, "issue", grant())
        claims = server.alive[credential.reveal()]
        for _ in range(2):
            await mode.call(broker, "revoke", credential.handle, credential.expires_at)
        assert (credential.reveal() in server.alive) is server.jwt
        assert store.known(revocation_key(ISSUER, claims["jti"])) is server.jwt


async def test_an_issuer_that_revokes_no_jwt_is_asked_once(mode: Mode) -> None:
    server = AuthorizationServer("jwt")
    broker = server.broker()
    for _ in range(3):
        credential = await mode.call(broker, "issue", grant())
        await mode.call(broker, "revoke", credential.handle, credential.expires_at)
    assert len(server.calls("revocation")) == 1


async def test_after_a_crash_a_sealed_handle_revokes_in_another_process(
    server: AuthorizationServer, mode: Mode
) -> None:
    store = MemoryStore(clock=lambda: NOW)
    credential = await mode.call(server.broker(seal=SealingKey(bytes(32)), store=store), "issue", grant())
    claims = server.alive[credential.reveal()]
    after = server.broker(seal=SealingKey(bytes(32)), store=store)
    await mode.call(after, "revoke", credential.handle, credential.expires_at)
    assert (credential.reveal() in server.alive) is server.jwt
    assert store.known(revocation_key(ISSUER, claims["jti"])) is server.jwt


async def test_after_a_crash_without_a_seal_a_jwt_is_noted_and_an_opaque_token_unknown(
    server: AuthorizationServer, mode: Mode
) -> None:
    store = MemoryStore(clock=lambda: NOW)
    credential = await mode.call(server.broker(store=store), "issue", grant())
    claims = server.alive[credential.reveal()]
    with nullcontext() if server.jwt else pytest.raises(RevocationUnknown):
        await mode.call(server.broker(store=store), "revoke", credential.handle, credential.expires_at)
    assert store.known(revocation_key(ISSUER, claims["jti"])) is server.jwt
    assert server.calls("revocation") == []


@pytest.mark.promise("sealed-handles")
async def test_a_changed_foreign_or_cut_handle_sends_nothing_and_counts_as_unknown(
    opaque: AuthorizationServer, mode: Mode
) -> None:
    broker = opaque.broker(seal=SEAL)
    handle = (await mode.call(broker, "issue", grant())).handle
    foreign = SealingKey(b"f" * 32).seal("9e9 token", context=f"token_exchange {ISSUER}")
    elsewhere = SEAL.seal("9e9 token", context="token_exchange https://other.example")
    for wrong in (handle[:-1], handle + "A", handle.swapcase(), foreign, elsewhere, "", "call-1"):
        with pytest.raises(RevocationUnknown):
            await mode.call(broker, "revoke", wrong, NOW + 60)
    assert opaque.calls("revocation") == []


@pytest.mark.promise("revocation-not-claimed")
@pytest.mark.parametrize("status", [400, 503])
async def test_a_refused_request_has_minted_nothing_and_one_whose_answer_is_lost_may_have(
    opaque: AuthorizationServer, mode: Mode, status: int
) -> None:
    broker = opaque.broker()
    opaque.faults["/token"] = lambda _: httpx.Response(status, json={"error": "invalid_request"})
    with pytest.raises(IssueError):
        await mode.call(broker, "issue", grant())
    with nullcontext() if status == 400 else pytest.raises(RevocationUnknown):
        await mode.call(broker, "revoke", grant().id, NOW + 60)


async def test_what_has_ended_by_itself_is_not_sent(opaque: AuthorizationServer, mode: Mode) -> None:
    now = [NOW]
    broker = opaque.broker(clock=lambda: now[0])
    credential = await mode.call(broker, "issue", grant())
    now[0] = NOW + 60 + 60
    await mode.call(broker, "revoke", credential.handle, credential.expires_at)
    assert opaque.calls("revocation") == []


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_a_revocation_that_fails_is_an_error_and_can_be_tried_again(
    opaque: AuthorizationServer, mode: Mode, status: int
) -> None:
    broker = opaque.broker()
    credential = await mode.call(broker, "issue", grant())
    opaque.faults["/revocation"] = lambda _: httpx.Response(status, json={"error": "unsupported_token_type"})
    with pytest.raises(IssueError, match=str(status)):
        await mode.call(broker, "revoke", credential.handle, credential.expires_at)
    opaque.faults.clear()
    await mode.call(broker, "revoke", credential.handle, credential.expires_at)
    assert opaque.alive == {}


@pytest.mark.promise("issuer-nonsense-is-error")
async def test_each_attempt_has_an_assertion_of_its_own(opaque: AuthorizationServer, mode: Mode) -> None:
    """The server of these tests refuses an assertion that it has seen, as real ones do."""
    broker = opaque.broker()
    credential = await mode.call(broker, "issue", grant())
    answers = iter([503, 500, 200])

    def seen_and_then_failed(request: httpx.Request) -> httpx.Response:
        opaque.faults.clear()
        answer = opaque.handle(request)
        status = next(answers)
        if status != 200:
            opaque.faults["/revocation"] = seen_and_then_failed
            return httpx.Response(status)
        return answer

    opaque.faults["/revocation"] = seen_and_then_failed
    await mode.call(broker, "revoke", credential.handle, credential.expires_at)
    assert next(answers, None) is None


async def test_a_refused_token_whose_revocation_fails_is_found_by_the_id_of_its_call(
    opaque: AuthorizationServer, mode: Mode
) -> None:
    opaque.claims = {"sub": "user:bob"}
    opaque.faults["/revocation"] = lambda _: httpx.Response(500)
    broker = opaque.broker(seal=SEAL)
    assert "another subject" in await refused(mode, broker, grant())
    assert len(opaque.alive) == 1
    opaque.faults.clear()
    await mode.call(broker, "revoke", "call-1", NOW + 60)
    assert opaque.alive == {}


async def test_a_store_that_fails_is_an_error_for_a_jwt(mode: Mode) -> None:
    class Failing:
        def remember(self, key: str, until: float) -> bool:
            raise OSError("disk full")

    broker = AuthorizationServer("jwt").broker(store=cast(Store, Failing()))
    credential = await mode.call(broker, "issue", grant())
    with pytest.raises(IssueError, match="not known to be revoked"):
        await mode.call(broker, "revoke", credential.handle, credential.expires_at)


async def test_the_tokens_that_are_kept_are_bounded(
    opaque: AuthorizationServer, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "LIMIT", 2)
    now = [NOW]
    broker = opaque.broker(clock=lambda: now[0])
    for number in range(2):
        await mode.call(broker, "issue", grant(f"call-{number}"))
    assert "too many" in await refused(mode, broker, grant("call-2"))
    now[0] = NOW + 61
    opaque.lifetime = 200.0
    await mode.call(broker, "issue", grant("call-2"))


# an issuer that fails


FAULTS: dict[str, Callable[[httpx.Request], httpx.Response]] = {
    "garbage": lambda _: httpx.Response(200, content=b"\xff\x00{"),
    "two spellings": lambda _: httpx.Response(200, content=b'{"access_token":"a","access_token":"b"}'),
    "deep": lambda _: httpx.Response(200, content=b"[" * 100_000),
    "a list": lambda _: httpx.Response(200, json=[1]),
    "nothing": lambda _: httpx.Response(200),
    "no token": lambda _: httpx.Response(200, json={"token_type": "DPoP"}),
    "a token that breaks a header": lambda _: httpx.Response(200, json={"access_token": "a\r\nX: y"}),
    "a token that is none": lambda _: httpx.Response(200, json={"access_token": ["a"]}),
    "too much": lambda _: httpx.Response(200, content=b" " * 2_000_000),
    "a redirect": lambda _: httpx.Response(307, headers={"Location": "https://evil.example"}),
    "created": lambda _: httpx.Response(201, json={"access_token": "a"}),
    "429": lambda _: httpx.Response(429, headers={"Retry-After": "600"}),
    "500": lambda _: httpx.Response(500, content=b"s3cret-of-the-server"),
}


@pytest.mark.exhaustive
@pytest.mark.promise("issuer-nonsense-is-error")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", ["/token", "/.well-known/oauth-authorization-server"])
async def test_an_issuer_that_answers_nonsense_is_an_error_in_our_words(
    opaque: AuthorizationServer, mode: Mode, fault: str, place: str
) -> None:
    opaque.faults[place] = FAULTS[fault]
    reason = await refused(mode, opaque.broker(), grant())
    assert "s3cret" not in reason
    assert opaque.alive == {}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("invalid_scope", "answered 400 invalid_scope"),
        ("invalid_target", "answered 400 invalid_target"),
        ("s3cret\nerror", "answered 400 without a known error"),
        (["x"], "answered 400 without a known error"),
    ],
)
async def test_the_errors_of_the_rfcs_are_told_and_no_other_text(
    opaque: AuthorizationServer, mode: Mode, error: Any, message: str
) -> None:
    body = {"error": error, "error_description": "s3cret"}
    opaque.faults["/token"] = lambda _: httpx.Response(400, json=body)
    assert await refused(mode, opaque.broker(), grant()) == message


@pytest.mark.promise("issuer-nonsense-is-error")
async def test_no_frame_of_a_failure_holds_a_token(server: AuthorizationServer, mode: Mode) -> None:
    secret_grant = grant()
    assert secret_grant.subject_token is not None
    for place in ("/token", "/introspection", "/revocation"):
        server.claims = {"sub": "user:bob"}
        server.faults = {place: lambda _: httpx.Response(500)}
        with pytest.raises(IssueError) as caught:
            await mode.call(server.broker(), "issue", secret_grant)
        text = "".join(
            str(frame.locals)
            for frame in traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack
            if "/agentguard/" in frame.filename
        )
        for secret in (secret_grant.subject_token.reveal(), *server.alive, "client_assertion"):
            assert secret not in text


@pytest.fixture
def silent() -> Iterator[str]:
    """Return a server that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.promise("issuer-nonsense-is-error")
@pytest.mark.parametrize(("kind", "reason"), [("silent", "no answer"), ("closed", "no connection")])
async def test_an_issuer_that_is_down_or_half_open_is_an_error_in_time_and_blocks_nobody(
    request: pytest.FixtureRequest, mode: Mode, kind: str, reason: str
) -> None:
    issuer: str = request.getfixturevalue(kind)
    broker = AuthorizationServer().broker(
        http=Outbound(issuer, issuer, limits=Limits(timeout=0.3)), issuer=issuer
    )
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking, began = asyncio.create_task(tick()), time.monotonic()
    with pytest.raises(IssueError, match=reason):
        await mode.call(broker, "issue", grant())
    assert time.monotonic() - began < 3
    assert not mode.asynchronous or kind == "closed" or ticks > 3
    ticking.cancel()
    broker.close()


# where the issuer is


@pytest.mark.promise("foreign-metadata-refused")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"issuer": "https://evil.example"}, "another issuer's"),
        ({"issuer": f"{ISSUER}/"}, "another issuer's"),
        ({"token_endpoint": "http://as.example/token"}, "token_endpoint is not reached by https"),
        ({"token_endpoint": "http://127.0.0.1/token"}, "token_endpoint is not reached by https"),
        ({"token_endpoint": "https://user@as.example/token"}, "token_endpoint is not reached by https"),
        ({"token_endpoint": None}, "no token_endpoint"),
        ({"revocation_endpoint": 7}, "revocation_endpoint is not reached by https"),
    ],
)
async def test_metadata_that_is_not_the_issuers_or_not_https_is_refused(
    opaque: AuthorizationServer, mode: Mode, changes: dict[str, Any], reason: str
) -> None:
    opaque.metadata |= changes
    assert reason in await refused(mode, opaque.broker(), grant())
    assert opaque.calls("token") == []


@pytest.mark.parametrize(
    "issuer", ["http://as.example", "as.example", "https://as.example?x=1", "https://as.example#x", ""]
)
def test_an_issuer_that_is_no_https_url_is_a_configuration_error(
    opaque: AuthorizationServer, issuer: str
) -> None:
    with pytest.raises(ConfigurationError, match="https URL"):
        opaque.broker(issuer=issuer)


@pytest.mark.parametrize("issuer", [ISSUER, AGENT])  # the agent's token is its own statement
async def test_an_actors_name_may_be_the_servers_or_the_one_in_the_agents_token(
    server: AuthorizationServer, mode: Mode, issuer: str
) -> None:
    server.claims = {
        "act": {**ACT, "iss": issuer, "act": {"sub": "agent://earlier", "iss": "https://x.example"}}
    }
    assert (await mode.call(server.broker(), "issue", grant())).reveal() in server.alive


@pytest.mark.promise("wrong-answer-revoked")
@pytest.mark.parametrize(
    ("claims", "issuers"),
    [
        ({"sub": "spiffe://shop.example/agents/a"}, ("spiffe://shop.example",)),  # a JWT-SVID without iss
        (
            {"sub": "spiffe://shop.example/a", "iss": "https://spire"},
            ("https://spire", "spiffe://shop.example"),
        ),
        ({"sub": "agent://shop.example/a"}, ()),
        ({"sub": "https://x/spiffe://shop.example/a"}, ()),
        ({"sub": 7, "iss": 7}, ()),
    ],
)
def test_a_spiffe_id_names_its_trust_domain_as_the_agents_issuer_and_nothing_else_does(
    claims: dict[str, Any], issuers: tuple[str, ...]
) -> None:
    head, payload = (b64url(json.dumps(part).encode()) for part in ({"alg": "ES256"}, claims))
    assert _issuers_of(Secret(f"{head}.{payload}.AA")) == issuers


@pytest.mark.promise("wrong-answer-revoked")
async def test_a_token_that_is_bound_to_a_certificate_too_is_refused(
    server: AuthorizationServer, mode: Mode
) -> None:
    proof_key = ProofKey(clock=lambda: NOW)
    server.claims = {"cnf": {"jkt": proof_key.thumbprint, "x5t#S256": "x"}}
    assert "bound to more than our key" in await refused(mode, server.broker(proof_key=proof_key), grant())
    assert len(server.calls("revocation")) == 1


@pytest.mark.promise("proof-of-sent-request")
async def test_the_proof_for_the_server_names_the_url_as_it_is_sent(
    server: AuthorizationServer, mode: Mode
) -> None:
    server.metadata["token_endpoint"] = "https://AS.example:443/token"
    assert (await mode.call(server.broker(), "issue", grant())).reveal() in server.alive


async def test_metadata_is_looked_for_in_all_places(mode: Mode) -> None:
    for issuer, places in {
        ISSUER: ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"),
        f"{ISSUER}/tenant": (
            "/.well-known/oauth-authorization-server/tenant",
            "/tenant/.well-known/openid-configuration",
            "/.well-known/openid-configuration/tenant",
        ),
    }.items():
        server = AuthorizationServer()
        server.metadata["issuer"] = issuer
        for place in places[:-1]:
            server.faults[place] = lambda _: httpx.Response(404)
        server.faults[places[-1]] = lambda _, server=server: httpx.Response(200, json=server.metadata)  # type: ignore[misc]  # mypy infers none for a default
        broker = server.broker(issuer=issuer)
        with suppress(IssueError):  # the user's token is for another issuer
            await mode.call(broker, "issue", grant())
        assert [path for path, _ in server.sent][: len(places) + 1] == [*places, "/token"]


async def test_metadata_is_fetched_once_for_all_and_again_after_a_failure() -> None:
    server = AuthorizationServer()
    broker = server.broker()
    place = ".well-known/oauth-authorization-server"
    await asyncio.gather(*(broker.aissue(grant(f"call-{number}")) for number in range(8)))
    assert len(server.calls(place)) == 1
    server.faults["/token"] = lambda _: httpx.Response(404)
    server.metadata["token_endpoint"] = f"{ISSUER}/moved"
    with pytest.raises(IssueError, match="404"):
        await broker.aissue(grant())
    with pytest.raises(IssueError, match="404"):
        await broker.aissue(grant())
    assert len(server.calls(place)) == 2
    assert len(server.calls("moved")) == 1


# who the client is


async def test_a_client_proves_itself_by_its_svid_or_by_a_secret(mode: Mode) -> None:
    proofs: list[tuple[dict[str, str], httpx.Headers]] = []
    server = AuthorizationServer()

    def look(request: httpx.Request) -> httpx.Response:
        proofs.append((server.calls("token")[-1], request.headers))
        return httpx.Response(401, json={"error": "invalid_client"})

    server.faults["/token"] = look
    identity = LocalIdentity(AGENT, AGENTS, clock=lambda: NOW)
    for auth in (
        SpiffeJwt("spiffe-client", identity),
        ClientSecretBasic("cl:ient", Secret("p ss")),
    ):
        assert "401 invalid_client" in await refused(mode, server.broker(client_auth=auth), grant())
    (form, _), (basic, headers) = proofs
    assert form["client_assertion_type"].endswith(":jwt-spiffe")
    assert (
        decode(
            form["client_assertion"], lambda _: public_key(AGENTS.public_jwk), typ=frozenset({"jwt"})
        ).claims["aud"]
        == ISSUER
    )
    assert "client_assertion" not in basic
    assert headers["Authorization"] == "Basic Y2wlM0FpZW50OnArc3M="


async def test_an_agent_that_cannot_prove_itself_asks_for_nothing(
    opaque: AuthorizationServer, mode: Mode
) -> None:
    broker = opaque.broker(identity=LocalIdentity(AGENT))
    with pytest.raises(IdentityError):
        await mode.call(broker, "issue", grant())
    assert opaque.sent == []


async def test_bearer_tokens_need_a_seal_and_are_presented_as_such(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="seal"):
        AuthorizationServer().broker(bearer=True)
    server = AuthorizationServer()
    server.says = {"token_type": "Bearer"}
    monkeypatch.setattr(server, "_proof", lambda _request: "none")  # this one asks for no proof
    credential = await mode.call(server.broker(bearer=True, seal=SEAL), "issue", grant())
    headers = credential.headers("GET", "https://orders.example", None)
    assert headers == {"Authorization": f"Bearer {credential.reveal()}"}
    assert credential.reveal() not in repr(credential.headers)


def test_it_is_a_broker_for_its_paths_and_shows_nothing(opaque: AuthorizationServer) -> None:
    broker = opaque.broker(reuse={ToolPath.READ})
    assert isinstance(broker, Broker)
    assert (broker.paths, broker.traits.reuse) == (frozenset({ToolPath.READ}), frozenset({ToolPath.READ}))
    assert repr(broker) == f"<TokenExchange {ISSUER} read>"
    with pytest.raises(IssueError, match="less than one second"):
        broker.issue(replace(grant(), lifetime=0.5))
    assert ORDERS.audience(ToolPath.READ) == "orders/read"
    assert Identity(subject=USER, actor=AGENT) == grant().identity
