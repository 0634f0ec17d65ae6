"""Public keys by their `kid`, of a set that stays or of one that is read again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from jwt import PyJWK

from agentguard.errors import ConfigurationError
from agentguard.jose.encoding import Json
from agentguard.jose.key_source import KeySource
from agentguard.jose.keys import public_key
from agentguard.text import label

__all__ = ["KeyTable"]

log = logging.getLogger("agentguard")


class KeyTable:
    """The keys of *owner*, on an event loop. *read* reads one JWK.

    Of a `KeySource` an unusable key verifies nothing, and the log has a warning.

    Raises:
        ConfigurationError: A key of a set that stays is unusable.
    """

    def __init__(
        self,
        keys: Mapping[str, Json] | KeySource,
        owner: str,
        *,
        read: Callable[[Json], PyJWK] = public_key,
    ) -> None:
        self._owner, self._read = owner, read
        self._load = keys.load.async_ if isinstance(keys, KeySource) else None
        # as one value: the keys of one set do not stand beside another set
        self._parsed: tuple[Mapping[str, Json], dict[str, PyJWK]] = ({}, {})
        if not isinstance(keys, KeySource):
            self._parsed = (keys, self._keys(keys, lenient=False))

    async def find(self, kid: str) -> PyJWK | None:
        """Return the key with this `kid`; where it is unknown, the set is read once more.

        Raises:
            VerificationError: 503, the keys cannot be read.
        """
        if self._load is None:
            return self._parsed[1].get(kid)
        key_set = await self._load()
        key = self._parse(key_set).get(kid)
        return self._parse(await self._load(key_set)).get(kid) if key is None else key

    def _parse(self, key_set: Mapping[str, Json]) -> dict[str, PyJWK]:
        parsed = self._parsed
        if parsed[0] is not key_set:
            self._parsed = parsed = (key_set, self._keys(key_set, lenient=True))
        return parsed[1]

    def _keys(self, key_set: Mapping[str, Json], *, lenient: bool) -> dict[str, PyJWK]:
        keys: dict[str, PyJWK] = {}
        for jwk in key_set.get("keys", ()):
            try:
                keys.setdefault(str(jwk["kid"]), self._read(jwk))
            except (KeyError, TypeError, ValueError) as error:
                if not lenient:
                    raise ConfigurationError(
                        f"the key set of {self._owner} holds an unusable key: {error}",
                        hint="give each key a kid, and use public keys",
                    ) from None
                log.warning("a key of %s is unusable and passed over", label(self._owner))
        return keys
