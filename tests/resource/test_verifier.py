"""The verifier refuses every stolen, forged or wrongly used token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.credentials.local_issuer import LocalIssuer, jwks
from agentguard.credentials.presentation import ProofKey
from agentguard.errors import ConfigurationError, StoreError, VerificationError
from agentguard.jose import Signer, revocation_key, token_hash
from agentguard.model import Arguments, Grant, Identity, Resource, ToolPath
from agentguard.ports import Store
from agentguard.resource import Claims, Introspection, Issuer, Limits, Nonces, Verifier, challenge
from agentguard.stores.memory import MemoryStore
from tests.conftest import Mode
from tests.doubles.texts import texts
from tests.tiers import examples

NOW = 1_700_000_000.0
ISSUER = "https://guard.example"
URL = "https://api.example/orders/4711"
ARGS = {"order_id": "4711"}
RESOURCE = Resource(name="orders", origins=("https://api.example",))
PROOFS = ProofKey(clock=lambda: NOW)
KEYS = {path: Signer.generate() for path in ToolPath}
ISSUERS = {
    path: LocalIssuer(
        path, issuer=ISSUER, store=MemoryStore(), proof_key=PROOFS, key=KEYS[path], clock=lambda: NOW
    )
    for path in ToolPath
}
GRANT = Grant(
    id="call-1",
    task_id="task-1",
    identity=Identity(subject="user:4", actor="agent://support"),
    tool="get_order",
    path=ToolPath.READ,
    resource=RESOURCE,
    scopes=frozenset({"orders:read"}),
    digest=Arguments.of(ARGS).digest,
    lifetime=60.0,
)


def verifier(**changes: Any) -> Verifier:
    options = {
        "issuer": ISSUER,
        "keys": jwks(*ISSUERS.values()),
        "resource": RESOURCE,
        "store": MemoryStore(clock=lambda: NOW),
        "clock": lambda: NOW,
        **changes,
    }
    return Verifier(**options)


def presented(grant: Grant = GRANT, *, method: str = "GET", url: str = URL) -> dict[str, str]:
    return dict(ISSUERS[grant.path].issue(grant).headers(method, url, None))


def minted(
    changes: Mapping[str, Any], *, key: Signer | None = None, header: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Return headers with a token of these claims, signed with the real READ key or with *key*."""
    key = key or KEYS[ToolPath.READ]
    claims = {**ISSUERS[ToolPath.READ]._claims(GRANT, NOW), **changes}
    head = key.head(**{"typ": "at+jwt", "kid": key.kid, **(header or {})})
    token = key.sign(head, {k: v for k, v in claims.items() if v is not ...})
    return {"Authorization": f"DPoP {token}", "DPoP": PROOFS.proof("GET", URL, access_token=token)}


def verify(
    headers: Any, at: Verifier | None = None, *, method: str = "GET", url: str = URL, **call: Any
) -> Claims:
    expected = {"path": ToolPath.READ, "scope": "orders:read", "tool": "get_order", "arguments": ARGS, **call}
    return (at or verifier()).verify(method, url, headers, **expected)


def refused(headers: Any, at: Verifier | None = None, **call: Any) -> tuple[str, int]:
    with pytest.raises(VerificationError) as caught:
        verify(headers, at, **call)
    return caught.value.error, caught.value.status


def test_a_credential_for_this_call_is_believed() -> None:
    claims = verify(presented())
    assert (claims.subject, claims.actor, claims.task_id, claims.id) == (
        "user:4",
        "agent://support",
        "task-1",
        "call-1",
    )
    assert (claims.path, claims.tool, claims.scopes) == (ToolPath.READ, "get_order", GRANT.scopes)
    assert claims.act == {"sub": "agent://support"}


async def test_the_asynchronous_twin_decides_alike() -> None:
    at, headers = verifier(), presented()
    call: Any = {"path": ToolPath.READ, "scope": "orders:read", "tool": "get_order", "arguments": ARGS}
    assert (await at.averify("GET", URL, headers, **call)).id == "call-1"
    with pytest.raises(VerificationError, match="used before"):
        await at.averify("GET", URL, headers, **call)


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_both_algorithms_are_believed(algorithm: Any) -> None:
    by = LocalIssuer(
        ToolPath.READ,
        issuer=ISSUER,
        store=MemoryStore(),
        proof_key=ProofKey(algorithm, clock=lambda: NOW),
        key=Signer.generate(algorithm),
        clock=lambda: NOW,
    )
    assert verify(by.issue(GRANT).headers("GET", URL, None), verifier(keys=jwks(by))).id == "call-1"


