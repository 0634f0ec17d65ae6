"""Database connections that are used again: to open one takes longer than most queries."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from agentguard.concurrency.fork import in_child

__all__ = ["IdleConnections"]


class IdleConnections:
    """Opens connections by *connect*, and gives out again what was closed, the last one first.

    At most *most* are kept. A forked child has none of its parent's. A connection whose use has failed is not
    kept: `IdleConnection.discard` closes it.
    """

    def __init__(self, connect: Callable[[], Any], *, most: int = 8) -> None:
        self._connect, self._most = connect, most
        self._begin()
        in_child(self._begin)

    def _begin(self) -> None:
        # a connection is taken and put back by calls of a deque, which are atomic
        self.connections: deque[Any] = deque()

    def __call__(self) -> IdleConnection:
        """Return a connection that is idle, or a new one."""
        try:
            return IdleConnection(self, self.connections.pop(), is_new=False)
        except IndexError:
            return IdleConnection(self, self._connect(), is_new=True)

    def put(self, connection: Any) -> None:
        """Keep a connection for the next user, or close it if there are enough."""
        if len(self.connections) >= self._most:
            connection.close()
        else:
            self.connections.append(connection)

    def close(self) -> None:
        """Close what is idle."""
        while self.connections:
            self.connections.pop().close()


class IdleConnection:
    """A connection that goes back to where it came from when it is closed."""

    def __init__(self, idle: IdleConnections, connection: Any, *, is_new: bool) -> None:
        self._idle, self._connection, self.is_new = idle, connection, is_new

    def cursor(self) -> Any:
        """Return a new cursor."""
        return self._connection.cursor()

    def close(self) -> None:
        """Give the connection back; later calls do nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._idle.put(connection)

    def discard(self) -> None:
        """Close the connection itself: it may be broken."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
