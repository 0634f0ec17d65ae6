"""Reads the answers of the PostgreSQL store's functions.

A function that refuses returns what it has seen. The errors are made of that by `_rules`, as in every other
store. So a function that decides otherwise than `_rules` is noticed, and the operation fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

from agentguard.errors import StoreError
from agentguard.model import Approval, Call, TaskState
from agentguard.stores import _counter_rules, _rows, _rules

__all__ = ["Answers", "Rows"]

Rows = Sequence[_rows.Row]
Refusal = Mapping[str, Any]


class Answers:
    """Turns answers into results and errors. It keeps the decoded form of the fixed part of tasks."""

    def __init__(self) -> None:
        # each text is decoded once; the text itself is the key, so an entry is never out of date
        self._fixed = lru_cache(1024)(_rows.fixed_part)

    def task(self, rows: Rows) -> TaskState | None:
        """Return the task that was asked for, or None.

        Raises:
            StoreError: The row cannot be read.
        """
        return self._task(rows[0]) if rows else None

    def begun(self, rows: Rows, call: Call) -> None:
        """Check that the call has begun.

        Raises:
            StoreError: The call has begun before.
            TaskNotActive, BudgetExhausted, ApprovalError, CountersChanged, CountersFull: As
                `ports.Store.begin_call`.
        """
        refusal = rows[0][0]
        if refusal is None:
            return
        if "numbers" in refusal:
            raise _counter_rules.changed(call)
        if "full" in refusal:
            addition = call.additions[refusal["full"]]
            if "values" in refusal:
                _counter_rules.within_limit(refusal["values"], addition)
            _counter_rules.grown(refusal.get("number") or 0, addition)
            _disagree("begin_counted_call")
        _rules.admit(call, self._family(refusal), refusal["now"], resumed=refusal["resumed"])
        if refusal["running"]:
            raise StoreError(f"call {call.id} has begun before")
        if call.approval_id is not None:
            _rules.use(call, _approval(refusal["approval"]), refusal["before"], refusal["now"])
        _disagree("begin_call")

    def changed(self, rows: Rows) -> dict[str, TaskState]:
        """Return the tasks of which something is otherwise than a call was judged by, by their ids.

        Raises:
            StoreError: A row cannot be read.
        """
        return {row[0]: self._task(row) for row in rows}

    def tracked(self, rows: Rows) -> None:
        """Check that the task of a tracked credential is active.

        Raises:
            TaskNotActive: It is not; the credential is recorded.
        """
        refusal = rows[0][0]
        if refusal is not None:
            _rules.active(self._family(refusal), refusal["now"])
            _disagree("track")

    def asked(self, rows: Rows, approval: Approval) -> Approval:
        """Return the recorded approval.

        Raises:
            ApprovalError, BudgetExhausted, TaskNotActive: As `ports.Store.save_approval`.
        """
        refusal = rows[0][0]
        if refusal is None:
            return approval
        if (recorded := _approval(refusal.get("recorded"))) is not None:
            return recorded
        _rules.ask(approval, self._family(refusal), _approval(refusal["rejection"]), refusal["now"])
        _disagree("save_approval")

    def answered(self, rows: Rows, reply: Approval) -> None:
        """Check that the answer is recorded.

        Raises:
            ApprovalError: As `ports.Store.answer_approval`.
        """
        refusal = rows[0][0]
        if refusal is not None:
            _rules.answer(
                _approval(refusal["recorded"]), reply, _approval(refusal["rejection"]), refusal["now"]
            )
            _disagree("answer_approval")

    def _family(self, refusal: Refusal) -> list[tuple[str, TaskState | None]]:
        states = {row[0]: self._task(row) for row in refusal["tasks"]}
        return [(task_id, states.get(task_id)) for task_id in refusal["line"]]

    def _task(self, row: _rows.Row) -> TaskState:
        task_id, fixed, deadline, history, *changing = row
        try:
            return _rows.changing_part(self._fixed(task_id, fixed, float(deadline)), tuple(history), changing)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"the stored row of task {task_id} cannot be read") from error


def _approval(row: list[Any] | None) -> Approval | None:
    if row is None:
        return None
    row[6] = float(row[6])  # JSON has no difference between 1300 and 1300.0
    return _rows.approval(row)


def _disagree(function: str) -> NoReturn:
    raise StoreError(
        f"the function {function} of the store refused what the rules allow",
        hint="the store was made by another version of agentguard; run: agentguard store check",
    )
