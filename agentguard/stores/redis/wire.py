"""What is sent on one connection to Redis, in the form for threads and in the form for event loops.

Each exchange is one round trip, but the first of a script that the server does not know yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis import RedisError
from redis import exceptions as failures

from agentguard.errors import ConfigurationError, IssueError, StoreError
from agentguard.stores.redis.address import Address
from agentguard.stores.redis.durability import CONFIG, Durability, check_server, info_of
from agentguard.stores.redis.scripts import Script
from agentguard.text import printable

__all__ = ["Exchange", "ServerRefused", "Wire", "store_errors"]

_DOUBT = "; whether the operation was done is not known, and it is not repeated"
_WORDS: tuple[tuple[type[RedisError], str], ...] = (
    (failures.OutOfMemoryError, "its memory is full (maxmemory)"),
    (failures.ReadOnlyError, "it is a replica"),
    (failures.NoPermissionError, "its user may not run this"),
    (failures.AuthenticationError, "it refuses the user or the password"),
    (failures.BusyLoadingError, "it is still loading its data"),
    (failures.MovedError, "the keys are on another node of its cluster"),
    (failures.TimeoutError, f"no answer in time{_DOUBT}"),
    (failures.ConnectionError, f"the connection failed{_DOUBT}"),
)


class ServerRefused(RedisError):
    """Carries an error of ours through redis-py, which closes the connection then."""

    def __init__(self, error: ConfigurationError | IssueError) -> None:
        super().__init__(type(error).__name__)
        self.error = error


@dataclass(frozen=True, slots=True)
class Exchange:
    """One run of a script. With *wait*, what it wrote has to reach the replicas."""

    script: Script
    key: bytes
    arguments: list[Any]
    wait: bool = False

    def by_digest(self) -> tuple[Any, ...]:
        """Return the command for a server that knows the script."""
        return ("EVALSHA", self.script.sha, 1, self.key, *self.arguments)

    def by_source(self) -> tuple[Any, ...]:
        """Return the command for a server that does not know it."""
        return ("EVAL", self.script.source, 1, self.key, *self.arguments)


class Wire:
    """Looks at a server when a connection to it is new, and runs scripts on connections of redis-py.

    With replicas in *durability*, each write waits until that many have it, at most *timeout* seconds.
    """

    def __init__(self, address: Address, durability: Durability, timeout: float) -> None:
        self._name, self._level, replicas = str(address), durability.level, durability.replicas
        self._replicas = replicas
        # less than the time-out of the socket, so that the answer arrives
        self._wait = ("WAIT", replicas, max(1, int(timeout * 800)))
        self._questions: list[tuple[str, ...]] = [("INFO",)]
        if self._level == "checked":
            self._questions.append(("CONFIG", "GET", *CONFIG))

    def greet(self, connection: Any) -> None:
        """Log in on a new connection, and look at the server.

        Raises:
            ServerRefused: The server is not configured as we demand, or there is no password.
        """
        try:
            connection.on_connect()
            connection.send_packed_command(_packed(self._questions))
            self._check([_reply(connection) for _ in self._questions])
        except BaseException:
            # redis-py keeps a connection that such an error leaves half logged in
            connection.disconnect()
            raise

    async def agreet(self, connection: Any) -> None:
        """Do the same on an event loop."""
        try:
            await connection.on_connect()
            await connection.send_packed_command(_packed(self._questions))
            self._check([await _areply(connection) for _ in self._questions])
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    def run(self, connection: Any, exchange: Exchange) -> list[Any]:
        """Run a script and return what was answered, for `answer`; an error that was answered is in it."""
        replies = list[Any]()
        for command in (exchange.by_digest(), exchange.by_source()):
            commands = self._commands(command, exchange)
            connection.send_packed_command(_packed(commands))
            replies = [_reply(connection) for _ in commands]
            if not isinstance(replies[0], failures.NoScriptError):
                break
        return replies

    async def arun(self, connection: Any, exchange: Exchange) -> list[Any]:
        """Run a script on an event loop, as `run` does."""
        replies = list[Any]()
        for command in (exchange.by_digest(), exchange.by_source()):
            commands = self._commands(command, exchange)
            await connection.send_packed_command(_packed(commands))
            replies = [await _areply(connection) for _ in commands]
            if not isinstance(replies[0], failures.NoScriptError):
                break
        return replies

    def _commands(self, command: tuple[Any, ...], exchange: Exchange) -> list[tuple[Any, ...]]:
        return [command, self._wait] if exchange.wait and self._replicas else [command]

    def answer(self, replies: list[Any]) -> Any:
        """Return the answer of the script.

        Raises:
            StoreError: Too few replicas have in time what was written.
            RedisError: The server answered with an error.
        """
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        if len(replies) > 1 and replies[1] < self._replicas:
            raise StoreError(
                f"{self._name}: {replies[1]} of {self._replicas} replicas have what was written; it is done"
            )
        return replies[0]

    def _check(self, replies: list[Any]) -> None:
        info, config = replies[0], None
        try:
            if isinstance(info, RedisError):
                raise ConfigurationError(
                    f"{self._name} does not say what it is: INFO is forbidden", hint='permit "+info"'
                )
            if len(replies) > 1 and not isinstance(replies[1], RedisError):
                config = _config(replies[1])
            check_server(self._name, info_of(info), config, self._level)
        except ConfigurationError as error:
            raise ServerRefused(error) from None


def _packed(commands: Sequence[Sequence[Any]]) -> list[bytes]:
    """Return commands in Redis's protocol (RESP2). redis-py has this too; it takes four times as long."""
    parts = list[bytes]()
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for value in command:
            data = value if isinstance(value, bytes) else str(value).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return [b"".join(parts)]


def _config(reply: Any) -> Mapping[str, str]:
    texts = [value.decode("utf-8", "replace") for value in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except failures.ResponseError as error:  # an answer all the same; the next one is read after it
        return error


async def _areply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except failures.ResponseError as error:
        return error


@contextmanager
def store_errors(name: str) -> Iterator[None]:
    """Turn errors of redis-py about the server *name* into ours. No text of theirs is shown but a script's.

    Raises:
        StoreError: There is no answer, or the server refuses.
        ConfigurationError: The server is not configured as we demand.
    """
    try:
        yield
    except ServerRefused as error:
        if isinstance(error.error, ConfigurationError):
            raise error.error from None
        raise StoreError(f"{name}: there is no password: {error.error}") from None
    except RedisError as error:
        words = next((words for kind, words in _WORDS if isinstance(error, kind)), None)
        if words is None:
            words = f"it refuses: {printable(str(error)[:200])}"
        raise StoreError(f"{name}: {words}") from None
    except OSError as error:
        raise StoreError(f"{name}: the connection failed ({type(error).__name__}){_DOUBT}") from None