# what a thief, or an agent that follows planted instructions, may try


@pytest.mark.promise("read-refused-at-write")
@pytest.mark.parametrize("endpoint", [ToolPath.WRITE, ToolPath.ESCALATION])
def test_a_read_token_is_refused_at_another_path(endpoint: ToolPath) -> None:
    assert refused(presented(), path=endpoint) == ("invalid_token", 401)


@pytest.mark.promise("read-refused-at-write")
def test_a_token_of_the_read_key_that_claims_to_be_for_writing_is_refused() -> None:
    details = [{**ISSUERS[ToolPath.READ]._claims(GRANT, NOW)["authorization_details"][0], "path": "write"}]
    forged = minted({"aud": "orders/write", "authorization_details": details})
    assert refused(forged, path=ToolPath.WRITE) == ("invalid_token", 401)
    assert refused(forged, path=ToolPath.READ) == ("invalid_token", 401)
    assert refused(minted({"authorization_details": details})) == ("insufficient_scope", 403)


def test_a_kid_of_another_path_does_not_lend_its_key() -> None:
    header = {"kid": KEYS[ToolPath.WRITE].kid}
    assert refused(minted({"aud": "orders/write"}, header=header), path=ToolPath.WRITE) == (
        "invalid_token",
        401,
    )


@pytest.mark.promise("credential-bound-to-arguments")
def test_a_credential_for_order_4711_is_refused_for_order_4712() -> None:
    url = URL.replace("4711", "4712")
    assert refused(presented(url=url), url=url, arguments={"order_id": "4712"}) == ("insufficient_scope", 403)


@pytest.mark.parametrize(
    "arguments", [{}, {"order_id": 4711}, {"order_id": "4711", "all": True}, {"order_id": float("nan")}]
)
def test_other_arguments_are_refused(arguments: dict[str, Any]) -> None:
    assert refused(presented(), arguments=arguments) == ("insufficient_scope", 403)


def test_another_tool_or_a_missing_scope_is_refused() -> None:
    assert refused(presented(), tool="refund_order") == ("insufficient_scope", 403)
    assert refused(presented(), scope="orders:write") == ("insufficient_scope", 403)
    assert refused(presented(), scope="orders") == ("insufficient_scope", 403)
    assert refused(minted({"scope": ...})) == ("insufficient_scope", 403)


@pytest.mark.promise("stolen-credential-worthless")
def test_a_replayed_request_is_refused() -> None:
    at, headers = verifier(), presented()
    verify(headers, at)
    assert refused(headers, at) == ("invalid_dpop_proof", 401)


def test_a_proof_is_remembered_for_as_long_as_it_would_be_accepted() -> None:
    store = Recording()
    at = verifier(store=cast(Store, store))
    early = ProofKey(clock=lambda: NOW + 5)  # as far ahead as the leeway allows
    headers = minted({"cnf": {"jkt": early.thumbprint}, "exp": int(NOW) + 1000})
    headers["DPoP"] = early.proof("GET", URL, access_token=headers["Authorization"][5:])
    verify(headers, at)
    last = NOW + 5 + 60 + 5
    verify(headers, verifier(clock=lambda: last))
    assert refused(headers, verifier(clock=lambda: last + 0.1)) == ("invalid_dpop_proof", 401)
    assert store.until > last


@pytest.mark.promise("stolen-credential-worthless")
def test_a_stolen_token_without_its_key_is_refused() -> None:
    headers = presented()
    token = headers["Authorization"][5:]
    thief = ProofKey(clock=lambda: NOW).proof("GET", URL, access_token=token)
    assert refused({**headers, "DPoP": thief}) == ("invalid_dpop_proof", 401)
    assert refused({"Authorization": headers["Authorization"]}) == ("invalid_dpop_proof", 401)


@pytest.mark.promise("stolen-credential-worthless")
def test_a_captured_request_is_refused_at_another_endpoint() -> None:
    assert refused(presented(), method="DELETE") == ("invalid_dpop_proof", 401)
    for url in ("https://api.example/orders", "https://evil.example/orders/4711", URL + "/items"):
        assert refused(presented(), url=url) == ("invalid_dpop_proof", 401)
    assert refused(presented(), url="no url") == ("invalid_request", 400)


