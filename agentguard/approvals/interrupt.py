"""Let a LangGraph run wait for a person.

The interrupt carries what the person is shown. The resume value is ignored: `Guard.answer` writes the
person's answer to the store, and the guard reads it there after the resume. So an edited checkpoint, a
resume value given to the wrong call (langgraph issue 6533) or a replayed one approves nothing.

The interrupt is raised again on each run of the node, also when the answer is already in the store.
LangGraph matches resume values to interrupts by their order; without ours, an interrupt of the tool
itself would receive our resume value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentguard.model import AccessRequest, Approval

__all__ = ["InterruptApprover"]


class InterruptApprover:
    """Asks with *interrupt*, which is `langgraph.types.interrupt`. Resuming needs a checkpointer.

    *show_arguments* puts the values of the arguments into the interrupt. A person can hardly decide
    without them, but they are then stored in the checkpoint too.

    An argument that is computed again on each run of the node, such as a random default, makes a
    different call, which nobody has approved. The guard denies such a call before anybody is asked. Compute
    such a value in the tool's body.
    """

    inline = True  # also on the event loop, since langgraph finds its run in the caller's context

    def __init__(self, interrupt: Callable[[Any], Any], *, show_arguments: bool = True) -> None:
        self._interrupt, self._show = interrupt, show_arguments

    def approve(self, pending: Approval, request: AccessRequest) -> Approval:
        """Interrupt the run; after the resume, return *pending* unchanged."""
        payload: dict[str, Any] = {
            "type": "agentguard.approval",
            "approval_id": pending.id,
            "task": request.task.id,
            "purpose": request.task.purpose,
            "tool": request.tool.name,
            "path": request.tool.path.value,
            "digest": pending.digest,
            "expires_at": pending.expires_at,
        }
        if self._show:
            payload["arguments"] = request.arguments.values
            if request.arguments.distinctions:
                payload["distinctions"] = list(request.arguments.distinctions)
        self._interrupt(payload)
        return pending
