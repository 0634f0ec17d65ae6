"""A person who approves the calls of the user's own task, who approves everything, or who is absent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from agentguard.errors import ApprovalError
from agentguard.model import AccessRequest, Approval

__all__ = ["Answer", "Person"]


class Answer(StrEnum):
    """Who answers questions: nobody, a person who approves their own calls, or one who always says yes.

    `OWN` makes no mistake, and `YES` makes each: a real person is somewhere between the two.
    """

    NOBODY = "absent"
    OWN = "present"
    YES = "always yes"


class Person:
    """An `Approver` that gives one `answer`. `asked` is the number of questions since `expect`.

    With `Answer.OWN` it approves the calls of the user's task, each as often as the task makes it.
    """

    inline = True

    def __init__(self) -> None:
        self.answer = Answer.NOBODY
        self.asked = 0
        self._expected: list[tuple[str, Mapping[str, Any]]] = []

    def expect(self, calls: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Know these calls (tool and arguments) for the user's own, and count questions from zero."""
        self._expected, self.asked = list(calls), 0

    def approve(self, pending: Approval, request: AccessRequest) -> Approval:
        """Approve or refuse one exact call.

        Raises:
            ApprovalError: Nobody is there.
        """
        self.asked += 1
        if self.answer is Answer.NOBODY:
            raise ApprovalError("nobody is there to be asked")
        call = (request.tool.name, dict(request.arguments.values))
        if expected := call in self._expected:
            self._expected.remove(call)
        return pending.answered(approved=expected or self.answer is Answer.YES, approver="person://user")
