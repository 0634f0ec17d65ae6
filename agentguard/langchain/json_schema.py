"""Validation by a JSON Schema of somebody else, in bounded time.

A tool's server writes the schema, and a model under its influence the arguments. Patterns run in the engine
of pydantic (Rust's `regex`), whose time is linear in the text; it has neither lookaround nor backreferences.
A schema with a pattern that this engine does not take is refused. All other work is counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from itertools import count
from typing import Any

from pydantic_core import SchemaError, SchemaValidator, core_schema

from agentguard.errors import ConfigurationError

__all__ = ["STEPS", "WorkExceeded", "compile_schema"]

STEPS = 20_000  # keywords that are applied at most to the arguments of one call
_PATTERN = 2_000  # characters of a pattern at most
_MATCHED = 100_000  # characters of a text at most to which a pattern is applied
_DATA = frozenset({"enum", "const", "default", "examples"})  # these hold values and no schemas
_SHORTHAND = re.compile(r"\\(.)", re.DOTALL)
_ASCII = {"d": "[0-9]", "D": "[^0-9]", "w": "[A-Za-z0-9_]", "W": "[^A-Za-z0-9_]", "b": r"(?-u:\b)"}
"""What ECMA-262, whose patterns JSON Schema has, means by these: Rust would take digits of all scripts."""
_steps: ContextVar[Iterator[int] | None] = ContextVar("agentguard_schema_steps", default=None)

Keyword = Callable[[Any, Any, Any, Any], Any]


class WorkExceeded(ValueError):
    """The validation of one call's arguments takes more work than is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def compile_schema(schema: dict[str, Any], *, formats: bool = False) -> Callable[[dict[str, Any]], None]:
    """Return a function that validates arguments in bounded time.

    With *formats*, a `format` binds where jsonschema checks it without another library, such as ``email``,
    ``date``, ``ipv4`` and ``uuid``. By the standard a format only describes (JSON Schema Validation 2020-12,
    section 7.2.1).

    It raises jsonschema's ValidationError if they do not fit, and WorkExceeded if that takes too much work.

    Raises:
        ConfigurationError: A pattern in the schema cannot be run in linear time.
        jsonschema.SchemaError: This is no JSON Schema.
    """
    # an extra, for tools with a JSON Schema; jsonschema brings attrs
    import attrs
    from jsonschema.validators import extend, validator_for
    from referencing import Registry

    kind = validator_for(schema)
    kind.check_schema(schema)
    _check_patterns(schema)
    keywords: dict[str, Keyword] = {**kind.VALIDATORS, **_replaced(kind.VALIDATORS)}
    counted = {name: _counted(keyword) for name, keyword in keywords.items()}
    bounded: Any = extend(kind, counted)  # type: ignore[no-untyped-call]  # jsonschema has no types here
    # jsonschema's own `evolve` goes by the part's `$schema`, and so to a class that bounds nothing
    bounded.evolve = attrs.evolve
    # an empty registry: a schema comes from whoever serves the tool, and may not make us fetch a $ref
    checker = kind.FORMAT_CHECKER if formats else None
    validator = bounded(schema, registry=Registry(), format_checker=checker)

    def validate(arguments: dict[str, Any]) -> None:
        token = _steps.set(count())
        try:
            validator.validate(arguments)
        finally:
            _steps.reset(token)

    return validate


def _counted(keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        steps = _steps.get()
        if steps is not None and next(steps) >= STEPS:
            raise WorkExceeded("to validate the arguments takes too much work")
        return keyword(validator, value, instance, schema)

    return check


def _check_patterns(schema: Mapping[str, Any]) -> None:
    """Refuse a schema with a pattern that cannot be run in linear time."""
    todo: list[Any] = [schema]
    names = set[str]()
    while todo:
        part = todo.pop()
        if isinstance(part, list):
            todo.extend(part)
        if not isinstance(part, Mapping):
            continue
        names |= part.keys()
        patterns = part.get("patternProperties")
        for pattern in (part.get("pattern"), *(patterns if isinstance(patterns, Mapping) else ())):
            if isinstance(pattern, str):
                _compiled(pattern)
        todo.extend(value for name, value in part.items() if name not in _DATA)
    if {"patternProperties", "unevaluatedProperties"} <= names:  # jsonschema would run the patterns itself
        raise ConfigurationError(
            "a tool's schema has both patternProperties and unevaluatedProperties",
            hint="use additionalProperties in place of unevaluatedProperties",
        )


@lru_cache(1024)
def _compiled(pattern: str) -> SchemaValidator:
    try:
        if len(pattern) <= _PATTERN:
            pattern = _SHORTHAND.sub(lambda match: _ASCII.get(match[1], match[0]), pattern)
            return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError:
        pass
    raise ConfigurationError(
        f"a pattern in a tool's schema cannot be run in linear time: {pattern[:80]!r}",
        hint="write it without lookaround, backreferences and large repetitions, or leave it out",
    )


def _matches(pattern: str, text: str) -> bool:
    if len(text) > _MATCHED:
        raise WorkExceeded(f"a text of more than {_MATCHED} characters is not compared with a pattern")
    return _compiled(pattern).isinstance_python(text, strict=True)


def _replaced(keywords: Mapping[str, Keyword]) -> dict[str, Keyword]:
    """Return the keywords of which jsonschema's own form takes unbounded time, in another form."""
    original = keywords.get("additionalProperties")

    def additional_properties(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        patterns = schema.get("patternProperties")
        if patterns and validator.is_type(instance, "object"):
            unmatched = {
                name: part
                for name, part in instance.items()
                if not any(_matches(pattern, name) for pattern in patterns)
            }
            instance, schema = unmatched, {**schema, "patternProperties": {}}
        if original is not None:
            yield from original(validator, value, instance, schema) or ()

    replaced = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "uniqueItems": _unique_items,
        "additionalProperties": additional_properties,
    }
    return {name: keyword for name, keyword in replaced.items() if name in keywords}


def _pattern(validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, _schema: Any) -> Iterator[Any]:
    if validator.is_type(instance, "object"):
        for pattern, part in patterns.items():
            for name, value in instance.items():
                if _matches(pattern, name):
                    yield from validator.descend(value, part, path=name, schema_path=pattern)


def _unique_items(validator: Any, required: Any, instance: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if required and validator.is_type(instance, "array") and len(set(map(_key, instance))) < len(instance):
        yield ValidationError(f"{instance!r} has non-unique elements")


def _key(value: Any) -> object:
    """Return a hashable value, the same for equal JSON values only: 1 equals 1.0, and does not equal true."""
    if isinstance(value, list):
        return ("list", tuple(map(_key, value)))
    if isinstance(value, dict):
        return ("object", frozenset((name, _key(part)) for name, part in value.items()))
    return (isinstance(value, bool), value)
