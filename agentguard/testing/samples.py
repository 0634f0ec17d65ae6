"""Complete model objects, for tests that need only one part of them."""

from __future__ import annotations

from typing import Any

from agentguard.model import (
    AccessRequest,
    Arguments,
    Grant,
    Identity,
    Mandate,
    Resource,
    TaskState,
    ToolPath,
    ToolSpec,
)

__all__ = ["sample_grant", "sample_request", "sample_task"]

IDENTITY = Identity(subject="user:ada", actor="spiffe://example.test/agent")


def sample_task(id: str = "task-1", **changes: Any) -> TaskState:
    """Return a task; *changes* are fields of `TaskState`. Its deadline is 3600 s after the epoch."""
    mandate = Mandate.of({"tools": ["get_order", "refund_order"], "args": {"order_id": ["4711"]}})
    facts: dict[str, Any] = {
        "purpose": "Refund order 4711",
        "identity": IDENTITY,
        "mandate": mandate,
        "deadline": 3600.0,
    }
    return TaskState(id=id, **(facts | changes))


def sample_request(**changes: Any) -> AccessRequest:
    """Return a request to refund order 4711; *changes* are fields of `AccessRequest`."""
    tool = ToolSpec(name="refund_order", path=ToolPath.WRITE, resource="payments")
    arguments = Arguments.of({"order_id": "4711", "amount": 30})
    facts: dict[str, Any] = {
        "identity": IDENTITY,
        "tool": tool,
        "arguments": arguments,
        "task": sample_task(),
    }
    return AccessRequest(**(facts | changes))


def sample_grant(id: str = "grant-1", **changes: Any) -> Grant:
    """Return a grant to refund order 4711; *changes* are fields of `Grant`."""
    facts: dict[str, Any] = {
        "task_id": "task-1",
        "identity": IDENTITY,
        "tool": "refund_order",
        "path": ToolPath.WRITE,
        "resource": Resource(name="payments", origins=("https://payments.example.test",)),
        "scopes": frozenset({"refund"}),
        "digest": Arguments.of({"order_id": "4711", "amount": 30}).json_digest,
        "lifetime": 60.0,
    }
    return Grant(id=id, **(facts | changes))
