"""The definitions of tools as a team has reviewed them, by their digests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

__all__ = ["PARTS", "Digests", "Pins", "digests_of"]

PARTS = ("description", "schema", "annotations", "server")
Digests = Mapping[str, str]


def digests_of(definition: Mapping[str, Any]) -> Digests:
    """Return the SHA-256 digest of each part of a definition, as hexadecimal digits."""
    return {part: _digest(definition.get(part)) for part in PARTS}


def _digest(value: Any) -> str:
    return _NONE if value is None else _of(value)


def _of(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return sha256(text.encode()).hexdigest()


_NONE = _of(None)
"""Most tools have neither annotations nor a server."""


@dataclass(frozen=True, slots=True)
class Pins:
    """The digests of the definitions that a lock file holds, by the name of the tool."""

    tools: Mapping[str, Digests]

    def differences(self, name: str, present: Digests) -> tuple[str, ...]:
        """Return what distinguishes a definition from the pinned one; nothing if they are the same."""
        pinned = self.tools.get(name)
        if pinned is None:
            return ("the lock file does not have it",)
        return tuple(
            f"its {part} is not the pinned one" for part in PARTS if pinned.get(part) != present[part]
        )
