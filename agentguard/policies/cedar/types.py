"""From a tool's JSON Schema to Cedar: the type that policies are checked against, and the value.

The type and the converter of values come from one reading of the schema, so a policy is given values of the
type that it was checked against. Cedar has neither floats nor null: a ``number`` is a `decimal` of at most
four places, a null is left out, and a value that does not fit exactly is refused, never rounded. Cedar has no
type for free objects, unions, tuples and recursion. `ToolShape.unseen` names such values. If one is a whole
argument, rules see only whether it is there and where it came from: it is an entity that equals nothing that
a rule can name. One that is deeper in an argument is left out.

    string, enum of strings → String      boolean → Bool      array of X → Set<X>
    integer → Long (64 bit)               number → decimal    object with properties → record
    X or null, not required → optional    a default that is not null → required, for it is filled in
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentguard.errors import ConfigurationError
from agentguard.model import FactSpec, ToolSpec
from agentguard.model.arguments import Json
from agentguard.policies.cedar.lists import NO_VALUES, Values, lists_in
from agentguard.policies.cedar.shapes import FactShape, ToolShape
from agentguard.policies.cedar.values import (
    CedarType,
    Convert,
    Refused,
    boolean,
    day,
    decimal,
    decimal_text,
    long,
    moment,
    quoted,
    string,
)

__all__ = ["UNTYPED", "Convert", "Refused", "ToolShape", "fact_shape_of", "quoted", "shape_of"]

_ESCAPES = {"__entity", "__expr", "__extn"}  # as attribute names, Cedar's JSON reads them as values


@dataclass(frozen=True, slots=True)
class _Field:
    type: CedarType
    optional: bool


_PLAIN = {
    "string": CedarType("String", string),
    "boolean": CedarType("Bool", boolean),
    "integer": CedarType("Long", long),
    "number": CedarType("decimal", decimal),
}
_FORMATS = {
    "decimal": CedarType("decimal", decimal_text),
    "date-time": CedarType("datetime", moment),
    "date": CedarType("datetime", day),
}
"""The formats of a text that count in a fact. An argument is a text, whatever its format."""


UNTYPED = "Untyped"
_PRESENT = {"__entity": {"type": UNTYPED, "id": "value"}}
_UNTYPED = CedarType(UNTYPED, lambda value: _PRESENT)


def _set(item: CedarType) -> CedarType:
    def convert(value: Json) -> Json:
        if not isinstance(value, list):
            raise Refused("is not a list")
        try:
            return [item.convert(entry) for entry in value]
        except Refused as error:
            raise Refused(f"has an entry that {error}") from None

    return CedarType(f"Set<{item.text}>", convert)


def _record(fields: Mapping[str, _Field], ignored: frozenset[str], extra: bool) -> CedarType:
    converters = [(name, field.type.convert) for name, field in sorted(fields.items())]
    required = {name for name, field in fields.items() if not field.optional}
    accepted = fields.keys() | ignored

    def convert(value: Json) -> Json:
        if not isinstance(value, dict):
            raise Refused("is not an object")
        if not extra and not value.keys() <= accepted:
            raise Refused(f"{min(value.keys() - accepted)[:80]!r} is not in the schema")
        record = {}
        for name, convert in converters:
            if (part := value.get(name)) is None:
                continue
            try:
                record[name] = convert(part)
            except Refused as error:
                raise Refused(f"{name!r} {error}") from None
        if not required <= record.keys():
            raise Refused(f"{min(required - record.keys())!r} is missing")
        return record

    parts = (f"{quoted(n)}{'?' if f.optional else ''}: {f.type.text}" for n, f in sorted(fields.items()))
    types = {name: field.type for name, field in fields.items()}
    return CedarType(f"{{ {', '.join(parts)} }}", convert, types)


class _Reader:
    """Reads one tool's schema, and notes in `unseen` the arguments that it leaves out."""

    def __init__(self, root: Mapping[str, Json], formats: Mapping[str, CedarType] | None = None) -> None:
        self._root, self._formats = root, formats or {}
        self.unseen: list[str] = []
        self.untyped: list[str] = []

    def record(
        self, schema: Mapping[str, Json], references: frozenset[str], place: str, *, filled: bool
    ) -> tuple[CedarType, tuple[str, ...]]:
        """Read an object at *place*; *filled* says that the guard fills in its defaults."""
        required = set(schema.get("required", ()))
        properties: Mapping[str, Json] = schema.get("properties", {})
        fields: dict[str, _Field] = {}
        for name, part in properties.items():
            where = f"{place}.{name}" if place else name
            kind, nullable = (None, True) if name in _ESCAPES else self.type(part, references, where)
            if kind is None:
                self.unseen.append(where)
                if filled and name not in _ESCAPES:
                    self.untyped.append(name)
                    fields[name] = _Field(_UNTYPED, optional=True)
                continue
            defaulted = filled and isinstance(part, Mapping) and part.get("default") is not None
            fields[name] = _Field(kind, nullable or not (name in required or defaulted))
        extra = schema.get("additionalProperties") not in (None, False)
        if extra:
            self.unseen.append(f"{place}.*" if place else "*")
        return _record(fields, frozenset(properties) - fields.keys(), extra), tuple(
            sorted(fields.keys() - (self.untyped if filled else ()))
        )

    def type(self, schema: Json, references: frozenset[str], place: str) -> tuple[CedarType | None, bool]:
        """Return the Cedar type, or None for what has none, and whether the value may be null."""
        while isinstance(schema, Mapping) and "$ref" in schema:
            reference = str(schema["$ref"])
            if reference in references:
                return None, True
            references |= {reference}
            schema = self._resolve(reference)
        if not isinstance(schema, Mapping):
            return None, True
        branches = _branches(schema)
        if branches is None:
            return self._single(schema, references, place), False
        kinds = [branch for branch in branches if not _is_null(branch)]
        types = [self.type(branch, references, place) for branch in kinds]
        nullable = len(kinds) < len(branches) or any(null for _, null in types)
        return _common([kind for kind, _ in types]), nullable

    def _resolve(self, reference: str) -> Json:
        target: Json = self._root
        if not reference.startswith("#"):
            return None
        for part in reference.lstrip("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, Mapping) else None
        return target

    def _single(self, schema: Mapping[str, Json], references: frozenset[str], place: str) -> CedarType | None:
        kind = schema.get("type")
        if kind == "object" and schema.get("properties"):
            return self.record(schema, references, place, filled=False)[0]
        if kind == "array" and "prefixItems" not in schema:
            item, nullable = self.type(schema.get("items"), references, f"{place}[]")
            return None if item is None or nullable else _set(item)
        form = schema.get("format")
        if kind == "string" and isinstance(form, str) and form in self._formats:
            return self._formats[form]
        return _PLAIN.get(kind) if isinstance(kind, str) else None


def _branches(schema: Mapping[str, Json]) -> list[Json] | None:
    """Return the alternatives of a schema that has several, or None."""
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return list(schema[key])
    if len(schema.get("allOf", ())) == 1 and "properties" not in schema:
        return list(schema["allOf"])
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is not None:
        return [{"type": _JSON_NAMES.get(type(value))} for value in values]
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": kind} for kind in schema["type"]]
    return None


_JSON_NAMES: dict[type[Any], str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}


def _is_null(schema: Json) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "null"


def _common(kinds: list[CedarType | None]) -> CedarType | None:
    """Return the one type of all alternatives, or None. An integer counts as a number; no other types mix."""
    texts = {None if kind is None else kind.text for kind in kinds}
    if texts == {"Long", "decimal"}:
        return _PLAIN["number"]
    return kinds[0] if len(texts) == 1 else None


def shape_of(spec: ToolSpec, texts: Values = NO_VALUES) -> ToolShape:
    """Read a tool's argument schema, once.

    `convert` turns JSON arguments into the value of ``context.args``. It refuses a value that does not fit, a
    required argument that is missing, and an argument that the schema neither declares nor accepts. For
    rules, a tool without a schema takes no arguments. *texts* are those by which rules want the entries of
    lists counted.

    Raises:
        ConfigurationError: The schema is malformed.
    """
    reader = _Reader(spec.schema or {})
    try:
        kind, names = reader.record(spec.schema or {}, frozenset(), "", filled=True)
        looks, lists = spec.looks, lists_in(spec.declared, texts)
    except (TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"the argument schema of tool {spec.name} is no JSON Schema: {type(error).__name__}",
            hint="correct the tool's schema, or give its arguments in [tools.<name>.args]",
        ) from error
    return ToolShape(
        kind.text,
        kind.convert,
        names,
        tuple(reader.unseen),
        tuple(reader.untyped),
        kind.fields,
        {fact.name: shape for fact in spec.facts if (shape := fact_shape_of(fact)) is not None},
        looks,
        lists,
    )


def fact_shape_of(fact: FactSpec) -> FactShape | None:
    """Read the type of a fact; None for one of which Cedar has no type, such as a free object."""
    reader = _Reader(fact.type.schema, _FORMATS)
    kind, optional = reader.type(fact.type.schema, frozenset(), "")
    return None if kind is None else FactShape(fact, kind, optional, tuple(reader.unseen))
