"""LangGraph's interrupt, refused where it could never be answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables.config import var_child_runnable_config

from agentguard.approvals.interrupt import answers_another
from agentguard.errors import ApprovalError
from agentguard.langchain.messages import configurable

__all__ = ["interrupt", "is_resumed"]


def interrupt(value: Any) -> Any:
    """Suspend the run that is active here, or return what it was resumed with.

    Where *value* is a question about an approval, answers to other questions are passed over as long as one
    to this question follows. For that of a question that was asked anew stands behind that of the first.

    Raises:
        ApprovalError: No graph runs here, or it has no checkpointer to resume from.
    """
    names = configurable(var_child_runnable_config.get())
    if "__pregel_scratchpad" not in names:
        raise ApprovalError("no graph runs here: use an approver that asks at once")
    if names.get("__pregel_checkpointer") is None:
        raise ApprovalError("the graph has no checkpointer: an interrupt could never be resumed")
    from langgraph.types import interrupt as suspend  # here, a graph runs

    answer, approval_id = suspend(value), value.get("approval_id") if isinstance(value, Mapping) else None
    if approval_id is not None:
        scratchpad = names["__pregel_scratchpad"]
        while answers_another(answer, approval_id) and _has_answer(scratchpad, approval_id):
            answer = suspend(value)
    return answer


def is_resumed() -> bool:
    """Return whether the step that runs here has a value that it was resumed with."""
    scratchpad = configurable(var_child_runnable_config.get()).get("__pregel_scratchpad")
    return scratchpad is not None and bool(_values(scratchpad))


def _has_answer(scratchpad: Any, approval_id: object) -> bool:
    """Return whether one of the values that the node was resumed with names this approval."""
    values = _values(scratchpad)
    return any(isinstance(v, Mapping) and v.get("approval_id") == approval_id for v in values)


def _values(scratchpad: Any) -> list[Any]:
    """Return the values that the node was resumed with."""
    last = scratchpad.get_null_resume(False)
    return [*scratchpad.resume, *([] if last is None else [last])]
