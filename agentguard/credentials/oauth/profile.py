"""What an authorization server supports, and how it names things."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["JWT", "IssuerProfile"]

JWT = "urn:ietf:params:oauth:token-type:jwt"


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerProfile:
    """What an authorization server supports, and how it names things.

    *resource_uris* gives the URI of an audience; an audience that is a URI needs none. *party_name*
    turns our name of a user or an agent into the server's name. *subject_token_type* is the type of the
    users' tokens. *bearer* is True if the server does not support DPoP: its tokens are then bound to no
    key. *details* is False if it does not know our authorization details: its tokens are then valid for
    every call with their scopes. *introspect* is False to trust the server for the subject and the actor
    of an opaque token; otherwise each opaque token is introspected, which costs one request.
    """

    resource_uris: Mapping[str, str] = field(default_factory=dict)
    party_name: Callable[[str], str] = str
    subject_token_type: str = JWT
    bearer: bool = False
    details: bool = True
    introspect: bool = True

    def resource_uri(self, audience: str) -> str | None:
        """Return the URI of an audience, or None if it has none."""
        return self.resource_uris.get(audience, audience if "://" in audience else None)
