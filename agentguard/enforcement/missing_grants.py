"""Ask the user for what an issuer misses of them, by a question on which the run of a graph waits.

The call has been judged and has begun when its issuer says so. It ends as suspended, with nothing minted.
When the run is resumed, the call is judged anew, from the start, and its credential is asked for once: the
issuer alone says whether the user has given it. So no answer to such a question permits anything. A no,
which `Guard.answer` records, denies the call, as it does for approvals.

The questions are in the store, each bound to one call, and count as questions of the task. A resumed call
raises its earlier interrupts again, in their order, before anything is minted: LangGraph hands out the values
to resume with in the order of the interrupts, and the tool may have interrupts of its own. If the issuer
misses something only when the run is resumed with a value for such an interrupt, that value is what a new
question would get. Then nobody is asked, and the call is denied.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, NamedTuple, NoReturn

from agentguard.enforcement.call import Permit
from agentguard.enforcement.failures import best_effort
from agentguard.enforcement.operations import Operations, stored
from agentguard.enforcement.reproduction import require_reproducible
from agentguard.enforcement.setup import Options, Ports
from agentguard.errors import ADVICE, ApprovalError, DenialCode, Denied, GrantMissing, safe_text
from agentguard.model import Approval, ApprovalStatus, Json, Outcome
from agentguard.outbound.destinations import is_page_for_users
from agentguard.telemetry import CallSpan
from agentguard.text import label

__all__ = ["GrantDenied", "GrantQuestions", "MissingGrant"]

MOST = 3
"""How often the user is asked at most about one call. The task's budget of questions holds beside it."""
SHOWN = 65_536
"""How many bytes of JSON a question holds of a call's arguments; more of them are left out."""
_ASKED = (
    "The user was asked for a permission that this call needs, and has not given it, so the call did not run."
    " Tell the user, or continue without it."
)


class MissingGrant(NamedTuple):
    """What an issuer misses of the user (see `errors.GrantMissing`)."""

    code: str
    issuer: str
    url: str | None

    @classmethod
    def of(cls, error: GrantMissing) -> MissingGrant:
        """Return what *error* says, bounded, and without a URL to which nobody may be sent."""
        url = error.url if isinstance(error.url, str) and is_page_for_users(error.url) else None
        return cls(label(error.code), label(error.issuer), url)

    def shown(self) -> dict[str, Json]:
        """Return it as JSON."""
        return {name: value for name, value in self._asdict().items() if value}


class GrantDenied(Denied):
    """The denial of a call for which the issuer misses something of the user."""

    def __init__(self, reason: str, missing: MissingGrant, *, advice: str = "") -> None:
        code = DenialCode.GRANT_MISSING
        super().__init__(code, reason, advice=advice or ADVICE[code])
        self.missing = missing

    @classmethod
    def by(cls, broker: str | None, error: GrantMissing) -> GrantDenied:
        """Return the denial for what a broker has raised."""
        return cls(f"broker {broker} failed: {safe_text(error)}", MissingGrant.of(error))

    def because(self, reason: str, *, advice: str = "") -> GrantDenied:
        """Return it with what became of the question to the user."""
        return GrantDenied(f"{self.reason}; {reason}", self.missing, advice=advice)


