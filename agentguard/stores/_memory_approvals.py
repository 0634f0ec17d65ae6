"""The approvals of the store in memory. The store holds its lock around each call."""

from __future__ import annotations

from collections.abc import Container

from agentguard.model import Approval, ApprovalStatus, Call, TaskState
from agentguard.stores import _rules

_Subject = tuple[str, str, str]  # what a rejection holds for: a family of tasks, a tool, a `shown_digest`


class ApprovalTable:
    """The approvals by their ids, the newest by call key, and a rejection by what it holds for."""

    def __init__(self) -> None:
        self._approvals: dict[str, Approval] = {}
        self._families: dict[str, str] = {}  # by the approval's id
        self._newest: dict[str, str] = {}
        self._rejections: dict[_Subject, str] = {}

    def get(self, approval_id: str) -> Approval | None:
        """Return an approval, or None."""
        return self._approvals.get(approval_id)

    def newest(self, call_key: str) -> Approval | None:
        """Return the newest approval for this call, or None."""
        return self._approvals.get(self._newest.get(call_key, ""))

    def rejection(self, family: str, tool: str, shown_digest: str) -> Approval | None:
        """Return a rejection of such a call in a family of tasks, or None."""
        return self._approvals.get(self._rejections.get((family, tool, shown_digest), ""))

    def save(self, approval: Approval, family: _rules.Family, now: float) -> list[TaskState]:
        """Record a new question, and return the tasks for which it counts."""
        root = family[-1][0]
        states = _rules.ask(approval, family, self.rejection(root, approval.tool, approval.shown_digest), now)
        self._approvals[approval.id] = approval
        self._families[approval.id] = root
        self._newest[approval.call_key] = approval.id
        return states

    def answer(self, reply: Approval, now: float) -> None:
        """Record a person's answer to a pending approval."""
        subject = (self._families.get(reply.id, ""), reply.tool, reply.shown_digest)
        answered = _rules.answer(self.get(reply.id), reply, self.rejection(*subject), now)
        self._approvals[answered.id] = answered
        if answered.status is ApprovalStatus.DENIED:
            self._rejections.setdefault(subject, answered.id)

    def use(self, call: Call, approval_id: str, before: str | None, now: float) -> None:
        """Record that a call uses an approval; *before* is the one that it used before it was suspended."""
        approval = _rules.use(call, self._approvals.get(approval_id), before, now)
        self._approvals[approval.id] = approval

    def prune(self, old: float, tasks: Container[str]) -> None:
        """Delete what expired by the time *old*; a rejection stays as long as its family's oldest task."""
        for id_, approval in list(self._approvals.items()):
            if approval.expires_at > old:
                continue
            if approval.status is ApprovalStatus.DENIED and self._families[id_] in tasks:
                continue
            del self._approvals[id_], self._families[id_]
            if self._newest.get(approval.call_key) == id_:
                del self._newest[approval.call_key]
        self._rejections = {key: id_ for key, id_ in self._rejections.items() if id_ in self._approvals}
