"""Whether a call would be the same call when a graph runs its node again after a person's answer.

LangGraph runs the node of a suspended call again from its beginning, so the arguments are validated again. A
default or a validator that takes the time, a random number or a new id then makes another call. The person's
answer does not hold for that one. So the arguments of a call that may be suspended are validated a second
time before a person is asked, and nobody is asked in vain.

The values that were shown are not kept for the later run. They can be any Python objects, the later run can
be in another process, and what a checkpoint holds can be edited.

A default factory may make the same value twice and another one later, such as a time in whole seconds. So
nobody is asked about a call in which such a default stands; the model can give the value.

What this does not find: a value that a validator changes rarely, or with each process. The person's answer is
then for a call that does not come again, and the person is asked anew about the call that would really run.
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
        advice = "A person cannot be asked about a call without an id. Tell the user."
        raise _unavailable("a run that is resumed does not know it", "it has no call id", decision, advice)
    if arguments is None or validate is None:
        return
    try:
        second = validate()
    except Exception as error:  # noqa: BLE001  validators are the application's code; their words may hold values
        raise _unavailable("a second validation fails", type(error).__name__, decision) from None
    if second.arguments.digest != arguments.digest:
        names = ", ".join(_differences(arguments, second.arguments))
        raise _unavailable("each validation makes another value", names, decision)
    if second.factory_names:
        names = ", ".join(second.factory_names)
        raise _unavailable("the default may be another value by then", names, decision)


def _unavailable(
    what_happens: str,
    of_what: str,
    decision: Decision,
    advice: str = "",
) -> Denied:
    advice = (
        advice or "Nobody can be asked about this call. Give a value for each argument, or tell the user."
    )
    reason = f"an approval would not hold for the call that runs later: {what_happens}: {of_what}"
    return Denied.of(DenialCode.APPROVAL_UNAVAILABLE, reason, advice=advice, policy_ids=decision.policy_ids)


def _differences(first: Arguments, second: Arguments) -> list[str]:
    """Name the arguments that differ in their JSON, or else all that differs beside it."""
    one, other = first.values, second.values
    names = [name for name in sorted(one.keys() | other.keys()) if one.get(name, ...) != other.get(name, ...)]
    return names or sorted(set(first.distinctions) ^ set(second.distinctions))
