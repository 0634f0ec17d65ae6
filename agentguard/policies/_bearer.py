"""The bearer token by which the guard authenticates itself to a policy decision point (RFC 6750)."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Protocol

from agentguard.concurrency.abandonable import AbandonableThreads
from agentguard.concurrency.drive import Operation, abandonable_pair
from agentguard.model import Secret

if TYPE_CHECKING:
    from agentguard.policies._remote import RemoteOperations

__all__ = ["BearerToken", "TokenSource"]

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 section 2.1
_REFRESH = 300.0  # seconds
_PAUSE = 5.0  # seconds between two readings for a token that a PDP refuses, however often it is asked


class TokenSource(Protocol):
    """Where the token is, such as a source of `agentguard.credentials.sources`.

    A source of tokens that end sooner than after 300 seconds has an attribute `refresh`: after how many
    seconds the token that it has returned last is to be read anew.
    """

    def read(self) -> Secret:
        """Return the token that is valid now."""


class BearerToken:
    """Reads the token within *timeout* seconds, and again after 300 seconds or its source's `refresh`.

    It is read again too when a PDP refuses it.

    For refused tokens it is read at most once in 5 seconds, or a PDP that refuses all would have the source
    read at each call.
    """

    def __init__(self, source: TokenSource, timeout: float) -> None:
        threads = AbandonableThreads("the source of the token for the PDP", probes=True)
        self._source, self._read = source, abandonable_pair(source, "read", threads, timeout)
        self._cache: tuple[Secret, float] | None = None
        self._next_refresh = 0.0

    def close(self) -> None:
        """Close the source's connections, if it has any."""
        close = getattr(self._source, "close", None)
        if close is not None:
            close()

    async def header(self, operations: RemoteOperations, again: bool) -> dict[str, str]:
        """Return the header that carries the token. With *again* the token is read anew.

        Raises:
            ValueError: The source gave no token that can be sent. The message does not hold it.
        """
        entry = self._cache
        if again or entry is None or time.monotonic() >= entry[1]:
            read = self._read.async_ if operations.asynchronous else self._read.sync
            entry = self._cache = await operations.share("token", lambda: self._fetch(read, again))
        return {"Authorization": f"Bearer {entry[0].reveal()}"}

    async def _fetch(self, read: Operation, again: bool) -> tuple[Secret, float]:
        now = time.monotonic()
        if again:
            if self._cache is not None and now < self._next_refresh:
                return self._cache
            self._next_refresh = now + _PAUSE
        token = await _fetch(read)
        return token, time.monotonic() + min(_REFRESH, getattr(self._source, "refresh", _REFRESH))


async def _fetch(read: Operation) -> Secret:
    try:
        token = await read()
    except Exception as error:  # noqa: BLE001  anyone may write a source, and its message may hold the secret
        problem = f"no token to authenticate with ({type(error).__name__})"
    else:
        if isinstance(token, Secret) and _TOKEN.fullmatch(token.reveal()):
            return token
        problem = "the token to authenticate with cannot stand in a header"
    # outside of the handler, so that the error has no context, which may hold the secret
    raise ValueError(problem)
