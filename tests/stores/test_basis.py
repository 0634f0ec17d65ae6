"""What a shared store compares of a task before a call begins leaves out nothing that may change."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from agentguard.model import Basis, Budget, Counted, Identity, Login, Mandate, Sensitivity, TaskState
from agentguard.stores import _rows
from agentguard.testing import sample_task

OTHER: dict[str, Any] = {
    "purpose": "another",
    "identity": Identity(subject="user:bob", actor="agent://b"),
    "mandate": Mandate(tools=frozenset({"another"})),
    "budget": Budget(calls=7),
    "lineage": ("another",),
    "calls": 7,
    "writes": 7,
    "history": ("another",),
    "untrusted": True,
    "words": "others",
    "kinds": ("another",),
    "sensitivity": Sensitivity.RESTRICTED,
    "labels": 7,
    "questions": 7,
    "login": Login(issuer="https://idp.example", subject="7"),
    "choice_bits": 7,
    "counted": {"pay": Counted(sum=("amount",))},
}
NOT_COMPARED = {
    "id": "it says which row is compared",
    "deadline": "it never changes, and begin_call judges by it",
    "status": "begin_call judges by it",
}


def compared(state: TaskState) -> tuple[Any, ...]:
    return _rows.fixed_text(state), Basis(tasks=(state,)).counts()


@pytest.mark.promise("no-stale-basis")
@pytest.mark.parametrize("name", [field.name for field in fields(TaskState)])
def test_each_field_of_a_task_is_compared_or_cannot_change_unnoticed(name: str) -> None:
    state = sample_task()
    if name not in NOT_COMPARED:
        assert compared(replace(state, **{name: OTHER[name]})) != compared(state)
    assert (name in NOT_COMPARED) is (name not in OTHER)
