"""The limits in a schema that a security team has written, made to bind whatever the value is.

By JSON Schema a limit passes each value that it is not about: ``maximum`` passes a text, ``maxItems`` a
number. And a keyword that JSON Schema does not have, such as ``max_length``, passes everything. Who writes a
limit into agentguard.toml means that it binds. So a limit must be found: only references to ``#`` and to
``#/$defs/NAME`` are followed, and any other reference is an error, as is a format that nothing checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from agentguard.errors import ConfigurationError

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
_OF_THE_WHOLE = frozenset({*_DEFINITIONS, "$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$vocabulary"})
_REFERENCE = re.compile(r"#/(\$defs|definitions)/([^/%]+)")
_OTHER_REFERENCES = ("$dynamicRef", "$recursiveRef")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = (
    "items", "additionalItems", "unevaluatedItems", "contains", "propertyNames", "additionalProperties",
    "unevaluatedProperties", "then", "else",
)  # fmt: skip
_INVERSE = ("not", "if")  # a type in one of these may let more values pass
_NEEDS = {"then": "if", "else": "if", "minContains": "contains", "maxContains": "contains"}
_TYPED = ".typed"  # what a definition is called in its form with types, with more points if it must
# keywords that describe, or that another keyword reads
_WITHOUT_EFFECT = frozenset({
    "$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary", "$comment",
    "$defs", "definitions", "title", "description", "default", "examples", "example", "deprecated",
    "readOnly", "writeOnly", "format", "then", "else",
    "minContains", "maxContains", "exclusiveMinimum", "exclusiveMaximum", "discriminator",
})  # fmt: skip


def with_types(schema: Any) -> Any:
    """Return a schema in which each part with limits, and without a type, takes only what they are about.

    Parts of `anyOf`, `oneOf`, `allOf`, `then` and `else`, and definitions that a `$ref` names, have types
    too. A part has none where that would let more values pass: in `not`, and in an `if` that a `then` is for.
    Where an `if` has both `then` and `else`, a value is refused that it takes by another type alone.

    Raises:
        ConfigurationError: Such an `if` is in a `not`, or in another place that is turned round.
    """
    return _Typing(schema).whole() if isinstance(schema, Mapping) else schema


class _Typing:
    """Gives types to the parts of one schema.

    A part is strict where fewer values that it takes are fewer that the whole takes, and loose elsewhere.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        names = [str(name) for container in _DEFINITIONS for name in schema.get(container) or ()]
        self._suffix, self._names_loose_whole = _TYPED, False
        while any(name.endswith(self._suffix) for name in names):
            self._suffix += "."

    def whole(self) -> dict[str, Any]:
        """Return the schema with types; beside each definition, which is loose, stands its strict form.

        Where a reference to the whole has to be loose, the loose form of the whole is a definition too.
        """
        typed: dict[str, Any] = self._with_types(self._schema)
        for container in _DEFINITIONS:
            if isinstance(parts := self._schema.get(container), Mapping):
                loose = {name: self._with_types(part, is_strict=False) for name, part in parts.items()}
                strict = {f"{name}{self._suffix}": self._with_types(part) for name, part in parts.items()}
                typed[container] = {**loose, **strict}
        if self._names_loose_whole:
            whole = {keyword: part for keyword, part in self._schema.items() if keyword not in _OF_THE_WHOLE}
            loose = self._with_types(whole, is_strict=False)
            typed["$defs"] = {**typed.get("$defs", {}), self._loose_whole: loose}
        return typed

    @property
    def _loose_whole(self) -> str:
        return self._suffix * 2  # no definition has this name, nor a strict form: none ends with the suffix

    def _with_types(self, schema: Any, *, is_strict: bool = True) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        typed = {keyword: self._value(keyword, value, schema, is_strict) for keyword, value in schema.items()}
        if is_strict and (kinds := _kinds(schema)) and not self._has_type(schema, frozenset()):
            typed["type"] = sorted(kinds)
        if schema.keys() >= {"if", "then", "else"}:
            strict, loose = (self._with_types(schema["if"], is_strict=strict) for strict in (True, False))
            if strict != loose and not is_strict:
                raise ConfigurationError(
                    "an `if` with `then` and `else`, inside `not`, has a limit without a type",
                    hint="write a type beside each limit in this `if`",
                )
            if strict != loose:
                typed["allOf"] = [*typed.get("allOf", ()), {"anyOf": [strict, {"not": loose}]}]
        return typed

    def _value(self, keyword: str, value: Any, schema: Mapping[str, Any], is_strict: bool) -> Any:
        """Return the value of one keyword with types in the schemas that it holds."""
        if keyword in _NAMED and isinstance(value, Mapping):
            return {name: self._with_types(part, is_strict=is_strict) for name, part in value.items()}
        if keyword in _LISTS and isinstance(value, list | tuple):
            return [self._with_types(part, is_strict=is_strict) for part in value]
        if keyword == "$ref" and value == "#" and not is_strict:
            self._names_loose_whole = True
            return f"#/$defs/{self._loose_whole}"
        if keyword == "$ref" and isinstance(value, str):
            return value + self._suffix if is_strict and _REFERENCE.fullmatch(value) else value
        if keyword in _INVERSE:
            is_for_else = keyword == "if" and "else" in schema and "then" not in schema
            return self._with_types(value, is_strict=is_strict if is_for_else else not is_strict)
        # of what is contained, fewer would be counted against a greatest number
        if keyword in _SINGLE and not (keyword == "contains" and "maxContains" in schema):
            return self._with_types(value, is_strict=is_strict)
        return value

    def _has_type(self, schema: Any, references: frozenset[str]) -> bool:
        """Return whether a schema says of which type a value is; *references* led to it."""
        if not isinstance(schema, Mapping):
            return schema is False
        if schema.keys() & {"type", "enum", "const"}:
            return True
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference not in references:
            target = _definition(reference, self._schema)
            if self._gets_type(target, references | {reference}):
                return True
        if any(self._gets_type(part, references) for part in schema.get("allOf", ())):
            return True
        return any(
            schema.get(name) and all(self._gets_type(part, references) for part in schema[name])
            for name in ("anyOf", "oneOf")
        )

    def _gets_type(self, schema: Any, references: frozenset[str]) -> bool:
        return bool(_kinds(schema)) or self._has_type(schema, references)