def test_query_and_spelling_of_the_url_do_not_matter() -> None:
    assert verify(presented(url=URL + "?q=1"), url="https://API.example:443/orders/4711?q=2").id == "call-1"


@pytest.mark.promise("stolen-credential-worthless")
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_bound_token_is_no_bearer_token(scheme: str) -> None:
    headers = presented()
    token = headers["Authorization"][5:]
    assert refused({**headers, "Authorization": f"{scheme} {token}"}) == ("invalid_token", 401)


def test_a_missing_credential_is_a_challenge_without_a_code() -> None:
    for headers in ({}, {"DPoP": "x"}, {"Authorization": ""}, {"Authorization": "Basic eDp5"}):
        assert refused(headers) == ("", 401)


def test_two_authorization_or_two_proof_headers_are_refused() -> None:
    headers = presented()
    assert refused([*headers.items(), ("authorization", "Bearer x")]) == ("invalid_request", 400)
    assert refused([*headers.items(), ("dpop", headers["DPoP"])]) == ("invalid_dpop_proof", 401)
    for name in headers:
        assert refused({**headers, name: f"{headers[name]}, {headers[name]}"})[1] == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"}, {"iss": ISSUER + "/"}, {"iss": ...},
        {"aud": "orders/write"}, {"aud": ...}, {"aud": []}, {"aud": ["orders/read", "payments/write"]},
        {"aud": "orders"},
        {"exp": NOW - 5}, {"exp": ...}, {"exp": "never"}, {"exp": True},
        {"iat": NOW + 6}, {"iat": ...}, {"nbf": NOW + 6}, {"nbf": "soon"},
        {"sub": ...}, {"sub": ""}, {"sub": 4}, {"client_id": ...}, {"jti": ...}, {"jti": "x\n"},
        {"scope": ["a"]}, {"cnf": ...}, {"cnf": {}}, {"cnf": "x"}, {"act": "root"},
        {"authorization_details": ...}, {"authorization_details": []}, {"authorization_details": [{}]},
        {"authorization_details": [{"type": "agentguard_tool_call", "tool": "t", "path": "read"}]},
    ],
)  # fmt: skip
def test_a_token_with_other_claims_is_refused(changes: dict[str, Any]) -> None:
    assert refused(minted(changes)) == ("invalid_token", 401)


def test_a_token_for_two_calls_is_refused() -> None:
    detail = ISSUERS[ToolPath.READ]._claims(GRANT, NOW)["authorization_details"][0]
    assert refused(minted({"authorization_details": [detail, detail]})) == ("invalid_token", 401)
    payment = {"type": "payment_initiation"}
    assert verify(minted({"authorization_details": [payment, detail]})).id == "call-1"


def test_the_same_token_with_a_single_audience_in_a_list_is_believed() -> None:
    assert verify(minted({"aud": ["orders/read"]})).id == "call-1"


@pytest.mark.parametrize(
    "header",
    [{"typ": "JWT"}, {"typ": "dpop+jwt"}, {"kid": None}, {"kid": "x"}, {"jku": "x"}, {"crit": ["a"]}],
)
def test_a_token_with_another_header_is_refused(header: dict[str, Any]) -> None:
    assert refused(minted({}, header=header)) == ("invalid_token", 401)


def test_a_token_by_a_strange_key_is_refused() -> None:
    stranger = Signer.generate()
    assert refused(minted({}, key=stranger)) == ("invalid_token", 401)
    assert refused(minted({}, key=stranger, header={"kid": KEYS[ToolPath.READ].kid})) == (
        "invalid_token",
        401,
    )
    assert refused(minted({}, key=stranger, header={"jwk": dict(stranger.public_jwk)})) == (
        "invalid_token",
        401,
    )


def test_a_padded_token_is_refused() -> None:
    headers = presented()
    token = headers["Authorization"][5:] + "=="
    proof = PROOFS.proof("GET", URL, access_token=token)
    assert refused({"Authorization": f"DPoP {token}", "DPoP": proof}) == ("invalid_token", 401)


def test_an_expired_token_is_refused_after_the_leeway() -> None:
    late = verifier(clock=lambda: NOW + 65, limits=Limits(proof_lifetime=120))
    assert refused(presented(), late) == ("invalid_token", 401)
    assert (
        verify(presented(), verifier(clock=lambda: NOW + 64, limits=Limits(proof_lifetime=120))).id
        == "call-1"
    )


