"""What a tool is given from the state of its graph, and so from a checkpoint.

Such values are no arguments: no model gives them, and no schema describes them. They tell two calls apart
all the same, and somebody may have edited the checkpoint. So a person who is asked is shown them, and a
yes is for them. That holds for `InjectedState`, of one field or of the whole state, and for a
`ToolRuntime`, which has the whole state. It does not hold for what the application gives to the run
itself: its context, config and store.

A call is suspended and resumed with the state of one step, so the whole state, messages included, is the
same then. An application that changes the state meanwhile begins another step, and so asks another
question.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from agentguard.langchain.streams import is_runtime

__all__ = ["state_values"]

_STEPS = {"remaining_steps": int, "is_last_step": bool}
"""What langgraph computes anew in each run (its managed values), and its type. No checkpoint holds it."""


def state_values(
    arguments: Mapping[str, str | None], injected: Mapping[str, Any], state: object
) -> dict[Any, Any]:
    """Return the values from the state, by the names of its fields.

    They are those that were *injected*, or those that a tool node will take from *state* where nothing is.
    A field that the state does not have is left out: the tool has its default then, and not null.
    """
    values: dict[Any, Any] = {}
    for name, field in arguments.items():
        value = injected.get(name)
        if value is not None and is_runtime(value):
            values |= _fields(value.state)
        elif name in injected:
            values |= {field: value} if field else _fields(value)
        elif state is not None:
            values |= _field(state, field) if field else _fields(state)
    return {name: value for name, value in values.items() if type(value) is not _STEPS.get(name)}


def _field(state: object, field: str) -> dict[str, Any]:
    """Return a field, if it is there, as a tool node takes it: an item of a mapping, or an attribute."""
    fields = _fields(state) if isinstance(state, Mapping | list) else None
    if fields is None:
        return {field: getattr(state, field)} if hasattr(state, field) else {}
    return {field: fields[field]} if field in fields else {}


def _fields(state: object) -> dict[Any, Any]:
    if isinstance(state, Mapping):
        return dict(state)
    if isinstance(state, BaseModel):
        further = (state.__pydantic_extra__ or {}) | (state.__pydantic_private__ or {})
        return {name: getattr(state, name) for name in type(state).model_fields} | further
    return {"messages": state} if isinstance(state, list) else {"state": state}
