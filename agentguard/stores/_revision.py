"""How a store on a server revises the words and the mandate of a task.

*revise* is a function of the application, so it cannot run in the server. The text that was read is written
over only where it is still the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from agentguard.errors import StoreError
from agentguard.model import TaskState
from agentguard.stores import _rules

__all__ = ["revise_task"]

T = TypeVar("T", str, bytes)
REVISIONS = 16
"""How often a task that others revise at the same time is read before this gives up."""


async def revise_task(
    task_id: str,
    revise: _rules.Revise,
    clock: Callable[[], float],
    read: Callable[[], Awaitable[tuple[TaskState | None, T]]],
    write: Callable[[TaskState, T], Awaitable[bool]],
) -> TaskState:
    """Do as `ports.Store.revise_task`: two round trips.

    *read* returns the task, and the text of the part that its calls do not change. *write* replaces this text
    if it is still the same and the task is active, and returns whether it was.

    Raises:
        TaskNotActive: The task is not active.
        StoreError: Others have revised the task between each reading and writing.
    """
    for _ in range(REVISIONS):
        state, text = await read()
        revised = _rules.revised(task_id, state, revise, clock())
        if await write(revised, text):
            return revised
    raise StoreError(f"task {task_id} is revised by others all the time")
