"""Connections to PostgreSQL whose waiting has an end."""

from __future__ import annotations

import asyncio
import math
import select
import time
from typing import Any

import psycopg
from psycopg import waiting
from psycopg.abc import RV, PQGen
from psycopg.rows import TupleRow

__all__ = ["AsyncConnection", "BlockingConnection", "Link"]

_POLL = {
    waiting.Wait.R: select.POLLIN,
    waiting.Wait.W: select.POLLOUT,
    waiting.Wait.RW: select.POLLIN | select.POLLOUT,
}
_LONGEST = (
    3600.0  # seconds of life after which a connection is replaced, as an address or password may change
)


class BlockingConnection(psycopg.Connection[TupleRow]):
    """A connection of threads. A wait for the server that lasts beyond `ends` closes it.

    `ends` is a time of `time.monotonic`.
    """

    ends = math.inf

    def wait(self, gen: PQGen[RV], interval: float = 0.0, timeout: float | None = None) -> RV:
        """Let *gen* talk with the server to its end; the time that psycopg gives does not count.

        Raises:
            TimeoutError: There was no answer in time.
        """
        try:
            return self._wait(gen)
        except psycopg.Error:
            raise
        except BaseException:
            # no answer, or an interruption: what comes next on this connection would answer another question
            self.pgconn.finish()
            raise

    def _wait(self, gen: PQGen[RV]) -> RV:
        try:
            wish = next(gen)
            poll = select.poll()
            poll.register(self.pgconn.socket, _POLL[wish])
            while True:
                remaining = self.ends - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError("there was no answer in time")
                events = poll.poll(None if remaining == math.inf else math.ceil(remaining * 1000))
                if not events:
                    continue
                event, ready = events[0][1], 0
                if event & ~select.POLLOUT:  # also the end of the connection is read
                    ready |= waiting.Ready.R
                if event & select.POLLOUT:
                    ready |= waiting.Ready.W
                wish = gen.send(waiting.Ready(ready))
                poll.modify(self.pgconn.socket, _POLL[wish])
        except StopIteration as stop:
            result: RV = stop.value
            return result


class AsyncConnection(psycopg.AsyncConnection[TupleRow]):
    """A connection of an event loop. A wait that is cancelled, or lasts beyond `ends`, closes it.

    psycopg itself would ask the server to cancel the statement, and wait five seconds for that.
    """

    ends = math.inf

    async def wait(  # psycopg's signature
        self,
        gen: PQGen[RV],
        interval: float = 1.0,
        timeout: float | None = None,  # noqa: ASYNC109  the same
    ) -> RV:
        """Let *gen* talk with the server to its end; the time that psycopg gives does not count.

        Raises:
            TimeoutError: There was no answer in time.
        """
        remaining = None if self.ends == math.inf else self.ends - time.monotonic()
        try:
            async with asyncio.timeout(remaining):
                return await waiting.wait_async(gen, self.pgconn.socket, interval)
        except psycopg.Error:
            raise
        except BaseException:
            self.pgconn.finish()
            raise


class Link:
    """A connection in a pool: a `BlockingConnection` or an `AsyncConnection`."""

    __slots__ = ("__weakref__", "_born", "connection", "place")

    def __init__(self, connection: Any) -> None:
        self.connection, self._born = connection, time.monotonic()
        self.place: object = None  # in its pool, while it is in use

    @property
    def is_usable(self) -> bool:
        """Return whether the connection is idle, young enough, and not known to be lost."""
        pgconn = self.connection.pgconn
        return (
            pgconn.status == psycopg.pq.ConnStatus.OK
            and pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
            and time.monotonic() - self._born < _LONGEST
        )

    def notices_end(self) -> bool:
        """Return whether the server has ended the connection meanwhile, without asking it.

        An idle connection has nothing to read but the server's farewell, or a part of TLS.
        """
        pgconn = self.connection.pgconn
        try:
            poll = select.poll()
            poll.register(pgconn.socket, select.POLLIN)
            for _ in range(8):
                if not poll.poll(0):
                    return False
                pgconn.consume_input()
                while pgconn.notifies():
                    pass
        except (psycopg.Error, OSError):
            pass
        return True

    def close(self) -> None:
        """Close the connection. It takes no loop and waits for nobody."""
        self.connection.pgconn.finish()
