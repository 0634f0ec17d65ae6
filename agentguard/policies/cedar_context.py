"""The context of a Cedar request: what rules can see of a call, of its task, and of its arguments."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime

from agentguard.model import AccessRequest, Approval, ApprovalStatus, Json, Origin, TaskState
from agentguard.policies.cedar_types import Refused, ToolShape

__all__ = ["APPROVED", "context_of"]

APPROVED: Mapping[str, Json] = {"approvers": 1}


def context_of(
    request: AccessRequest,
    shape: ToolShape,
    environment: Collection[str],
    *,
    origins: Iterable[str] | None = None,
    time: bool = True,
) -> dict[str, Json]:
    """Return the context, as `cedar_schema` types it; *environment* lists the names that are promised.

    Where *origins* names arguments, or *time* is false, what no rule looks at is left out: Cedar would read
    it for nothing.

    Raises:
        Refused: An argument or the environment does not fit, and no rule could judge it.
    """
    task = request.task
    context: dict[str, Json] = {
        "args": shape.convert(request.arguments.values),
        "task": {
            "id": task.id,
            "purpose": task.purpose,
            "status": task.status,
            "kinds": task.kinds,
            "calls": task.calls,
            "writes": task.writes,
        },
        "history": task.history,
        "provenance": {
            "untrusted": task.untrusted,
            "sensitivity": task.sensitivity,
        },
        "clearance": request.tool.clearance,
        "subject": request.identity.subject,
        "legacy": request.legacy,
        "environment": _surroundings(request.environment, environment),
    }
    asked, found = shape.names if origins is None else origins, request.origins
    context["provenance"]["args"] = {n: _origin(found.get(n) or _unknown(task)) for n in asked}
    if time:
        context["now"] = _time(request.at)
    if request.approval is not None and request.approval.status is ApprovalStatus.APPROVED:
        context["approval"] = _approval(request.approval)
    return context


def _surroundings(given: Mapping[str, str], promised: Collection[str]) -> dict[str, Json]:
    missing = [name for name in promised if not isinstance(given.get(name), str)]
    if missing:
        raise Refused(f"the environment {missing[0]!r} was not given")
    return {name: given[name] for name in promised}


def _origin(origin: Origin) -> dict[str, Json]:
    return {
        "user": origin.user,
        "trusted": origin.trusted,
        "untrusted": origin.untrusted,
        "sources": sorted(origin.sources),
        "sensitivity": origin.sensitivity,
    }


def _unknown(task: TaskState) -> Origin:
    """Return the origin of what nobody vouches for."""
    return Origin(user=False, trusted=False, untrusted=task.untrusted, sensitivity=task.sensitivity)


def _time(at: float) -> dict[str, Json]:
    moment = datetime.fromtimestamp(at, UTC)
    return {"__extn": {"fn": "datetime", "arg": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}}


def _approval(approval: Approval) -> dict[str, Json]:
    named = {} if approval.approver is None else {"approver": approval.approver}
    return {**APPROVED, **named}
