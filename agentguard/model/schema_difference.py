"""How the argument schema that agentguard.toml gives differs from the one that the tool brings.

Arguments must satisfy both. So a difference is no fault by itself, but its author should know it. It is a
contradiction if no value can satisfy both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from agentguard.errors import ConfigurationError
from agentguard.model.tool import ToolSpec

__all__ = ["contradictions", "differences", "require_arguments", "require_sinks"]

# fmt: off
_KEYWORDS = frozenset({
    "type", "enum", "const", "pattern", "format", "minLength", "maxLength", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "uniqueItems",
    "minProperties", "maxProperties", "additionalProperties", "required", "anyOf", "oneOf", "allOf",
    "not", "if", "prefixItems", "contains", "patternProperties", "propertyNames",
})
# fmt: on
_NULL = {"type": "null"}
_SHOWN = 60  # characters of a value that a message quotes: a tool's author may have written any text
_DEPTH = 8

Schema = Mapping[str, Any]


def differences(catalog: Schema, tool: Schema) -> Iterator[str]:
    """Yield what one of the two says and the other does not, for each argument and keyword.

    Titles, descriptions and defaults are not compared, and an optional argument may be null.
    """
    own_required, required = set(tool.get("required", ())), set(catalog.get("required", ()))
    for name in sorted(catalog.get("properties", {})):
        one, other = (_constraints(root["properties"].get(name), root) for root in (catalog, tool))
        one["required"], other["required"] = name in required, name in own_required
        for keyword in sorted(one.keys() | other.keys()):
            if one.get(keyword) != other.get(keyword):
                yield (
                    f"{name}: {keyword} is {_text(one.get(keyword))} in the catalog, "
                    f"and {_text(other.get(keyword))} in the tool"
                )
    closed = [root.get("additionalProperties") for root in (catalog, tool)]
    if closed[0] is False and closed[1] not in (None, False):
        yield f"additionalProperties is false in the catalog, and {_text(closed[1])} in the tool"


def contradictions(catalog: Schema, tool: Schema) -> Iterator[str]:
    """Yield why no value of an argument can satisfy both: their types, or their listed values, share none."""
    for name in sorted(catalog.get("properties", {})):
        parts = [_resolved(root["properties"].get(name), root) for root in (catalog, tool)]
        types = [_types(part, root) for part, root in zip(parts, (catalog, tool), strict=True)]
        if types[0] and types[1] and not types[0] & types[1]:
            catalog_types, tool_types = ("/".join(sorted(kinds)) for kinds in types)
            yield f"{name} is {catalog_types} in the catalog, and {tool_types} in the tool"
        values = [{_text(value) for value in part.get("enum", ())} for part in parts]
        if values[0] and values[1] and not values[0] & values[1]:
            yield f"{name}: the catalog and the tool list no value in common"


def _resolved(part: Any, root: Schema) -> Schema:
    """Return a part of a schema with references followed, and without the alternative null."""
    for _ in range(_DEPTH):
        if not isinstance(part, Mapping):
            return {}
        if "$ref" in part:
            part = _at(str(part["$ref"]), root)
            continue
        branches = part.get("anyOf")
        plain = [b for b in branches if b != _NULL] if isinstance(branches, list) else []
        if len(plain) != 1:
            return part
        part = plain[0]
    return {}


def _at(reference: str, root: Any) -> Any:
    for step in reference.lstrip("#").split("/")[1:] if reference.startswith("#") else ():
        root = root.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(root, Mapping) else None
    return root if reference.startswith("#/") else None


def _constraints(part: Any, root: Schema, place: str = "", depth: int = 0) -> dict[str, Any]:
    """Return the limits that a part of a schema sets, by keyword; ``items.type`` is a limit of each item."""
    schema, limits = _resolved(part, root), dict[str, Any]()
    for keyword in _KEYWORDS & schema.keys():
        limits[f"{place}{keyword}"] = schema[keyword]
    if depth < _DEPTH:
        if "items" in schema:
            limits |= _constraints(schema["items"], root, f"{place}items.", depth + 1)
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        for name in properties:
            limits |= _constraints(properties[name], root, f"{place}{_text(name)}.", depth + 1)
    return limits


def _types(part: Schema, root: Schema) -> set[str]:
    """Return the JSON types that a part of a schema allows, without null; none if it allows any."""
    kinds: set[str] = set()
    for branch in part.get("anyOf", part.get("oneOf", [part])):
        kind = _resolved(branch, root).get("type")
        if kind is None:
            return set()
        kinds |= {str(name) for name in kind} if isinstance(kind, list) else {str(kind)}
    return (kinds | ({"integer"} if "number" in kinds else set())) - {"null"}


def _text(value: Any) -> str:
    """Return a value as JSON in ASCII, so that no text of a tool's author can draw on a terminal."""
    if value is None:
        return "not set"
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def require_arguments(name: str, declared: Schema, schema: Schema) -> None:
    """Refuse a tool whose arguments cannot satisfy the schema that agentguard.toml gives it.

    Raises:
        ConfigurationError: They have other names, or no value satisfies both schemas.
    """
    expected, actual = set(declared.get("properties", {})), set(schema.get("properties", {}))
    if expected != actual:
        raise ConfigurationError(
            f"tool {name} takes {sorted(actual)}, and the catalog says {sorted(expected)}",
            hint=f"correct [tools.{name}.args]",
        )
    for reason in contradictions(declared, schema):
        raise ConfigurationError(
            f"no call of tool {name} can satisfy the catalog and the tool: {reason}",
            hint=f"correct [tools.{name}.args]",
        )


def require_sinks(spec: ToolSpec, schema: Schema) -> None:
    """Refuse a sink that is no argument, since the limit on counterparties would apply to nothing.

    The same holds for an argument whose values are recognized in another form.

    Raises:
        ConfigurationError: There is one.
    """
    arguments = set(schema.get("properties", {}))
    if schema.get("additionalProperties"):
        return
    if stray := sorted(spec.sinks - arguments):
        raise ConfigurationError(
            f"tool {spec.name} has the sink {stray[0]}, and takes {sorted(arguments)}",
            hint="a sink is the name of an argument",
        )
    if stray := sorted(spec.recognized.keys() - arguments):
        raise ConfigurationError(
            f"tool {spec.name} recognizes values of {stray[0]}, and takes {sorted(arguments)}",
            hint="recognized has names of arguments",
        )