class GrantQuestions:
    """Asks, on one path of a guard."""

    def __init__(self, ports: Ports, options: Options, operations: Operations) -> None:
        self._approvers, self._options, self._operations = ports.approvers, options, operations

    async def repeat(self, permit: Permit) -> int:
        """Raise the interrupts of a resumed call again; return how many questions have been answered.

        Raises what suspends the run, where a question is still open.
        """
        if not permit.request.task.questions or self._obstacle(permit):
            return 0
        approver = self._approvers[permit.request.tool.path]
        if not getattr(approver, "is_resumed", lambda: True)():
            return 0
        for number in range(MOST):
            question = await stored(self._operations.approval(_id(permit, number)))
            if question is None:
                return number
            permit.missing_grant = {"question": question.id}
            try:
                await self._operations.approve[permit.request.tool.path](question, permit.request)
            except Exception as error:
                if self._options.outcome_of(error) is Outcome.SUSPENDED:
                    raise
                reason = f"the user's answer could not be read: {_why(error)}"
                raise Denied.of(DenialCode.GRANT_MISSING, reason) from None
            permit.missing_grant = {}
        return MOST

    async def ask(self, permit: Permit, denied: GrantDenied, number: int, span: CallSpan) -> NoReturn:
        """Suspend the run until the user was asked, for the time after *number* times.

        Raises what suspends the run.

        Raises:
            Denied: Nobody can be asked here, or not once more.
        """
        permit.missing_grant = denied.missing.shown()
        span.describe(**{"grant.missing": denied.missing.code})
        if reason := self._obstacle(permit):
            raise denied.because(reason)
        if number >= MOST:
            raise denied.because(f"the user was asked {number} times", advice=_ASKED)
        self._require_reproducible(permit, denied)
        question = _question(permit, denied.missing, number)
        if not hasattr(self._approvers[permit.request.tool.path], "is_resumed"):
            await self._save(question, permit, span)
            if suspension := await self._suspension(question, permit, denied):
                raise suspension
            raise denied.because("the user was asked", advice=_ASKED)
        suspension = await self._suspension(question, permit, denied)
        if suspension is None:  # nobody has seen this question yet, so nobody can have answered it
            reason = "the run was resumed with a value for another question, so the user was not asked"
            raise denied.because(reason)
        await self._save(question, permit, span)
        raise suspension

    async def close(self, permit: Permit, number: int) -> None:
        """Note that a call's first questions, of which there are *number*, wait for nobody any more.

        Their issuer has given the credential. If the store fails, they count as open until they expire.
        """
        for before in range(number):
            await best_effort("the end of a question", self._close, _id(permit, before))

    async def _close(self, question_id: str) -> None:
        question = await self._operations.approval(question_id)
        if isinstance(question, Approval) and question.status is ApprovalStatus.PENDING:
            issuer = json.loads(question.display)["grant"].get("issuer", "")
            answer = question.answered(approved=True, approver=f"issuer:{issuer}")
            await self._operations.answer_approval(answer)

    async def _save(self, question: Approval, permit: Permit, span: CallSpan) -> None:
        recorded = await stored(self._operations.save_approval(question))
        permit.missing_grant["question"] = recorded.id
        span.describe(**{"grant.question": recorded.id})
        if recorded == question:
            span.asked(permit.call.tool, permit.call.path.value)

    async def _suspension(self, question: Approval, permit: Permit, denied: GrantDenied) -> Exception | None:
        """Return what suspends the run, or None if the approver returns."""
        try:
            await self._operations.approve[permit.request.tool.path](question, permit.request)
        except Exception as error:  # noqa: BLE001  whatever it is, the run waits or the call is denied
            if self._options.outcome_of(error) is Outcome.SUSPENDED:
                return error
            raise denied.because(f"the user could not be asked: {_why(error)}") from None
        return None

    def _require_reproducible(self, permit: Permit, denied: GrantDenied) -> None:
        """Require that a resumed run makes the same call, or the user is asked in vain."""
        try:
            require_reproducible(permit.invocation, permit.decision)
        except Denied as other:
            raise denied.because(other.reason, advice=other.advice) from None

    def _obstacle(self, permit: Permit) -> str:
        """Return why the user cannot be asked about this call, or nothing."""
        path = permit.request.tool.path
        if self._options.observe:
            return "the user would be asked"
        if not getattr(self._approvers.get(path), "asks_for_grants", False):
            return f"the approver of {path} cannot ask the user for it"
        if permit.invocation.thread_id is None:
            return "the user could not be asked: no graph with a checkpointer runs here, so no run can wait"
        return ""


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, ApprovalError) else type(error).__name__


def _question(permit: Permit, missing: MissingGrant, number: int) -> Approval:
    request, call, grant = permit.request, permit.call, permit.grant
    assert grant is not None  # noqa: S101  what is missing is missing for a grant
    details = {**missing.shown(), "resource": grant.resource.name, "scopes": sorted(grant.scopes)}
    display: dict[str, Any] = {"grant": details}
    if len(json.dumps(request.arguments.values).encode()) <= SHOWN:
        display["arguments"] = request.arguments.values
    return Approval(
        id=_id(permit, number),
        call_key=sha256(f"{call.key}\ngrant".encode()).hexdigest(),
        task_id=call.task_id,
        tool=call.tool,
        digest=request.arguments.digest,
        policy_version=permit.decision.policy_version,
        expires_at=request.task.deadline,
        reason=f"{missing.issuer}: {missing.code}",
        path=call.path,
        purpose=request.task.purpose,
        display=json.dumps(display, ensure_ascii=False, separators=(",", ":")),
        shown_digest=request.arguments.shown_digest,
    )


def _id(permit: Permit, number: int) -> str:
    """Return the id of the question about a call, the first of which has the number 0."""
    return sha256(f"{permit.call.key}\ngrant {number}".encode()).hexdigest()[:32]
