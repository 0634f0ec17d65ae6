"""What langchain and langgraph hand over, read; and how a denial looks to the caller of a tool."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from langchain_core.messages import ToolMessage

from agentguard.enforcement.setup import outcome_of_error
from agentguard.errors import Denied
from agentguard.model import Outcome

__all__ = [
    "Step",
    "configurable",
    "is_refusal",
    "is_time_out",
    "is_tool_call",
    "outcome_of",
    "refusal",
    "step_of",
]

_REFUSAL = {"agentguard": "denied"}
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_MAPPINGS = (dict, Mapping)  # first the class of most: to look for it among all mappings takes longer


def is_tool_call(value: object) -> bool:
    """Whether this is langchain's ToolCall, the form in which a model calls."""
    try:
        return isinstance(value, _MAPPINGS) and bool(value.get("type") == "tool_call")
    except Exception:  # noqa: BLE001  what cannot be read is no ToolCall; the gate tells what is wrong with it
        return False


def refusal(denied: Denied, tool: str, call_id: str | None) -> ToolMessage:
    """Answer a model's call with the advice alone; the reason is for the operator."""
    return ToolMessage(
        content=f"Denied: {denied.advice}",
        name=tool,
        tool_call_id=call_id or "",
        status="error",
        response_metadata=dict(_REFUSAL),
    )


def is_refusal(message: ToolMessage) -> bool:
    """Return whether this answers a denied call. Whoever writes messages can make one that says so."""
    return _REFUSAL.items() <= message.response_metadata.items()


def outcome_of(error: BaseException) -> Outcome:
    """Return how a call ended that left its tool by this exception.

    LangGraph's control flow is no failure: a run that waits is suspended, and a tool that hands over to a
    parent graph (`ParentCommand`) is done. Both are known by the names of their classes, so that langgraph
    need not be installed.
    """
    if isinstance(error, Exception):
        names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "langgraph.errors"}
        if "ParentCommand" in names:
            return Outcome.DONE
        if "GraphBubbleUp" in names:
            return Outcome.SUSPENDED
    return outcome_of_error(error)


def is_time_out(error: BaseException) -> bool:
    """Return whether a tool was given up in the middle: nobody knows whether it took effect.

    Clients of HTTP and of databases have time-outs of their own, which are known by their names.
    """
    return any("timeout" in kind.__name__.lower() for kind in type(error).__mro__)


class Step(NamedTuple):
    """A step of a graph's run: its thread, and its place in the run. Without a thread no graph runs here."""

    thread: str | None = None
    place: str = ""


def step_of(names: Mapping[str, Any]) -> Step:
    """Return the step of a graph's run that runs here.

    *names* are a run config's `configurable`. langgraph names a step by its checkpoint namespace, in which
    the ids of the running tasks stand, from the outermost graph inwards. A task's id is computed from the
    checkpoint that the task starts from. So it stays when a suspended task runs again, and differs in each
    turn and in each of several subgraphs that run side by side.
    """
    thread = names.get("thread_id")
    if thread is None or "__pregel_scratchpad" not in names:
        return Step()
    return Step(str(thread), str(names.get("checkpoint_ns", "")))


def configurable(config: Any) -> Mapping[str, Any]:
    """Return the `configurable` part of a run config, or nothing."""
    names = config.get("configurable") if config else None
    return names if names is not None and isinstance(names, _MAPPINGS) else _NOTHING
