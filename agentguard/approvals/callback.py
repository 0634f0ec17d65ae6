"""Ask a person through a function of the application."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from agentguard.concurrency.abandonable import AbandonableThreads
from agentguard.errors import ApprovalError
from agentguard.model import AccessRequest, Approval, ToolPath
from agentguard.ports import Approver

__all__ = ["CallbackApprover", "for_each_path"]

Ask = Callable[[AccessRequest], bool | Awaitable[bool]]


class CallbackApprover:
    """Calls *function*, sync or async, with the request. Only the value ``True`` approves.

    *approver* is the name of the person or service that answers; it is recorded. This class does not
    limit how long the answer takes. The approval's expiry does: the store refuses a late answer.
    ``request.question`` is all that the page of an interrupt shows: the arguments, what their JSON does not
    say, and under ``state`` what the tool is given from the state of its graph. Show a person all of it.
    """

    answers_at_once = True

    def __init__(self, function: Ask, *, approver: str) -> None:
        self._function, self._approver = function, approver
        self._threads = AbandonableThreads(f"approver {approver}")
        self._asynchronous = inspect.iscoroutinefunction(function)

    def approve(self, pending: Approval, request: AccessRequest) -> Approval:
        """Ask, and return the approval with the answer.

        Raises:
            ApprovalError: The function is async, but the call is synchronous.
        """
        if self._asynchronous:
            raise ApprovalError("the approver is async; call the tool or agent with ainvoke")
        return self._with_answer(pending, self._function(_with_question(request, pending)))

    async def aapprove(self, pending: Approval, request: AccessRequest) -> Approval:
        """Do as `approve`. A sync function runs in a thread that others do not need."""
        if not self._asynchronous:
            party = request.identity.subject
            return await self._threads.arun(None, self.approve, pending, request, party=party)
        answer: Any = self._function(_with_question(request, pending))
        return self._with_answer(pending, await answer)

    def _with_answer(self, pending: Approval, answer: Any) -> Approval:
        return pending.answered(approved=answer is True, approver=self._approver)


def _with_question(request: AccessRequest, pending: Approval) -> AccessRequest:
    return replace(request, question=pending.question())


def for_each_path(approver: Approver | Ask | Mapping[ToolPath, Approver]) -> Mapping[ToolPath, Approver]:
    """Return the approver of each path; a single approver, or a function, serves all paths."""
    if isinstance(approver, Mapping):
        return approver
    if not isinstance(approver, Approver):
        name = getattr(approver, "__qualname__", type(approver).__name__)
        approver = CallbackApprover(approver, approver=name)
    return dict.fromkeys(ToolPath, approver)
