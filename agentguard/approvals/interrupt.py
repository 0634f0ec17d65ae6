"""Let a LangGraph run wait for a person.

The interrupt carries what the person is shown, and the checkpoint keeps it. Who can write to the checkpoint
can edit it. So a page shows the person what `Guard.pending` reads from the store; and `Guard.answer` refuses
an answer if the person was shown something else than the store holds.

The resume value approves nothing: `Guard.answer` writes the person's answer to the store, and the guard
reads it there after the resume. So one that is given to the wrong call (langgraph issue 6533) or replayed
changes nothing.

The interrupt is raised again on each run of the node, also when the answer is already in the store.
LangGraph matches resume values to interrupts by their order. Without ours, an interrupt of the tool itself
would receive our resume value. A value that names another approval is the answer to another question: one
about another call, or an earlier one about this call, which has expired or was asked under other rules. The
run then waits once more.

Resume by the interrupt's id: ``Command(resume={interrupt.id: guard.answer(interrupt.value, ...)})``. By it
LangGraph knows which of several waiting calls the answer is for. A plain ``Command(resume=...)`` is refused
where several calls wait, and if the run is invoked without a value next, LangGraph hands the same value out
once more: to an interrupt of the tool itself. Give each call a step of its own, as `create_agent` does.
Where one node makes several calls, LangGraph runs the node again after each answer. A call that was made in
it before is then denied, with the words that it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentguard.model import AccessRequest, Approval, ApprovalStatus

__all__ = ["InterruptApprover", "answers_another"]

ANSWERS = 100
"""How many answers to other questions are passed over at most; one that repeats for ever ends there."""


class InterruptApprover:
    """Asks with *interrupt*, which is `langgraph.types.interrupt`. Resuming needs a checkpointer.

    *show_arguments* puts the values of the arguments, and those that the tool is given from the graph's
    state, into the interrupt, and so into the checkpoint. Without them the interrupt alone cannot be
    answered: the page gets the whole question by `Guard.pending`, shows it, and passes that to
    `Guard.answer`.

    It also asks for what an issuer misses of the user. Such a question has the `type` ``agentguard.grant``
    and a ``grant``: the code, the issuer, the resource, the scopes and, if it is known, the `url` of the
    page. The run goes on with any value, as in ``Command(resume={interrupt.id: True})``. *is_resumed* says
    whether the step that runs here was resumed; by default, the store is asked for earlier questions each
    time.

    An argument that is computed again on each run of the node, such as a random default, makes a
    different call, which nobody has approved. The guard denies such a call before anybody is asked, and each
    call in which a default factory has made a value. Compute such a value in the tool's body.
    """

    asks_for_grants = True
    inline = True  # also on the event loop, since langgraph finds its run in the caller's context

    def __init__(
        self,
        interrupt: Callable[[Any], Any],
        *,
        show_arguments: bool = True,
        is_resumed: Callable[[], bool] = lambda: True,
    ) -> None:
        self._interrupt, self._show, self.is_resumed = interrupt, show_arguments, is_resumed

    def approve(self, pending: Approval, request: AccessRequest) -> Approval:
        """Interrupt the run; after the resume, return *pending* unchanged."""
        question = pending.question()
        if not self._show:
            for name in ("arguments", "distinctions", "state"):
                question.pop(name, None)
        for _ in range(ANSWERS):
            value = self._interrupt(question)
            if pending.status is not ApprovalStatus.PENDING or not answers_another(value, pending.id):
                break
        return pending


def answers_another(value: object, approval_id: object) -> bool:
    """Return whether a resume value names another approval than this one. Most values name none."""
    answered_id = value.get("approval_id") if isinstance(value, Mapping) else None
    return isinstance(answered_id, str) and answered_id != approval_id
