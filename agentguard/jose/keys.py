"""Public keys (RFC 7517). The kind of a key determines its one algorithm."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK, PyJWTError

from agentguard.jose.encoding import Json, b64url, encode, unb64url

__all__ = [
    "ALGORITHMS",
    "ALGORITHM_NAMES",
    "NEWER_NAMES",
    "Algorithm",
    "OtherKind",
    "Refusal",
    "public_jwk",
    "public_key",
    "set_key",
    "thumbprint",
]

Algorithm = Literal["ES256", "EdDSA"]

ALGORITHMS: Final[tuple[Algorithm, ...]] = ("ES256", "EdDSA")
NEWER_NAMES: Final = {"Ed25519": "EdDSA"}  # RFC 9864 section 2.2: EdDSA with a key on Ed25519
ALGORITHM_NAMES: Final = (*ALGORITHMS, *NEWER_NAMES)  # the names that a token's header may have

_KINDS = (("EC", "P-256", "ES256"), ("OKP", "Ed25519", "EdDSA"))
_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_RSA_BITS = range(2048, 8192 + 1)  # RFC 7518 section 3.3; a longer key takes a receiver's time
_RSA_EXPONENT = "AQAB"  # 65537, which is what issuers use


class Refusal(ValueError):
    """Says what is wrong with a token or a key. The message repeats nothing of it."""


class OtherKind(Refusal):
    """Says that a key is of another kind, or for another use, than those accepted here."""


def public_key(jwk: Json) -> PyJWK:
    """Read a public JWK. Its curve determines the algorithm: ES256 for P-256, EdDSA for Ed25519.

    A key that names a use must be for signatures alone (RFC 7517 sections 4.2 and 4.3 say SHOULD).

    Raises:
        OtherKind: The key is of another kind, or names another algorithm or use.
        ValueError: The key is malformed, or has a private part.
    """
    if not isinstance(jwk, Mapping) or not _PRIVATE.isdisjoint(jwk):
        raise Refusal("the key is not a public JWK")
    kind = (jwk.get("kty"), jwk.get("crv"))
    algorithm = next((alg for kty, crv, alg in _KINDS if (kty, crv) == kind), None)
    name = jwk.get("alg", algorithm)
    if algorithm is None or not isinstance(name, str) or NEWER_NAMES.get(name, name) != algorithm:
        raise OtherKind("the key is of a kind that is not accepted")
    if not _is_for_signatures(jwk):
        raise OtherKind("the key is not for signatures")
    try:
        members = {name: b64url(unb64url(jwk[name])) for name in ("x", "y") if name in jwk}
        return PyJWK({"kty": kind[0], "crv": kind[1], **members}, algorithm=algorithm)
    except (PyJWTError, ValueError, TypeError):
        raise Refusal("the key is malformed") from None


def set_key(jwk: Json) -> PyJWK:
    """Read a public JWK that verifies security event tokens: as `public_key`, or an RSA key for RS256.

    The CAEP Interoperability Profile 1.0 (section 2.6) demands RS256. No access token or proof is verified by
    such a key. It has 2,048 to 8,192 bits and the exponent 65537.

    Raises:
        OtherKind: The key is of another kind, or names another algorithm or use.
        ValueError: The key is malformed, or has a private part.
    """
    if not isinstance(jwk, Mapping) or jwk.get("kty") != "RSA" or not _PRIVATE.isdisjoint(jwk):
        return public_key(jwk)
    if jwk.get("alg", "RS256") != "RS256":
        raise OtherKind("the key is for another algorithm than RS256")
    if not _is_for_signatures(jwk):
        raise OtherKind("the key is not for signatures")
    try:
        modulus = unb64url(jwk["n"])
    except (KeyError, ValueError, TypeError):
        raise Refusal("the key is malformed") from None
    if int.from_bytes(modulus, "big").bit_length() not in _RSA_BITS or jwk.get("e") != _RSA_EXPONENT:
        raise OtherKind("an RSA key has 2048 to 8192 bits and the exponent 65537")
    try:
        return PyJWK({"kty": "RSA", "n": jwk["n"], "e": jwk["e"]}, algorithm="RS256")
    except (PyJWTError, ValueError, TypeError):
        raise Refusal("the key is malformed") from None


def _is_for_signatures(jwk: Mapping[str, Json]) -> bool:
    operations, use = jwk.get("key_ops", ["verify"]), jwk.get("use", "sig")
    return use == "sig" and operations in (["verify"], ["sign", "verify"], ["verify", "sign"])


def public_jwk(key: ec.EllipticCurvePublicKey | Ed25519PublicKey) -> dict[str, str]:
    """Return a public key as a JWK (RFC 7518 section 6.2.1, RFC 8037 section 2).

    Raises:
        ValueError: It is an elliptic-curve key on another curve than P-256.
    """
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("an elliptic-curve key must be on P-256, for ES256")
        point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return {"kty": "EC", "crv": "P-256", "x": b64url(point[1:33]), "y": b64url(point[33:])}
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {"kty": "OKP", "crv": "Ed25519", "x": b64url(raw)}


def thumbprint(public_jwk: Mapping[str, Json]) -> str:
    """Return the SHA-256 thumbprint of a JWK (RFC 7638 section 3, RFC 8037 section 2).

    Raises:
        KeyError: A required member is missing, or the key type is unknown.
    """
    required = {name: public_jwk[name] for name in _MEMBERS[public_jwk["kty"]]}
    return b64url(hashlib.sha256(encode(required).encode()).digest())
