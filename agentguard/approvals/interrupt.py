"""Let a LangGraph run wait for a person.

The interrupt carries what the person is shown; the resume value carries nothing that counts. A
person's answer is written to the store (`Guard.answer`), and the store is asked after the resume: an
edited checkpoint, a resume value given to the wrong call (langgraph issue 6533) or a replayed one
approves nothing. The interrupt is raised again on each run of the node, also when the answer is
there, since LangGraph matches resume values to interrupts by their order; a tool's own interrupt
behind ours would otherwise be given our resume value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentguard.model import AccessRequest, Approval

__all__ = ["InterruptApprover"]


class InterruptApprover:
    """Asks with *interrupt*, which is `langgraph.types.interrupt`; needs a checkpointer to resume.

    `show_arguments` puts the argument values into the interrupt, and so into the checkpoint: a person
    can hardly decide without, but they are then stored there. What is made anew on each run of the node, as a
    random default is, makes another call of it, which nobody has approved: let the tool's body make it.
    """

    inline = True  # on the event loop too: langgraph finds its run through the context of the caller

    def __init__(self, interrupt: Callable[[Any], Any], *, show_arguments: bool = True) -> None:
        self._interrupt, self._show = interrupt, show_arguments

    def approve(self, pending: Approval, request: AccessRequest) -> Approval:
        """Interrupt the run, or return when it was resumed."""
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
        self._interrupt(payload)
        return pending
