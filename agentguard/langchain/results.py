"""What a tool has given back: noted for the record, bounded and cleared before langchain sees it.

The order is: the lease is closed, the credential is revoked, the result is counted, the secret is removed,
and langchain writes it down. Small plain data is looked at before the revocation, which then needs no
transaction of its own. That takes less than a millisecond, and no code of a class runs.
"""

from __future__ import annotations

import logging
from typing import Any

from langchain_core.messages import ToolMessage

from agentguard.enforcement.call import Permit
from agentguard.errors import CredentialUnavailable, DenialCode, Denied
from agentguard.langchain.messages import outcome_of
from agentguard.model import Outcome
from agentguard.model.limits import Limits
from agentguard.redaction import redact, redact_exception

__all__ = ["ToolDenied", "note_failure", "note_result", "revoke_before"]

log = logging.getLogger("agentguard")
_CONTENT_AND_ARTIFACT = 2
_SMALL = Limits(bytes=65_536, parts=1_000, depth=30)


class ToolDenied(Exception):
    """A guarded call that the tool made was denied: the tool has failed, and was not denied itself."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(str(denied))
        self.denied = denied


async def revoke_before(permit: Permit, value: object, blocks: bool) -> None:
    """Revoke the call's credential, unless *value* is looked through in less than a millisecond.

    That is small plain data, or an object of a known framework that holds such data. With *blocks*, the
    thread is blocked. How a call ended that is suspended or cancelled is known without a look.
    """
    if permit.revoke_early is None:
        return
    if isinstance(value, BaseException) and outcome_of(value) is not Outcome.FAILED:
        return
    if _SMALL.excess(value, own_texts=False):
        await permit.revoke_early(blocks)


def note_result(permit: Permit, result: Any, limits: Limits, secrets: tuple[str, ...]) -> Any:
    """Note how a tool ended, and return what langchain gets: the result without *secrets*, or a stand-in."""
    permit.outcome = _outcome(result)
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
    permit: Permit, error: BaseException, limits: Limits, secrets: tuple[str, ...]
) -> BaseException:
    """Note how a tool has failed, and return what may be seen of it: the error itself, if that can be."""
    permit.outcome = outcome_of(error)
    if permit.outcome is Outcome.FAILED and (excess := limits.excess(error)):
        # langchain would write down a ToolException's argument, whatever that is
        permit.withheld = Denied.of(DenialCode.WITHHELD, f"the error holds {excess}")
        return RuntimeError("[withheld]")
    if permit.observed is not None and isinstance(error, CredentialUnavailable):
        tool = permit.invocation.tool
        log.warning("OBSERVED, NOT BLOCKED: %s asks for a credential, which a denied call has not", tool)
        return ToolDenied(permit.observed)  # the run goes on, as it will when the rules are in force
    clean = redact_exception(error, secrets) if secrets else error
    return ToolDenied(clean) if isinstance(clean, Denied) else clean


def _outcome(result: Any) -> Outcome:
    """Return how a tool ended that has returned: it may have answered with an error, and not raised it."""
    if isinstance(result, ToolMessage):
        return Outcome.FAILED if result.status == "error" else Outcome.DONE
    # by its name, so that mcp need not be there
    failed = type(result).__name__ == "CallToolResult" and result.isError
    return Outcome.FAILED if failed else Outcome.DONE


def _stand_in(result: Any) -> Any:
    """Return a text in place of a result that is withheld, since langchain writes down what it is given."""
    text = "[withheld]"
    return (text, None) if type(result) is tuple and len(result) == _CONTENT_AND_ARTIFACT else text
