"""How the Redis store revises a task, by two requests; see `stores._revision`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from agentguard.model import TaskState
from agentguard.stores import _rows
from agentguard.stores._revision import revise_task
from agentguard.stores.redis.packing import encode
from agentguard.stores.redis.requests import Request, Requests

__all__ = ["revised_task"]


async def revised_task(
    run: Callable[[Any], Awaitable[Any]],
    requests: Requests,
    task_id: str,
    revise: Callable[[TaskState], TaskState],
) -> TaskState:
    """Do as `ports.Store.revise_task`; *run* awaits the answer to a request."""
    return await revise_task(
        task_id,
        revise,
        requests.clock,
        lambda: run(_task_text(requests, task_id)),
        lambda state, text: run(_write(requests, state, text)),
    )


def _task_text(requests: Requests, task_id: str) -> Request[tuple[TaskState | None, bytes]]:
    """Return a task, and the text of the part that its calls do not change."""
    request = requests.task(task_id)

    def read(values: list[Any]) -> tuple[TaskState | None, bytes]:
        fields = values[0] if values else []
        return request.read(values), dict(zip(fields[::2], fields[1::2], strict=True)).get(b"fixed", b"")

    return Request(request.script, request.now, request.retention, request.arguments, read)


def _write(requests: Requests, state: TaskState, before: bytes) -> Request[bool]:
    """Replace that text, if it is still *before* and the task is active; return whether it was."""
    return requests.request("revise_task", [encode(state.id), before, _rows.fixed_text(state)], bool)
