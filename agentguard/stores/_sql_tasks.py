"""The tasks of the SQLite store, read as model objects, and what they have read by their calls."""

from __future__ import annotations

import sqlite3
from functools import lru_cache

from agentguard.errors import StoreError, TaskError
from agentguard.model import Call, Login, ReadEffects, TaskState
from agentguard.stores import _rows, _rules, _sql
from agentguard.stores._connection import Connection

TASKS = 1024  # of so many tasks at most, what was looked up is kept


class TaskRows:
    """Reads tasks, and keeps the decoded form of texts. Each method runs in a transaction of the store."""

    def __init__(self) -> None:
        # each text is decoded once; the text itself is the key, so an entry is never out of date
        self._fixed = lru_cache(1024)(_rows.fixed_part)
        self._history = lru_cache(1024)(_rows.history)
        self._latest: dict[
            str, tuple[TaskState, str]
        ] = {}  # with the text of its fixed part; looked up, and no call has begun since

    def one(self, db: sqlite3.Connection, task_id: str) -> TaskState | None:
        """Return a task, or None."""
        return self.read(task_id, db.execute(_sql.TASK, (task_id,)).fetchone())

    def look_up(self, db: sqlite3.Connection, task_id: str) -> TaskState | None:
        """Return a task, or None. A call of it is likely to begin soon, so `count_unchanged` knows it."""
        row = db.execute(_sql.TASK, (task_id,)).fetchone()
        state = self.read(task_id, row)
        if state is not None:
            if len(self._latest) >= TASKS:
                self._latest.clear()
            self._latest[task_id] = state, row[0]
        return state

    def count_unchanged(self, db: Connection, call: Call, now: float) -> bool:
        """Count a call as `_rules` allow it for the task that was looked up, if the task is still the same.

        That is so for nearly all calls, and saves them a second look at the task. If it returns False,
        nothing was changed: then the task has to be read.
        """
        state, fixed = self._latest.pop(call.task_id, (None, ""))
        if state is None or state.lineage or call.approval_id is not None:
            return False
        try:
            _rules.admit(call, ((call.task_id, state),), now, resumed=False)
        except TaskError:  # what is stored may allow it: the call may be resumed
            return False
        *counts, history = state.count(call)
        if history is not state.history:
            return False
        values = (*counts, state.id, state.deadline, state.calls, state.writes, fixed, call.key)
        return db.write(_sql.COUNT_UNCHANGED, values).rowcount == 1

    def read(self, task_id: str, row: _rows.Row | None) -> TaskState | None:
        """Return the task that a row of `TASK` holds, or None.

        Raises:
            StoreError: The row cannot be read.
        """
        if not row:
            return None
        fixed, deadline, history, *changing = row
        try:
            return _rows.changing_part(
                self._fixed(task_id, fixed, deadline), self._history(history), changing
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"the stored row of task {task_id} cannot be read") from error

    def family(
        self, db: sqlite3.Connection, task_id: str, state: TaskState | None
    ) -> list[tuple[str, TaskState | None]]:
        """Return a task and the tasks of its lineage, each with its id."""
        lineage = () if state is None else state.lineage
        return [(task_id, state), *((ancestor, self.one(db, ancestor)) for ancestor in lineage)]

    @staticmethod
    def active_in(db: sqlite3.Connection, login: Login, without: str, now: float) -> tuple[str, ...]:
        """Return the ids of the active tasks whose login has the names of *login*, and no name *without*.

        No task is decoded, as a user may have many.
        """
        names = ((name, getattr(login, name)) for name in ("jti", "session", "subject"))
        column, value = next((pair for pair in names if pair[1]), ("subject", ""))
        statement = _sql.ACTIVE_BY[column] + _sql.WITHOUT[without]
        values = (now, value, login.issuer, login.subject, login.session, login.jti)
        return tuple(row[0] for row in db.execute(statement, values))

    def note_read(self, db: sqlite3.Connection, call_id: str, effects: ReadEffects) -> None:
        """Record what the task of a running call, and each task of its lineage, has read by it."""
        row = db.execute("SELECT task_id FROM calls WHERE id = ? AND NOT suspended", (call_id,)).fetchone()
        state = None if row is None else self.one(db, row[0])
        if state is None:
            return
        read = (effects.untrusted, int(effects.sensitivity))
        db.executemany(_sql.READ, [(*read, task_id) for task_id in (state.id, *state.lineage)])
        if room := _rules.room(state, effects):
            root = state.root_id
            new = db.executemany(_sql.LABEL, [_rows.label_row(root, label) for label in room]).rowcount
            db.execute(_sql.LABELLED, (new, root, root))