# revocation, and the answers of the store and the introspection


@pytest.mark.promise("revoked-is-refused")
def test_a_revoked_token_is_refused() -> None:
    store = MemoryStore(clock=lambda: NOW)
    by = LocalIssuer(
        ToolPath.READ,
        issuer=ISSUER,
        store=store,
        proof_key=PROOFS,
        key=KEYS[ToolPath.READ],
        clock=lambda: NOW,
    )
    at, credential = verifier(store=store), by.issue(GRANT)
    verify(credential.headers("GET", URL, None), at)
    by.revoke(credential.handle, credential.expires_at)
    assert refused(credential.headers("GET", URL, None), at) == ("invalid_token", 401)


class Recording:
    """A store with fixed answers, which records the keys that it was asked for."""

    def __init__(self, **answers: Any) -> None:
        self.answers, self.keys = {"known": False, "remember": True, **answers}, list[str]()
        self.until = 0.0

    def _answer(self, name: str, key: str) -> Any:
        self.keys.append(key)
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def known(self, key: str) -> Any:
        return self._answer("known", key)

    def remember(self, key: str, until: float) -> Any:
        self.until = until
        return self._answer("remember", key)


@pytest.mark.promise("unknown-liveness-refused")
@pytest.mark.parametrize("answer", [StoreError("down"), OSError("disk"), TimeoutError(), None, "no", 0])
@pytest.mark.parametrize("question", ["known", "remember"])
async def test_a_store_that_does_not_answer_closes_the_endpoint(question: str, answer: Any) -> None:
    at = verifier(store=cast(Store, Recording(**{question: answer})))
    assert refused(presented(), at) == ("temporarily_unavailable", 503)
    with pytest.raises(VerificationError) as caught:
        await at.averify("GET", URL, presented(), path=ToolPath.READ)
    assert caught.value.status == 503


@pytest.mark.promise("revoked-is-refused")
def test_the_store_is_asked_by_issuer_and_jti_and_only_for_what_was_signed() -> None:
    store = Recording()
    at = verifier(store=cast(Store, store))
    headers = presented()
    thief = ProofKey(clock=lambda: NOW).proof("GET", URL, access_token=headers["Authorization"][5:])
    for bad in (
        {**headers, "DPoP": thief},
        {**headers, "DPoP": "a.b.c"},
        minted({}, key=Signer.generate()),
        minted({"exp": 1}),
    ):
        refused(bad, at)
    refused(headers, at, arguments={})
    assert store.keys == []
    claims = verify(headers, at)
    assert store.keys[0] == revocation_key(ISSUER, "call-1")
    assert store.keys[1].startswith(f"dpop:{claims.thumbprint}:")
    assert headers["Authorization"][5:] not in str(store.keys)
    assert len(store.keys) == 2


def test_a_required_nonce_is_asked_for() -> None:
    nonces = Nonces(clock=lambda: NOW)
    at = verifier(nonces=nonces)
    credential = ISSUERS[ToolPath.READ].issue(GRANT)
    assert refused(credential.headers("GET", URL, None), at) == ("use_dpop_nonce", 401)
    assert refused(credential.headers("GET", URL, "made-up"), at) == ("use_dpop_nonce", 401)
    assert verify(credential.headers("GET", URL, nonces.current()), at).id == "call-1"


def introspection(
    answer: Callable[[httpx.Request], httpx.Response], *, opaque: bool = False
) -> Introspection:
    client = httpx.Client(transport=httpx.MockTransport(answer))
    return Introspection("https://as.example/introspect", client, auth=("orders", "secret"), opaque=opaque)


