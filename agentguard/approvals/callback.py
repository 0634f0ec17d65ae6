"""Ask a person through a function of the application's."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agentguard.errors import ApprovalError
from agentguard.model import AccessRequest, Approval, ToolPath
from agentguard.ports import Approver

__all__ = ["CallbackApprover", "for_each_path"]

Ask = Callable[[AccessRequest], bool | Awaitable[bool]]


class CallbackApprover:
    """Asks *function*, sync or async, with the request; only ``True`` itself approves.

    `approver` names who answers, for the record. It does not limit how long a person may take: the
    approval's own expiry does, as the store sees it.
    """

    def __init__(self, function: Ask, *, approver: str) -> None:
        self._function, self._approver = function, approver
        self._asynchronous = inspect.iscoroutinefunction(function)

    def approve(self, pending: Approval, request: AccessRequest) -> Approval:
        """Ask, and return the approval with the answer.

        Raises:
            ApprovalError: The function is async, and the call is not.
        """
        if self._asynchronous:
            raise ApprovalError("the approver is async: call the tool or agent with ainvoke")
        return self._answered(pending, self._function(request))

    async def aapprove(self, pending: Approval, request: AccessRequest) -> Approval:
        """Do as `approve`; a sync function runs in a thread, so that the loop goes on."""
        if not self._asynchronous:
            return await asyncio.to_thread(self.approve, pending, request)
        answer: Any = self._function(request)
        return self._answered(pending, await answer)

    def _answered(self, pending: Approval, answer: Any) -> Approval:
        return pending.answered(approved=answer is True, approver=self._approver)


def for_each_path(given: Approver | Ask | Mapping[ToolPath, Approver]) -> Mapping[ToolPath, Approver]:
    """Return who is asked on each path: one for all, unless each has its own; a function is called."""
    if isinstance(given, Mapping):
        return given
    if not isinstance(given, Approver):
        given = CallbackApprover(given, approver=getattr(given, "__qualname__", type(given).__name__))
    return dict.fromkeys(ToolPath, given)
