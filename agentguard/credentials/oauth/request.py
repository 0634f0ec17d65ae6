"""The request for one token, and which token it asks for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agentguard.credentials.oauth.profile import ACCESS_TOKEN, JWT, IssuerProfile
from agentguard.credentials.oauth.response import ExpectedToken, claims_of
from agentguard.credentials.oauth.server import Form
from agentguard.jose import text_claim
from agentguard.model import Grant, Secret

__all__ = [
    "CallFields",
    "InvalidRequest",
    "NoUserToken",
    "TokenRequest",
    "User",
    "call_fields",
    "is_for_itself",
    "request_of",
    "user_of",
]

_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


class InvalidRequest(ValueError):
    """Says why no token can be asked for; the message repeats nothing of a token."""


class NoUserToken(InvalidRequest):
    """Says that the guard has no token of the task's user, who may have to log in."""


class User(NamedTuple):
    """The user for whom the agent acts: their token, and the `sub` that the new token must have."""

    token: Secret
    subject: str


class TokenRequest(NamedTuple):
    """A form for the token endpoint, and the token that it asks for."""

    form: Form
    expected: ExpectedToken


def user_of(grant: Grant, profile: IssuerProfile, issuer: str) -> User | None:
    """Return the user of the grant's task, or None if the agent acts for itself.

    Raises:
        NoUserToken: The task has a user, and the user's token is missing.
        InvalidRequest: The user's token is known not to be of the task's subject.
    """
    identity, token = grant.identity, grant.subject_token
    if (token is None) is not is_for_itself(grant):
        kind = NoUserToken if token is None else InvalidRequest
        raise kind("a task with a user needs the user's token, and a task without a user has none")
    if token is None:
        return None
    claims, name = claims_of(token), profile.party_name(identity.subject)
    if claims is None and (profile.subject_token_type == JWT or profile.subject is not None):
        raise InvalidRequest("the token of the user is no JWT")
    if claims is None:
        return User(token, name)
    if profile.subject is None:
        is_user = claims.get("sub") == name
    else:  # a name that another issuer gives to somebody is nobody's here
        is_user = claims.get("iss") == issuer and profile.user_name(claims) == identity.subject
    subject = text_claim(claims, "sub")
    if not is_user or subject is None:
        raise InvalidRequest("the token of the user is not of the task's subject")
    return User(token, subject)


def is_for_itself(grant: Grant) -> bool:
    """Return whether the agent acts for itself, and for no user."""
    return grant.identity.subject == grant.identity.actor


def request_of(
    grant: Grant,
    user: User | None,
    agent: Secret | None,
    *,
    profile: IssuerProfile,
    issuer: str,
    thumbprint: str | None,
) -> TokenRequest:
    """Return the request for the token of one call.

    *agent* is the proof of the agent's identity, or None for client credentials. *thumbprint* is that of the
    key that the token is to be bound to.

    Raises:
        InvalidRequest: The call's details cannot stand in a scope.
    """
    call = call_fields(grant, profile)
    form = {**_grant_fields(user, agent, profile), **call.target, **call.form(grant.scopes)}
    identity = grant.identity
    expected = ExpectedToken(
        issuer=issuer,
        subject=profile.agent_name(identity.actor) if user is None else user.subject,
        actor=None if user is None else profile.party_name(identity.actor),
        actor_issuers=frozenset({issuer, *_issuers_of(agent)}),
        actor_client=profile.actor_client,
        scopes=grant.scopes.union(call.scopes),
        audiences=frozenset({grant.audience, *call.target.values()}),
        detail=grant.detail() if profile.details else None,
        thumbprint=thumbprint,
        exchanged=agent is not None,
    )
    return TokenRequest(form, expected)


class CallFields(NamedTuple):
    """How a request names the call: the resource that it is for, and its details.

    `target` has the resource's URI (RFC 8707) or its audience (RFC 8693). `scopes` are those that carry the
    details at a server that takes them so; elsewhere `details` has them.
    """

    target: Mapping[str, str]
    scopes: tuple[str, ...]
    details: Mapping[str, str]

    @property
    def resource(self) -> Mapping[str, str]:
        """The target at a server that knows no audiences of RFC 8693."""
        return {name: value for name, value in self.target.items() if name == "resource"}

    def form(self, scopes: Iterable[str]) -> dict[str, str]:
        """Return the fields for a token with *scopes*, without the target."""
        words = [*sorted(scopes), *self.scopes]
        return {**({"scope": " ".join(words)} if words else {}), **self.details}


def call_fields(grant: Grant, profile: IssuerProfile) -> CallFields:
    """Return how a request to the server of *profile* names the grant's call.

    Raises:
        InvalidRequest: The call's details cannot stand in a scope.
    """
    uri, scopes = profile.resource_uri(grant.audience), _call_scopes(grant, profile)
    details = {}
    if profile.details and profile.details_scope is None:
        details["authorization_details"] = json.dumps([grant.detail()])
    return CallFields({"audience": grant.audience} if uri is None else {"resource": uri}, scopes, details)


def _grant_fields(
    user: User | None, agent: Secret | None, profile: IssuerProfile
) -> Mapping[str, str | Secret]:
    if agent is None:
        return {"grant_type": "client_credentials"}
    fields: dict[str, str | Secret] = {
        "grant_type": _EXCHANGE,
        "requested_token_type": ACCESS_TOKEN,
        "subject_token": agent if user is None else user.token,
        "subject_token_type": JWT if user is None else profile.subject_token_type,
    }
    return fields if user is None else {**fields, "actor_token": agent, "actor_token_type": JWT}


def _call_scopes(grant: Grant, profile: IssuerProfile) -> tuple[str, ...]:
    """Return the parameterized scope that carries the call's details, if the server has one.

    The details stand in it as JSON, which has characters that RFC 6749 section 3.3 does not allow in a scope.
    The server that has such scopes takes them, but a blank would begin another scope.
    """
    if profile.details_scope is None:
        return ()
    scope = f"{profile.details_scope}:{json.dumps([grant.detail()], separators=(',', ':'))}"
    if not scope.isprintable() or " " in scope:
        raise InvalidRequest("the details of the call cannot stand in a scope")
    return (scope,)


def _issuers_of(agent: Secret | None) -> tuple[str, ...]:
    """Return who has named the agent in its own token; a server may repeat that in `act`.

    A SPIFFE ID names its issuer itself: the trust domain. A JWT-SVID need not have an `iss`.
    """
    claims = (None if agent is None else claims_of(agent)) or {}
    issuer, subject = text_claim(claims, "iss"), text_claim(claims, "sub") or ""
    scheme, _, rest = subject.partition("://")
    trust_domain = f"spiffe://{rest.partition('/')[0]}" if scheme == "spiffe" else None
    return tuple(name for name in (issuer, trust_domain) if name is not None)