def unreachable(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectTimeout("no answer", request=request)


@pytest.mark.promise("unknown-liveness-refused")
def test_introspection_decides_on_a_clear_answer_alone() -> None:
    def respond(status: int, body: str) -> Callable[[httpx.Request], httpx.Response]:
        return lambda _request: httpx.Response(status, text=body)

    assert verify(presented(), verifier(introspection=introspection(respond(200, '{"active":true}')))).id
    inactive = verifier(introspection=introspection(respond(200, '{"active":false}')))
    assert refused(presented(), inactive) == ("invalid_token", 401)
    unclear = [
        respond(200, "{}"),
        respond(200, '{"active":"true"}'),
        respond(200, '{"active":false,"active":true}'),
        respond(200, "[]"),
        respond(200, "<html>"),
        respond(401, '{"active":true}'),
        respond(302, '{"active":true}'),
        respond(500, '{"active":true}'),
        unreachable,
    ]
    for answer in unclear:
        at = verifier(introspection=introspection(answer))
        assert refused(presented(), at) == ("temporarily_unavailable", 503)


async def test_introspection_is_one_logic_for_both_clients() -> None:
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        assert request.headers["Authorization"].startswith("Basic ")
        return httpx.Response(200, json={"active": True})

    transport = httpx.MockTransport(answer)
    for client in (httpx.Client(transport=transport), httpx.AsyncClient(transport=transport)):
        source = Introspection("https://as.example/introspect", client, auth=("orders", "secret"))
        headers = presented()
        at = verifier(introspection=source)
        assert (await at.averify("GET", URL, headers, path=ToolPath.READ)).id == "call-1"
        assert headers["Authorization"][5:].encode() in bodies[-1]
    with pytest.raises(TypeError, match="averify"):
        source.claims("x")
    assert refused(presented(), at) == ("temporarily_unavailable", 503)


# challenges and configuration


def test_a_challenge_says_what_is_wrong_in_the_words_of_the_rfcs() -> None:
    missing = challenge(VerificationError("", "no credential was presented"))
    assert missing == {"WWW-Authenticate": 'DPoP algs="ES256 EdDSA Ed25519"'}
    nonce = challenge(VerificationError("use_dpop_nonce", "a nonce"), nonce="n-1")
    assert nonce == {
        "WWW-Authenticate": 'DPoP error="use_dpop_nonce", error_description="a nonce", '
        'algs="ES256 EdDSA Ed25519"',
        "DPoP-Nonce": "n-1",
    }
    scope = challenge(VerificationError("insufficient_scope", "x", status=403), scope="orders:write")
    assert 'scope="orders:write"' in scope["WWW-Authenticate"]
    assert challenge(VerificationError("temporarily_unavailable", "x", status=503)) == {}


def test_a_challenge_cannot_be_broken_out_of() -> None:
    error = VerificationError('x", realm="y', 'a\r\nSet-Cookie: b\\" é')
    value = challenge(error, scope="z")["WWW-Authenticate"]
    assert value.count('"') == 6
    assert value.isascii()
    assert value.isprintable()


def test_an_unpinned_or_unfit_key_is_a_configuration_error() -> None:
    good = ISSUERS[ToolPath.READ].public_jwk
    for keys in (
        [{k: v for k, v in good.items() if k != "agentguard_path"}],
        [{**good, "agentguard_path": "everything"}],
        [{k: v for k, v in good.items() if k != "kid"}],
        [{**good, "alg": "HS256"}],
        [{**good, "d": "AAAA"}],
        [good, {**good, "agentguard_path": "write"}],
        ["x"],
    ):
        with pytest.raises(ConfigurationError, match="hint"):
            verifier(keys={"keys": keys})


def test_without_keys_nobody_is_believed() -> None:
    assert refused(presented(), verifier(keys={})) == ("invalid_token", 401)


@pytest.mark.promise("random-input-refused")
@settings(max_examples=examples(200), deadline=None)
@given(st.data())
def test_no_changed_header_is_believed(data: st.DataObject) -> None:
    headers = dict(HEADERS)
    name = data.draw(st.sampled_from(sorted(headers)))
    value = headers[name]
    place = data.draw(st.integers(5, len(value) - 1))
    character = data.draw(st.sampled_from("ABab09-_.=, \té"))
    headers[name] = data.draw(
        st.sampled_from(
            [
                value[:place] + character + value[place + 1 :],
                value[:place] + character + value[place:],
                value[:place] + value[place + 1 :],
                value[:place],
                headers["DPoP" if name == "Authorization" else "Authorization"],
            ]
        )
    )
    if headers != HEADERS:
        assert refused(headers)[1] in (401, 400)


HEADERS = presented()
LOCATIONS = st.sampled_from(["Authorization", "DPoP", "authorization", "dpop", "Host", "X"])


@pytest.mark.promise("random-input-refused")
@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(st.tuples(LOCATIONS, texts(max_size=30) | texts(max_size=30).map("DPoP {}".format)), max_size=4),
    texts(max_size=12),
    texts(max_size=30) | st.just(URL),
)
def test_noise_raises_nothing_but_a_refusal(headers: list[tuple[str, str]], method: str, url: str) -> None:
    assert refused(headers, method=method, url=url)[1] in (400, 401)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CLAIM_NAMES = sorted(ISSUERS[ToolPath.READ]._claims(GRANT, NOW))