def _kinds(schema: Any) -> set[str]:
    """Return what the limits in a schema are about."""
    return (
        {_KIND[keyword] for keyword in schema.keys() & _KIND.keys()} if isinstance(schema, Mapping) else set()
    )


def _definition(reference: str, schema: Mapping[str, Any]) -> Any:
    """Return the part of a schema that a reference names, or None if it is not followed."""
    if reference == "#":
        return schema
    if (match := _REFERENCE.fullmatch(reference)) is None:
        return None
    definitions = schema.get(match[1])
    name = match[2].replace("~1", "/").replace("~0", "~")
    return definitions.get(name) if isinstance(definitions, Mapping) else None


def idle_keywords(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the places of keywords in a schema that bind nothing; ``x-`` marks one that is meant to.

    A keyword binds nothing that JSON Schema does not have, that is about another type than the one beside it,
    that only another keyword would read, or that stands beside a `$ref` in a draft before 2019-09. So does a
    reference that is not followed, and a format that nothing checks on this machine.

    Raises:
        ImportError: The library jsonschema is not installed.
    """
    from jsonschema.validators import validator_for  # an extra, for tools with a JSON Schema

    kind = validator_for(schema)
    if "allOf" not in kind.VALIDATORS:
        return ("$schema (draft 3 has other keywords: write the schema for a later draft)",)
    return tuple(_Idle(schema, kind).find(schema, ""))


class _Idle:
    """Finds keywords that bind nothing in one schema, of a class of jsonschema's validators."""

    def __init__(self, schema: Mapping[str, Any], kind: Any) -> None:
        self._schema = schema
        self._keywords = kind.VALIDATORS.keys() | _WITHOUT_EFFECT
        self._formats = kind.FORMAT_CHECKER.checkers.keys() | {"regex"}
        # a draft in which a $ref stands alone
        self._is_reference_alone = "dependentRequired" not in kind.VALIDATORS

    def find(self, schema: Any, path: str) -> Iterator[str]:
        """Yield the place of each of them in a part of the schema."""
        if not isinstance(schema, Mapping):
            return
        kinds = schema.get("type", ())
        types = {
            "number" if kind == "integer" else kind for kind in ([kinds] if isinstance(kinds, str) else kinds)
        }
        for keyword in schema:
            if not str(keyword).startswith("x-") and self._is_idle(keyword, schema, types):
                yield f"{path}{keyword}"
        yield from self._values(schema, path)
        for keyword, name, part in _parts(schema):
            yield from self.find(part, f"{path}{keyword}.{name}." if name else f"{path}{keyword}.")

    def _is_idle(self, keyword: str, schema: Mapping[str, Any], types: set[str]) -> bool:
        is_beside = self._is_reference_alone and "$ref" in schema
        return (
            keyword not in self._keywords
            or bool(types and keyword in _KIND and _KIND[keyword] not in types)
            or (is_beside and keyword not in _WITHOUT_EFFECT and keyword != "$ref")
            or _NEEDS.get(keyword, keyword) not in schema
        )

    def _values(self, schema: Mapping[str, Any], path: str) -> Iterator[str]:
        """Yield each keyword of which the value leads nowhere, or is checked by nothing."""
        reference, format_ = schema.get("$ref"), schema.get("format")
        if isinstance(reference, str) and _definition(reference, self._schema) is None:
            yield f"{path}$ref (only # and #/$defs/NAME are followed)"
        for keyword in _OTHER_REFERENCES:
            if keyword in schema:
                yield f"{path}{keyword} (only $ref is followed)"
        if "$id" in schema and path:
            yield f"{path}$id (a part cannot be a document of its own)"
        if isinstance(format_, str) and format_ not in self._formats:
            yield f"{path}format (nothing checks {format_!r})"


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the schemas in a schema, with the keyword and the name of each."""
    for keyword, value in schema.items():
        if keyword in (*_NAMED, *_DEFINITIONS) and isinstance(value, Mapping):
            yield from ((keyword, str(name), part) for name, part in value.items())
        elif keyword in _LISTS and isinstance(value, list | tuple):
            yield from ((keyword, str(place), part) for place, part in enumerate(value))
        elif keyword in (*_SINGLE, *_INVERSE):
            yield keyword, "", value
