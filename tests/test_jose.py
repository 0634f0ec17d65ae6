"""One spelling for each token, one algorithm for each key, one type for each use."""

from __future__ import annotations

import copy
import hmac
import json
import pickle
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt import PyJWK

from agentguard.errors import VerificationError
from agentguard.jose import (
    Algorithm,
    Jws,
    OtherKind,
    Signer,
    b64url,
    decode,
    htu,
    public_key,
    strict_json,
    thumbprint,
    token_hash,
    unb64url,
)
from tests.doubles.texts import texts
from tests.tiers import examples

TYP = frozenset({"at+jwt"})
RAW_KEY = ec.generate_private_key(ec.SECP256R1())
SIGNER = Signer(RAW_KEY)
EDWARDS = Signer.generate("EdDSA")
HEAD = SIGNER.head(typ="at+jwt", kid=SIGNER.kid)
TOKEN = SIGNER.sign(HEAD, {"sub": "user:4", "scope": "orders:read"})

RSA_N = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWK"
    "RXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMic"
    "AtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3"
    "XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)
RFC8037_KEY = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
RFC8037_SECRET = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
RFC8037_JWS = (
    "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIb"
    "QR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
)


def pinned(signer: Signer = SIGNER) -> PyJWK:
    return public_key({**signer.public_jwk, "kid": signer.kid, "alg": signer.algorithm, "use": "sig"})


def read(token: str, signer: Signer = SIGNER) -> Jws:
    return decode(token, lambda _header: pinned(signer), typ=TYP)


def refused(token: str, signer: Signer = SIGNER) -> str:
    with pytest.raises(VerificationError) as caught:
        read(token, signer)
    assert caught.value.error == "invalid_token"
    return caught.value.description


def raw(header: str, claims: str = "{}") -> str:
    """Sign exactly these bytes with the true key: only the strictness of `decode` can refuse it."""
    message = f"{b64url(header.encode())}.{b64url(claims.encode())}"
    signature = pinned().Algorithm.sign(message.encode(), RAW_KEY)
    return f"{message}.{b64url(signature)}"


def test_a_token_is_read_as_it_was_signed() -> None:
    header, claims, key = read(TOKEN)
    assert (header["kid"], claims["sub"], key.algorithm_name) == (SIGNER.kid, "user:4", "ES256")


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_what_we_sign_pyjwt_verifies_and_what_pyjwt_signs_we_verify(algorithm: Algorithm) -> None:
    key = Ed25519PrivateKey.generate() if algorithm == "EdDSA" else RAW_KEY
    signer = Signer(key)
    ours = signer.sign(signer.head(typ="at+jwt"), {"sub": "ü"})
    assert jwt.decode(ours, pinned(signer), algorithms=[algorithm]) == {"sub": "ü"}
    theirs = jwt.encode({"sub": "ü"}, key, algorithm, headers={"typ": "at+jwt"})
    assert read(theirs, signer).claims == {"sub": "ü"}


@pytest.mark.promise("one-spelling")
def test_a_padded_signature_is_refused_though_pyjwt_takes_it() -> None:
    padded = TOKEN + "=="
    assert jwt.decode(padded, pinned(), algorithms=["ES256"])["sub"] == "user:4"
    assert "three parts" in refused(padded)


@pytest.mark.parametrize(
    "spelling",
    [
        TOKEN + "\n",
        " " + TOKEN,
        TOKEN + ".",
        TOKEN.replace(".", "..", 1),
        TOKEN.replace(".", "", 1),
        TOKEN.rpartition(".")[0] + ".",
        TOKEN + "é",
        "",
        "..",
        "a.b.c=",
        TOKEN + "A" * 20_000,
    ],
)
def test_another_spelling_is_refused_before_anything_is_decoded(spelling: str) -> None:
    description = refused(spelling)
    assert "three parts" in description or (len(spelling) > 16_384 and "too long" in description)


