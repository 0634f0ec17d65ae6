"""What a resource server says of a request that it refuses, in WWW-Authenticate (RFC 9110 section 11.6.1)."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

__all__ = ["Challenge"]

_MOST = 4096  # characters of the header that are read
_PARAMETER = re.compile(r'\b([A-Za-z_]{1,32})\s?=\s?(?:"((?:[^"\\]|\\.){0,1024})"|([^\s",]{1,1024}))')
_NOT_A_SCOPE = re.compile(r"[^\x21\x23-\x5B\x5D-\x7E ]")  # RFC 6749 section 3.3


class Challenge(NamedTuple):
    """The `error` (RFC 6750 section 3.1), the `scope` that is needed, and `resource_metadata` (RFC 9728).

    The values are a server's: they decide nothing, and a model is not told them.
    """

    error: str | None
    scope: str
    resource_metadata: str | None

    @classmethod
    def parse(cls, header: str) -> Self:
        """Read a header; of a parameter that occurs twice, the first counts."""
        values = dict[str, str]()
        for name, quoted, token in _PARAMETER.findall(header[:_MOST]):
            values.setdefault(name.lower(), quoted or token)
        scope = _NOT_A_SCOPE.sub("?", values.get("scope", ""))[:200]
        return cls(values.get("error"), scope, values.get("resource_metadata"))
