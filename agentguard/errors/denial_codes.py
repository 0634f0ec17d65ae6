"""Why calls are denied, and what a model is told then."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["ADVICE", "DenialCode"]


class DenialCode(StrEnum):
    """Why a call was denied: one stable word, the same in code, spans and audit records."""

    NO_TASK = "no_task"
    TASK_MISMATCH = "task_mismatch"
    NO_CALL_ID = "no_call_id"
    UNKNOWN_TOOL = "unknown_tool"
    DEFINITION_CHANGED = "definition_changed"
    INVALID_ARGUMENTS = "invalid_arguments"
    FORGED_ARGUMENT = "forged_argument"
    ARGUMENTS_CHANGED = "arguments_changed"
    GRANT_USED = "grant_used"
    NOT_EXECUTED = "not_executed"
    WITHHELD = "withheld"
    MANDATE = "mandate"
    POLICY = "policy"
    POLICY_ERROR = "policy_error"
    NO_FACT = "no_fact"
    OBLIGATION = "obligation"
    APPROVAL_REFUSED = "approval_refused"
    APPROVAL_UNAVAILABLE = "approval_unavailable"
    TASK_ENDED = "task_ended"
    GUARD_CLOSED = "guard_closed"
    BUDGET = "budget"
    UNCOUNTED = "uncounted"
    NO_IDENTITY = "no_identity"
    NO_RIGHTS = "no_rights"
    NO_CREDENTIAL = "no_credential"
    GRANT_MISSING = "grant_missing"
    STORE_ERROR = "store_error"
    AUDIT_ERROR = "audit_error"
    UNGUARDED = "unguarded"


_UNDETERMINED = "It is not known whether this call is permitted. Do not repeat it now; tell the user."

ADVICE = {
    DenialCode.NO_TASK: "This call belongs to no task. Ask the user to start the task again.",
    DenialCode.TASK_MISMATCH: (
        "It is not clear which task this call belongs to, so it did not run. Tell the user."
    ),
    DenialCode.NO_CALL_ID: "The call has no id, so it did not run. Make the call again.",
    DenialCode.UNKNOWN_TOOL: "This tool is not available here. Use another tool.",
    DenialCode.DEFINITION_CHANGED: "This tool is not available now. Use another tool, or tell the user.",
    DenialCode.INVALID_ARGUMENTS: (
        "The arguments do not fit the tool's schema. Correct them and make the call again."
    ),
    DenialCode.FORGED_ARGUMENT: (
        "The call sets an argument that only the application may set. Make the call again without it."
    ),
    DenialCode.ARGUMENTS_CHANGED: "The call was changed after it was judged, and did not run. Tell the user.",
    DenialCode.GRANT_USED: "This permission was already used. Make a new call if the action is needed.",
    DenialCode.NOT_EXECUTED: (
        "Something else answered in place of the tool, and that answer is withheld. Tell the user."
    ),
    DenialCode.WITHHELD: "The call was made, but its result is withheld. Do not repeat it; tell the user.",
    DenialCode.MANDATE: "This is outside the current task. Continue with the task, or tell the user.",
    DenialCode.POLICY: "This is not permitted here. Continue without it, or tell the user.",
    DenialCode.POLICY_ERROR: _UNDETERMINED,
    DenialCode.NO_FACT: _UNDETERMINED,
    DenialCode.OBLIGATION: "This call has a condition that cannot be met here. Tell the user.",
    DenialCode.APPROVAL_REFUSED: "No person's approval holds, so the call did not run. Tell the user.",
    DenialCode.APPROVAL_UNAVAILABLE: (
        "This call needs a person's approval, and nobody can be asked here."
        " Continue without it, or tell the user."
    ),
    DenialCode.TASK_ENDED: "The task is over, and no further call can be made in it. Tell the user.",
    DenialCode.GUARD_CLOSED: "The application is closing, so the call did not run. Tell the user.",
    DenialCode.BUDGET: (
        "The task's budget for such calls is used up. Finish with the results you have, or tell the user."
    ),
    DenialCode.UNCOUNTED: (
        "What such calls have done cannot be counted further here, so this one did not run. Tell the user."
    ),
    DenialCode.NO_IDENTITY: (
        "The agent could not prove its identity, so the call did not run. Try again later, or tell the user."
    ),
    DenialCode.NO_RIGHTS: (
        "The user and the agent together do not have the rights for this call."
        " Continue without it, or tell the user."
    ),
    DenialCode.NO_CREDENTIAL: (
        "No credential could be obtained for this call, so it did not run. Try again later, or tell the user."
    ),
    DenialCode.GRANT_MISSING: (
        "The user has not given the permission that this call needs, so it did not run."
        " Tell the user, or continue without it."
    ),
    DenialCode.STORE_ERROR: _UNDETERMINED,
    DenialCode.AUDIT_ERROR: "The call could not be recorded, so it did not run. Tell the user.",
    DenialCode.UNGUARDED: "This tool was started without permission and was stopped. Tell the user.",
}
"""The text that a model reads when a call is denied, unless a policy gives its own.

Each says in one or two sentences what the model can do next, and nothing about the policies, the
tools or the user.
"""
