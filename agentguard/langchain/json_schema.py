"""Validation by a JSON Schema of somebody else, in bounded time.

A tool's server writes the schema, and a model under its influence the arguments. Patterns run in the engine
of pydantic (Rust's `regex`), whose time is linear in the text; it has neither lookaround nor backreferences.
A schema with a pattern that this engine does not take is refused, and so is one with too many patterns or too
many parts: to check and to compile it would hold everybody up when the tool is first seen. All other work is
counted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from itertools import count
from typing import Any

from pydantic_core import SchemaError as PatternError
from pydantic_core import SchemaValidator, core_schema

from agentguard.errors import ConfigurationError
from agentguard.model import Limits

__all__ = ["STEPS", "WorkExceeded", "compile_schema"]

STEPS = 20_000  # keywords that are applied at most to the arguments of one call
_PATTERN = 2_000  # characters of a pattern at most
_PATTERNS, _ALL_PATTERNS = 100, 20_000  # different patterns of one schema at most, and their characters
_COMPILING = 0.5  # seconds of this thread's work at most to compile them; an ordinary pattern takes 0.05 ms
_SCHEMA = Limits(bytes=524_288, parts=5_000, depth=100)  # to check 5,000 parts takes about 0.5 s
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
        ConfigurationError: A pattern in the schema cannot be run in linear time, or the schema is too large.
        jsonschema.SchemaError: This is no JSON Schema.
    """
    from jsonschema.validators import validator_for  # an extra, for tools with a JSON Schema

    if excess := _SCHEMA.excess(schema):
        raise ConfigurationError(f"a tool's schema holds {excess}", hint="leave out what no call needs")
    patterns = _compile_patterns(schema)
    kind: Any = validator_for(schema)
    _check(schema, kind)
    keywords: dict[str, Keyword] = {**kind.VALIDATORS, **_Patterns(patterns).replace(kind.VALIDATORS)}
    counted = {name: _counted(keyword) for name, keyword in keywords.items()}
    validator = _validator(schema, kind, counted, formats=formats)

    def validate(arguments: dict[str, Any]) -> None:
        token = _steps.set(count())
        try:
            validator.validate(arguments)
        finally:
            _steps.reset(token)

    return validate


def _check(schema: Mapping[str, Any], kind: Any) -> None:
    """Do as `check_schema`, which would compile each pattern by Python's engine, and compare each two items.

    Raises:
        jsonschema.SchemaError: This is no JSON Schema.
    """
    from jsonschema import SchemaError

    for error in _extended(kind, {"uniqueItems": _unique_items})(kind.META_SCHEMA).iter_errors(schema):
        raise SchemaError.create_from(error)


def _validator(
    schema: Mapping[str, Any], kind: Any, keywords: Mapping[str, Keyword], *, formats: bool
) -> Any:
    from jsonschema import FormatChecker
    from referencing import Registry

    checker = None
    if formats:
        checker = FormatChecker(())
        checker.checkers = {**kind.FORMAT_CHECKER.checkers, "regex": (_is_pattern, ())}
    # an empty registry: a schema comes from whoever serves the tool, and may not make us fetch a $ref
    return _extended(kind, keywords)(schema, registry=Registry(), format_checker=checker)


def _extended(kind: Any, keywords: Mapping[str, Keyword]) -> Any:
    import attrs  # jsonschema brings it
    from jsonschema.validators import extend

    extended: Any = extend(kind, keywords)  # type: ignore[no-untyped-call]  # jsonschema has no types here
    # jsonschema's own `evolve` goes by the part's `$schema`, and so to a class that bounds nothing
    extended.evolve = attrs.evolve
    return extended