@pytest.mark.promise("random-input-refused")
@settings(max_examples=examples(150), deadline=None)
@given(st.dictionaries(st.sampled_from([*CLAIM_NAMES, "nbf"]), json_values, min_size=1, max_size=4))
def test_signed_claims_of_whatever_shape_raise_nothing_but_a_refusal(changes: dict[str, Any]) -> None:
    headers = minted(changes)
    assert token_hash(headers["Authorization"][5:])
    try:
        claims = verify(headers)
    except VerificationError as error:
        status = error.status
        assert status in (401, 403)
    else:
        assert (claims.path, claims.tool, claims.digest) == (ToolPath.READ, "get_order", GRANT.digest)


def test_a_grant_of_another_resource_has_another_audience() -> None:
    grant = replace(GRANT, resource=Resource(name="payments", origins=("https://api.example",)))
    assert refused(presented(grant)) == ("invalid_token", 401)


# another issuer: its keys name no path, and its tokens may be opaque


def unpinned(*issuers: LocalIssuer) -> dict[str, Any]:
    """Return a key set as another issuer publishes it: without paths, and with keys for other purposes."""
    keys = [{k: v for k, v in issuer.public_jwk.items() if k != "agentguard_path"} for issuer in issuers]
    return {"keys": [*keys, {"kty": "RSA", "kid": "rsa", "n": "AQAB", "e": "AQAB"}, {"kty": "EC"}]}


@pytest.mark.promise("external-keys-by-path")
def test_keys_that_name_no_path_are_believed_by_audience_and_only_where_it_is_said() -> None:
    keys = unpinned(ISSUERS[ToolPath.READ])
    with pytest.raises(ConfigurationError, match="agentguard_path"):
        verifier(keys=keys)
    at = verifier(keys=keys, by_audience=[ToolPath.READ, ToolPath.WRITE])
    assert verify(presented(), at).path is ToolPath.READ
    assert refused(presented(), at, path=ToolPath.WRITE) == ("invalid_token", 401)
    assert refused(presented(), at, path=ToolPath.ESCALATION) == ("invalid_token", 401)
    escalation = minted({"aud": "orders/escalation"})
    assert refused(escalation, at, path=ToolPath.ESCALATION) == ("invalid_token", 401)


def test_an_audience_alone_does_not_make_a_read_token_one_for_writing() -> None:
    at = verifier(keys=unpinned(ISSUERS[ToolPath.READ]), by_audience=[ToolPath.READ, ToolPath.WRITE])
    assert refused(minted({"aud": "orders/write"}), at, path=ToolPath.WRITE) == ("insufficient_scope", 403)
    assert refused(minted({"aud": ["orders/read", "orders/write"]}), at) == ("invalid_token", 401)


def test_two_paths_with_one_audience_cannot_be_told_apart() -> None:
    shared = Resource(name="orders", audiences=dict.fromkeys(ToolPath, "https://api.example"))
    with pytest.raises(ConfigurationError, match="share an audience"):
        verifier(resource=shared, by_audience=[ToolPath.READ, ToolPath.WRITE])


SAID = {
    "active": True,
    "sub": "user:4",
    "act": {"sub": "agent://support"},
    "client_id": "agent://support",
    "aud": "orders/read",
    "scope": "orders:read",
    "iat": NOW,
    "exp": NOW + 60,
    "cnf": {"jkt": PROOFS.thumbprint},
    "authorization_details": [GRANT.detail()],
}


def opaque(answer: Mapping[str, Any] = SAID, **changes: Any) -> Verifier:
    source = introspection(lambda _: httpx.Response(200, json=dict(answer)), opaque=True)
    options = {"keys": {"keys": []}, "by_audience": [ToolPath.READ], "introspection": source}
    return verifier(**(options | changes))


OPAQUE = "s0me.opaque-token"


def opaquely(token: str = OPAQUE) -> dict[str, str]:
    return {
        "Authorization": f"DPoP {token}",
        "DPoP": PROOFS.proof("GET", URL, access_token=token if token.isascii() else "x"),
    }


