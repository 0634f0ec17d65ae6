"""The store of one machine, in one SQLite file that all its processes share."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from agentguard.model import (
    NO_READ_EFFECTS,
    Approval,
    Call,
    CallKey,
    Cell,
    Label,
    LiveCredential,
    Login,
    LoginName,
    Outcome,
    ReadEffects,
    TaskState,
    TaskStatus,
)
from agentguard.stores import _counter_rules, _rows, _rules, _sql, _sql_approvals, _sql_counters
from agentguard.stores._connection import Connection
from agentguard.stores._database import Database
from agentguard.stores._migrations import MIGRATIONS
from agentguard.stores._rules import DEFAULT_RETENTION, Retention
from agentguard.stores._sql_pruning import Pruning
from agentguard.stores._sql_tasks import TaskRows

__all__ = ["SqliteStore"]

P = ParamSpec("P")
R = TypeVar("R")


def _queued(
    method: Callable[Concatenate[SqliteStore, P], R],
) -> Callable[Concatenate[SqliteStore, P], Coroutine[Any, Any, R]]:
    """Make the async form of *method*: it runs on the store's own thread, after all earlier ones."""

    async def queued(self: SqliteStore, /, *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._db.executor, partial(method, self, *args, **kwargs))

    return queued


class SqliteStore:
    """A `Store` in one file, shared by the threads and processes of one machine.

    The file is created with mode 0600, in WAL mode with ``synchronous=NORMAL``. What was written survives
    the crash of a process. After a power failure the last transactions may be lost, but the file stays
    consistent. Do not put the file on a network file system. *busy_timeout* is the number of seconds that
    a transaction waits for another process. *retention* says how long what is over can still be read. A
    forked child opens its own connections.

    Raises:
        ConfigurationError: The file has another schema version, or its path cannot hold a store.
        StoreError: SQLite reported an error. Each method can raise this too.
    """

    blocking = True  # its asynchronous methods only hand the others to a thread

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], float] = time.time,
        busy_timeout: float = 5.0,
        retention: Retention = DEFAULT_RETENTION,
    ) -> None:
        self._clock = clock
        self._db = Database(path, _sql.SCHEMA, _sql.VERSION, busy_timeout, MIGRATIONS)
        self._writes = 0
        self._tasks = TaskRows()
        self._pruning = Pruning(retention)

    def close(self) -> None:
        """Finish the queued operations and close the file; later calls raise StoreError."""
        self._db.close()

    def create_task(self, state: TaskState) -> None:
        """Record a new task.

        Raises:
            StoreError: A task of this id exists.
        """
        with self._db.transaction() as db, db:
            self._prune(db)
            db.execute(_sql.TASK_ROW, _rows.task_row(state))
            lineage = [(ancestor, state.id) for ancestor in state.lineage]
            db.executemany("INSERT INTO lineage VALUES (?, ?)", lineage)

    def task(self, task_id: str) -> TaskState | None:
        """Return the task as it is now, or None."""
        with self._db.connection() as db:
            return self._tasks.look_up(db, task_id)

    def begin_call(self, call: Call, credential: LiveCredential | None) -> None:
        """Count the call and record the credential that is about to be minted (see `ports.Store`)."""
        same = (call.key, call.task_id, call.tool, str(call.path))
        with self._db.transaction() as db, db:
            self._prune(db)
            now = self._clock()
            if call.numbers or call.additions:
                _sql_counters.begin(db, call)
            if not self._tasks.count_unchanged(db, call, now):
                self._count(db, call, same, now)
            db.write(_sql.CALL, (call.id, *same, call.approval_id, _counter_rules.packed(call.additions)))
            if credential is not None:
                _sql.track(db, credential)

    def _count(self, db: Connection, call: Call, same: tuple[str, ...], now: float) -> None:
        """Count a call against its task and the task's ancestors, and use up its approval."""
        *row, before = db.execute(_sql.BEGIN, (*same, call.task_id)).fetchone() or (None,)
        family = self._tasks.family(db, call.task_id, self._tasks.read(call.task_id, row))
        states = _rules.admit(call, family, now, resumed=before is not None)
        if call.approval_id is not None:
            recorded = _sql_approvals.by_id(db, call.approval_id)
            _sql_approvals.use(db, _rules.use(call, recorded, before, now))
        if before is not None:
            db.execute(_sql.RESUME, same)
            return
        for state in states:
            _sql.count(db, state, call)

    def track(self, credential: LiveCredential) -> None:
        """Record a credential whose handle is known only after issue."""
        with self._db.transaction() as db, db:
            _sql.track(db, credential)
            state = self._tasks.one(db, credential.task_id)
            family, now = self._tasks.family(db, credential.task_id, state), self._clock()
        _rules.active(family, now)

    def end_call(
        self,
        call_id: str,
        outcome: Outcome,
        *,
        effects: ReadEffects = NO_READ_EFFECTS,
        revoked: bool = False,
        remember: tuple[str, float] | None = None,
        undo: bool = False,
    ) -> None:
        """Record how the call ended; if it is not running, *effects* and *undo* are ignored."""
        with self._db.transaction() as db, db:
            if revoked:
                db.write(_sql.FORGET, (call_id,))
            if effects is not NO_READ_EFFECTS and effects != NO_READ_EFFECTS:
                self._tasks.note_read(db, call_id, effects)
            if remember is not None:
                _sql.remember(db, *remember, self._clock())
            if undo:
                _sql_counters.undo(db, call_id)
            _sql.end(db, call_id, outcome)

    def counted(self, cells: Sequence[Cell], resumes: CallKey | None = None) -> tuple[int, ...]:
        """Return these numbers, without what the suspended call *resumes* has added to them."""
        with self._db.connection() as db:
            return _sql_counters.values(db, cells, resumes)

    def labels(self, family: str, digests: Collection[str]) -> tuple[Label, ...]:
        """Return the labels of values that the family's tasks have read, for these digests."""
        query = _sql.LABELS.format(",".join("?" * len(digests)))
        with self._db.connection() as db:
            return tuple(map(_rows.label, db.execute(query, (family, *digests))))

    def forget(self, call_id: str) -> None:
        """Record that the call's credentials are revoked."""
        with self._db.transaction() as db, db:
            db.execute(_sql.FORGET, (call_id,))

    def live(self, task_id: str | None = None) -> tuple[LiveCredential, ...]:
        """Return the credentials not known to be revoked, of the task and its descendants, or all."""
        with self._db.connection() as db:
            rows = db.execute(_sql.LIVE) if task_id is None else db.execute(_sql.LIVE_OF, (task_id, task_id))
            return tuple(map(_rows.credential, rows))

    def end_task(
        self, task_id: str, status: TaskStatus, notices: Iterable[LiveCredential] = ()
    ) -> tuple[str, ...]:
        """End the task and all its descendants; return the ids of the tasks that ended now."""
        notices = tuple(notices)
        with self._db.transaction() as db, db:
            now, ended_ids = self._clock(), []
            for (id_,) in db.execute(_sql.ACTIVE_OF, (task_id, task_id)).fetchall():
                state = self._tasks.one(db, id_)
                if state is not None:
                    values = (str(_rules.end(state, status, now)), min(now, state.deadline), id_)
                    db.execute("UPDATE tasks SET status = ?, over = ? WHERE id = ?", values)
                    for notice in notices:
                        _sql.track(db, _rules.notice_of(notice, id_))
                    ended_ids.append(id_)
            return tuple(ended_ids)

    def revise_task(self, task_id: str, revise: Callable[[TaskState], TaskState]) -> TaskState:
        """Replace the words and the mandate of an active task (see `ports.Store`)."""
        with self._db.transaction() as db, db:
            state = _rules.revised(task_id, self._tasks.one(db, task_id), revise, self._clock())
            db.execute("UPDATE tasks SET fixed = ? WHERE id = ?", (_rows.fixed_text(state), task_id))
            return state

    def active(self, subject: str, *, without: LoginName = "", folded: bool = False) -> tuple[str, ...]:
        """Return the ids of the active tasks of *subject*, or of those whose login has no name *without*."""
        statement, now = _sql.ACTIVE_FOR + _sql.WITHOUT[without], self._clock()
        with self._db.connection() as db:
            subjects = [subject]
            if folded:
                is_named = _rules.subject_matcher(subject, folded=True)
                subjects = [row[0] for row in db.execute(_sql.SUBJECTS) if is_named(row[0])]
            return tuple(row[0] for name in subjects for row in db.execute(statement, (now, name)))

    def active_in(self, login: Login, *, without: LoginName = "") -> tuple[str, ...]:
        """Return the ids of the active tasks begun in *login*, or of those whose login has no *without*."""
        with self._db.connection() as db:
            return self._tasks.active_in(db, login, without, self._clock())

    def remember(self, key: str, until: float) -> bool:
        """Record *key* until that time; return False if it is recorded, and keep the later time."""
        with self._db.transaction() as db, db:
            self._prune(db)
            return _sql.remember(db, key, until, self._clock())

    def known(self, key: str) -> bool:
        """Return whether *key* is recorded and its time has not passed."""
        with self._db.connection() as db:
            rows = db.execute("SELECT 1 FROM keys WHERE key = ? AND until > ?", (key, self._clock()))
            return rows.fetchone() is not None

    def save_approval(self, approval: Approval) -> Approval:
        """Record a pending approval, unless one with its id exists; return the recorded one."""
        with self._db.transaction() as db, db:
            self._prune(db)
            recorded = _sql_approvals.by_id(db, approval.id)
            if recorded is not None:
                return recorded
            family = self._tasks.family(db, approval.task_id, self._tasks.one(db, approval.task_id))
            _sql_approvals.save(db, approval, family, self._clock())
            return approval

    def answer_approval(self, approval: Approval) -> None:
        """Record a person's answer to a pending approval."""
        with self._db.transaction() as db, db:
            _sql_approvals.answer(db, approval, self._clock())

    def approval(self, approval_id: str) -> Approval | None:
        """Return an approval, or None."""
        with self._db.connection() as db:
            return _sql_approvals.by_id(db, approval_id)

    def approval_for(self, call_key: str) -> Approval | None:
        """Return the newest approval for this call, or None."""
        with self._db.connection() as db:
            return _sql_approvals.newest(db, call_key)

    def rejection(self, family: str, tool: str, shown_digest: str) -> Approval | None:
        """Return a rejection of such a call in the family of a task, or None."""
        with self._db.connection() as db:
            return _sql_approvals.rejection(db, family, tool, shown_digest)

    acreate_task = _queued(create_task)
    atask = _queued(task)
    abegin_call = _queued(begin_call)
    atrack = _queued(track)
    aend_call = _queued(end_call)
    acounted = _queued(counted)
    alabels = _queued(labels)
    aforget = _queued(forget)
    alive = _queued(live)
    aend_task = _queued(end_task)
    arevise_task = _queued(revise_task)
    aactive = _queued(active)
    aactive_in = _queued(active_in)
    aremember = _queued(remember)
    aknown = _queued(known)
    asave_approval = _queued(save_approval)
    aanswer_approval = _queued(answer_approval)
    aapproval = _queued(approval)
    aapproval_for = _queued(approval_for)
    arejection = _queued(rejection)

    def _prune(self, db: sqlite3.Connection) -> None:
        self._writes += 1
        if self._writes % _rules.PRUNE_EVERY:
            return
        self._pruning.prune(db, self._clock())
