"""The store of many machines, in one schema of a PostgreSQL database that all processes share."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from agentguard.concurrency.drive import drive, lift
from agentguard.errors import ConfigurationError, StoreError
from agentguard.model import Secret, TaskState
from agentguard.postgres.address import Address
from agentguard.postgres.connector import Connector, PasswordSource
from agentguard.postgres.durability import Durability, Run
from agentguard.stores import _rules
from agentguard.stores._rules import DEFAULT_RETENTION, Retention
from agentguard.stores.postgres import _basis
from agentguard.stores.postgres._demands import Demands
from agentguard.stores.postgres._operations import Operations
from agentguard.stores.postgres._revision import revised_task
from agentguard.stores.postgres._schema import bring, checked_name
from agentguard.stores.postgres._statements import Statement, Statements

__all__ = ["PostgresStore"]

_log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")
_Make = Callable[Concatenate[Statements, P], Statement[R]]


def _blocking(make: _Make[P, R], *, prunes: bool = False) -> Callable[Concatenate[PostgresStore, P], R]:
    """Make the method that runs the statement of *make* in its thread; it prunes now and then if *prunes*."""

    @wraps(make)
    def blocking(self: PostgresStore, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if prunes and self._is_pruning_due():
            with _logged():
                self._operations.run(self._statements.prune)
        return self._operations.run(partial(make, self._statements, *args, **kwargs))

    return blocking


def _awaited(
    make: _Make[P, R], *, prunes: bool = False
) -> Callable[Concatenate[PostgresStore, P], Coroutine[Any, Any, R]]:
    """Make the method that awaits the answer on the running event loop, without a thread."""

    @wraps(make)
    async def awaited(self: PostgresStore, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if prunes and self._is_pruning_due():
            with _logged():
                await self._operations.arun(self._statements.prune)
        return await self._operations.arun(partial(make, self._statements, *args, **kwargs))

    return awaited


@contextmanager
def _logged() -> Iterator[None]:
    """Log that the pruning failed. That denies no call: the next round goes on with it."""
    try:
        yield
    except StoreError as error:
        _log.warning("the store was not pruned: %s", error)


class PostgresStore:
    """A `Store` in one schema of a PostgreSQL database, shared by the processes of many machines.

    Each method is one transaction and one round trip, on both paths. The asynchronous methods use no thread.

    *url* is a connection URL of libpq (https://www.postgresql.org/docs/current/libpq-connect.html). It may
    name several servers; the one that can write is used. *password* is a secret, or the place that it is read
    from: once, and again when the server refuses it. *schema* is made at the first use if the role may, else
    an owner makes it by `migrate`. *pool_size* is the most connections of this process's threads, and of each
    of its event loops. *timeout* in seconds is how long an operation may take with all its waiting; a nearer
    deadline of the caller holds too.

    A connection to another host is verified by TLS, by the file *ca* if there is one (see `Address`); with
    *plaintext*, the URL's `sslmode` may be weaker. With *durability* ``"checked"``, a server that may lose
    what it has acknowledged (``fsync = off``) is refused; ``"lossy"`` accepts it, as in a test. Where the
    role or the database has ``synchronous_commit = off``, the store's own sessions set it on.

    `clock` is that of the guard, as in all stores: deadlines and expiries are times of guards' clocks, and a
    guard compares with them itself, so a second clock would end a task twice. But what must not be forgotten
    is forgotten only if the server's clock agrees: a revocation, a key that was used and an ended task stay
    until both clocks say that their time is over, and for `_rules.KEEP_KEYS` or the *retention* more. So one
    host whose clock is ahead takes nothing from the others. Differences of more than a minute are logged.

    After a fork, a child opens its own connections. A connection that was lost is opened anew. If an answer
    is lost, the operation is repeated only where that changes nothing more; any other one raises StoreError,
    since nobody knows whether it was done.

    Raises:
        ConfigurationError: A setting is wrong. From an operation: the server does not promise to keep what it
            acknowledges, or the schema has another version.
        StoreError: From an operation: the server cannot be reached, or did not do it.
    """

    def __init__(
        self,
        url: str,
        *,
        password: Secret | PasswordSource | None = None,
        schema: str = "agentguard",
        ca: str | os.PathLike[str] | None = None,
        pool_size: int = 20,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.time,
        plaintext: bool = False,
        durability: Durability = "checked",
        retention: Retention = DEFAULT_RETENTION,
    ) -> None:
        if pool_size < 1 or timeout <= 0:
            raise ConfigurationError("pool_size and timeout are more than 0")
        demands = Demands(schema=checked_name(schema), durability=durability)
        address = Address(url, timeout=timeout, ca=ca, plaintext=plaintext)
        self._schema = schema
        self._connector = Connector(address, password, demands.check)
        self._operations = Operations(self._connector, pool_size, timeout)
        self._statements = Statements(schema, clock, retention)
        self._writes = 0

    def check(self) -> None:
        """Look at the server now, and make the store in an empty database, without an operation.

        Raises:
            ConfigurationError: The server may lose what it has acknowledged, the role may not make the store,
                or the store has another version.
            StoreError: The server cannot be reached.
        """
        self._connector.open(time.monotonic() + self._operations.timeout).close()

    def migrate(self, timeout: float = 60.0) -> int | None:
        """Make the store, or bring it to the newest version; return the version that was there, if any.

        The role of the URL owns the store afterwards, and grants to the roles that use it what the docstring
        of this package says. Guards of an older agentguard are refused from then on. *timeout* is in seconds.

        Raises:
            ConfigurationError: The role may not do that, or the store is newer than this agentguard.
            StoreError: The server cannot be reached, or failed.
        """
        versions = list[int | None]()

        async def bring_up(run: Run, place: str) -> None:
            await run(f"SET statement_timeout = {math.ceil(timeout * 1000):d}")
            versions.append(await bring(run, place, self._schema, migrates=True))

        self._connector.open(time.monotonic() + timeout, prepare=bring_up).close()
        return versions[0]

    def close(self) -> None:
        """Close this process's connections; later calls raise StoreError."""
        self._operations.close()

    create_task = _blocking(Statements.create_task, prunes=True)
    task = _blocking(Statements.task)
    begin_call = _blocking(Statements.begin_call, prunes=True)
    begin_if_unchanged = _blocking(_basis.begin_if_unchanged, prunes=True)
    track = _blocking(Statements.track)
    end_call = _blocking(Statements.end_call)
    counted = _blocking(Statements.counted)
    labels = _blocking(Statements.labels)
    forget = _blocking(Statements.forget)
    live = _blocking(Statements.live)
    counts = _blocking(Statements.counts)
    end_task = _blocking(Statements.end_task)
    active = _blocking(Statements.active)
    active_in = _blocking(Statements.active_in)
    remember = _blocking(Statements.remember, prunes=True)
    save_approval = _blocking(Statements.save_approval, prunes=True)
    answer_approval = _blocking(Statements.answer_approval)
    approval = _blocking(Statements.approval)
    approval_for = _blocking(Statements.approval_for)
    rejection = _blocking(Statements.rejection)

    def revise_task(self, task_id: str, revise: _rules.Revise) -> TaskState:
        """Replace the words and the mandate of an active task (see `ports.Store`): two round trips."""
        return drive(revised_task(lift(self._operations.run), self._statements, task_id, revise))

    async def arevise_task(self, task_id: str, revise: _rules.Revise) -> TaskState:
        """Replace the words and the mandate of an active task: two round trips."""
        return await revised_task(self._operations.arun, self._statements, task_id, revise)

    def known(self, key: str) -> bool:
        """Return whether *key* is recorded and its time has not passed."""
        return self._operations.run(partial(self._statements.known, key))

    acreate_task = _awaited(Statements.create_task, prunes=True)
    atask = _awaited(Statements.task)
    abegin_call = _awaited(Statements.begin_call, prunes=True)
    abegin_if_unchanged = _awaited(_basis.begin_if_unchanged, prunes=True)
    atrack = _awaited(Statements.track)
    aend_call = _awaited(Statements.end_call)
    acounted = _awaited(Statements.counted)
    alabels = _awaited(Statements.labels)
    aforget = _awaited(Statements.forget)
    alive = _awaited(Statements.live)
    aend_task = _awaited(Statements.end_task)
    aactive = _awaited(Statements.active)
    aactive_in = _awaited(Statements.active_in)
    aremember = _awaited(Statements.remember, prunes=True)
    aknown = _awaited(Statements.known)
    asave_approval = _awaited(Statements.save_approval, prunes=True)
    aanswer_approval = _awaited(Statements.answer_approval)
    aapproval = _awaited(Statements.approval)
    aapproval_for = _awaited(Statements.approval_for)
    arejection = _awaited(Statements.rejection)

    def _is_pruning_due(self) -> bool:
        self._writes += 1
        return self._writes % _rules.PRUNE_EVERY == 0
