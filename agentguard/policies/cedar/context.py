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
from agentguard.policies.cedar.facts import FactWriter, NotGiven
from agentguard.policies.cedar.shapes import NO_SHAPES, FactShape, ToolShape
from agentguard.provenance.arguments import unknown_provenance

__all__ = ["ContextWriter", "NotGiven", "View", "view_of"]

Inputs = tuple[RuleInput, ...]

_WORD = re.compile(r"(?<![@\w])\w+")  # not the name of an annotation: each rule has an @id
_RESOURCE = re.compile(r"\bresource\b(?!\s*(?:in\b|is\b|==|!=))")  # its fields, or it as a whole
_WHOLE = re.compile(r"\\|\b(?:context|task|args|facts)\b(?!\s*(?:\.|\[|has\b))")


class View(NamedTuple):
    """What some rules may look at: parts of the context, of the task, arguments, and their provenance.

    `family` names what they look at of all that the family of the task has read. Where no rule looks at an
    `approval`, a person's consent changes no answer, and need not be asked about. `facts` are those in
    ``context.facts``. `resource` names fields of the thing that the tool acts on, and None says that the
    rules look at none; `identified` says whether they name such a thing.
    """

    parts: tuple[str, ...]
    environment: bool
    approval: bool
    task: tuple[str, ...] | None
    args: frozenset[str] | None
    provenance: tuple[str, ...] | None
    family: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    resource: frozenset[str] | None = None
    identified: bool = False


def view_of(
    rules: Iterable[str],
    names: Collection[str],
    inputs: Inputs = INPUTS,
    facts: Mapping[str, FactShape] = NO_SHAPES,
) -> View:
    """Return what rules, given as their texts, may look at of a tool with arguments of these *names*."""
    texts = tuple(rules)
    view = _view_of(texts, names, inputs)
    if not facts:
        return view
    thing = next((fact for fact in facts.values() if fact.spec.resource), None)
    fields = frozenset() if thing is None else frozenset(thing.fields(()))
    if any(map(_WHOLE.search, texts)):
        return view._replace(
            facts=tuple(facts), resource=None if thing is None else fields, identified=thing is not None
        )
    words = _words(texts)
    if thing is not None and any(_RESOURCE.search(text.partition("{")[2]) for text in texts):
        view = view._replace(resource=frozenset(_named(fields, words)))
    return view._replace(
        facts=_named(facts, words) if "facts" in view.parts else (),
        identified=thing is not None and thing.entity in words,
    )


def _view_of(texts: tuple[str, ...], names: Collection[str], inputs: Inputs) -> View:
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
        self._facts = FactWriter(shape, view.facts, view.resource)
        rows = [row for row in in_group(inputs, "") if row.type is not InputType.FACTS]
        self._parts = _writer(row for row in rows if row.name in view.parts)
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
        if view.facts:
            context["facts"] = self._facts.facts(request)
        if self._provenance is not None:
            context["provenance"] = self._origins(request, self._provenance(request))
        if request.approval is not None and (approval := approval_json(request)) is not None:
            context["approval"] = approval
        return context

    def _origins(self, request: AccessRequest, provenance: dict[str, Json]) -> dict[str, Json]:
        if self._facts.origins:
            provenance["facts"] = self._facts.origins
        if self._view.provenance is not None:
            provenance["args"] = self._arguments(request, self._view.provenance)
        return provenance

    def resource(self, request: AccessRequest) -> dict[str, Json] | None:
        """Return the thing that the call acts on, as an entity; None where that is the tool's resource.

        Raises:
            NotGiven: The call does not say which, or what the rules look at of it is not known.
        """
        return self._facts.resource(request)

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
