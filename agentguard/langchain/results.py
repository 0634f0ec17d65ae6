"""What a tool has given back: noted for the record, bounded and cleared before langchain sees it.

The order is: the lease is closed, the credential is revoked, the result is counted, the secret is removed,
and langchain writes it down. Small plain data is looked at before the revocation, which then needs no
transaction of its own. That takes less than a millisecond, and no code of a class runs.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from typing import Any, cast

from langchain_core.messages import ToolMessage

from agentguard.enforcement.call import Permit
from agentguard.errors import CredentialUnavailable, DenialCode, Denied
from agentguard.langchain.messages import is_uncertain, outcome_of
from agentguard.model import Outcome
from agentguard.model.inside import variables
from agentguard.model.limits import Limits
from agentguard.model.quick import is_quick
from agentguard.redaction import redact, redact_exception

__all__ = ["ToolDenied", "is_small", "note_failure", "note_result", "revoke_before"]

log = logging.getLogger("agentguard")
_CONTENT_AND_ARTIFACT = 2
_SMALL = Limits(bytes=1_048_576, parts=2_000, depth=50, objects=200)


class ToolDenied(Exception):
    """A guarded call that the tool made was denied: the tool has failed, and was not denied itself."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(str(denied))
        self.denied = denied


async def revoke_before(permit: Permit, blocks: bool) -> None:
    """Revoke the call's credential, before a value is looked through that is not quick (`is_quick`).

    With *blocks*, the thread is blocked.
    """
    if permit.revoke_early is not None and not permit.is_of_another_process:
        await permit.revoke_early(blocks)


def is_small(value: object) -> bool:
    """Return whether a value is looked through in some milliseconds, in which an event loop may wait."""
    return is_quick(value) or not _SMALL.excess(value)


def note_result(
    permit: Permit, result: Any, limits: Limits, secrets: tuple[str, ...], problem: Denied | None = None
) -> Any:
    """Note how a tool ended, and return what langchain gets: the result without *secrets*, or a stand-in.

    With a *problem* the result is withheld, whatever it holds.
    """
    permit.outcome = _outcome(result)
    if problem is not None:
        permit.withheld = problem
        return _stand_in(result)
    try:
        excess = limits.excess(result)
        if not excess:
            permit.result = redact(result, secrets) if secrets else result
            return permit.result
    except Exception as error:  # noqa: BLE001  another thread may change it meanwhile: it was not looked through
        excess = f"what cannot be looked through: {type(error).__name__}"
    permit.withheld = Denied.of(DenialCode.WITHHELD, f"the result holds {excess}")
    return _stand_in(result)


def note_failure(
    permit: Permit,
    error: BaseException,
    limits: Limits,
    secrets: tuple[str, ...],
    problem: Denied | None = None,
) -> BaseException:
    """Note how a tool has failed, and return what may be seen of it: the error itself, if that can be.

    With a *problem* the error is withheld, unless it is the control flow of a graph or a cancellation.
    """
    permit.outcome, permit.uncertain = outcome_of(error), is_uncertain(error)
    if problem is not None and permit.outcome is Outcome.FAILED and isinstance(error, Exception):
        permit.withheld = problem
        return RuntimeError("[withheld]")
    if excess := limits.excess(error):
        # langchain would write down a ToolException's argument, and a graph the value of an interrupt
        return _withheld(permit, error, excess)
    if permit.observed is not None and issubclass(type(error), CredentialUnavailable):
        tool = permit.invocation.tool
        log.warning("OBSERVED, NOT BLOCKED: %s asks for a credential, which a denied call has not", tool)
        return ToolDenied(permit.observed)  # the run goes on, as it will when the rules are in force
    clean = redact_exception(error, secrets) if secrets else error
    return ToolDenied(cast(Denied, clean)) if issubclass(type(clean), Denied) else clean


def _withheld(permit: Permit, error: BaseException, excess: str) -> BaseException:
    """Return what stands for an error, or for the control flow of a graph, that holds too much."""
    kind = type(error)
    for base in (CancelledError, KeyboardInterrupt, SystemExit):  # which end a run all the same
        if issubclass(kind, base):
            return base("[withheld]")
    permit.outcome = Outcome.FAILED
    permit.withheld = Denied.of(DenialCode.WITHHELD, f"the error holds {excess}")
    return RuntimeError("[withheld]")


def _outcome(result: Any) -> Outcome:
    """Return how a tool ended that has returned: it may have answered with an error, and not raised it.

    Only what is stored in the result is read, so no code of its class runs.
    """
    kind: Any = type(result)
    if issubclass(kind, ToolMessage):
        failed = variables(result).get("status") == "error"
    else:  # by its name, so that mcp need not be there; other clients call the attribute `is_error`
        stored = variables(result) if kind.__name__ == "CallToolResult" else {}
        failed = stored.get("isError") is True or stored.get("is_error") is True
    return Outcome.FAILED if failed else Outcome.DONE


def _stand_in(result: Any) -> Any:
    """Return a text in place of a result that is withheld, since langchain writes down what it is given."""
    text = "[withheld]"
    return (text, None) if type(result) is tuple and len(result) == _CONTENT_AND_ARTIFACT else text