def test_an_opaque_token_is_what_its_issuer_says() -> None:
    claims = verify(opaquely(), opaque())
    assert (claims.subject, claims.act, claims.signed) == ("user:4", {"sub": "agent://support"}, False)
    assert (claims.tool, claims.issuer) == ("get_order", ISSUER)


@pytest.mark.promise("external-keys-by-path")
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"active": False}, "invalid_token"),
        ({"active": "true"}, "temporarily_unavailable"),
        ({"active": ...}, "temporarily_unavailable"),
        ({"iss": "https://other.example"}, "invalid_token"),
        ({"aud": "orders/write"}, "invalid_token"),
        ({"aud": ...}, "invalid_token"),
        ({"cnf": ...}, "invalid_token"),
        ({"cnf": {"jkt": "another"}}, "invalid_dpop_proof"),
        ({"exp": NOW - 60}, "invalid_token"),
        ({"exp": ...}, "invalid_token"),
        ({"scope": "orders:write"}, "insufficient_scope"),
        ({"authorization_details": ...}, "invalid_token"),
        ({"authorization_details": [GRANT.detail()] * 2}, "invalid_token"),
        ({"authorization_details": [{**GRANT.detail(), "path": "write"}]}, "insufficient_scope"),
        ({"authorization_details": [{**GRANT.detail(), "digest": "x"}]}, "insufficient_scope"),
    ],
)
async def test_an_opaque_token_of_which_anything_else_is_said_is_refused(
    changes: dict[str, Any], error: str
) -> None:
    answer = {name: value for name, value in (SAID | changes).items() if value is not ...}
    assert refused(opaquely(), opaque(answer))[0] == error
    call: Any = {"path": ToolPath.READ, "scope": "orders:read", "tool": "get_order", "arguments": ARGS}
    with pytest.raises(VerificationError) as caught:
        await opaque(answer).averify("GET", URL, opaquely(), **call)
    assert caught.value.error == error


def test_an_opaque_token_is_asked_about_only_where_it_is_said_and_as_it_is_spelled() -> None:
    assert refused(opaquely(), opaque(introspection=None)) == ("invalid_token", 401)
    unasked = introspection(lambda _: pytest.fail("it was asked"))
    assert refused(opaquely(), opaque(introspection=unasked)) == ("invalid_token", 401)
    unused = introspection(lambda _: pytest.fail("it was asked"), opaque=True)
    for token in ("", "töken", "to ken", "x" * 20_000, "a=b"):
        assert refused(opaquely(token), opaque(introspection=unused)) == ("invalid_token", 401)
    assert refused(opaquely(), opaque(introspection=unused), path=ToolPath.WRITE) == ("invalid_token", 401)


def test_a_jwt_is_verified_also_where_opaque_tokens_are_taken() -> None:
    at = opaque(keys=unpinned(ISSUERS[ToolPath.READ]))
    assert verify(presented(), at).signed
    assert refused(minted({"sub": "user:5"}, key=Signer.generate()), at) == ("invalid_token", 401)


def test_a_resource_may_prove_itself_by_an_assertion_for_each_question() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=SAID)

    assertions = iter([({"client_assertion": "one"}, {"X-Header": "a"}), ({"client_assertion": "two"}, {})])
    client = httpx.Client(transport=httpx.MockTransport(answer))
    source = Introspection("https://as.example/introspect", client, proof=lambda: next(assertions))
    for _ in range(2):
        assert source.claims("x") == SAID
    assert [request.content.decode().rpartition("=")[2] for request in requests] == ["one", "two"]
    assert requests[0].headers["X-Header"] == "a"


@pytest.mark.promise("every-binding-verified")
@pytest.mark.parametrize(
    "other",
    [
        {"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"},
        {"x5t#S256": None},
        {"kid": "k"},
        {"jwk": {}},
    ],
)
async def test_a_token_that_is_bound_to_something_else_too_is_refused(
    mode: Mode, other: dict[str, Any]
) -> None:
    bound = {"jkt": PROOFS.thumbprint}
    await mode.call(verifier(), "verify", "GET", URL, minted({"cnf": bound}), path=ToolPath.READ)
    for store in (None, MemoryStore(clock=lambda: NOW)):
        headers = minted({"cnf": {**bound, **other}})
        with pytest.raises(VerificationError, match="bound to more than"):
            await mode.call(verifier(store=store), "verify", "GET", URL, headers, path=ToolPath.READ)