def _counted(keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        steps = _steps.get()
        if steps is not None and next(steps) >= STEPS:
            raise WorkExceeded("to validate the arguments takes too much work")
        return keyword(validator, value, instance, schema)

    return check


def _compile_patterns(schema: Mapping[str, Any]) -> dict[str, SchemaValidator]:
    """Compile all patterns of a schema.

    Raises:
        ConfigurationError: One cannot be run in linear time, or they are too many.
    """
    ours, remote = _find_patterns(schema)
    if len(ours) + len(remote) > _PATTERNS or sum(map(len, (*ours, *remote))) > _ALL_PATTERNS:
        raise ConfigurationError(
            f"a tool's schema has more than {_PATTERNS} patterns, or {_ALL_PATTERNS} characters of them",
            hint="leave patterns out, or write an enum in their place",
        )
    compiled, end = dict[str, SchemaValidator](), time.thread_time() + _COMPILING
    for pattern in (*ours, *remote):
        if (validator := _compiled(pattern)) is not None:
            compiled[pattern] = validator
        elif pattern in ours:
            raise ConfigurationError(
                f"a pattern in a tool's schema cannot be run in linear time: {pattern[:80]!r}",
                hint="write it without lookaround, backreferences and large repetitions, or leave it out",
            )
        if time.thread_time() > end:
            raise ConfigurationError(
                f"to compile the patterns in a tool's schema takes more than {_COMPILING} s",
                hint="write them without large repetitions, or leave them out",
            )
    return compiled


def _find_patterns(schema: Mapping[str, Any]) -> tuple[dict[str, None], dict[str, None]]:
    """Return the patterns of a schema, and those in values such as a default, which a `$ref` may name.

    Raises:
        ConfigurationError: jsonschema would run patterns itself.
    """
    todo: list[tuple[Any, bool]] = [(schema, False)]
    ours, remote, names = dict[str, None](), dict[str, None](), set[str]()
    while todo:
        part, is_data = todo.pop()
        if isinstance(part, list):
            todo.extend((item, is_data) for item in part)
        if not isinstance(part, Mapping):
            continue
        names |= part.keys()
        of_names = part.get("patternProperties")
        for pattern in (part.get("pattern"), *(of_names if isinstance(of_names, Mapping) else ())):
            if isinstance(pattern, str):
                (remote if is_data else ours)[pattern] = None
        todo.extend((value, is_data or name in _DATA) for name, value in part.items())
    if {"patternProperties", "unevaluatedProperties"} <= names:
        raise ConfigurationError(
            "a tool's schema has both patternProperties and unevaluatedProperties",
            hint="use additionalProperties in place of unevaluatedProperties",
        )
    return ours, {pattern: None for pattern in remote if pattern not in ours}


def _compiled(pattern: str) -> SchemaValidator | None:
    """Return a pattern, compiled by an engine of linear time; None if that engine does not take it."""
    if len(pattern) > _PATTERN:
        return None
    pattern = _SHORTHAND.sub(lambda match: _ASCII.get(match[1], match[0]), pattern)
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except PatternError:
        return None


def _is_pattern(text: object) -> bool:
    return not isinstance(text, str) or _compiled(text) is not None


class _Patterns:
    """The keywords of which jsonschema's own form takes unbounded time, with the patterns of one schema."""

    def __init__(self, compiled: Mapping[str, SchemaValidator]) -> None:
        self._compiled = compiled

    def replace(self, keywords: Mapping[str, Keyword]) -> dict[str, Keyword]:
        """Return these keywords in another form."""
        replaced = {
            "pattern": self._pattern,
            "patternProperties": self._pattern_properties,
            "uniqueItems": _unique_items,
            "additionalProperties": self._additional(keywords.get("additionalProperties")),
        }
        return {name: keyword for name, keyword in replaced.items() if name in keywords}

    def _matches(self, pattern: str, text: str) -> bool:
        if len(text) > _MATCHED:
            raise WorkExceeded(f"a text of more than {_MATCHED} characters is not compared with a pattern")
        if (compiled := self._compiled.get(pattern)) is None:
            raise WorkExceeded("a pattern in the tool's schema cannot be run in linear time")
        return compiled.isinstance_python(text, strict=True)

    def _additional(self, original: Keyword | None) -> Keyword:
        def additional_properties(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            patterns = schema.get("patternProperties")
            if patterns and validator.is_type(instance, "object"):
                unmatched = {
                    name: part for name, part in instance.items() if not self._any_matches(patterns, name)
                }
                instance, schema = unmatched, {**schema, "patternProperties": {}}
            if original is not None:
                yield from original(validator, value, instance, schema) or ()

        return additional_properties

    def _any_matches(self, patterns: Iterable[str], name: str) -> bool:
        return any(self._matches(pattern, name) for pattern in patterns)

    def _pattern(self, validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
        from jsonschema.exceptions import ValidationError

        if validator.is_type(instance, "string") and not self._matches(pattern, instance):
            yield ValidationError(f"{instance!r} does not match {pattern!r}")

    def _pattern_properties(
        self, validator: Any, patterns: Any, instance: Any, _schema: Any
    ) -> Iterator[Any]:
        if validator.is_type(instance, "object"):
            for pattern, part in patterns.items():
                for name, value in instance.items():
                    if self._matches(pattern, name):
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
