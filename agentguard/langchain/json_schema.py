"""Validation by a JSON Schema of somebody else, in bounded time.

A tool's server writes the schema, and a model under its influence the arguments. A schema with a pattern that
cannot be run in linear time (see `patterns`) is refused, and so is one with too many patterns or too
many parts: to check and to compile it would hold everybody up when the tool is first seen. All other work is
counted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from agentguard.errors import ConfigurationError
from agentguard.langchain.bounded_keywords import (
    BoundedKeywords,
    Keyword,
    WorkExceeded,
    bounded_work,
    unique_items,
    write_no_values,
)
from agentguard.langchain.patterns import Pattern, compile_pattern
from agentguard.langchain.references import resolver_of
from agentguard.model import Limits

__all__ = ["WorkExceeded", "compile_schema"]

_PATTERNS, _ALL_PATTERNS = 100, 20_000  # different patterns of one schema at most, and their characters
_COMPILING = 0.5  # seconds of this thread's work at most to compile them; an ordinary pattern takes 0.05 ms
_SCHEMA = Limits(bytes=524_288, parts=5_000, depth=100)  # to check 5,000 parts takes about 0.5 s
_KEPT = 16_384  # characters of a schema at most that is kept compiled
_DATA = frozenset({"enum", "const", "default", "examples"})  # these hold values and no schemas

Validate = Callable[[dict[str, Any]], None]


def compile_schema(schema: dict[str, Any], *, formats: bool = False) -> Validate:
    """Return a function that validates arguments in bounded time.

    With *formats*, a `format` binds where jsonschema checks it without another library, such as ``email``,
    ``date``, ``ipv4`` and ``uuid``. By the standard a format only describes (JSON Schema Validation 2020-12,
    section 7.2.1).

    It raises jsonschema's ValidationError if they do not fit, and WorkExceeded if that takes too much work.

    Raises:
        ConfigurationError: A pattern in the schema cannot be run in linear time, or the schema is too large.
        jsonschema.SchemaError: This is no JSON Schema.
    """
    if excess := _SCHEMA.excess(schema):
        raise ConfigurationError(f"a tool's schema holds {excess}", hint="leave out what no call needs")
    text = _text(schema)
    return _compiled(schema, formats) if text is None else _compiled_text(text, formats)


def _text(schema: dict[str, Any]) -> str | None:
    """Return the JSON of a schema, or None if it is long, or if it is not JSON alone."""
    try:
        text = json.dumps(schema)
        return text if len(text) <= _KEPT and json.loads(text) == schema else None
    except (TypeError, ValueError):
        return None


@lru_cache(maxsize=256)
def _compiled_text(text: str, formats: bool) -> Validate:
    """Compile a schema once for all tools that have it, such as those that are made for each request."""
    return _compiled(json.loads(text), formats)


def _compiled(schema: dict[str, Any], formats: bool) -> Validate:
    from jsonschema.validators import validator_for  # an extra, for tools with a JSON Schema

    patterns = _compile_patterns(schema)
    kind: Any = validator_for(schema)
    _check(schema, kind)
    validator = _validator(schema, kind, BoundedKeywords(patterns).bound(kind.VALIDATORS), formats=formats)

    def validate(arguments: dict[str, Any]) -> None:
        with bounded_work():
            validator.validate(arguments)

    return validate


def _check(schema: Mapping[str, Any], kind: Any) -> None:
    """Do as `check_schema`, which would compile each pattern by Python's engine, and compare each two items.

    Raises:
        jsonschema.SchemaError: This is no JSON Schema.
    """
    from jsonschema import SchemaError

    for error in _extended(kind, {"uniqueItems": unique_items})(kind.META_SCHEMA).iter_errors(schema):
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
    return _extended(kind, keywords)(
        schema, format_checker=checker, registry=Registry(), _resolver=resolver_of(schema, kind)
    )


def _extended(kind: Any, keywords: Mapping[str, Keyword]) -> Any:
    import attrs  # jsonschema brings it
    from jsonschema.validators import extend

    extended: Any = extend(kind, keywords)  # type: ignore[no-untyped-call]  # jsonschema has no types here
    # jsonschema's own `evolve` goes by the part's `$schema`, and so to a class that bounds nothing
    extended.evolve = attrs.evolve
    write_no_values(extended)
    return extended


def _compile_patterns(schema: Mapping[str, Any]) -> dict[str, Pattern]:
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
    compiled, end = dict[str, Pattern](), time.thread_time() + _COMPILING
    for pattern in (*ours, *remote):
        if (ready := compile_pattern(pattern)) is not None:
            compiled[pattern] = ready
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


def _is_pattern(text: object) -> bool:
    return not isinstance(text, str) or compile_pattern(text) is not None
