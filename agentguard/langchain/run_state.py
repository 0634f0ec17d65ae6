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

_STEPS = frozenset({"remaining_steps", "is_last_step"})
"""What langgraph computes anew in each run (its managed values). No checkpoint holds it."""


def state_values(
    arguments: Mapping[str, str | None], injected: Mapping[str, Any], state: object
) -> dict[Any, Any]:
    """Return the values from the state, by the names of its fields.

    They are those that were *injected*, or those that a tool node will take from *state* where nothing is.
    """
    values: dict[Any, Any] = {}
    for name, field in arguments.items():
        value = injected.get(name)
        if value is not None and is_runtime(value):
            values |= _fields(value.state)
        elif name in injected:
            values |= {field: value} if field else _fields(value)
        elif state is not None:
            values |= {field: _field(state, field)} if field else _fields(state)
    return {name: value for name, value in values.items() if name not in _STEPS}


def _field(state: object, field: str) -> Any:
    """Return a field as a tool node takes it: an item of a mapping, or an attribute."""
    if isinstance(state, Mapping | list):
        return _fields(state).get(field)
    return getattr(state, field, None)


def _fields(state: object) -> dict[Any, Any]:
    if isinstance(state, Mapping):
        return dict(state)
    if isinstance(state, BaseModel):
        further = (state.__pydantic_extra__ or {}) | (state.__pydantic_private__ or {})
        return {name: getattr(state, name) for name in type(state).model_fields} | further
    return {"messages": state} if isinstance(state, list) else {"state": state}
