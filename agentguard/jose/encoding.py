"""JSON and base64url of tokens, each with one spelling, and the claims that are read from them."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, NoReturn

__all__ = [
    "Json",
    "b64url",
    "dpop_key",
    "encode",
    "is_revocation",
    "number_claim",
    "revocation_key",
    "strict_json",
    "text_claim",
    "token_hash",
    "unb64url",
    "unverified_claims",
    "unverified_parts",
]

Json = Any  # a JSON value, as in model

encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def strict_json(data: bytes) -> Json:
    """Parse JSON in UTF-8. Duplicate keys, NaN, infinities and too deep nesting are refused.

    Raises:
        ValueError: *data* is not such JSON.
    """
    try:
        return json.loads(
            data.decode(), object_pairs_hook=_distinct, parse_constant=_unknown, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _distinct(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key occurs twice")
    return members


def _unknown(_constant: str) -> NoReturn:
    raise ValueError("not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value


def b64url(data: bytes) -> str:
    """Return base64url without padding (RFC 7515 section 2)."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64url(text: str) -> bytes:
    """Decode base64url without padding and without unused bits.

    Raises:
        ValueError: *text* has another spelling.
    """
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if b64url(data) != text:
        raise ValueError("not canonical base64url")
    return data


def unverified_claims(token: str) -> dict[str, Json] | None:
    """Return the claims of a JWT, or None for an opaque token. The signature is not verified."""
    parts = unverified_parts(token)
    return None if parts is None else parts[1]


def unverified_parts(token: str) -> tuple[dict[str, Json], dict[str, Json]] | None:
    """Return the header and the claims of a JWT, or None for an opaque token; nothing is verified."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        header, claims = (strict_json(unb64url(part)) for part in parts[:2])
    except ValueError:
        return None
    return (header, claims) if isinstance(header, dict) and isinstance(claims, dict) else None


def token_hash(token: str) -> str:
    """Return the `ath` of an access token (RFC 9449 section 4.2)."""
    return b64url(hashlib.sha256(token.encode("ascii")).digest())


_REVOKED = "revoked:"


def revocation_key(issuer: str, jti: str) -> str:
    """Return the store's key for a revoked token: its issuer and `jti`, and never a hash of its text."""
    return f"{_REVOKED}{issuer}#{jti}"


def is_revocation(key: str) -> bool:
    """Return whether a store's key says that a token is revoked, and not that something was used."""
    return key.startswith(_REVOKED)


def text_claim(claims: Mapping[str, Json], name: str, *, limit: int = 512) -> str | None:
    """Return a claim that is a printable, non-empty string of at most *limit* characters, or None."""
    value = claims.get(name)
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= limit else None


_KEY_NOTES = frozenset({"jkt", "kc-jkt-type"})


def dpop_key(claims: Mapping[str, Json]) -> tuple[str | None, bool]:
    """Return the thumbprint of the DPoP key that a token is bound to, and whether it is bound to more.

    RFC 7800 section 3.1 lets a recipient ignore what it does not understand in `cnf`. Here each other member
    counts as a second binding. Only `kc-jkt-type` does not: Keycloak notes in it how it got the `jkt`.
    """
    cnf = claims.get("cnf")
    if not isinstance(cnf, dict):
        return None, cnf is not None
    return text_claim(cnf, "jkt"), not cnf.keys() <= _KEY_NOTES


def number_claim(claims: Mapping[str, Json], name: str) -> float | None:
    """Return a claim that is a number of seconds, such as a NumericDate (RFC 7519 section 2), or None."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        return None
    return float(value)
