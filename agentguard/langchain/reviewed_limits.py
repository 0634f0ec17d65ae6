"""The limits in a schema that a security team has written, made to bind whatever the value is.

By JSON Schema a limit passes each value that it is not about: ``maximum`` passes a text, ``maxItems`` a
number. And a keyword that JSON Schema does not have, such as ``max_length``, passes everything. Who writes a
limit into agentguard.toml means that it binds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["idle_keywords", "with_types"]

_LIMITS = {
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "array": (
        "minItems", "maxItems", "uniqueItems", "items", "prefixItems", "additionalItems", "contains",
        "minContains", "maxContains", "unevaluatedItems",
    ),
    "object": (
        "minProperties", "maxProperties", "required", "properties", "patternProperties",
        "additionalProperties", "propertyNames", "dependentRequired", "dependentSchemas", "dependencies",
        "unevaluatedProperties",
    ),
}  # fmt: skip
_KIND = {keyword: kind for kind, keywords in _LIMITS.items() for keyword in keywords}
_NAMED = ("properties", "patternProperties", "dependentSchemas", "dependencies")
_DEFINITIONS = ("$defs", "definitions")
_REFERENCES = frozenset(f"#/{name}" for name in _DEFINITIONS)
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = (
    "items", "additionalItems", "unevaluatedItems", "contains", "propertyNames", "additionalProperties",
    "unevaluatedProperties", "then", "else",
)  # fmt: skip
_INVERSE = ("not", "if")  # a type in one of these would let more values pass
_TYPED = ".typed"  # what a definition is called in its form with types
# keywords that describe, or that another keyword reads
_WITHOUT_EFFECT = frozenset({
    "$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary", "$comment",
    "$defs", "definitions", "title", "description", "default", "examples", "example", "deprecated",
    "readOnly", "writeOnly", "format", "contentEncoding", "contentMediaType", "contentSchema", "then", "else",
    "minContains", "maxContains", "exclusiveMinimum", "exclusiveMaximum", "discriminator",
})  # fmt: skip


def with_types(schema: Any) -> Any:
    """Return a schema in which each part with limits, and without a type, takes only what they are about.

    Parts of `anyOf`, `oneOf`, `allOf`, `then` and `else`, and definitions that a `$ref` names, have types
    too. What is in `not` and `if` stays as it is.
    """
    if not isinstance(schema, Mapping):
        return schema
    typed = _typed(schema)
    for container in _DEFINITIONS:
        if isinstance(parts := schema.get(container), Mapping):
            copies = {f"{name}{_TYPED}": _typed(part) for name, part in parts.items()}
            typed[container] = {**parts, **copies}
    return typed


def _typed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    typed = {keyword: _typed_value(keyword, value, schema) for keyword, value in schema.items()}
    if not _has_type(typed) and (kinds := {_KIND[keyword] for keyword in schema.keys() & _KIND.keys()}):
        typed["type"] = sorted(kinds)
    return typed


def _typed_value(keyword: str, value: Any, schema: Mapping[str, Any]) -> Any:
    """Return the value of one keyword with types in the schemas that it holds."""
    if keyword in _NAMED and isinstance(value, Mapping):
        return {name: _typed(part) for name, part in value.items()}
    if keyword in _LISTS and isinstance(value, list | tuple):
        return [_typed(part) for part in value]
    if keyword == "$ref" and isinstance(value, str):
        return value + _TYPED if value.rpartition("/")[0] in _REFERENCES else value
    # of what is contained, fewer would be counted against a greatest number
    if keyword in _SINGLE and not (keyword == "contains" and "maxContains" in schema):
        return _typed(value)
    return value


def _has_type(schema: Any) -> bool:
    """Return whether a schema says of which type a value is."""
    if not isinstance(schema, Mapping):
        return schema is False
    if schema.keys() & {"type", "enum", "const", "$ref", "$dynamicRef", "$recursiveRef"}:
        return True
    if any(map(_has_type, schema.get("allOf", ()))):
        return True
    return any(schema.get(name) and all(map(_has_type, schema[name])) for name in ("anyOf", "oneOf"))


def idle_keywords(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the places of keywords in a schema that bind nothing; ``x-`` marks one that is meant to.

    A keyword binds nothing that JSON Schema does not have, that is about another type than the one beside it,
    or that stands beside a `$ref` in a draft before 2019-09.

    Raises:
        ImportError: The library jsonschema is not installed.
    """
    from jsonschema.validators import validator_for  # an extra, for tools with a JSON Schema

    kind: Any = validator_for(schema)
    keywords = kind.VALIDATORS.keys() | _WITHOUT_EFFECT
    alone = "dependentRequired" not in kind.VALIDATORS  # a draft in which a $ref stands alone
    return tuple(_idle(schema, "", keywords, reference_alone=alone))


def _idle(schema: Any, path: str, keywords: frozenset[str], *, reference_alone: bool) -> Iterator[str]:
    if not isinstance(schema, Mapping):
        return
    kinds = schema.get("type", ())
    types = {
        "number" if kind == "integer" else kind for kind in ([kinds] if isinstance(kinds, str) else kinds)
    }
    beside = reference_alone and "$ref" in schema
    for keyword in schema:
        other = types and keyword in _KIND and _KIND[keyword] not in types
        ignored = beside and keyword not in _WITHOUT_EFFECT and keyword != "$ref"
        if (keyword not in keywords or other or ignored) and not str(keyword).startswith("x-"):
            yield f"{path}{keyword}"
    for keyword, name, part in _parts(schema):
        place = f"{path}{keyword}.{name}." if name else f"{path}{keyword}."
        yield from _idle(part, place, keywords, reference_alone=reference_alone)


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the schemas in a schema, with the keyword and the name of each."""
    for keyword, value in schema.items():
        if keyword in (*_NAMED, *_DEFINITIONS) and isinstance(value, Mapping):
            yield from ((keyword, str(name), part) for name, part in value.items())
        elif keyword in _LISTS and isinstance(value, list | tuple):
            yield from ((keyword, str(place), part) for place, part in enumerate(value))
        elif keyword in (*_SINGLE, *_INVERSE):
            yield keyword, "", value
