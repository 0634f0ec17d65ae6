"""The statement that begins a call in the PostgreSQL store if what it was judged by is still so.

The server evaluates an argument of COALESCE only where all before it are NULL. So `begin_call` runs where
`changed_basis` has found nothing (see `_comparison`).
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from agentguard.model import Basis, Call, LiveCredential, TaskState
from agentguard.stores import _rows
from agentguard.stores.postgres._answers import Rows
from agentguard.stores.postgres._statements import Statement, Statements

__all__ = ["begin_if_unchanged"]


def begin_if_unchanged(
    statements: Statements, call: Call, credential: LiveCredential | None, basis: Basis
) -> Statement[tuple[TaskState, ...] | None]:
    """Begin a call if what it was judged by is still so (see `ports.ConditionalStore`)."""
    begin, schema, answers = statements.begin_call(call, credential), statements.schema, statements.answers
    labels = list(basis.labels)
    values: tuple[Any, ...] = (
        [task.id for task in basis.tasks],
        [_rows.fixed_text(task) for task in basis.tasks],
        list(chain.from_iterable(basis.counts())),
        list(basis.digests),
        [label.digest for label in labels],
        [label.source for label in labels],
        [label.trusted for label in labels],
        [int(label.sensitivity) for label in labels],
    )
    first = len(begin.values) + 1
    compared = ", ".join(f"${number}" for number in range(first, first + len(values)))
    begun = begin.text.removeprefix("SELECT ")
    text = f"SELECT coalesce({schema}.changed_basis({compared}), {begun})"

    def read(rows: Rows) -> tuple[TaskState, ...] | None:
        refusal = rows[0][0]
        if refusal is None or "changed" not in refusal:
            answers.begun(rows, call)
            return None
        states = answers.changed(refusal["changed"])
        return tuple(states[task.id] for task in basis.tasks)

    return Statement(text, (*begin.values, *values), read)
