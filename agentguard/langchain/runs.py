"""The run that makes a call: its step, and the task that its config names."""

from __future__ import annotations

from typing import Any, NamedTuple

from langchain_core.runnables.config import var_child_runnable_config

from agentguard.errors import DenialCode, Denied
from agentguard.langchain.messages import Step, configurable, step_of
from agentguard.tasks.handle import named_task

__all__ = ["Run", "run_of"]


class Run(NamedTuple):
    """A run; `problem` is the denial of each call that is made in it."""

    step: Step = Step()
    task: str | None = None
    problem: Denied | None = None


_NO_RUN = Run()


def run_of(config: Any) -> Run:
    """Return the run in which a call with this run config is made.

    As in langchain, the config of the run around it says what the call's own config does not say. Each of the
    two is read by itself: what stands in place of a handle in one of them is a problem, also where the other
    one names a task.
    """
    step = _NO_RUN.step
    try:
        around, inner = configurable(var_child_runnable_config.get()), configurable(config)
        if not around and not inner:
            return _NO_RUN
        step = step_of({**around, **inner})
        outer_task, inner_task = named_task(around), named_task(inner)
    except Denied as denied:
        return Run(step, problem=denied)
    except Exception as error:  # noqa: BLE001  on a server, a client may have written the config
        reason = f"the run's config cannot be read: {type(error).__name__}"
        return Run(step, problem=Denied.of(DenialCode.INVALID_ARGUMENTS, reason))
    return Run(step, outer_task if inner_task is None else inner_task)
