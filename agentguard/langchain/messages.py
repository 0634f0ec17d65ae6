"""How a denial looks to whoever called the tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import ToolMessage

from agentguard.errors import Denied

__all__ = ["is_tool_call", "refusal", "suspends"]


def is_tool_call(value: object) -> bool:
    """Whether this is langchain's ToolCall, the form in which a model calls."""
    return isinstance(value, Mapping) and value.get("type") == "tool_call"


def refusal(denied: Denied, tool: str, call_id: str | None) -> ToolMessage:
    """Answer a model's call with the advice alone; the reason is for the operator."""
    return ToolMessage(
        content=f"Denied: {denied.advice}", name=tool, tool_call_id=call_id or "", status="error"
    )


def suspends(error: BaseException) -> bool:
    """Whether this is LangGraph's control flow, which waits and has not failed.

    By name, so that langgraph need not be there. `ParentCommand`, a hand-over to a parent graph, is
    no suspension: the tool is done.
    """
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "langgraph.errors"}
    return "GraphBubbleUp" in names and "ParentCommand" not in names


def hands_over(error: BaseException) -> bool:
    """Whether this is LangGraph's hand-over to a parent graph, raised by a tool that is done."""
    return type(error).__name__ == "ParentCommand" and type(error).__module__ == "langgraph.errors"


def configurable(config: Any) -> Mapping[str, Any]:
    """Return the `configurable` part of a run config, or nothing."""
    found = (config or {}).get("configurable")
    return found if isinstance(found, Mapping) else {}
