"""The statement that begins a call in the PostgreSQL store if what it was judged by is still so.

The server evaluates an argument of COALESCE only where all before it are NULL. So `begin_call` runs where
`changed_basis` has found nothing (see `_comparison`).
"""

from __future__ import annotations

import json

from agentguard.model import Basis, Call, LiveCredential, TaskState
from agentguard.stores import _rows
from agentguard.stores.postgres._answers import Rows
from agentguard.stores.postgres._statements import Statement, Statements
from agentguard.stores.postgres._texts import packed

__all__ = ["begin_if_unchanged"]


def begin_if_unchanged(
    statements: Statements, call: Call, credential: LiveCredential | None, basis: Basis
) -> Statement[tuple[TaskState, ...] | None]:
    """Begin a call if what it was judged by is still so (see `ports.ConditionalStore`)."""
    begin, schema, answers = statements.begin_call(call, credential), statements.schema, statements.answers
    places = f"${len(begin.values) + 1}, ${len(begin.values) + 2}"
    begun = begin.text.removeprefix("SELECT ")
    text = f"SELECT coalesce({schema}.changed_basis({places}), {begun})"

    def read(rows: Rows) -> tuple[TaskState, ...] | None:
        refusal = rows[0][0]
        if refusal is None or "changed" not in refusal:
            answers.begun(rows, call)
            return None
        states = answers.changed(refusal["changed"])
        return tuple(states[task.id] for task in basis.tasks)

    return Statement(text, (*begin.values, _tasks(basis), _labels(basis)), read)


# as JSON, because a driver takes longer to send a list than the server to read it


def _tasks(basis: Basis) -> str:
    pairs = zip(basis.tasks, basis.counts(), strict=True)
    return json.dumps(
        [[packed(task.id), _rows.fixed_text(task), json.dumps(counts)] for task, counts in pairs]
    )


def _labels(basis: Basis) -> str | None:
    if not basis.digests:
        return None
    labels = [[one.digest, one.source, one.trusted, int(one.sensitivity)] for one in basis.labels]
    return json.dumps(packed([list(basis.digests), labels]))
