"""What a tool has given back: noted for the record, and bounded before langchain sees it."""

from __future__ import annotations

import logging
from typing import Any

from langchain_core.messages import ToolMessage

from agentguard.enforcement.call import Permit
from agentguard.errors import CredentialUnavailable, DenialCode, Denied
from agentguard.langchain.messages import outcome_of
from agentguard.model import Outcome
from agentguard.model.limits import Limits
from agentguard.redaction import redact_exception

__all__ = ["ToolDenied", "note_failure", "note_result"]

log = logging.getLogger("agentguard")
_CONTENT_AND_ARTIFACT = 2


class ToolDenied(Exception):
    """A guarded call that the tool made was denied: the tool has failed, and was not denied itself."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(str(denied))
        self.denied = denied


def note_result(permit: Permit, result: Any, limits: Limits) -> Any:
    """Note how a tool ended, and return what langchain gets: the result, or a stand-in for a large one."""
    permit.outcome = _outcome(result)
    if excess := limits.excess(result):
        permit.withheld = Denied.of(DenialCode.WITHHELD, f"the result holds {excess}")
        return _stand_in(result)
    permit.result = result
    return result


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