@pytest.mark.promise("every-binding-verified")
@pytest.mark.parametrize("by_audience", [(), (ToolPath.READ,)])
@pytest.mark.parametrize(
    "use", [{"use": "enc"}, {"key_ops": ["deriveKey"]}, {"use": "sig", "key_ops": ["encrypt"]}]
)
def test_a_key_for_another_use_verifies_no_token(
    by_audience: tuple[ToolPath, ...], use: dict[str, Any]
) -> None:
    keys = {"keys": [{**jwk, **use} for jwk in jwks(ISSUERS[ToolPath.READ])["keys"]]}
    with pytest.raises(
        (ConfigurationError, VerificationError), match=r"not for signatures|not signed with a key"
    ):
        verify(presented(), verifier(keys=keys, by_audience=by_audience))


@pytest.mark.parametrize("named", ["EdDSA", "Ed25519", ...])
@pytest.mark.parametrize("signed", ["EdDSA", "Ed25519"])
def test_ed25519_is_known_by_both_of_its_names(named: Any, signed: str) -> None:
    key = Signer.generate("EdDSA")
    jwk = {**key.public_jwk, "kid": key.kid, "alg": named, "agentguard_path": "read"}
    keys = {"keys": [{name: value for name, value in jwk.items() if value is not ...}]}
    verify(minted({}, key=key, header={"alg": signed}), verifier(keys=keys))


# issuers that write other claims


@pytest.mark.promise("every-binding-verified")
@pytest.mark.parametrize(
    ("issuer", "claims", "reason"),
    [
        (Issuer(ISSUER), {"client_id": ..., "azp": "agent"}, "lacks a required claim"),
        (Issuer(ISSUER, "azp"), {"client_id": "agent"}, "lacks a required claim"),
        (Issuer(ISSUER), {"authorization_details": ...}, "not for exactly one call"),
        (Issuer(ISSUER, binds_calls=False), {"authorization_details": []}, "not for exactly one call"),
        (Issuer(ISSUER, binds_calls=False), {"cnf": ...}, "not bound to a key"),
        (Issuer(ISSUER, binds_calls=False), {"aud": "orders/write"}, "another audience"),
        (Issuer(ISSUER, binds_calls=False), {}, "other arguments"),
    ],
)
def test_an_issuer_that_lacks_one_claim_is_held_to_the_others(
    issuer: Issuer, claims: dict[str, Any], reason: str
) -> None:
    with pytest.raises(VerificationError, match=reason):
        verify(minted(claims), verifier(issuer=issuer), arguments={"order_id": "9999"})


def test_a_client_may_be_named_by_azp() -> None:
    claims = verify(minted({"client_id": ..., "azp": "agent"}), verifier(issuer=Issuer(ISSUER, "azp")))
    assert claims.actor == "agent"


def test_tokens_that_are_bound_to_no_call_are_accepted_where_that_is_said_and_the_log_says_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    at = verifier(issuer=Issuer(ISSUER, binds_calls=False))
    assert f"tokens of {ISSUER} are bound to no call" in caplog.text
    unbound = {"authorization_details": ...}
    claims = verify(minted(unbound), at, tool="refund_order", arguments={"order_id": "9999"})
    assert (claims.tool, claims.digest) == ("", "")
    with pytest.raises(VerificationError, match="lacks the scope"):
        verify(minted(unbound), at, scope="orders:refund")


@pytest.mark.promise("every-binding-verified")
@pytest.mark.parametrize(
    ("cnf", "reason"),
    [
        ({"kc-jkt-type": "dpop"}, ""),  # Keycloak's note on how it got the key
        ({"x5t#S256": "x"}, "more than a DPoP key"),
        ({"kc-jkt-types": "dpop"}, "more than a DPoP key"),
        ({"jkt": ...}, "not bound to a key"),
    ],
)
def test_only_a_note_on_the_key_may_stand_beside_it(cnf: dict[str, Any], reason: str) -> None:
    members = {**{"jkt": PROOFS.thumbprint}, **cnf}
    headers = minted({"cnf": {name: value for name, value in members.items() if value is not ...}})
    if not reason:
        verify(headers)
        return
    with pytest.raises(VerificationError, match=reason):
        verify(headers)
