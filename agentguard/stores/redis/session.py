"""The state of one process about its Redis store: which one it is, and how many writes it has seen there."""

from __future__ import annotations

import logging
import secrets
from typing import Any, NoReturn, TypeVar

from agentguard.errors import ConfigurationError, StoreError
from agentguard.stores import _rules
from agentguard.stores.redis.address import Address
from agentguard.stores.redis.connections import Connections
from agentguard.stores.redis.packing import decode, encode, seconds
from agentguard.stores.redis.requests import Request
from agentguard.stores.redis.scripts import script
from agentguard.stores.redis.wire import Exchange

__all__ = ["SCHEMA", "Session"]

R = TypeVar("R")
SCHEMA = "2"
"""The version of the keys and of what they hold. Since 2, calls that were done are counted."""

_OPEN, _MIGRATE = script("open", shared=False), script("migrate", shared=False)
_HINT = (
    "what was written last may be lost there, such as a revocation: end or revoke what is live, see why the"
    " server forgot it, and start this process again"
)
_log = logging.getLogger(__name__)


class Session:
    """Runs requests, and notices when the server has lost what it had acknowledged.

    The store has a random identity, and numbers its writes. If the identity is another one, the server was
    emptied or replaced. If a number is lower than one that this process has seen, the server came back
    without its last writes, or a replica without them took over. Then this process refuses each operation
    from there on, but where the loss is accepted (*lossy*). A loss of writes that this process has not seen,
    or that as many new ones have followed, is not noticed.
    """

    def __init__(self, address: Address, connections: Connections, prefix: str, *, lossy: bool) -> None:
        self._name, self._connections, self._lossy = str(address), connections, lossy
        # the braces are a hash tag: a cluster puts all keys with it into one slot
        self._key = encode(f"{{{prefix}}}:store")
        self._identity: bytes | None = None
        self._number = 0
        self._loss: str | None = None

    def run(self, request: Request[R]) -> R:
        """Run a request and return what its answer means."""
        identity = self._identity or self._opened(self._connections.run(self._opening()))
        before = self._number
        return self._read(request, before, self._connections.run(self._exchange(request, identity)))

    async def arun(self, request: Request[R]) -> R:
        """Do the same on an event loop."""
        identity = self._identity or self._opened(await self._connections.arun(self._opening()))
        before = self._number
        return self._read(request, before, await self._connections.arun(self._exchange(request, identity)))

    def check(self) -> None:
        """Look at the server now.

        Raises:
            ConfigurationError: It may lose a revocation, is a replica, or the store has another schema.
            StoreError: It cannot be reached.
        """
        self._opened(self._connections.run(self._opening()))

    def migrate(self) -> int | None:
        """Bring the store to this schema; return the schema that was there, or None if there was no store.

        Raises:
            ConfigurationError: The store is newer than this agentguard, or as `check`.
            StoreError: It cannot be reached.
        """
        exchange = Exchange(_MIGRATE, self._key, [SCHEMA, secrets.token_hex(16)], wait=True)
        *head, before = self._connections.run(exchange)
        self._opened(head)
        return int(before) if before else None

    def close(self) -> None:
        """Close the connections of threads."""
        self._connections.close()

    async def aclose(self) -> None:
        """Close those of this event loop, too."""
        await self._connections.aclose()

    def _opening(self) -> Exchange:
        return Exchange(_OPEN, self._key, [SCHEMA, secrets.token_hex(16)], wait=True)

    def _exchange(self, request: Request[R], identity: bytes) -> Exchange:
        if self._loss is not None:
            raise StoreError(self._loss, hint=_HINT)
        script = request.script
        head = [SCHEMA, identity, seconds(request.now), seconds(request.retention), str(_rules.KEEP_KEYS)]
        return Exchange(script, self._key, [*head, *request.arguments], wait=script.writes)

    def _opened(self, answer: list[Any]) -> bytes:
        schema, identity, number = answer
        if schema != SCHEMA.encode():
            is_older = schema.isdigit() and int(schema) < int(SCHEMA)
            newer = "upgrade agentguard, or use another prefix"
            raise ConfigurationError(
                f"the store in {self._name} has schema {decode(schema or b'?')}, not {SCHEMA}",
                hint="run: agentguard store migrate" if is_older else newer,
            )
        if self._identity not in (None, identity):
            self._lose("it is another store than before")
        self._identity = bytes(identity)
        self._number = max(self._number, int(number))
        return self._identity

    def _read(self, request: Request[R], before: int, answer: list[Any]) -> R:
        status, text, *values = answer
        number = int(text)
        if status == b"foreign":
            self._lose("it was emptied, or is another store or of another schema than before")
        if number < before + (status == b"done"):
            self._lose(f"it has forgotten writes: it is at {number} after {before}")
        self._number = max(self._number, number)
        if status == b"refused":
            if request.refuse is not None:
                request.refuse(values)
            raise StoreError(f"{self._name}: the script {request.script.name} refuses without a reason")
        return request.read(values)

    def _lose(self, problem: str) -> NoReturn:
        """Refuse all from here on; where the loss is accepted, refuse this operation alone."""
        text = f"{self._name} has lost what it had acknowledged: {problem}"
        self._identity = None
        if self._lossy:
            _log.warning("%s; the loss is accepted (lossy)", text)
            self._number = 0
        else:
            self._loss = text
        raise StoreError(text, hint=_HINT)