def test_stray_bits_at_the_end_of_a_segment_are_refused() -> None:
    last = TOKEN[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for other in alphabet.replace(last, ""):
        refused(TOKEN[:-1] + other)


@pytest.mark.promise("one-spelling")
@pytest.mark.parametrize(
    ("header", "claims"),
    [
        ('{"alg":"ES256","typ":"JWT","typ":"at+jwt"}', "{}"),
        ('{"alg":"ES256","typ":"at+jwt"}', '{"scope":"a","scope":"b"}'),
        ('{"alg":"ES256","typ":"at+jwt"}', '{"cnf":{"jkt":"a","jkt":"b"}}'),
        ('{"alg":"ES256","typ":"at+jwt"}', '{"exp":NaN}'),
        ('{"alg":"ES256","typ":"at+jwt"}', '{"exp":1e999}'),
        ('{"alg":"ES256","typ":"at+jwt"}', "[]"),
        ('{"alg":"ES256","typ":"at+jwt"}', "[" * 5000),
        ('["alg"]', "{}"),
        ('\ufeff{"alg":"ES256","typ":"at+jwt"}', "{}"),
    ],
)
def test_json_that_two_readers_could_read_differently_is_refused(header: str, claims: str) -> None:
    refused(raw(header, claims))


@pytest.mark.promise("one-spelling")
@pytest.mark.parametrize(
    "member",
    [
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": True},
        {"b64": False},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/cert"},
        {"x5c": ["MIIB"]},
        {"zip": "DEF"},
        {"jwk": EDWARDS.public_jwk},
        {"jwk": SIGNER.public_jwk},
    ],
)
def test_a_header_that_points_to_other_keys_or_rules_is_refused(member: dict[str, Any]) -> None:
    header = {"alg": "ES256", "typ": "at+jwt", **member}
    assert "member" in refused(raw(json.dumps(header)))


@pytest.mark.promise("one-spelling")
@pytest.mark.parametrize("typ", ["JWT", "jwt", "dpop+jwt", "", "at+jwt ", None, 1, ["at+jwt"]])
def test_another_typ_is_refused(typ: Any) -> None:
    assert "type" in refused(raw(json.dumps({"alg": "ES256", "typ": typ})))


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"])
def test_typ_is_compared_as_a_media_type(typ: str) -> None:
    assert read(raw(json.dumps({"alg": "ES256", "typ": typ}))).claims == {}


def test_a_missing_typ_is_refused() -> None:
    refused(raw('{"alg":"ES256"}'))


@pytest.mark.promise("one-spelling")
def test_none_is_no_algorithm() -> None:
    for alg in ("none", "None", "NONE", ""):
        head = b64url(json.dumps({"alg": alg, "typ": "at+jwt"}).encode())
        refused(f"{head}.{b64url(b'{}')}.")
        refused(f"{head}.{b64url(b'{}')}.AAAA")


@pytest.mark.promise("one-spelling")
def test_the_public_key_is_no_hmac_secret() -> None:
    for secret in (
        RAW_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(SIGNER.public_jwk).encode(),
    ):
        message = b64url(b'{"alg":"HS256","typ":"at+jwt"}') + "." + b64url(b"{}")
        refused(f"{message}.{b64url(hmac.digest(secret, message.encode(), 'sha256'))}")


@pytest.mark.promise("one-spelling")
def test_each_key_has_one_algorithm() -> None:
    crossed = EDWARDS.sign(b64url(b'{"alg":"ES256","typ":"at+jwt"}'), {})
    assert "algorithm" in refused(crossed, EDWARDS)
    refused(crossed)
    assert "algorithm" in refused(TOKEN, EDWARDS)
    refused(EDWARDS.sign(EDWARDS.head(typ="at+jwt"), {}), SIGNER)


def test_only_a_public_key_of_a_known_kind_is_a_key() -> None:
    private = {**RFC8037_KEY, "d": RFC8037_SECRET}
    other_alg = {**SIGNER.public_jwk, "alg": "ES384"}
    rsa = {"kty": "RSA", "n": RSA_N, "e": "AQAB"}
    symmetric = {"kty": "oct", "k": "AAAA"}
    off_curve = {**SIGNER.public_jwk, "y": SIGNER.public_jwk["x"]}
    partial = {"kty": "EC", "crv": "P-256", "x": SIGNER.public_jwk["x"]}
    padded = {**RFC8037_KEY, "x": RFC8037_KEY["x"] + "="}
    unfit: list[Any] = [private, other_alg, rsa, symmetric, off_curve, partial, padded, {}, None, [], "x"]
    unfit += [{**RFC8037_KEY, "alg": alg} for alg in ("ES256", "Ed448", None, ["Ed25519"])]
    unfit.append({**SIGNER.public_jwk, "alg": "Ed25519"})
    for jwk in unfit:
        with pytest.raises(ValueError, match="key"):
            public_key(jwk)


@pytest.mark.promise("every-binding-verified")
def test_a_key_verifies_only_what_it_says_it_is_for() -> None:
    fit: list[Any] = [{"use": "sig"}, {"key_ops": ["verify"]}, {"use": "sig", "key_ops": ["sign", "verify"]}]
    unfit: list[Any] = [{"use": use} for use in ("enc", "", None, ["sig"], "SIG")]
    operations: tuple[Any, ...] = (
        [],
        ["sign"],
        ["encrypt"],
        ["verify", "encrypt"],
        ["verify", "verify"],
        "verify",
        None,
        [{}],
    )
    unfit += [{"key_ops": names} for names in operations]
    unfit += [{"use": "enc", "key_ops": ["verify"]}, {"use": "sig", "key_ops": ["deriveKey"]}]
    for key in (SIGNER, EDWARDS):
        for use in fit:
            public_key({**key.public_jwk, **use})
        for use in unfit:
            with pytest.raises(OtherKind, match="not for signatures"):
                public_key({**key.public_jwk, **use})


def test_an_embedded_key_with_a_private_part_is_refused() -> None:
    secret = RAW_KEY.private_numbers().private_value.to_bytes(32, "big")
    jwk = {**SIGNER.public_jwk, "d": b64url(secret)}
    token = raw(json.dumps({"alg": "ES256", "typ": "at+jwt", "jwk": jwk}))
    with pytest.raises(VerificationError, match="public JWK"):
        decode(token, None, typ=TYP)


def test_a_signer_shows_nothing_and_stays_here() -> None:
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="private key"):
            leak(SIGNER)
    secret = str(RAW_KEY.private_numbers().private_value)
    assert secret not in repr(SIGNER)
    assert not hasattr(SIGNER, "__dict__")


