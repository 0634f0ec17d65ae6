"""Which task is active in a context. `active_task` alone says so; no other code reads the ContextVar.

A block that makes a task active can be left in another context than the one that it was entered in: an event
loop closes a dropped async generator in a context of its own, and any thread may close a synchronous one. No
code can take the task out of the first context then. So the block's `Activation` says that it was left, and
`active_task` passes over such activations. That holds in each copy of the context too, such as that of work
in the background.

An activation is one of the process that made it. A forked child has a copy of the context, and no task is
active there: the child would else go on as the task's user after the parent has ended the task.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar

from agentguard.concurrency.fork import this_process

__all__ = ["Activation", "Blocks", "activate", "active_task", "deactivate", "left_task"]


class Activation:
    """One block in which a task is active; `outer` is the activation around it in the same context."""

    __slots__ = ("left", "outer", "process", "task_id")

    def __init__(self, task_id: str, outer: Activation | None) -> None:
        self.task_id, self.outer, self.left = task_id, outer, False
        self.process = this_process()


_innermost: ContextVar[Activation | None] = ContextVar("agentguard_task", default=None)


def active_task() -> str | None:
    """Return the id of the task that is active in this context, or None."""
    activation = _not_left()
    return None if activation is None else activation.task_id


def left_task() -> str | None:
    """Return the id of a task whose block was left in another context, for the words of a denial only."""
    return next((activation.task_id for activation in _here() if activation.left), None)


def activate(task_id: str) -> Activation:
    """Make a task the active one of this context; `deactivate` takes what is returned."""
    activation = Activation(task_id, _not_left())
    _innermost.set(activation)
    return activation


def deactivate(activation: Activation) -> None:
    """Undo `activate`, in any context and any order. Another task that is active here stays active."""
    activation.left = True
    _innermost.set(_not_left())


def _here() -> Iterator[Activation]:
    activation = _innermost.get()
    while activation is not None:
        yield activation
        activation = activation.outer


def _not_left() -> Activation | None:
    process, activation = this_process(), _innermost.get()
    while activation is not None and (activation.left or activation.process is not process):
        activation = activation.outer
    return activation


class Blocks:
    """The ``with`` blocks of one task object. Several may be entered at once: nested, or by several threads.

    Leaving a block deactivates that block alone, so that a block that still runs does not fall back to the
    task around it. A block that is left in another context cannot be told from the others. It is deactivated
    when all of the blocks that are entered have been left.
    """

    __slots__ = ("_elsewhere", "_entered")

    def __init__(self) -> None:
        self._entered, self._elsewhere = list[Activation](), list[None]()

    @property
    def are_of_another_process(self) -> bool:
        """Whether all blocks that are entered were entered before a fork, in the parent of this process."""
        process = this_process()
        return bool(self._entered) and all(activation.process is not process for activation in self._entered)

    def enter(self, task_id: str) -> None:
        """Make the task active in this context, for one block."""
        self._entered.append(activate(task_id))

    def leave(self) -> None:
        """Deactivate the block that is left, in whatever context."""
        entered = {id(activation) for activation in self._entered}
        inner = next((activation for activation in _here() if id(activation) in entered), None)
        if inner is None:
            self._elsewhere.append(None)
        else:
            self._entered.remove(inner)
            deactivate(inner)
        rest = list(self._entered)  # another thread may enter a block meanwhile
        if len(self._elsewhere) >= len(rest):
            del self._elsewhere[: len(rest)]
            for activation in rest:
                self._entered.remove(activation)
                deactivate(activation)
