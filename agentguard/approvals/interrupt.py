"""Let a LangGraph run wait for a person.

The interrupt carries what the person is shown, and the checkpoint keeps it. Who can write to the checkpoint
can edit it. So a page shows the person what `Guard.pending` reads from the store; and `Guard.answer` refuses
an answer if the person was shown something else than the store holds.

The resume value is ignored: `Guard.answer` writes the person's answer to the store, and the guard reads it
there after the resume. So a resume value given to the wrong call (langgraph issue 6533) or a replayed one
approves nothing.

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

    *show_arguments* puts the values of the arguments into the interrupt, and so into the checkpoint. Without
    them the interrupt alone cannot be answered: the page gets the whole question by `Guard.pending`, shows
    it, and passes that to `Guard.answer`.

    An argument that is computed again on each run of the node, such as a random default, makes a
    different call, which nobody has approved. The guard denies such a call before anybody is asked. Compute
    such a value in the tool's body.
    """

    inline = True  # also on the event loop, since langgraph finds its run in the caller's context

    def __init__(self, interrupt: Callable[[Any], Any], *, show_arguments: bool = True) -> None:
        self._interrupt, self._show = interrupt, show_arguments

    def approve(self, pending: Approval, request: AccessRequest) -> Approval:
        """Interrupt the run; after the resume, return *pending* unchanged."""
        question = pending.question()
        if not self._show:
            for name in ("arguments", "distinctions"):
                question.pop(name, None)
        self._interrupt(question)
        return pending
