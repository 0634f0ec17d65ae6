"""What an authorization server supports, and how it names things."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agentguard.errors import ConfigurationError
from agentguard.jose import Json, text_claim

__all__ = ["ACCESS_TOKEN", "JWT", "TOKEN_TYPE", "IssuerProfile"]

TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"  # noqa: S105  what the names of types begin with
JWT, ACCESS_TOKEN = f"{TOKEN_TYPE}jwt", f"{TOKEN_TYPE}access_token"

_TEMPLATE = re.compile(r"[^{}]*\{([A-Za-z_][A-Za-z0-9_]*)\}[^{}]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerProfile:
    """What an authorization server supports, and how it names things.

    *resource_uris* gives the URI of an audience; an audience that is a URI needs none.

    **Names.** *party_name* turns our name of a user or an agent into the server's name. *subject* is for a
    server whose `sub` cannot be told from our name, such as a UUID: it is our name of a user as a text with
    one claim of the user's token in it, as in ``"user:{preferred_username}"``. The subject of the new token
    must then be the `sub` of the user's token. *agent_subject* is the `sub` of the agent's own tokens, if it
    is not the agent's name.

    **The user's token.** *subject_token_type* is its type (RFC 8693 section 3).

    **The agent.** By default the new token says with `act` who acts (RFC 8693 section 4.1). With
    *actor_client*, the agent's client id at the server, the server need not write `act`: the agent is then
    known by `client_id` or `azp`. Such a token does not tell a client that acts for a user from a client at
    which the user has logged in, and names no earlier actor. With *client_credentials*, an agent that acts
    for itself gets its tokens by that grant (RFC 6749 section 4.4), and not by an exchange of its own token.

    **The call.** *details* is False if the server does not know our authorization details: its tokens are
    then valid for every call with their scopes. *details_scope* is the name of a parameterized scope that
    carries them, as in ``"agentguard_call"`` (Keycloak 26.7, experimental); they are then not sent as
    `authorization_details`.

    **The key.** *bearer* is True if the server does not support DPoP: its tokens are then bound to no key.

    *introspect* is False to trust the server for the subject and the actor of an opaque token; otherwise
    each opaque token is introspected, which costs one request.

    Raises:
        ConfigurationError: *subject* has no claim in it, or there is a *details_scope* without *details*.
    """

    resource_uris: Mapping[str, str] = field(default_factory=dict)
    party_name: Callable[[str], str] = str
    subject: str | None = None
    agent_subject: str | None = None
    subject_token_type: str = JWT
    actor_client: str | None = None
    client_credentials: bool = False
    bearer: bool = False
    details: bool = True
    details_scope: str | None = None
    introspect: bool = True

    def __post_init__(self) -> None:
        if self.subject is not None and not _TEMPLATE.fullmatch(self.subject):
            raise ConfigurationError(
                f"{self.subject!r} does not say what users are called here",
                hint='put one claim of the user\'s token into it, as in "user:{preferred_username}"',
            )
        if self.details_scope is not None and not self.details:
            raise ConfigurationError(
                "details_scope carries the details, and details is false", hint="leave out one of them"
            )

    def resource_uri(self, audience: str) -> str | None:
        """Return the URI of an audience, or None if it has none."""
        return self.resource_uris.get(audience, audience if "://" in audience else None)

    def user_name(self, claims: Mapping[str, Json]) -> str | None:
        """Return our name of the user of a token, by *subject*; None if the token lacks the claim."""
        template = self.subject or ""
        match = _TEMPLATE.fullmatch(template)
        value = None if match is None else text_claim(claims, match[1])
        return None if match is None or value is None else template.replace(f"{{{match[1]}}}", value)

    def agent_name(self, actor: str) -> str:
        """Return the `sub` of a token that the agent *actor* has for itself."""
        return self.party_name(actor) if self.agent_subject is None else self.agent_subject
