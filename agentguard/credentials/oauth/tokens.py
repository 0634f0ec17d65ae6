"""Tokens that an authorization server has issued and that are not yet revoked."""

from __future__ import annotations

import re
from threading import Lock
from typing import NamedTuple, Self

from agentguard.credentials.oauth.response import claims_of
from agentguard.credentials.sealing import Seal
from agentguard.jose import number_claim, text_claim
from agentguard.model import Secret

__all__ = ["Living", "LivingTokens"]

_NOTE = re.compile(r"(\d{1,16})\.([ -~]{1,512})")


class Living(NamedTuple):
    """What revokes a token: itself, where it is known, and the `jti` of a JWT; `ends` by itself then."""

    token: Secret | None
    jti: str | None
    ends: float

    @classmethod
    def of(cls, token: Secret, ends: float) -> Self:
        """Read what a token says of itself; one that does not say when it ends, does so at *ends*."""
        claims = claims_of(token) or {}
        return cls(token, text_claim(claims, "jti"), number_claim(claims, "exp") or ends)


class LivingTokens:
    """Finds a token by its handle: in this process, sealed in the handle, or named by it.

    A handle is the token itself where there is a *seal*. Otherwise it is, for a JWT, its end and its
    `jti`; for an opaque token the id that was given, which finds it in this process only.
    """

    def __init__(self, seal: Seal | None, *, context: str, limit: int) -> None:
        self._seal, self._context, self._limit = seal, context, limit
        self._kept: dict[str, Living] = {}
        self._lock = Lock()

    def full(self, now: float) -> bool:
        """Return whether there is no room for one more, once those that have ended are dropped."""
        with self._lock:
            if len(self._kept) >= self._limit:
                self._kept = {name: each for name, each in self._kept.items() if each.ends > now}
            return len(self._kept) >= self._limit

    def keep(self, handle: str, living: Living) -> None:
        """Keep it in this process."""
        with self._lock:
            self._kept[handle] = living

    def handle(self, id: str, living: Living) -> str:
        """Return the handle of what was kept as *id*; where that cannot be opened, it is kept by it."""
        if self._seal is not None and living.token is not None:
            text = f"{living.ends} {living.token.reveal()}"
            self.drop(id)
            return self._seal.seal(text, context=self._context)
        handle = id if living.jti is None else f"{living.ends:.0f}.{living.jti}"
        self.drop(id)
        self.keep(handle, living)
        return handle

    def find(self, handle: str) -> Living | None:
        """Return what the handle is for, or None for one that is unknown here."""
        with self._lock:
            kept = self._kept.get(handle)
        if kept is not None:
            return kept
        if self._seal is not None and (opened := self._seal.open(handle, context=self._context)):
            ends, _, token = opened.partition(" ")
            return Living.of(Secret(token), float(ends))
        named = _NOTE.fullmatch(handle)
        return None if named is None else Living(None, named[2], float(named[1]))

    def drop(self, handle: str) -> None:
        """Keep it no longer."""
        with self._lock:
            self._kept.pop(handle, None)
