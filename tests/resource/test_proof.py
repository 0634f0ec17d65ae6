"""A token is useless without its key: proofs of possession (RFC 9449)."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.credentials.presentation import ProofKey
from agentguard.errors import VerificationError
from agentguard.jose import Algorithm, Signer, b64url, decode, htu, thumbprint, token_hash, unb64url
from agentguard.resource.proof import Nonces, verify_proof
from tests.doubles.texts import texts
from tests.tiers import examples

# RFC 9449: the key of figure 1, the proof of figure 2 (section 4.2), the resource request of section 7.1
RFC_HEAD = (
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZ"
    "OXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIs"
    "ImNydiI6IlAtMjU2In19"
)
RFC_FIGURE_2 = (
    f"{RFC_HEAD}.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wb"
    "GUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX"
    "0x7NVY-FNyJK70nfbV37xRZT3Lg"
)
RFC_RESOURCE = (
    f"{RFC_HEAD}.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtc"
    "GxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG"
    "9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxS"
    "YoMxhAJpLjA"
)
RFC_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
RFC_JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"

NOW = 1_700_000_000.0
URL = "https://api.example/orders/4711"
TOKEN = "a.b.c"
KEY = ProofKey(clock=lambda: NOW)


def verify(
    proof: str,
    *,
    method: str = "GET",
    url: str = URL,
    token: str = TOKEN,
    bound_to: str = KEY.thumbprint,
    now: float = NOW,
    nonces: Nonces | None = None,
) -> str:
    return verify_proof(
        proof,
        method=method,
        url=url,
        token=token,
        bound_to=bound_to,
        now=now,
        lifetime=60,
        leeway=5,
        nonces=nonces,
    )


def refused(proof: str, error: str = "invalid_dpop_proof", **changes: Any) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(proof, **changes)
    assert (caught.value.error, caught.value.status) == (error, 401)
    return caught.value.description


def forged(changes: dict[str, Any], *, header: dict[str, Any] | None = None) -> tuple[str, str]:
    """Return a proof signed with an attacker's key over these claims, and the key's thumbprint."""
    signer = Signer.generate()
    claims = {"jti": "j" * 22, "htm": "GET", "htu": URL, "iat": int(NOW), "ath": token_hash(TOKEN), **changes}
    head = {"typ": "dpop+jwt", "jwk": signer.public_jwk, **(header or {})}
    return signer.sign(signer.head(**head), {k: v for k, v in claims.items() if v is not ...}), signer.kid


def test_the_proof_of_rfc_9449_figure_2_verifies() -> None:
    header, claims, _ = decode(RFC_FIGURE_2, None, typ=frozenset({"dpop+jwt"}))
    assert thumbprint(header["jwk"]) == RFC_JKT
    assert claims["htu"] == "https://server.example.com/token"


def test_the_resource_request_of_rfc_9449_section_7_1_verifies() -> None:
    request = {"url": "https://resource.example.org/protectedresource", "token": RFC_TOKEN}
    jti = verify(RFC_RESOURCE, bound_to=RFC_JKT, now=1562262620, **request)  # type: ignore[arg-type]  # str values
    assert jti == "e1j3V_bKic8-LAEB"
    assert "made too long ago" in refused(RFC_RESOURCE, bound_to=RFC_JKT, now=1562262700, **request)


def test_the_proof_of_another_endpoint_is_refused() -> None:
    assert "method or URL" in refused(RFC_FIGURE_2, bound_to=RFC_JKT, now=1562262616, token=RFC_TOKEN)


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_a_proof_is_for_one_request_with_one_token(algorithm: Algorithm) -> None:
    key = ProofKey(algorithm, clock=lambda: NOW)
    proof = key.proof("GET", URL + "?secret=1#x", access_token=TOKEN)
    header, claims, _ = decode(proof, None, typ=frozenset({"dpop+jwt"}))
    assert header == {"typ": "dpop+jwt", "alg": algorithm, "jwk": dict(key.public_jwk)}
    assert claims == {
        "jti": claims["jti"],
        "htm": "GET",
        "htu": URL,
        "iat": int(NOW),
        "ath": token_hash(TOKEN),
    }
    assert verify(proof, bound_to=key.thumbprint) == claims["jti"]


def test_each_proof_has_its_own_jti_of_at_least_96_bits() -> None:
    first, second = (verify(KEY.proof("GET", URL, access_token=TOKEN)) for _ in "ab")
    assert first != second
    assert len(unb64url(first)) * 8 >= 96


def test_randomness_and_time_are_given() -> None:
    key = ProofKey(clock=lambda: 7.9, entropy=lambda n: b"\x01" * n)
    claims = decode(key.proof("GET", URL), None, typ=frozenset({"dpop+jwt"})).claims
    assert (claims["jti"], claims["iat"]) == (b64url(b"\x01" * 16), 7)
    assert "ath" not in claims


@pytest.mark.promise("secrets-refuse-display")
def test_a_proof_key_shows_nothing_and_never_leaves_the_process() -> None:
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="proof key"):
            leak(KEY)
    assert repr(KEY) == f"<ProofKey {KEY.thumbprint}>"
    assert "d" not in KEY.public_jwk
    assert not hasattr(KEY, "__dict__")


@pytest.mark.promise("stolen-credential-worthless")
def test_a_proof_for_another_method_url_or_token_is_refused() -> None:
    proof = KEY.proof("GET", URL, access_token=TOKEN)
    assert "method or URL" in refused(proof, method="POST")
    assert "method or URL" in refused(proof, method="get")
    for url in (
        URL + "/",
        URL.replace("4711", "4712"),
        URL.replace("https", "http"),
        "https://evil.example/",
    ):
        assert "method or URL" in refused(proof, url=url)
    assert "another token" in refused(proof, token="a.b.d")
    assert "another token" in refused(KEY.proof("GET", URL))


def test_a_proof_by_another_key_is_refused() -> None:
    assert "another key" in refused(ProofKey(clock=lambda: NOW).proof("GET", URL, access_token=TOKEN))


def test_a_proof_is_good_for_a_moment_only() -> None:
    proof = KEY.proof("GET", URL, access_token=TOKEN)
    verify(proof, now=NOW + 64)
    verify(proof, now=NOW - 5)
    assert "made too long ago" in refused(proof, now=NOW + 66)
    assert "made too long ago" in refused(proof, now=NOW - 6)


@pytest.mark.parametrize(
    "changes",
    [
        {"jti": ...}, {"jti": ""}, {"jti": 1}, {"jti": "x" * 600}, {"jti": "a\nb"}, {"htm": ...},
        {"htu": ...}, {"htu": ["x"]}, {"htu": "nonsense"}, {"iat": ...}, {"iat": True}, {"iat": "1"},
        {"iat": 10**400},
        {"iat": -1}, {"ath": ...}, {"ath": None},
    ],
)  # fmt: skip
def test_a_missing_or_misshapen_claim_is_refused(changes: dict[str, Any]) -> None:
    proof, jkt = forged({})
    verify(proof, bound_to=jkt)
    proof, jkt = forged(changes)
    refused(proof, bound_to=jkt)


@pytest.mark.parametrize(
    "header", [{"typ": "JWT"}, {"typ": "at+jwt"}, {"crit": ["htm"]}, {"jku": "https://e/"}, {"jwk": {}}]
)
def test_a_proof_with_another_header_is_refused(header: dict[str, Any]) -> None:
    proof, jkt = forged({}, header=header)
    refused(proof, bound_to=jkt)


def test_a_proof_signed_by_another_key_than_it_embeds_is_refused() -> None:
    proof, _ = forged({}, header={"jwk": dict(KEY.public_jwk)})
    assert "signature" in refused(proof)


def test_a_required_nonce_must_be_of_this_server_and_recent() -> None:
    now = [NOW]
    nonces = Nonces(b"s" * 32, clock=lambda: now[0])
    assert "nonce" in refused(
        KEY.proof("GET", URL, access_token=TOKEN), error="use_dpop_nonce", nonces=nonces
    )
    nonce = nonces.current()
    proof = KEY.proof("GET", URL, access_token=TOKEN, nonce=nonce)
    verify(proof, nonces=nonces)
    refused(proof, error="use_dpop_nonce", nonces=Nonces(b"t" * 32, clock=lambda: now[0]))
    now[0] += 60
    assert nonces.accepts(nonce)
    now[0] += 60
    assert not nonces.accepts(nonce)
    for noise in (None, 1, "", "é", ["x"]):
        assert not nonces.accepts(noise)


@pytest.mark.parametrize(
    "send",
    [
        lambda key: key.proof("GET", "https://user:pw@api.example/"),
        lambda key: key.proof("GET", "/orders"),
        lambda key: key.proof("GET", "file:///etc/passwd"),
    ],
)
def test_no_proof_is_made_for_what_is_no_plain_url(send: Callable[[ProofKey], str]) -> None:
    with pytest.raises(ValueError, match="URL"):
        send(KEY)


@settings(max_examples=examples(150), deadline=None)
@given(st.data())
def test_no_changed_proof_verifies(data: st.DataObject) -> None:
    proof = RFC_RESOURCE
    place = data.draw(st.integers(0, len(proof) - 1))
    character = data.draw(st.sampled_from("ABab09-_.= é"))
    changed = data.draw(
        st.sampled_from([proof[:place] + character + proof[place + 1 :], proof[:place], proof[place:]])
    )
    if changed != proof:
        refused(
            changed,
            bound_to=RFC_JKT,
            now=1562262620,
            token=RFC_TOKEN,
            url="https://resource.example.org/protectedresource",
        )


claim_values = st.none() | st.integers() | texts(max_size=9) | st.lists(st.integers(), max_size=2)


@settings(max_examples=examples(100), deadline=None)
@given(
    st.dictionaries(st.sampled_from(["jti", "htm", "htu", "iat", "ath", "nonce"]), claim_values, min_size=1)
)
def test_no_claims_of_whatever_shape_raise_anything_else(changes: dict[str, Any]) -> None:
    proof, jkt = forged({"htu": "https://elsewhere.example/", **changes})
    refused(proof, bound_to=jkt)


@pytest.mark.promise("proof-of-sent-request")
@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://api.example/groups/a%2fb?page=2", "https://api.example/groups/a%2fb"),
        ("https://api.example/%7Euser/%c3%bc#part?no", "https://api.example/%7Euser/%c3%bc"),
        ("https://api.example/a//b/;v=1", "https://api.example/a//b/;v=1"),
        ("https://API.example:443/A", "https://API.example:443/A"),
        ("https://api.example?q=/x", "https://api.example/"),
        ("https://api.example:8443#/x", "https://api.example:8443/"),
    ],
)
def test_a_proof_names_the_url_as_it_is_sent_and_its_other_forms_verify(url: str, sent: str) -> None:
    proof = KEY.proof("GET", url, access_token=TOKEN)
    assert decode(proof, None, typ=frozenset({"dpop+jwt"})).claims["htu"] == sent
    verify(proof, url=htu(url))


@pytest.mark.promise("proof-of-sent-request")
@pytest.mark.parametrize(
    "changes",
    [{"exp": NOW - 20}, {"exp": NOW - 5}, {"nbf": NOW + 6}, {"exp": None}, {"exp": "1"}, {"exp": True},
     {"exp": -1}, {"nbf": None}, {"nbf": str(NOW)}, {"exp": NOW + 50, "nbf": NOW + 40}],
)  # fmt: skip
def test_a_proof_outside_of_the_times_that_it_says_is_refused(changes: dict[str, Any]) -> None:
    proof, jkt = forged(changes)
    assert "ended, or is not valid yet" in refused(proof, bound_to=jkt)


def test_a_proof_within_its_times_is_still_good_for_a_moment_only() -> None:
    proof, jkt = forged({"exp": NOW + 3600, "nbf": NOW - 3600})
    verify(proof, bound_to=jkt)
    assert "made too long ago" in refused(proof, bound_to=jkt, now=NOW + 66)
    proof, jkt = forged({"exp": NOW - 4, "nbf": NOW + 5})
    verify(proof, bound_to=jkt)  # the leeway is for clocks that differ


@pytest.mark.promise("every-binding-verified")
@pytest.mark.parametrize("use", [{"use": "enc"}, {"key_ops": ["deriveBits"]}, {"key_ops": []}])
def test_a_proof_by_a_key_for_another_use_is_refused(use: dict[str, Any]) -> None:
    signer = Signer.generate()
    claims = {"jti": "j" * 22, "htm": "GET", "htu": URL, "iat": int(NOW), "ath": token_hash(TOKEN)}
    for members, accepted in (({"use": "sig", "key_ops": ["verify"], "ext": True}, True), (use, False)):
        head = signer.head(typ="dpop+jwt", jwk={**signer.public_jwk, **members})
        if accepted:
            verify(signer.sign(head, claims), bound_to=signer.kid)
        else:
            assert "not for signatures" in refused(signer.sign(head, claims), bound_to=signer.kid)


def test_a_proof_may_name_its_algorithm_as_ed25519() -> None:
    signer = Signer.generate("EdDSA")
    claims = {"jti": "j" * 22, "htm": "GET", "htu": URL, "iat": int(NOW), "ath": token_hash(TOKEN)}
    verify(
        signer.sign(signer.head(typ="dpop+jwt", jwk=signer.public_jwk, alg="Ed25519"), claims),
        bound_to=signer.kid,
    )
    proof, jkt = forged({}, header={"alg": "Ed25519"})  # the key is on P-256
    assert "algorithm" in refused(proof, bound_to=jkt)