def test_thumbprint_of_rfc_7638_section_3_1() -> None:
    jwk = {"kty": "RSA", "n": RSA_N, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    assert thumbprint(jwk) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_key_thumbprint_and_signature_of_rfc_8037_appendix_a() -> None:
    signer = Signer(Ed25519PrivateKey.from_private_bytes(unb64url(RFC8037_SECRET)))
    assert signer.public_jwk == RFC8037_KEY
    assert thumbprint(RFC8037_KEY) == signer.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    message, _, signature = RFC8037_JWS.rpartition(".")
    key = public_key(RFC8037_KEY)
    assert key.Algorithm.verify(message.encode(), key.key, unb64url(signature))


def test_token_hash_of_rfc_9449_section_7_1() -> None:
    token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
    assert token_hash(token) == "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://API.Example:443/a?q=1#f", "https://api.example/a"),
        ("http://127.0.0.1:80", "http://127.0.0.1/"),
        ("HTTP://127.0.0.1:8000/", "http://127.0.0.1:8000/"),
        ("https://[::1]:8443/x", "https://[::1]:8443/x"),
        ("https://a/%7euser/%2fx%c3", "https://a/~user/%2Fx%C3"),
    ],
)
def test_htu_is_normalised(url: str, expected: str) -> None:
    assert htu(url) == expected == htu(expected)


@pytest.mark.parametrize(
    "url",
    ["/relative", "ftp://a/", "https:///x", "https://user:pw@a/", "https://a/../b", "https://a/%2E%2e/b",
     "https://ä/", "https://a/\n", "https://a /", "https://a:99999/", "https://[::1/", ""],
)  # fmt: skip
def test_a_url_that_two_readers_could_read_differently_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        htu(url)


def test_strict_json_takes_utf_8_alone() -> None:
    assert strict_json('{"a":["ü",1]}'.encode()) == {"a": ["ü", 1]}
    for data in ('{"a":1}'.encode("utf-16"), b"\xff", b'{"a":1}{', b"", b"Infinity", b"9" * 5000):
        with pytest.raises(ValueError, match=r".+"):
            strict_json(data)


@pytest.mark.promise("one-spelling")
@settings(max_examples=examples(300), deadline=None)
@given(st.data())
def test_no_changed_token_verifies(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(TOKEN) - 1))
    kind = data.draw(st.sampled_from(["replace", "delete", "insert", "cut"]))
    character = data.draw(st.sampled_from("ABab09-_.=+/ \n\x00é"))
    changed = {
        "replace": TOKEN[:place] + character + TOKEN[place + 1 :],
        "delete": TOKEN[:place] + TOKEN[place + 1 :],
        "insert": TOKEN[:place] + character + TOKEN[place:],
        "cut": TOKEN[:place],
    }[kind]
    if changed != TOKEN:
        refused(changed)


@settings(max_examples=examples(300), deadline=None)
@given(
    st.one_of(texts(), st.binary().map(lambda b: ".".join([b64url(b)] * 3)), st.text("aZ09-_.=", max_size=60))
)
def test_noise_is_refused_and_nothing_else_is_raised(noise: str) -> None:
    refused(noise)
    with pytest.raises(VerificationError):
        decode(noise, None, typ=TYP)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=examples(200), deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["alg", "typ", "kid", "jwk", "crit"]),
        json_values
        | st.sampled_from(["ES256", "EdDSA", "at+jwt", "none"])
        | st.fixed_dictionaries(
            {"kty": json_values | st.just("EC"), "crv": st.just("P-256"), "x": json_values, "y": json_values}
        ),
    )
)
def test_no_header_of_whatever_shape_raises_anything_else(header: dict[str, Any]) -> None:
    token = f"{b64url(json.dumps(header).encode())}.{b64url(b'{}')}.{b64url(b'x' * 64)}"
    refused(token)
    with pytest.raises(VerificationError):
        decode(token, None, typ=TYP)
