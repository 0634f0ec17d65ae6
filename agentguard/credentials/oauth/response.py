"""Whether an authorization server issued the token that was asked for: the same parties, no more rights.

The claims are read without a check of the signature. They come from the issuer itself, over TLS, and
decide only whether the broker uses the answer (compare OpenID Connect Core 1.0 section 3.1.3.7).
The resource server that receives the token verifies it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from agentguard.credentials.oauth.profile import ACCESS_TOKEN
from agentguard.jose import Json, dpop_key, unverified_claims
from agentguard.model import Secret

__all__ = ["ExpectedToken", "InvalidResponse", "claims_of", "token_in", "validate_response"]

# Okta and Microsoft Entra write scp, Auth0 permissions; RFC 9068 section 2.2.3.1 has the others
_RIGHTS = frozenset({"scp", "roles", "entitlements", "permissions"})
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,16384}=*")  # RFC 6750 section 2.1, as RFC 9449 section 7.1


class InvalidResponse(ValueError):
    """Says what is wrong with an answer; the message repeats nothing of the answer."""


class ExpectedToken(NamedTuple):
    """The token that was asked for.

    `subject` is None where the server's own name of the user is not known. `actor` is None if the agent acts
    for itself. `actor_issuers` are those whose name for an actor it is.
    `actor_client` is the client id by which the agent may be known instead. `thumbprint` is None for a bearer
    token. `exchanged` is False for a token that the client got for itself, without an exchange.
    """

    issuer: str
    subject: str | None
    actor: str | None
    actor_issuers: frozenset[str]
    actor_client: str | None
    scopes: frozenset[str]
    audiences: frozenset[str]
    detail: Mapping[str, Json] | None
    thumbprint: str | None
    exchanged: bool


def token_in(body: dict[str, Json]) -> Secret:
    """Take the token out of an answer (RFC 8693 section 2.2.1), so that no stack frame shows it.

    Raises:
        InvalidResponse: The answer has no token, or one that cannot stand in a header.
    """
    token = body.pop("access_token", None)
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        token = None  # a traceback may show this frame's variables
        raise InvalidResponse("answered without a token")
    return Secret(token)


def claims_of(token: Secret) -> dict[str, Json] | None:
    """Return the claims of a JWT, or None for an opaque token. The signature is not verified."""
    return unverified_claims(token.reveal())


def validate_response(
    expected: ExpectedToken, body: Mapping[str, Json], claims: Mapping[str, Json] | None
) -> None:
    """Compare an answer, and the claims of its token if they can be read, with the expected token.

    Raises:
        InvalidResponse: The token is another one than expected.
    """
    _validate_type(expected, body)
    _validate_scope(expected, body)
    if expected.detail is not None:
        members = body if claims is None or "authorization_details" not in claims else claims
        _validate_details(expected.detail, members)
    if claims is None:
        return
    _validate_scope(expected, claims)
    _validate_parties(expected, claims)
    _validate_use(expected, claims)


def _validate_type(expected: ExpectedToken, body: Mapping[str, Json]) -> None:
    if body.get("issued_token_type", None if expected.exchanged else ACCESS_TOKEN) != ACCESS_TOKEN:
        raise InvalidResponse("issued another type of token")
    kind, scheme = body.get("token_type"), "Bearer" if expected.thumbprint is None else "DPoP"
    if not isinstance(kind, str) or kind.lower() != scheme.lower():
        raise InvalidResponse(f"the token's type is not {scheme}")


def _validate_scope(expected: ExpectedToken, members: Mapping[str, Json]) -> None:
    """Check that no member grants more than the scopes that were asked for.

    Without a `scope` it is the one that was asked for (RFC 6749 section 5.1). What is not compared: `groups`,
    which say who the user is, and the roles that Keycloak nests in `realm_access` and `resource_access`.
    """
    scope = members.get("scope", "")
    if not isinstance(scope, str) or not expected.scopes.issuperset(scope.split()):
        raise InvalidResponse("the scope is wider than asked")
    for name in _RIGHTS & members.keys():
        rights = members[name]
        names = rights.split() if isinstance(rights, str) else rights
        if not isinstance(names, list) or not all(isinstance(right, str) for right in names):
            raise InvalidResponse(f"the {name} cannot be read, and so may be wider than asked")
        if not expected.scopes.issuperset(map(str, names)):
            raise InvalidResponse(f"the {name} are wider than the scopes that were asked for")


def _validate_details(detail: Mapping[str, Json], members: Mapping[str, Json]) -> None:
    """Check the authorization details. A server may add members (RFC 9396 section 7.1), not remove any."""
    details = members.get("authorization_details")
    if not isinstance(details, list) or len(details) != 1 or not isinstance(details[0], dict):
        raise InvalidResponse("the token is not for exactly one call")
    if any(details[0].get(name) != value for name, value in detail.items()):
        raise InvalidResponse("the token is for another call")


def _validate_parties(expected: ExpectedToken, claims: Mapping[str, Json]) -> None:
    """Check subject and actor. Only the outermost actor counts (RFC 8693 section 4.1).

    An `act` may say with `iss` whose name for the actor `sub` is. Another issuer's actor of the same name is
    another actor. Where the agent may be known by its client id, the token must name that client and no
    other.
    """
    if expected.subject is not None and claims.get("sub") != expected.subject:
        raise InvalidResponse("the token is for another subject")
    act = claims.get("act")
    if expected.actor_client is not None:
        clients = {claims[name] for name in ("client_id", "azp") if isinstance(claims.get(name), str)}
        if clients != {expected.actor_client}:
            raise InvalidResponse("the token is for another client")
        if act is None:
            return
    actor = act.get("sub") if isinstance(act, dict) else None
    if expected.actor is not None and actor is None:
        raise InvalidResponse("the token impersonates: it does not say who acts for its subject")
    if actor != expected.actor or (act is not None and actor is None):
        raise InvalidResponse("the token is for another actor")
    if isinstance(act, dict) and "iss" in act and act["iss"] not in tuple(expected.actor_issuers):
        raise InvalidResponse("the token is for another issuer's actor")


def _validate_use(expected: ExpectedToken, claims: Mapping[str, Json]) -> None:
    """Check the issuer, the audience, and the key that the token is bound to."""
    if claims.get("iss") != expected.issuer:
        raise InvalidResponse("the token is by another issuer")
    audience = claims.get("aud")
    if isinstance(audience, list) and len(audience) == 1:
        audience = audience[0]
    if not isinstance(audience, str) or audience not in expected.audiences:
        raise InvalidResponse("the token is for another audience")
    thumbprint, is_bound_to_more = dpop_key(claims)
    if expected.thumbprint is not None and thumbprint != expected.thumbprint:
        raise InvalidResponse("the token is not bound to our key")
    if expected.thumbprint is not None and is_bound_to_more:
        raise InvalidResponse("the token is bound to more than our key")
