"""The claims of a token, parsed strictly, and the check that they are for the requested call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agentguard.errors import VerificationError
from agentguard.jose import Json, dpop_key, text_claim
from agentguard.model import DETAIL_TYPE, Arguments, ToolPath

__all__ = ["Claims", "Issuer", "invalid", "read_claims"]


@dataclass(frozen=True, slots=True)
class Issuer:
    """An authorization server that writes other claims than ours does.

    *name* is its identifier, which is the `iss` of its tokens. *client_claim* is the claim that names the
    client, ``azp`` at a server that writes no `client_id` (RFC 9068 section 2.2).

    With *binds_calls* False, a token need not name the one call that it is for. **Such a token is good for
    every call with its scopes at the endpoints of its path**, until it expires or is revoked: whoever makes
    the agent send a request can choose the tool and the arguments, and the resource cannot see the
    difference. It is still bound to one key, one resource and one path. A token that does name a call is
    held to it.
    """

    name: str
    client_claim: Literal["client_id", "azp"] = "client_id"
    binds_calls: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a verified token says: who acts, for whom, in which task, and for which call.

    `actor` is the `client_id`. `act` is the actor chain of RFC 8693, as it stands in the token. If `signed`
    is false, the values come from the issuer's introspection and not from a signed token. `tool` and `digest`
    are empty for a token that names no call (see `Issuer`).
    """

    id: str
    issuer: str
    subject: str
    actor: str
    act: Mapping[str, Json]
    task_id: str | None
    scopes: frozenset[str]
    expires_at: float
    path: ToolPath
    tool: str
    digest: str
    thumbprint: str
    signed: bool = True

    def require(
        self,
        *,
        scope: str | None = None,
        tool: str | None = None,
        arguments: Mapping[str, Json] | None = None,
    ) -> None:
        """Refuse a call that the token was not minted for.

        Raises:
            VerificationError: 403, insufficient_scope.
        """
        if scope is not None and scope not in self.scopes:
            raise _forbidden("the token lacks the scope")
        if not self.tool:
            return
        if tool is not None and tool != self.tool:
            raise _forbidden("the token is for another tool")
        if arguments is None:
            return
        try:
            digest = Arguments.of(arguments).json_digest
        except (ValueError, TypeError, RecursionError):
            raise _forbidden("the arguments have no canonical form") from None
        if digest != self.digest:
            raise _forbidden("the token is for a call with other arguments")


def read_claims(claims: Mapping[str, Json], path: ToolPath, *, issuer: Issuer, signed: bool = True) -> Claims:
    """Read the claims that RFC 9068 section 2.2 requires, and those of agentguard.

    The token must be bound to one DPoP key and to nothing else. A resource is not told the client's
    certificate, so it could not verify a second binding, such as `x5t#S256` (RFC 8705 section 3.1): whoever
    steals token and key would need less than the issuer has asked for.

    Raises:
        VerificationError: A claim is missing or malformed, or the token is for another path.
    """
    names = {name: text_claim(claims, name) for name in ("jti", "iss", "sub", issuer.client_claim)}
    scope, act = claims.get("scope", ""), claims.get("act", {})
    jkt, is_bound_to_more = dpop_key(claims)
    if None in names.values() or not isinstance(scope, str) or not isinstance(act, dict):
        raise invalid("the token lacks a required claim")
    if jkt is None:
        raise invalid("the token is not bound to a key")
    if is_bound_to_more:
        raise invalid("the token is bound to more than a DPoP key, which cannot be verified here")
    tool, digest = _call_of(claims, path, issuer)
    return Claims(
        id=str(names["jti"]),
        issuer=str(names["iss"]),
        subject=str(names["sub"]),
        actor=str(names[issuer.client_claim]),
        act=act,
        task_id=text_claim(claims, "txn"),
        scopes=frozenset(scope.split()),
        expires_at=float(claims["exp"]),
        path=path,
        tool=tool,
        digest=digest,
        thumbprint=jkt,
        signed=signed,
    )


def _call_of(claims: Mapping[str, Json], path: ToolPath, issuer: Issuer) -> tuple[str, str]:
    """Return the tool and the digest of the one call; both are empty where the token need not name one."""
    if not issuer.binds_calls and "authorization_details" not in claims:
        return "", ""
    return _details(claims.get("authorization_details"), path)


def _details(details: Json, path: ToolPath) -> tuple[str, str]:
    calls = [
        detail
        for detail in (details if isinstance(details, list) else ())
        if isinstance(detail, dict) and detail.get("type") == DETAIL_TYPE
    ]
    if len(calls) != 1:
        raise invalid("the token is not for exactly one call")
    tool, digest = text_claim(calls[0], "tool"), text_claim(calls[0], "digest")
    if tool is None or digest is None or calls[0].get("digest_alg") != "sha-256":
        raise invalid("the token does not say which call it is for")
    if calls[0].get("path") != path.value:
        raise _forbidden("the token is for another path")
    return tool, digest


def invalid(description: str) -> VerificationError:
    """Return the refusal of a token that is not valid here (RFC 6750 section 3.1)."""
    return VerificationError("invalid_token", description)


def _forbidden(description: str) -> VerificationError:
    return VerificationError("insufficient_scope", description, status=403)
