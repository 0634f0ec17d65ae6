"""The facts of one request, as Cedar values: ``context.facts``, and the thing that a call acts on."""

from __future__ import annotations

from collections.abc import Collection

from agentguard.model import AccessRequest, Json
from agentguard.model.arguments import canonical_json
from agentguard.policies.cedar.schema import resource_of
from agentguard.policies.cedar.shapes import FactShape, ToolShape
from agentguard.policies.cedar.values import Refused

__all__ = ["FactWriter", "NotGiven"]


class NotGiven(Refused):
    """The application did not give what the rules look at; a model can correct nothing about that."""


class FactWriter:
    """Writes what rules may look at of one tool's facts: those of these *names*, and *fields* of a thing.

    Where *fields* is None, no rule looks at any field of the thing that the tool acts on.
    """

    def __init__(self, shape: ToolShape, names: Collection[str], fields: Collection[str] | None) -> None:
        self._facts = [fact for name, fact in sorted(shape.facts.items()) if name in names]
        self._thing, self._fields = shape.instance, fields
        self.origins: dict[str, Json] = {
            name: {"trusted": fact.spec.trusted, "sensitivity": int(fact.spec.sensitivity)}
            for name, fact in sorted(shape.facts.items())
        }
        """What rules see of where a fact comes from: ``context.provenance.facts``. It never changes."""

    def facts(self, request: AccessRequest) -> dict[str, Json]:
        """Return ``context.facts``.

        Raises:
            NotGiven: A fact is not known, or has no exact Cedar form.
        """
        values = {fact.spec.name: _value(fact, request) for fact in self._facts}
        return {name: value for name, value in values.items() if value is not None}

    def resource(self, request: AccessRequest) -> dict[str, Json] | None:
        """Return the thing that the call acts on, as an entity; None for a tool that acts on its resource.

        Raises:
            NotGiven: The call does not say which, or what the rules look at of it is not known.
        """
        if (thing := self._thing) is None:
            return None
        try:
            key = thing.spec.key_of(request.tool.name, request.arguments)
        except ValueError as error:
            raise NotGiven(f"fact {thing.spec.name}: {error}") from None
        if key is None:
            raise NotGiven(f"the call does not say which {thing.spec.name} it acts on")
        fields: dict[str, Json] = {}
        if self._fields is not None:
            value = _value(thing, request) or {}
            fields = {name: part for name, part in value.items() if name in self._fields}
        return {
            "uid": {"type": thing.entity, "id": _id(key)},
            "attrs": fields,
            "parents": [{"type": "Resource", "id": resource_of(request.tool)}],
        }


def _id(key: tuple[Json, ...]) -> str:
    """Return what a thing is called: the text that names it, or the JSON of several parts or of a number."""
    if len(key) == 1 and isinstance(key[0], str):
        return key[0]
    return canonical_json(key[0] if len(key) == 1 else list(key)).decode()


def _value(fact: FactShape, request: AccessRequest) -> Json:
    """Return the value of a fact, or None for no record."""
    name = fact.spec.name
    if name not in request.facts:
        raise NotGiven(f"fact {name} is not known")
    value = request.facts[name]
    if value is None and fact.optional:
        return None
    try:
        return fact.type.convert(value)
    except Refused as error:
        raise NotGiven(f"fact {name}: {error}") from None
