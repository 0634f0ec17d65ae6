"""Whether an authorization server gave what was asked for: no more, to nobody else, for no other.

The claims are read without their signature: they come from the issuer itself, over TLS, and decide
only whether its answer is used (compare OpenID Connect Core 1.0 section 3.1.3.7). Whoever receives
the token verifies it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from agentguard.jose import Json, strict_json, unb64url
from agentguard.model import Secret

__all__ = ["ACCESS_TOKEN", "Asked", "Unfit", "claims_of", "judge", "token_in"]

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105  the name of a type
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,16384}=*")  # RFC 6750 section 2.1, as RFC 9449 section 7.1


class Unfit(ValueError):
    """Says what is wrong with an answer, in words of our own."""


class Asked(NamedTuple):
    """What was asked for; `actor` is None if the agent acts for itself, `thumbprint` for a bearer token."""

    issuer: str
    subject: str
    actor: str | None
    scopes: frozenset[str]
    audiences: frozenset[str]
    detail: Mapping[str, Json] | None
    thumbprint: str | None


def token_in(body: dict[str, Json]) -> Secret:
    """Take the token out of an answer (RFC 8693 section 2.2.1), so that no frame shows it.

    Raises:
        Unfit: It has none that could be presented.
    """
    token = body.pop("access_token", None)
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        token = None  # a frame that fails is shown with what it holds
        raise Unfit("answered without a token")
    return Secret(token)


def claims_of(token: Secret) -> dict[str, Json] | None:
    """Return the claims of a JWT, or None for a token that is opaque. Nothing is verified."""
    parts = token.reveal().split(".")
    if len(parts) != 3:
        return None
    try:
        header, claims = (strict_json(unb64url(part)) for part in parts[:2])
    except ValueError:
        return None
    return claims if isinstance(header, dict) and isinstance(claims, dict) else None


def judge(asked: Asked, body: Mapping[str, Json], claims: Mapping[str, Json] | None) -> None:
    """Compare an answer, and the claims of its token where they can be seen, with what was asked for.

    Raises:
        Unfit: It is not that.
    """
    _type(asked, body)
    _scope(asked, body)
    if asked.detail is not None:
        _details(asked.detail, body if claims is None or "authorization_details" not in claims else claims)
    if claims is None:
        return
    _scope(asked, claims)
    _parties(asked, claims)
    _place(asked, claims)


def _type(asked: Asked, body: Mapping[str, Json]) -> None:
    if body.get("issued_token_type") != ACCESS_TOKEN:
        raise Unfit("issued another type of token")
    kind, scheme = body.get("token_type"), "Bearer" if asked.thumbprint is None else "DPoP"
    if not isinstance(kind, str) or kind.lower() != scheme.lower():
        raise Unfit(f"the token is to be presented otherwise than by {scheme}")


def _scope(asked: Asked, said: Mapping[str, Json]) -> None:
    if "scope" not in said:  # RFC 6749 section 5.1: it is what was asked for
        return
    scope = said["scope"]
    if not isinstance(scope, str) or not asked.scopes.issuperset(scope.split()):
        raise Unfit("the scope is wider than asked")


def _details(detail: Mapping[str, Json], said: Mapping[str, Json]) -> None:
    """The server may enrich what it grants (RFC 9396 section 7.1), and take nothing of it away."""
    granted = said.get("authorization_details")
    if not isinstance(granted, list) or len(granted) != 1 or not isinstance(granted[0], dict):
        raise Unfit("the token is not for exactly one call")
    if any(granted[0].get(name) != value for name, value in detail.items()):
        raise Unfit("the token is for another call")


def _parties(asked: Asked, claims: Mapping[str, Json]) -> None:
    """Only the outermost actor counts (RFC 8693 section 4.1)."""
    if claims.get("sub") != asked.subject:
        raise Unfit("the token is for another subject")
    act = claims.get("act")
    actor = act.get("sub") if isinstance(act, dict) else None
    if asked.actor is not None and actor is None:
        raise Unfit("the token impersonates: it does not say who acts for its subject")
    if actor != asked.actor or (act is not None and actor is None):
        raise Unfit("the token is for another actor")


def _place(asked: Asked, claims: Mapping[str, Json]) -> None:
    if claims.get("iss") != asked.issuer:
        raise Unfit("the token is by another issuer")
    audience = claims.get("aud")
    if isinstance(audience, list) and len(audience) == 1:
        audience = audience[0]
    if not isinstance(audience, str) or audience not in asked.audiences:
        raise Unfit("the token is for another audience")
    cnf = claims.get("cnf")
    bound = cnf.get("jkt") if isinstance(cnf, dict) else None
    if asked.thumbprint is not None and bound != asked.thumbprint:
        raise Unfit("the token is not bound to our key")
