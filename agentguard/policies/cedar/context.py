"""The context of a Cedar request: what rules can see of a call, of its task, and of its arguments.

Cedar reads a context anew for each request, which takes longer than judging it. So the context holds only
what some rule may look at; see `view`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime

from agentguard.model import AccessRequest, Json, Provenance
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
from agentguard.model.looks import Look
from agentguard.model.origin_form import name_inside
from agentguard.policies.cedar.facts import FactWriter, NotGiven
from agentguard.policies.cedar.shapes import ToolShape
from agentguard.policies.cedar.tallies import cedar_tallies
from agentguard.policies.cedar.view import View
from agentguard.provenance.joined import ABSENT, unknown_provenance

__all__ = ["ContextWriter", "NotGiven"]

Inputs = tuple[RuleInput, ...]


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
        self._has_facts = bool(shape.facts) and "facts" in view.parts  # also where rules name none of them
        rows = [row for row in in_group(inputs, "") if row.type is not InputType.FACTS]
        self._parts = _writer(row for row in rows if row.name in view.parts)
        self._task = _writer(row for row in in_group(inputs, "task") if row.name in (view.task or ()))
        counts = (("sizes", view.sizes.sizes, view.sizes), ("counts", view.counts.counts, view.counts))
        self._counts = [(name, count) for name, count, lists in counts if lists]
        rows = [row for row in in_group(inputs, "provenance") if row.name in view.family]
        self._provenance = _writer(rows) if "provenance" in view.parts else None

    def write(self, request: AccessRequest) -> dict[str, Json]:
        """Return the context of one request.

        Raises:
            Refused: An argument or the environment does not fit, and no rule could judge it.
        """
        values = request.arguments.values
        view, args = self._view, self._convert(values)
        environment = self._promised(request.environment) if self._environment else {}
        context = self._parts(request)
        if view.args is not None:
            context["args"] = {name: value for name, value in args.items() if name in view.args}
        if view.environment:
            context["environment"] = environment
        if view.task is not None:
            context["task"] = self._task(request)
        if self._has_facts:
            context["facts"] = self._facts.facts(request)
        context |= {name: count(values) for name, count in self._counts}
        if self._provenance is not None:
            context["provenance"] = self._origins(request, self._provenance(request), values)
        if request.approval is not None and (approval := approval_json(request)) is not None:
            context["approval"] = approval
        return context

    def _origins(
        self, request: AccessRequest, provenance: dict[str, Json], present: Collection[str]
    ) -> dict[str, Json]:
        if self._facts.origins:
            provenance["facts"] = self._facts.origins
        if self._view.provenance is not None:
            provenance["args"] = self._arguments(request, self._view.provenance, present)
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

    def _arguments(
        self, request: AccessRequest, names: Iterable[str], present: Collection[str]
    ) -> dict[str, Json]:
        records, unknown, inside = dict[str, Json](), None, self._view.inside
        for name in names:
            origin = request.provenance.get(name)
            if origin is None:
                origin = unknown = unknown or unknown_provenance(request.task)
            records[name] = record = _of_argument(origin)
            if name in inside:
                missing = unknown_provenance(request.task) if name in present else ABSENT
                _write_inside(record, origin, inside[name], missing)
        return records


def _write_inside(record: dict[str, Json], origin: Provenance, look: Look, missing: Provenance) -> None:
    """Write where what is inside of an argument came from; *missing* is what the request leaves out."""
    for name, inner in look.fields.items():
        part = origin.inside.get(name, missing)
        record[name_inside(name)] = inner_record = _of_argument(part)
        _write_inside(inner_record, part, inner, missing)
    for kind in look.texts:
        record[kind] = _of_argument(origin.texts.get(kind, missing))


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
    InputType.TALLIES: cedar_tallies,
}
_of_argument = _writer(ARGUMENT_INPUTS)
