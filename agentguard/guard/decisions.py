"""The methods of a guard that decide without a call, answer for a person, and reload rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentguard.concurrency.drive import drive
from agentguard.enforcement.activation import activate, deactivate
from agentguard.enforcement.evaluation import decision_of, undecidable
from agentguard.enforcement.flow import Enforcement, Flow
from agentguard.errors import Denied
from agentguard.langchain.registry import GateRegistry
from agentguard.model import Decision, Json
from agentguard.tasks.task import Task

__all__ = ["DecisionMethods"]


class DecisionMethods:
    """A part of `Guard`."""

    enforcement: Enforcement
    _gates: GateRegistry

    def decide(self, tool: str, arguments: Mapping[str, Any], *, task: Task | None = None) -> Decision:
        """Return what would be decided about a call now, without carrying anything out.

        The call is judged as a real one: by the tool's schema, the mandate, the rights of user and agent,
        and the policy. Nothing is recorded or minted, no budget is used, and no person is asked: where one
        would be asked, the decision permits with the obligation ``approve``. Only the facts that the rules
        look at are read, as they are for a real call: one that a tool reads, or that declares a credential,
        is a call of its own. *task* is the task of this
        context, unless given. A denial says why in `reason`.
        """
        return drive(self._decide(self.enforcement.sync, tool, arguments, task))

    async def adecide(self, tool: str, arguments: Mapping[str, Any], *, task: Task | None = None) -> Decision:
        """Do as `decide`, on an event loop."""
        return await self._decide(self.enforcement.async_, tool, arguments, task)

    async def _decide(
        self, flow: Flow, tool: str, arguments: Mapping[str, Any], task: Task | None
    ) -> Decision:
        activation = None if task is None else activate(task.id)  # also inside another task
        try:
            invocation = self._gates.invocation(tool, arguments, None if task is None else task.id)
            return (await flow.decide(invocation)).decision
        except Denied as denied:
            return decision_of(denied)
        except Exception as error:  # noqa: BLE001  what a real call would meet would deny it too
            return decision_of(undecidable(error))
        finally:
            if activation is not None:
                deactivate(activation)

    # --- approvals

    def pending(self, approval_id: str) -> dict[str, Json]:
        """Return what a person is to be shown before they answer, as JSON.

        It comes from the store. A page that shows an interrupt's value believes the checkpoint, which
        somebody may have edited. Of that value a page needs the ``approval_id`` alone.

        Raises:
            ApprovalError: It is unknown, expired or answered.
        """
        return drive(self.enforcement.sync.authorization.approvals.pending(approval_id))

    async def apending(self, approval_id: str) -> dict[str, Json]:
        """Do as `pending`, on an event loop."""
        return await self.enforcement.async_.authorization.approvals.pending(approval_id)

    def answer(self, pending: Mapping[str, Any], *, approved: bool, approver: str, reason: str = "") -> Any:
        """Record a person's answer to a question, and return the value to resume the run with.

        *pending* is what the person was shown: what `pending` has returned, or the interrupt's value. All of
        it is compared with the store. Call this where the person has authenticated; *approver* is who they
        are. A rejection holds for the whole task and its family, under each call id; it counts also after the
        expiry.

        Raises:
            ApprovalError: It is unknown, expired or answered before, such a call was rejected before, or the
                person was shown something else than was asked. That is recorded as a denial.
        """
        return drive(
            self.enforcement.sync.authorization.approvals.answer(pending, approved, approver, reason)
        )

    async def aanswer(
        self, pending: Mapping[str, Any], *, approved: bool, approver: str, reason: str = ""
    ) -> Any:
        """Do as `answer`, on an event loop."""
        return await self.enforcement.async_.authorization.approvals.answer(
            pending, approved, approver, reason
        )

    # --- rules

    def reload(self) -> bool:
        """Read the policy files of agentguard.toml again; return whether they are in force now.

        All of them are, or none: what is wrong leaves the old in force, and is logged as an error. An
        approval that was asked under the old does not hold under the new.
        """
        reload: Callable[[], bool] | None = getattr(self.enforcement.ports.policy, "reload", None)
        return reload is not None and reload()
