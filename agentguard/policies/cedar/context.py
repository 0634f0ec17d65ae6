"""The context of a Cedar request: what rules can see of a call, of its task, and of its arguments.

Cedar reads a context anew for each request, which takes longer than to judge it. So only that is given at
which any of the rules may look. A rule can name an attribute in no other way than by its name, or by
escapes in a string; and it can compare a whole record only where it names the record and goes no further.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from agentguard.model import AccessRequest, Approval, ApprovalStatus, Json, Provenance
from agentguard.policies.cedar.types import Refused, ToolShape
from agentguard.provenance.arguments import unvouched

__all__ = ["APPROVED", "View", "context_of", "view_of"]

APPROVED: Mapping[str, Json] = {"approvers": 1}

_WORD = re.compile(r"(?<![@\w])\w+")  # not the name of an annotation: each rule has an @id
_WHOLE = re.compile(r"\\|\b(?:context|task|args)\b(?!\s*(?:\.|\[|has\b))")
_ORIGINS = re.compile(r"provenance(?!\.(untrusted|sensitivity)\b)")


class View(NamedTuple):
    """What some rules may look at: parts of the context, of the task, arguments, and their arguments.

    Where none looks at an `approval`, a person's consent changes no answer, and need not be asked about.
    """

    parts: tuple[str, ...]
    environment: bool
    approval: bool
    task: tuple[str, ...] | None
    args: frozenset[str]
    provenance: tuple[str, ...] | None


def view_of(rules: Iterable[str], names: Collection[str]) -> View:
    """Return what rules, given as their texts, may look at of a tool with arguments of these *names*."""
    texts = tuple(rules)
    if any(map(_WHOLE.search, texts)):
        return View(tuple(_PARTS), True, True, _TASK, frozenset(names), tuple(names))
    words, asking = _words(texts), _words(text for text in texts if _ORIGINS.search(text))
    return View(
        _named(_PARTS, words),
        "environment" in words,
        "approval" in words,
        _named(_TASK, words) if "task" in words else None,
        frozenset(_named(names, words)),
        _named(names, asking) if asking else None,
    )


def _named(names: Iterable[str], words: frozenset[str]) -> tuple[str, ...]:
    return tuple(name for name in names if words.issuperset(_WORD.findall(name)))


def _words(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(word for text in texts for word in _WORD.findall(text))


def context_of(
    request: AccessRequest, shape: ToolShape, environment: Collection[str], view: View
) -> dict[str, Json]:
    """Return what is in *view* of the context that `cedar_schema` types.

    *environment* lists the names that are promised.

    Raises:
        Refused: An argument or the environment does not fit, and no rule could judge it.
    """
    args = shape.convert(request.arguments.values)
    surroundings = _surroundings(request.environment, environment)
    context: dict[str, Json] = {name: _PARTS[name](request) for name in view.parts}
    context["args"] = {name: value for name, value in args.items() if name in view.args}
    if view.environment:
        context["environment"] = surroundings
    if view.task is not None:
        context["task"] = {name: getattr(request.task, name) for name in view.task}
    if view.provenance is not None:
        found, unknown = request.provenance, unvouched(request.task)
        arguments = {name: _of_argument(found.get(name) or unknown) for name in view.provenance}
        context["provenance"] = {**_provenance(request), "args": arguments}
    if request.approval is not None and request.approval.status is ApprovalStatus.APPROVED:
        context["approval"] = _approval(request.approval)
    return context


def _provenance(request: AccessRequest) -> dict[str, Json]:
    # as a plain number: to write an enum as JSON takes ten times as long
    return {"untrusted": request.task.untrusted, "sensitivity": int(request.task.sensitivity)}


_TASK = ("id", "purpose", "status", "kinds", "calls", "writes")
_PARTS: Mapping[str, Callable[[AccessRequest], Json]] = {
    "history": lambda request: request.task.history,
    "provenance": _provenance,
    "clearance": lambda request: int(request.tool.clearance),
    "subject": lambda request: request.identity.subject,
    "legacy": lambda request: request.legacy,
    "now": lambda request: _time(request.at),
}


def _surroundings(given: Mapping[str, str], promised: Collection[str]) -> dict[str, Json]:
    missing = [name for name in promised if not isinstance(given.get(name), str)]
    if missing:
        raise Refused(f"the environment {missing[0]!r} was not given")
    return {name: given[name] for name in promised}


def _of_argument(each: Provenance) -> dict[str, Json]:
    return {
        "user": each.user,
        "trusted": each.trusted,
        "untrusted": each.untrusted,
        "sources": sorted(each.sources),
        "sensitivity": int(each.sensitivity),
    }


def _time(at: float) -> dict[str, Json]:
    moment = datetime.fromtimestamp(at, UTC)
    return {"__extn": {"fn": "datetime", "arg": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}}


def _approval(approval: Approval) -> dict[str, Json]:
    named = {} if approval.approver is None else {"approver": approval.approver}
    return {**APPROVED, **named}
