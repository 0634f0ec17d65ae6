"""LangGraph's interrupt, refused where it could never be answered."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables.config import var_child_runnable_config

from agentguard.errors import ApprovalError
from agentguard.langchain.messages import configurable

__all__ = ["interrupt"]


def interrupt(value: Any) -> Any:
    """Suspend the run that is active here.

    Raises:
        ApprovalError: No graph runs here, or it has no checkpointer to resume from.
    """
    names = configurable(var_child_runnable_config.get())
    if "__pregel_scratchpad" not in names:
        raise ApprovalError("no graph runs here: use an approver that asks at once")
    if names.get("__pregel_checkpointer") is None:
        raise ApprovalError("the graph has no checkpointer: an interrupt could never be resumed")
    from langgraph.types import interrupt as suspend  # here, a graph runs

    return suspend(value)
