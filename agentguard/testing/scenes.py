"""Tasks, calls and approvals as the store's contract needs them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentguard.model import Approval, Budget, Call, LiveCredential, TaskState, ToolPath
from agentguard.testing.both import Face
from agentguard.testing.samples import sample_task

__all__ = ["approved_call", "ask", "call", "family", "live"]


async def family(store: Face, *, deadline: float = 3600.0, **budgets: Budget) -> None:
    """Create root, parent and child, each within the one before."""
    lineages: dict[str, tuple[str, ...]] = {"root": (), "parent": ("root",), "child": ("parent", "root")}
    for name, lineage in lineages.items():
        state: TaskState = sample_task(name, lineage=lineage, budget=budgets.get(name, Budget()))
        await store.create_task(replace(state, deadline=deadline) if name == "root" else state)


async def approved_call(store: Face, name: str = "a", *, approved: bool = True, **changes: Any) -> None:
    """Ask for an approval and answer it."""
    if await store.task("child") is None:
        await store.create_task(sample_task("child"))
    asked = ask(name, **changes)
    await store.save_approval(asked)
    await store.answer_approval(asked.answered(approved=approved, approver="user:eve"))


def ask(name: str = "a", **changes: Any) -> Approval:
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
) -> Call:
    """Return a call of the child task."""
    key = f"key-{name}" if key is None else key
    return Call(id=name, key=key, task_id=task, tool=tool, path=path, at=1000.0, approval_id=approval)


def live(name: str, *, task: str = "child", handle: str = "") -> LiveCredential:
    """Return what a broker may have minted for the call of that name."""
    return LiveCredential(
        call_id=name, task_id=task, broker="broker", handle=handle or name, expires_at=1060.0
    )
