"""What an operator does about each reason for which calls are denied. The audit log has the codes."""

from __future__ import annotations

from collections.abc import Mapping

from agentguard.errors.denial_codes import DenialCode

__all__ = ["REMEDIES"]

REMEDIES: Mapping[DenialCode, str] = {
    DenialCode.NO_TASK: (
        "No task was active, and the run's config named none. Run the agent inside `with"
        " guard.task(...)`, or pass `task.config` to it; a handle that a client has sent is refused on"
        " purpose."
    ),
    DenialCode.TASK_MISMATCH: (
        "The active task is not the one that the run's config names. Give each run its own task, and"
        " iterate each stream in the context that began it."
    ),
    DenialCode.GUARD_CLOSED: (
        "The guard was being closed, or was closed, when the call came. Let the server finish its requests"
        " before it closes the guard, or send the request again to another worker."
    ),
    DenialCode.NO_CALL_ID: (
        "The model or the application made a call without an id. Give each tool call an id."
    ),
    DenialCode.UNKNOWN_TOOL: (
        "The catalog does not have this tool. Add [tools.NAME] to agentguard.toml; `agentguard lint"
        " MODULE:ATTRIBUTE` lists what is missing. If nobody offers such a tool, the model made the"
        " name up."
    ),
    DenialCode.DEFINITION_CHANGED: (
        "The tool's description or schema is not the one in agentguard.lock. Read the difference in"
        " the log. If it is wanted, review it and run `agentguard pin`."
    ),
    DenialCode.INVALID_ARGUMENTS: (
        "The arguments do not fit the tool's schema, or the reviewed one in agentguard.toml. Models"
        " correct this themselves; if it repeats, compare the two schemas with `agentguard lint`."
    ),
    DenialCode.FORGED_ARGUMENT: (
        "The model sent an argument that only the application may set. Look at what the agent had"
        " read before: this is how an injected text tries to act."
    ),
    DenialCode.ARGUMENTS_CHANGED: (
        "Code between the decision and the tool changed the arguments. Remove the wrapper or"
        " middleware that does so, or put it before the guard's."
    ),
    DenialCode.GRANT_USED: (
        "A permit was used twice: a retry, or a tool that calls itself. Let a retry make a new call."
    ),
    DenialCode.NOT_EXECUTED: (
        "Another middleware answered in place of the tool. Put it outside of the guard's middleware,"
        " or remove it."
    ),
    DenialCode.WITHHELD: (
        "The tool ran, and its result was not passed on: it is over [limits], or the store or log"
        " failed after the call. The record has the cause. Do not have the call repeated before you"
        " know what it did."
    ),
    DenialCode.MANDATE: (
        "The task's mandate does not include the tool, its path or these arguments. If the task needs"
        " it, widen the template in [tasks.NAME] or the mandate; else this is the guard's purpose."
    ),
    DenialCode.POLICY: (
        "A rule forbids the call, or none permits it. The record names the rules; `agentguard"
        " explain` shows why."
    ),
    DenialCode.POLICY_ERROR: (
        "The rules could not be evaluated, or a PDP gave no clear answer in time. The record has the"
        " cause; `agentguard doctor` asks each PDP."
    ),
    DenialCode.NO_FACT: (
        "A rule looks at a fact, and it was not known: its source failed, was late, gave another type or too"
        " much, or has no such record. The record names the fact and the cause. Let the type admit None where"
        " a record may be absent."
    ),
    DenialCode.OBLIGATION: (
        "A rule or PDP permits the call under a condition that the guard cannot meet. Remove the"
        " obligation, or configure what it needs."
    ),
    DenialCode.APPROVAL_REFUSED: (
        "A person said no, or the yes was late, used, or for another call. Nothing to mend; a no"
        " holds for the task."
    ),
    DenialCode.APPROVAL_UNAVAILABLE: (
        "A rule asks for a person, and no approver can ask one here. Give the guard an approver for"
        " that path, or use a checkpointer, so that the run can wait."
    ),
    DenialCode.TASK_ENDED: (
        "The task was completed, revoked, or is past its lifetime. Begin a new task; `agentguard"
        " audit show` says what has ended it."
    ),
    DenialCode.BUDGET: (
        "The calls, writes, questions or choice bits of the task are used up. Raise the budget if the"
        " work needs it; look first whether the model runs in a loop, or spells something by its calls."
    ),
    DenialCode.UNCOUNTED: (
        "A rule looks at what was done, and it is not counted in this task, which began before the catalog"
        " said so; an argument is no number that can be added up, or has had too many values; or other calls"
        " change the numbers each time. The record has the reason. Begin a new task, or correct counted."
    ),
    DenialCode.NO_IDENTITY: (
        "The platform gave the agent no identity. `agentguard doctor` says which source failed, and how."
    ),
    DenialCode.NO_RIGHTS: (
        "The user's rights, the agent's [ceiling] and the tool's scopes have nothing in common, or"
        " the rights could not be asked for. The record names the scopes."
    ),
    DenialCode.NO_CREDENTIAL: (
        "The issuer gave no credential, or another one than was asked for. The log has its answer;"
        " `agentguard doctor` asks it."
    ),
    DenialCode.GRANT_MISSING: (
        "The authorization server wants something of the user first: a login, a consent, a stronger proof."
        " The record has its code. A run with a checkpointer and LangGraph's interrupt asks the user and"
        " goes on; `grant_url` of the broker says where they give it. If they were asked, they have not"
        " given it."
    ),
    DenialCode.STORE_ERROR: (
        "The store did not answer in time, or its file was changed under the guard. The log has the"
        " cause; `agentguard store check` looks at it."
    ),
    DenialCode.AUDIT_ERROR: (
        "The audit log could not be written: a full disk, a lock, or a file that was moved. Nothing"
        " runs that cannot be recorded. Make room, and run `agentguard audit verify`."
    ),
    DenialCode.UNGUARDED: (
        "A tool was started around the guard. `guard.coverage(agent)` shows where it is not gated."
    ),
}
"""What has happened, and what to do, for each code."""
