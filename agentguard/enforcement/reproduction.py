"""Whether a call would be the same call when a graph runs its node again after a person's answer.

LangGraph runs the node of a suspended call again from its beginning, so the arguments are validated again. A
default or a validator that takes the time, a random number or a new id then makes another call. The person's
answer does not hold for that one. So the arguments of a call that may be suspended are validated a second
time before a person is asked, and nobody is asked in vain.

The values that were shown are not kept for the later run. They can be any Python objects, the later run can
be in another process, and what a checkpoint holds can be edited.

What this does not find: a value that changes rarely, such as a time in whole seconds or today's date, or one
that changes with each process. The person's answer then is for a call that does not come again: the call that
would really run is denied.
"""

from __future__ import annotations

from agentguard.enforcement.call import Invocation
from agentguard.errors import DenialCode, Denied
from agentguard.model import Arguments, Decision

__all__ = ["require_reproducible"]


def require_reproducible(invocation: Invocation, decision: Decision) -> None:
    """Deny a call whose arguments are not the same when they are validated a second time.

    A call that cannot be suspended is not looked at. One that has no id is denied: when its step runs again,
    nothing says that it is the call about which the person was asked.

    Raises:
        Denied: Its reason and its advice name the arguments that differ.
    """
    arguments, validate = invocation.arguments, invocation.validate_again
    if invocation.thread_id is None:
        return
    if not invocation.call_id:
        raise _unavailable("a run that is resumed does not know it", "it has no call id", decision)
    if arguments is None or validate is None:
        return
    try:
        second = validate()
    except Exception as error:  # noqa: BLE001  validators are the application's code; their words may hold values
        raise _unavailable("a second validation fails", type(error).__name__, decision) from None
    if second.digest == arguments.digest:
        return
    names = ", ".join(_differences(arguments, second))
    raise _unavailable("each validation makes another value", names, decision)


def _unavailable(what_happens: str, of_what: str, decision: Decision) -> Denied:
    advice = "A person cannot be asked about this call. Give a value for each argument, or tell the user."
    reason = f"an approval would not hold for the call that runs later: {what_happens}: {of_what}"
    return Denied.of(DenialCode.APPROVAL_UNAVAILABLE, reason, advice=advice, policy_ids=decision.policy_ids)


def _differences(first: Arguments, second: Arguments) -> list[str]:
    """Name the arguments that differ in their JSON, or else all that differs beside it."""
    one, other = first.values, second.values
    names = [name for name in sorted(one.keys() | other.keys()) if one.get(name, ...) != other.get(name, ...)]
    return names or sorted(set(first.distinctions) ^ set(second.distinctions))
