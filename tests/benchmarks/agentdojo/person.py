"""A person who knows what they asked for, and the one who is not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agentguard.errors import ApprovalError
from agentguard.model import AccessRequest, Approval

__all__ = ["Person"]


class Person:
    """Approves exactly the calls that the user's task consists of, each as often as it has it.

    Refuses any other call. While they are not `present`, asking is in vain. Counts the questions.
    """

    inline = True

    def __init__(self) -> None:
        self.present = False
        self.asked = 0
        self._wanted: list[tuple[str, Mapping[str, Any]]] = []

    def expect(self, calls: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Want these calls from now on, tool and arguments, and forget the questions so far."""
        self._wanted, self.asked = list(calls), 0

    def approve(self, pending: Approval, request: AccessRequest) -> Approval:
        """Answer for one exact call.

        Raises:
            ApprovalError: Nobody is there.
        """
        self.asked += 1
        if not self.present:
            raise ApprovalError("nobody is there to be asked")
        call = (request.tool.name, dict(request.arguments.values))
        if wanted := call in self._wanted:
            self._wanted.remove(call)
        return pending.answered(approved=wanted, approver="person://user")
