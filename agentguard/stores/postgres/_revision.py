"""How the PostgreSQL store revises a task, by two statements; see `stores._revision`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from agentguard.model import TaskState
from agentguard.stores import _rows, _rules
from agentguard.stores._revision import revise_task
from agentguard.stores.postgres._statements import Statement, Statements

__all__ = ["revised_task"]


async def revised_task(
    run: Callable[[Callable[[], Statement[Any]]], Awaitable[Any]],
    statements: Statements,
    task_id: str,
    revise: _rules.Revise,
) -> TaskState:
    """Do as `ports.Store.revise_task`; *run* awaits the answer to a statement."""
    return await revise_task(
        task_id,
        revise,
        statements.clock,
        lambda: run(partial(_task_text, statements, task_id)),
        lambda state, text: run(partial(_write, statements, state, text)),
    )


def _task_text(statements: Statements, task_id: str) -> Statement[tuple[TaskState | None, str]]:
    """Return a task, and the text of the part that its calls do not change."""
    task = statements.task(task_id)
    return Statement(
        task.text, task.values, lambda rows: (task.read(rows), rows[0][1] if rows else ""), repeats=True
    )


def _write(statements: Statements, state: TaskState, before: str) -> Statement[bool]:
    """Replace that text, if it is still *before* and the task is active; return whether it was."""
    condition = "id = $1 AND fixed = $3 AND status = 'active' RETURNING 1"
    text = f"UPDATE {statements.schema}.tasks SET fixed = $2 WHERE {condition}"  # noqa: S608  a checked name
    return Statement(text, (state.id, _rows.fixed_text(state), before), bool)
