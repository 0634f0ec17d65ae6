"""The tasks, calls, credentials and approvals that the store's contract uses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentguard.model import Approval, Budget, Call, LiveCredential, TaskState, ToolPath
from agentguard.testing.samples import sample_task
from agentguard.testing.scenarios import AwaitedPort

__all__ = ["call", "create_family", "live_credential", "pending_approval", "save_answered_approval"]


async def create_family(store: AwaitedPort, *, deadline: float = 3600.0, **budgets: Budget) -> None:
    """Create the tasks root, parent and child; each is a child of the one before."""
    lineages: dict[str, tuple[str, ...]] = {"root": (), "parent": ("root",), "child": ("parent", "root")}
    for name, lineage in lineages.items():
        state: TaskState = sample_task(name, lineage=lineage, budget=budgets.get(name, Budget()))
        await store.create_task(replace(state, deadline=deadline) if name == "root" else state)


async def save_answered_approval(
    store: AwaitedPort, name: str = "a", *, approved: bool = True, **changes: Any
) -> None:
    """Save a pending approval and answer it."""
    if await store.task("child") is None:
        await store.create_task(sample_task("child"))
    pending = pending_approval(name, **changes)
    await store.save_approval(pending)
    await store.answer_approval(pending.answered(approved=approved, approver="user:eve"))


def pending_approval(name: str = "a", **changes: Any) -> Approval:
    """Return a pending approval."""
    facts: dict[str, Any] = {"call_key": "k", "task_id": "child", "tool": "get_order", "digest": "d"}
    return Approval(id=name, policy_version="1", expires_at=1300.0, **(facts | changes))


def call(
    name: str,
    *,
    key: str | None = None,
    task: str = "child",
    tool: str = "get_order",
    path: ToolPath = ToolPath.READ,
    approval: str | None = None,
    choice_bits: int = 0,
    **counts: Any,
) -> Call:
    """Return a call with that id, of the task *task*; *counts* are its `numbers` and `additions`."""
    key = f"key-{name}" if key is None else key
    facts: dict[str, Any] = {"tool": tool, "path": path, "approval_id": approval, "choice_bits": choice_bits}
    facts |= counts
    return Call(id=name, key=key, task_id=task, at=1000.0, **facts)


def live_credential(name: str, *, task: str = "child", handle: str = "") -> LiveCredential:
    """Return the record of a credential for the call with that id."""
    return LiveCredential(
        call_id=name, task_id=task, broker="broker", handle=handle or name, expires_at=1060.0
    )
