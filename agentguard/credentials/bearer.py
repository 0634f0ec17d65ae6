"""A token that is worth as much to whoever holds it (RFC 6750): for issuers that bind to no key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

__all__ = ["Bearer"]


class Bearer:
    """Presents one token as it is; a frame of it that fails holds no token."""

    __slots__ = ("__token",)

    def __init__(self, token: str) -> None:
        self.__token = token

    def __call__(self, _method: str, _url: str, _nonce: str | None) -> Mapping[str, str]:
        """Return the header of any request (RFC 6750 section 2.1)."""
        return {"Authorization": f"Bearer {self.__token}"}

    def __repr__(self) -> str:
        return "<bearer redacted>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a bearer token cannot be pickled or copied")
