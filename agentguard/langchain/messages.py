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
    "is_tool_call",
    "is_uncertain",
    "outcome_of",
    "refusal",
    "step_of",
]

_REFUSAL = {"agentguard": "denied"}
_NOTHING: Mapping[str, Any] = MappingProxyType({})
# a connection that broke when a request may be sent: of Python, httpx, urllib3, requests, aiohttp and anyio
_BROKEN = frozenset(
    {
        "BrokenPipeError",
        "BrokenResourceError",
        "ChunkedEncodingError",
        "ClientPayloadError",
        "ClosedResourceError",
        "ConnectionAbortedError",
        "ConnectionResetError",
        "EndOfStream",
        "IncompleteRead",
        "IncompleteReadError",
        "ProtocolError",
        "ReadError",
        "RemoteProtocolError",
        "ServerDisconnectedError",
        "WriteError",
    }
)
_BEHIND = 100  # errors behind one that are looked at: a tool may have made the chain
_CAUSE, _CONTEXT = (vars(BaseException)[name].__get__ for name in ("__cause__", "__context__"))
_PARTS = vars(BaseExceptionGroup)["exceptions"].__get__
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


def is_uncertain(error: BaseException) -> bool:
    """Return whether a tool was given up in the middle: nobody knows whether it took effect.

    So it is with a time-out, and with a connection that broke before the answer was there. Clients of HTTP
    and of databases have errors of their own for that, which are known by their names. A tool may raise
    another error for one of these, so what lies behind an error counts too. Of more than `_BEHIND` errors
    nobody knows it either.
    """
    waiting, ids = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in ids:
            continue
        ids.add(id(one))
        if len(ids) > _BEHIND or any(map(_means_given_up, type(one).__mro__)):
            return True
        # read below the class, so that no code of it runs
        parts = _PARTS(one) if issubclass(type(one), BaseExceptionGroup) else ()
        behind = [_CAUSE(one), _CONTEXT(one), *parts]
        waiting += [other for other in behind if other is not None]
    return False


def _means_given_up(kind: type) -> bool:
    return "timeout" in kind.__name__.lower() or kind.__name__ in _BROKEN


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
