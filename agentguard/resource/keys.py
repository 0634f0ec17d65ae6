"""The issuer's keys that a resource trusts, and the path for which each is valid."""

from __future__ import annotations

from collections.abc import Mapping

from jwt import PyJWK

from agentguard.errors import ConfigurationError
from agentguard.jose import Json, public_key
from agentguard.model import Resource, ToolPath
from agentguard.resource.claims import invalid

__all__ = ["Keys"]


class Keys:
    """A JWK Set (RFC 7517 section 5), read once.

    The issuers of agentguard have one key for each path, and the key names it (``agentguard_path``). The
    keys of another issuer name no path. *by_audience* then lists the paths that the resource tells apart
    by the token's audience alone, and keys of other kinds are ignored.

    Raises:
        ConfigurationError: A key is unusable, two keys have one `kid`, or two paths have one audience.
    """

    def __init__(
        self, jwks: Mapping[str, Json], *, by_audience: frozenset[ToolPath], resource: Resource
    ) -> None:
        self._paths = by_audience
        audiences = {resource.audience(path) for path in by_audience}
        if len(audiences) != len(by_audience):
            raise ConfigurationError(
                f"two paths of {resource.name} share an audience", hint="give each path its own audience"
            )
        self._keys: dict[str, tuple[ToolPath | None, PyJWK]] = {}
        for jwk in jwks.get("keys", ()):
            self._add(jwk)

    def _add(self, jwk: Json) -> None:
        try:
            kid, path = str(jwk["kid"]), None if self._paths else ToolPath(jwk["agentguard_path"])
            key = public_key(jwk)
        except (KeyError, TypeError, ValueError) as error:
            if self._paths and isinstance(jwk, Mapping):
                return
            raise ConfigurationError(
                f"the key set holds an unusable key: {error}",
                hint="give each key a kid and an agentguard_path, and use public P-256 or Ed25519 keys",
            ) from None
        if kid in self._keys:
            raise ConfigurationError(f"two keys have the kid {kid}", hint="give each path its own key")
        self._keys[kid] = (path, key)

    def require(self, path: ToolPath) -> None:
        """Refuse an endpoint on a path that the issuer's tokens are not for.

        Raises:
            VerificationError: invalid_token.
        """
        if self._paths and path not in self._paths:
            raise invalid("tokens of this issuer are not accepted on this path")

    def find(self, header: Mapping[str, Json], path: ToolPath) -> PyJWK:
        """Return the key that a token names, if it is valid for *path*.

        Raises:
            VerificationError: invalid_token.
        """
        self.require(path)
        kid = header.get("kid")
        entry = self._keys.get(kid) if isinstance(kid, str) else None
        if entry is None or entry[0] not in (path, None):
            raise invalid("the token was not signed with a key of this endpoint")
        return entry[1]
