"""The context of a Cedar request: what rules can see of a call, of its task, and of its arguments.

Cedar reads a context anew for each request, which takes longer than judging it. So the context holds only
what some rule may look at. A rule can name an attribute in no other way than by its name, or by escapes in
a string. It can compare a whole record only where it names the record and goes no further.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple

from agentguard.model import AccessRequest, Json
from agentguard.model.inputs import (
    ARGUMENT_INPUTS,
    INPUTS,
    JSON_FORM,
    Forms,
    InputType,
    RuleInput,
    approval_json,
    in_group,
    writer_of,
)
from agentguard.policies.cedar.types import Refused, ToolShape
from agentguard.provenance.arguments import unknown_provenance

__all__ = ["ContextWriter", "NotGiven", "View", "view_of"]

Inputs = tuple[RuleInput, ...]

_WORD = re.compile(r"(?<![@\w])\w+")  # not the name of an annotation: each rule has an @id
_WHOLE = re.compile(r"\\|\b(?:context|task|args)\b(?!\s*(?:\.|\[|has\b))")


class NotGiven(Refused):
    """The application did not give a part of the environment; a model can correct nothing about that."""


class View(NamedTuple):
    """What some rules may look at: parts of the context, of the task, arguments, and their provenance.

    `family` names what they look at of all that the family of the task has read. Where no rule looks at an
    `approval`, a person's consent changes no answer, and need not be asked about.
    """

    parts: tuple[str, ...]
    environment: bool
    approval: bool
    task: tuple[str, ...] | None
    args: frozenset[str] | None
    provenance: tuple[str, ...] | None
    family: tuple[str, ...] = ()


def view_of(rules: Iterable[str], names: Collection[str], inputs: Inputs = INPUTS) -> View:
    """Return what rules, given as their texts, may look at of a tool with arguments of these *names*."""
    texts = tuple(rules)
    parts, task, family, of_arguments = _places(inputs)
    if any(map(_WHOLE.search, texts)):
        return View(parts, True, True, task, frozenset(names), tuple(names), family)
    words = _words(texts)
    about_arguments = _words(text for text in texts if of_arguments.search(text))
    return View(
        _named(parts, words),
        "environment" in words,
        "approval" in words,
        _named(task, words) if "task" in words else None,
        frozenset(_named(names, words)) if "args" in words else None,
        _named(names, about_arguments) if about_arguments else None,
        family if about_arguments else _named(family, words),  # more than a name may ask for the record
    )


@cache
def _places(inputs: Inputs) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], re.Pattern[str]]:
    """Return the names of parts of the context, of the task, of its family, and what asks for arguments."""
    parts = dict.fromkeys(row.cedar.partition(".")[0] for row in inputs if row.cedar is not None)
    family = tuple(row.name for row in in_group(inputs, "provenance"))
    return (
        tuple(name for name in parts if name not in ("task", "environment")),
        tuple(row.name for row in in_group(inputs, "task")),
        family,
        re.compile(rf"provenance(?!\.({'|'.join(family)})\b)"),
    )


def _named(names: Iterable[str], words: frozenset[str]) -> tuple[str, ...]:
    return tuple(name for name in names if words.issuperset(_WORD.findall(name)))


def _words(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(word for text in texts for word in _WORD.findall(text))


class ContextWriter:
    """Writes what is in *view* of the context that `schema` types, for requests to one tool.

    *environment* lists the names that the application promises. What can be worked out once for a tool is
    worked out here, since `write` runs in each call.
    """

    def __init__(
        self, shape: ToolShape, environment: Collection[str], view: View, inputs: Inputs = INPUTS
    ) -> None:
        self._convert, self._environment, self._view = shape.convert, tuple(environment), view
        self._parts = _writer(row for row in in_group(inputs, "") if row.name in view.parts)
        self._task = _writer(row for row in in_group(inputs, "task") if row.name in (view.task or ()))
        rows = [row for row in in_group(inputs, "provenance") if row.name in view.family]
        self._provenance = _writer(rows) if "provenance" in view.parts else None

    def write(self, request: AccessRequest) -> dict[str, Json]:
        """Return the context of one request.

        Raises:
            Refused: An argument or the environment does not fit, and no rule could judge it.
        """
        view, args = self._view, self._convert(request.arguments.values)
        environment = self._promised(request.environment) if self._environment else {}
        context = self._parts(request)
        if view.args is not None:
            context["args"] = {name: value for name, value in args.items() if name in view.args}
        if view.environment:
            context["environment"] = environment
        if view.task is not None:
            context["task"] = self._task(request)
        if self._provenance is not None:
            context["provenance"] = provenance = self._provenance(request)
            if view.provenance is not None:
                provenance["args"] = self._arguments(request, view.provenance)
        if request.approval is not None and (approval := approval_json(request)) is not None:
            context["approval"] = approval
        return context

    def _promised(self, environment: Mapping[str, str]) -> dict[str, Json]:
        missing = [name for name in self._environment if not isinstance(environment.get(name), str)]
        if missing:
            raise NotGiven(f"the environment {missing[0]!r} was not given")
        return {name: environment[name] for name in self._environment}

    def _arguments(self, request: AccessRequest, names: Iterable[str]) -> dict[str, Json]:
        records, unknown = dict[str, Json](), None
        for name in names:
            origin = request.provenance.get(name)
            if origin is None:
                origin = unknown = unknown or unknown_provenance(request.task)
            records[name] = _of_argument(origin)
        return records


def _writer(inputs: Iterable[RuleInput]) -> Callable[[object], dict[str, Json]]:
    """Return a function of a request that writes the values of these inputs by their names."""
    return writer_of([(row.name, row) for row in inputs], _CEDAR_FORM)


def _time(at: float) -> dict[str, Json]:
    moment = datetime.fromtimestamp(at, UTC)
    return {"__extn": {"fn": "datetime", "arg": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}}


# pydantic writes a tuple as it writes a list
_CEDAR_FORM: Forms = {
    InputType.TIME: _time,
    **{kind: form for kind, form in JSON_FORM.items() if kind is not InputType.TEXTS},
}
_of_argument = _writer(ARGUMENT_INPUTS)
