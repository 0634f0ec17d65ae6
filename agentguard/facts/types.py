"""A JSON Schema of agentguard.toml as a type that pydantic reads.

Only the part of JSON Schema is known that says what kind of value stands where: `type`, `properties`,
`required`, `items`, `enum`, `const`, `anyOf`, `oneOf`, and of a text the formats ``date-time``, ``date`` and
``decimal``. Any other keyword but a description is an error: it would look like a check, and be none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, Union

from pydantic import Field, create_model

__all__ = ["type_of"]

_PLAIN: Mapping[str, Any] = {
    "integer": int,
    "number": float,
    "boolean": bool,
    "string": str,
    "null": type(None),
}
_FORMATS: Mapping[str, Any] = {"date-time": datetime, "date": date, "decimal": Decimal}
_WORDS = frozenset({"title", "description", "examples", "additionalProperties"})
_KNOWN = _WORDS | {"type", "properties", "required", "items", "enum", "const", "anyOf", "oneOf", "format"}


def type_of(schema: Any) -> Any:
    """Return the type that a schema describes. What it does not name in an object is left out of the value.

    Raises:
        ValueError: The schema has a keyword, a type or a format that is not known here.
    """
    if not isinstance(schema, Mapping):
        raise ValueError("a schema is a table, as in { type = 'string' }")
    if unknown := sorted(schema.keys() - _KNOWN):
        raise ValueError(f"{unknown[0]!r} is not known here")
    branches = schema.get("anyOf", schema.get("oneOf"))
    kind = schema.get("type")
    if isinstance(kind, list | tuple):
        branches = [{**schema, "type": each_kind} for each_kind in kind]
    if branches is not None:
        return Union[tuple(map(type_of, branches))]  # noqa: UP007  made of a list
    if "const" in schema or "enum" in schema:
        return Literal[tuple(schema["enum"] if "enum" in schema else [schema["const"]])]
    if kind == "object":
        return _record(schema)
    if kind == "array":
        return list[type_of(schema.get("items"))]  # type: ignore[misc]  # a type made at runtime
    return _scalar(str(kind), schema.get("format"))


def _scalar(kind: str, form: object) -> Any:
    if kind not in _PLAIN:
        raise ValueError(f"the type {kind!r} is not known here")
    if form is None:
        return _PLAIN[kind]
    if kind != "string" or form not in _FORMATS:
        raise ValueError(f"the format {form!r} is not known here")
    return _FORMATS[str(form)]


def _record(schema: Mapping[str, Any]) -> Any:
    properties, required = schema.get("properties"), set(schema.get("required", ()))
    if not isinstance(properties, Mapping) or not properties:
        raise ValueError("an object has no properties")
    if unknown := sorted(required - properties.keys()):
        raise ValueError(f"{unknown[0]!r} is required and no property")
    fields: dict[str, Any] = {}
    for number, (name, part) in enumerate(properties.items()):
        kind = type_of(part)
        if name in required:
            fields[f"field_{number}"] = kind, Field(alias=name)
        else:
            fields[f"field_{number}"] = kind | None, Field(default=None, alias=name)
    return create_model("Record", **fields)
