"""The issuer's keys that a resource trusts, and the path for which each is valid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from jwt import PyJWK

from agentguard.concurrency.drive import Operation
from agentguard.errors import ConfigurationError, VerificationError
from agentguard.jose import Json, public_key
from agentguard.jose.key_source import KeySource
from agentguard.model import Resource, ToolPath
from agentguard.resource.claims import invalid

__all__ = ["Keys", "TrustedKeys", "UnknownKey"]

log = logging.getLogger("agentguard")


class UnknownKey(VerificationError):
    """The token names a key that is not in the set."""


class Keys:
    """A JWK Set (RFC 7517 section 5), read once.

    The issuers of agentguard have one key for each path, and the key names it (``agentguard_path``). The
    keys of another issuer name no path. *by_audience* then lists the paths that the resource tells apart
    by the token's audience alone, and keys of other kinds are ignored. With *lenient*, a key that is
    unusable verifies nothing, and neither do two keys of one `kid`; the log has a warning.

    Raises:
        ConfigurationError: A key is unusable, or two keys have one `kid`.
    """

    def __init__(
        self, jwks: Mapping[str, Json], *, by_audience: frozenset[ToolPath], lenient: bool = False
    ) -> None:
        self._paths, self._keys = by_audience, dict[str, tuple[ToolPath | None, PyJWK] | None]()
        for jwk in jwks.get("keys", ()):
            try:
                self._add(jwk)
            except ConfigurationError as error:
                if not lenient:
                    raise
                log.warning("a key is passed over: %s", error.problem)

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
            self._keys[kid] = None
            raise ConfigurationError(f"two keys have the kid {kid}", hint="give each path its own key")
        self._keys[kid] = (path, key)

    def find(self, header: Mapping[str, Json], path: ToolPath) -> PyJWK:
        """Return the key that a token names, if it is valid for *path*.

        Raises:
            UnknownKey: invalid_token; there is no such key.
            VerificationError: invalid_token; the key is for another path.
        """
        kid = header.get("kid")
        if not isinstance(kid, str) or kid not in self._keys:
            raise UnknownKey("invalid_token", _NOT_HERE)
        entry = self._keys[kid]
        if entry is None or entry[0] not in (path, None):
            raise invalid(_NOT_HERE)
        return entry[1]


_NOT_HERE = "the token was not signed with a key of this endpoint"


class TrustedKeys:
    """What a verifier takes as *keys*: a set that stays, or a source that is read again.

    `source` is None for a set that stays.

    Raises:
        ConfigurationError: A key of a set that stays is unusable, two paths have one audience, or a source is
            of another issuer.
    """

    def __init__(
        self,
        keys: Mapping[str, Json] | str | Path | KeySource,
        *,
        issuer: str,
        by_audience: Iterable[ToolPath],
        resource: Resource,
    ) -> None:
        self._paths = paths = frozenset(by_audience)
        if len({resource.audience(path) for path in paths}) != len(paths):
            raise ConfigurationError(
                f"two paths of {resource.name} share an audience", hint="give each path its own audience"
            )
        self.source = _source_of(keys, issuer)
        key_set = keys if isinstance(keys, Mapping) else {}
        # as one value: threads must not find the keys of one set beside another set
        self._parsed = (key_set, Keys(key_set, by_audience=paths))

    def require(self, path: ToolPath) -> None:
        """Refuse an endpoint on a path that the issuer's tokens are not for.

        Raises:
            VerificationError: invalid_token.
        """
        if self._paths and path not in self._paths:
            raise invalid("tokens of this issuer are not accepted on this path")

    async def verify(
        self, load: Operation | None, verify: Callable[[Keys], Mapping[str, Json]]
    ) -> Mapping[str, Json]:
        """Return what *verify* returns with the keys; if it lacks one, once more with newer keys.

        *load* is that of the source, None for a set that stays.

        Raises:
            VerificationError: 503, the source cannot be read; or what *verify* raises.
        """
        if load is None:
            return verify(self._parsed[1])
        key_set = await load()
        try:
            return verify(self._parse(key_set))
        except UnknownKey:
            newer = await load(key_set)
            if newer is key_set:
                raise
        return verify(self._parse(newer))

    def _parse(self, key_set: Mapping[str, Json]) -> Keys:
        parsed = self._parsed
        if parsed[0] is not key_set:
            self._parsed = parsed = (key_set, Keys(key_set, by_audience=self._paths, lenient=True))
        return parsed[1]


def _source_of(keys: Mapping[str, Json] | str | Path | KeySource, issuer: str) -> KeySource | None:
    if isinstance(keys, Mapping):
        return None
    if not isinstance(keys, KeySource):
        return KeySource(keys, issuer)
    if keys.issuer != issuer:
        raise ConfigurationError(
            f"the keys are those of {keys.issuer} and not of {issuer}", hint="name the same issuer twice"
        )
    return keys
