"""How a run's config names a task: by an object that only a `Task` of this process makes.

The id of a task is public: it is in tokens, spans and interrupts. So a config that holds the id alone
names no task. A client of a server sends JSON, and JSON cannot hold this object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from agentguard.concurrency.fork import this_process
from agentguard.errors import DenialCode, Denied

__all__ = ["CONFIG_KEY", "TaskHandle", "named_task"]

CONFIG_KEY = "agentguard_task"


class TaskHandle:
    """Names one task in a run's config. It does not show the task's id, and cannot be pickled.

    langgraph writes only numbers and texts of a config into checkpoints and metadata, so the handle is in
    neither. It is no protection from Python code of the same process. In a forked child it names no task.
    """

    __slots__ = ("__process", "__task_id")

    def __init__(self, task_id: str) -> None:
        self.__task_id, self.__process = task_id, this_process()

    def _reveal(self) -> str | None:
        """Return the task's id, or None in another process than that which made the handle."""
        return self.__task_id if self.__process is this_process() else None

    def __repr__(self) -> str:
        return "<TaskHandle>"

    def __copy__(self) -> TaskHandle:
        return self

    def __deepcopy__(self, _memo: object) -> TaskHandle:
        return self

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("the handle of a task cannot be pickled; give the task's id to Guard.find instead")


def named_task(names: Mapping[str, Any]) -> str | None:
    """Return the id of the task that the `configurable` part of a run's config names, or None.

    Raises:
        Denied: The key is there without a handle: with the task's id, or with null. A client of a server
            writes null over the handle that the application has bound to its agent. Or the handle was made
            before a fork, in the parent of this process.
    """
    if CONFIG_KEY not in names:
        return None
    handle = names[CONFIG_KEY]
    if type(handle) is not TaskHandle:
        reason = "the run's config names a task by something other than Task.config"
        raise Denied.of(DenialCode.NO_TASK, reason)
    task_id = handle._reveal()
    if task_id is None:
        reason = "the run's config names a task of the process that this one was forked from"
        raise Denied.of(DenialCode.NO_TASK, reason)
    return task_id
