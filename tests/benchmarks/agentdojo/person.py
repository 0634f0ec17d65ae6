"""A person who approves the calls of the user's own task, or who is absent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agentguard.errors import ApprovalError
from agentguard.model import AccessRequest, Approval

__all__ = ["Person"]


class Person:
    """An `Approver` that approves the calls of the user's task, each as often as the task makes it.

    It refuses every other call. If the person is not `present`, no call is approved. `asked` is the number
    of questions since `expect`.
    """

    inline = True

    def __init__(self) -> None:
        self.present = False
        self.asked = 0
        self._expected: list[tuple[str, Mapping[str, Any]]] = []

    def expect(self, calls: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Approve these calls (tool and arguments) from now on, and set the number of questions to zero."""
        self._expected, self.asked = list(calls), 0

    def approve(self, pending: Approval, request: AccessRequest) -> Approval:
        """Approve or refuse one exact call.

        Raises:
            ApprovalError: Nobody is there.
        """
        self.asked += 1
        if not self.present:
            raise ApprovalError("nobody is there to be asked")
        call = (request.tool.name, dict(request.arguments.values))
        if expected := call in self._expected:
            self._expected.remove(call)
        return pending.answered(approved=expected, approver="person://user")
