"""Runs the statements of the PostgreSQL store on pooled connections, within the time, and again if it may."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from random import SystemRandom
from typing import TypeVar

import psycopg

from agentguard.concurrency.deadline import seconds_left
from agentguard.concurrency.drive import drive
from agentguard.concurrency.fork import in_child
from agentguard.errors import StoreError
from agentguard.postgres.connector import Connector
from agentguard.postgres.errors import Unreachable, lost_answer, store_error
from agentguard.postgres.links import Link
from agentguard.stores.postgres._pool import LoopPool, Pool, ThreadPool
from agentguard.stores.postgres._statements import Statement
from agentguard.stores.postgres._texts import packed, unpacked

__all__ = ["Operations"]

R = TypeVar("R")
_random = SystemRandom()
PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Seconds before each further attempt; after the last of them there is none."""

_ROLLED_BACK = frozenset({"40001", "40P01", "23505"})
"""A serialization failure, a deadlock, and two that insert the same row at once: nothing was written."""

_READ_ONLY = "25006"


class _Again(Exception):
    """The statement may be run again; *error* is why the last attempt failed."""

    def __init__(self, error: StoreError) -> None:
        super().__init__()
        self.error = error


class Operations:
    """Runs statements for the threads and event loops of this process. A forked child has its own pools."""

    def __init__(self, connector: Connector, size: int, timeout: float) -> None:
        self._connector, self._size, self.timeout = connector, size, timeout
        self._closed = False
        self._inherited: list[object] = []
        self._begin()
        in_child(self._begin_in_child)

    def run(self, make: Callable[[], Statement[R]]) -> R:
        """Run a statement in this thread. *make* is called for each attempt, so that its clock is read anew.

        Raises:
            StoreError: The server did not do it, or it is not known whether it did.
        """
        return drive(self._perform(self._threads, make))

    async def arun(self, make: Callable[[], Statement[R]]) -> R:
        """Run a statement on the running event loop, as `run`."""
        return await self._perform(self._of_loop(), make)

    def close(self) -> None:
        """Close the connections; those in use are closed when their operation ends."""
        self._closed = True
        _close(self._pools)

    async def _perform(self, pool: Pool, make: Callable[[], Statement[R]]) -> R:
        if self._closed:
            raise StoreError(f"{self._connector.address.name}: the store is closed")
        ends = time.monotonic() + seconds_left(self.timeout)
        for pause in (*PAUSES, None):
            try:
                return await self._attempt(pool, make, ends)
            except _Again as again:
                if pause is None or time.monotonic() + 2 * pause >= ends:
                    raise again.error from again.error.__cause__
            # those who met in a deadlock, or lost one server, do not come back at the same time
            await pool.pause(pause * _random.uniform(0.5, 1.5))
        raise AssertionError

    async def _attempt(self, pool: Pool, make: Callable[[], Statement[R]], ends: float) -> R:
        try:
            link = await pool.take(ends)
        except Unreachable as error:
            raise _Again(error) from None
        try:
            statement = make()
            values = tuple(map(packed, statement.values))
            rows = await pool.execute(link, statement.text, values, ends)
        except psycopg.Error as error:
            raise self._failure(link, statement, error) from error
        except TimeoutError as error:
            raise lost_answer(self._connector.address.name, error) from error
        except (UnicodeError, OSError) as error:
            link.close()
            raise store_error(self._connector.address.name, error) from error
        except BaseException:
            link.close()
            raise
        finally:
            pool.give(link)
        return statement.read(unpacked(rows))

    def _failure(self, link: Link, statement: Statement[R], error: psycopg.Error) -> Exception:
        """Return what to raise for a failed statement: an error, or `_Again`."""
        place = self._connector.address.name
        if error.sqlstate in _ROLLED_BACK:
            return _Again(_caused(store_error(place, error), error))
        if error.sqlstate == _READ_ONLY:
            link.close()  # the next connection may lead to the server that is the primary now
        is_lost = link.connection.pgconn.status != psycopg.pq.ConnStatus.OK
        if not is_lost and error.diag.severity_nonlocalized not in ("FATAL", "PANIC"):
            return store_error(place, error)
        link.close()
        if error.sqlstate == _READ_ONLY:
            return store_error(place, error)
        lost = lost_answer(place, error)
        return _Again(_caused(lost, error)) if statement.repeats else lost

    def _begin(self) -> None:
        self._threads = ThreadPool(self._connector, self._size)
        self._loops: dict[asyncio.AbstractEventLoop, LoopPool] = {}
        self._pools: list[ThreadPool | LoopPool] = [self._threads]
        self._finalizer = weakref.finalize(self, _close, self._pools)  # for a store that nobody closes

    def _begin_in_child(self) -> None:
        # kept, so that nothing of the parent's is ended here
        self._inherited.append(self._pools)
        self._finalizer.detach()
        for pool in self._pools:
            pool.links.leave_to_parent()
        self._begin()

    def _of_loop(self) -> LoopPool:
        loop = asyncio.get_running_loop()
        pool = self._loops.get(loop)
        if pool is None:
            for other in [other for other in list(self._loops) if other.is_closed()]:
                if (past := self._loops.pop(other, None)) is not None:
                    past.links.close()
                    self._pools.remove(past)
            pool = self._loops[loop] = LoopPool(self._connector, self._size)
            self._pools.append(pool)
        return pool


def _close(pools: list[ThreadPool | LoopPool]) -> None:
    for pool in list(pools):
        pool.links.close()


def _caused(failure: StoreError, cause: Exception) -> StoreError:
    failure.__cause__ = cause
    return failure
