"""Decide a call whose values say something by their choice, and say whether its task is charged for that.

After something sensitive was read, a value that somebody vouches for keeps a lower sensitivity. An untrusted
page can have the model choose among such values, and among the tools, and so spell what was read. What a call
says so is charged to its task (`model.Choice`), and a task that has said all that it may is permitted no call
by a lower sensitivity any more.

Only what a lower sensitivity permits is charged. A call that would be permitted just so, if all of its values
were as sensitive as the task, could say all that was read in plain words, so its choice says nothing more.
Nor is a call without such a value charged for which tool is called: no label decides about it, and rules see
what its task has read as ``context.sensitivity``. When a call is made, and whether it is made at all, is not
counted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from agentguard.enforcement.call import Invocation
from agentguard.errors import Denied
from agentguard.model import NO_CHOICE, AccessRequest, Approval, ApprovalStatus, Decision
from agentguard.provenance.arguments import lacks_room, uncharged

__all__ = ["begun_before", "decided", "decided_with_room"]

Decide = Callable[[AccessRequest], Awaitable[Decision]]


def begun_before(invocation: Invocation, previous: Approval | None) -> bool | None:
    """Return whether a call has begun before; None where the store alone knows.

    *previous* is the answer to an earlier question about it.
    """
    if invocation.thread_id is None:  # it cannot be resumed
        return False
    return None if previous is None else previous.status is ApprovalStatus.USED


async def decided(decide: Decide, request: AccessRequest) -> tuple[AccessRequest, Decision]:
    """Return the decision, and the request without bits where the decision does not depend on them.

    Raises:
        Denied: The policy does not permit the call.
    """
    decision = await decide(request)
    if request.choice.bits:
        with suppress(Denied):
            other = await decide(uncharged(request))
            if other.obligations == decision.obligations:
                return replace(request, choice=NO_CHOICE), decision
    return request, decision


async def decided_with_room(
    decide: Decide, request: AccessRequest, begun: bool | None
) -> tuple[AccessRequest, Decision]:
    """Return the request that counts, and the decision on it; where the task lacks room, nothing is charged.

    *begun* says whether the call has begun before, and was charged then; None is unknown. Of such a call the
    store says whether there is room. But of one about which a person would be asked, that is not left until
    then.

    Raises:
        Denied: The policy does not permit the call.
    """
    request, decision = await decided(decide, request)
    if not request.choice.bits or not lacks_room(request):
        return request, decision
    if begun or (begun is None and not decision.obliges("approve")):
        return request, decision
    request = uncharged(request)
    return request, await decide(request)
