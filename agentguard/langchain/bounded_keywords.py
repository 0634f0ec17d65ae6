"""The keywords of JSON Schema, with all their work counted and their messages short.

A server writes the schema and a model the arguments: one keyword may hold thousands of values, one text may
have a million characters, and jsonschema writes the text into each message. So each keyword is charged for
what it visits. Those of which jsonschema's own form takes unbounded time have another form here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from reprlib import Repr
from typing import Any

from agentguard.langchain.exact_numbers import NotDivided, compare, is_multiple
from agentguard.langchain.patterns import Pattern
from agentguard.langchain.references import REFERENCES, work_of_reference

__all__ = ["BoundedKeywords", "Keyword", "WorkExceeded", "bounded_work", "unique_items", "write_no_values"]

_WORK = 400_000  # units of work at most for the arguments of one call; to do them takes less than a second
_KEYWORD = 20  # units for a keyword that is applied, or for an error; a visited part of a value is one unit
_MESSAGE = 200  # characters of an error's message that are kept
_WRITTEN = 50  # characters of a message that are written for one unit
_MATCHED = 100_000  # characters of a text at most to which a pattern is applied
_COMPILED = 2_000  # units to compile a pattern that a value of the format `regex` is
# to visit all items of a list, or all names of an object, is work also where each of them is accepted unseen
_VISITS = frozenset({
    "additionalProperties", "contains", "items", "propertyNames", "unevaluatedItems", "unevaluatedProperties",
})  # fmt: skip
_UNEVALUATED = frozenset({"unevaluatedItems", "unevaluatedProperties"})

Keyword = Callable[[Any, Any, Any, Any], Any]
_work: ContextVar[_Work | None] = ContextVar("agentguard_schema_work", default=None)


class WorkExceeded(ValueError):
    """The validation of one call's arguments takes more work than is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class _Work:
    """The work that is left for the arguments of one call."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = _WORK


@contextmanager
def bounded_work() -> Iterator[None]:
    """Bound the work of the keywords that are applied in this block."""
    token = _work.set(_Work())
    try:
        yield
    finally:
        _work.reset(token)


def _charge(units: int) -> None:
    if (work := _work.get()) is not None:
        work.left -= units
        if work.left < 0:
            raise WorkExceeded("to validate the arguments takes too much work")


def write_no_values(validator_class: Any) -> None:
    """Have a class of validators write no value into the message of ``false``, which is no keyword."""
    iter_errors, descend = validator_class.iter_errors, validator_class.descend

    def iter_errors_of(validator: Any, instance: Any, *arguments: Any) -> Any:
        if validator.schema is False and not arguments:
            return iter((_error_of_false(instance),))
        return iter_errors(validator, instance, *arguments)

    def descend_into(validator: Any, instance: Any, schema: Any, *arguments: Any, **more: Any) -> Any:
        if schema is False:
            return iter((_error_of_false(instance),))
        return descend(validator, instance, schema, *arguments, **more)

    validator_class.iter_errors, validator_class.descend = iter_errors_of, descend_into


def _error_of_false(instance: Any) -> Any:
    error = _error(f"False schema does not allow {_short(instance)}")
    error._set(validator=None, validator_value=None, instance=instance, schema=False)
    return error


def _counted(name: str, keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        _charge(_KEYWORD + _size(value) + (_visited(name, instance, schema) if name in _VISITS else 0))
        if name == "format" and value == "regex":
            _charge(_COMPILED)
        elif name in REFERENCES:
            _charge(work_of_reference(value, validator))
        for error in keyword(validator, value, instance, schema) or ():
            _charge(_KEYWORD + len(error.message) // _WRITTEN)
            if len(error.message) > _MESSAGE:
                error.message = error.message[:_MESSAGE]
                error.args = (error.message, *error.args[1:])
            yield error

    return check


def _size(value: Any) -> int:
    """Return how many parts the value of a keyword has, those of the lists in it included."""
    if isinstance(value, dict):
        return len(value) + sum(len(part) for part in value.values() if isinstance(part, list))
    return len(value) if isinstance(value, list) else 0


def _visited(name: str, instance: Any, schema: Mapping[str, Any]) -> int:
    count = len(instance) if isinstance(instance, list | dict) else 0
    if name == "items":
        return count // 4  # most items are charged by the keywords for them
    # jsonschema gathers what is evaluated from the whole schema, and looks for each name in a list of them
    return count + (count * count // 50 + _parts(schema) if name in _UNEVALUATED else 0)


def _parts(schema: Any) -> int:
    todo, count = [schema], 0
    while todo:
        part = todo.pop()
        count += 1
        if isinstance(part, list | dict):
            todo.extend(part.values() if isinstance(part, dict) else part)
    return count


class BoundedKeywords:
    """The keywords of one schema, with its compiled patterns."""

    def __init__(self, compiled: Mapping[str, Pattern]) -> None:
        self._compiled = compiled
        self._choices: dict[int, tuple[Any, frozenset[object]]] = {}

    def bound(self, keywords: Mapping[str, Keyword]) -> dict[str, Keyword]:
        """Return these keywords with all their work counted, some of them in another form."""
        replaced = {
            "pattern": self._pattern,
            "patternProperties": self._pattern_properties,
            "uniqueItems": unique_items,
            "multipleOf": _multiple_of,
            "enum": self._enum,
            "const": self._const,
            "additionalProperties": self._additional(keywords.get("additionalProperties")),
        }
        if "const" in keywords:  # drafts 3 and 4 have other types, and limits that another keyword excludes
            replaced |= {"type": _type, **_LIMITS}
        replaced = {name: keyword for name, keyword in replaced.items() if name in keywords}
        # of an enum, only the first comparison visits all values
        uncounted = {"enum": self._enum}
        return {
            name: uncounted.get(name) or _counted(name, replaced.get(name) or keyword)
            for name, keyword in keywords.items()
        }

    def _matches(self, pattern: str, text: str) -> bool:
        if len(text) > _MATCHED:
            raise WorkExceeded(f"a text of more than {_MATCHED} characters is not compared with a pattern")
        if (compiled := self._compiled.get(pattern)) is None:
            raise WorkExceeded("a pattern in the tool's schema cannot be run in linear time")
        _charge(compiled.work(text))
        return compiled.matches(text)

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

    def _allows(self, values: list[Any], instance: Any) -> bool:
        """Return whether a value is one of those of a keyword, which are hashed once."""
        entry = self._choices.get(id(values))
        if entry is None or entry[0] is not values:
            entry = self._choices[id(values)] = values, frozenset(map(_key, values))
        return _key(instance) in entry[1]

    def _enum(self, _validator: Any, values: Any, instance: Any, _schema: Any) -> Iterator[Any]:
        _charge(_KEYWORD)
        if not self._allows(values, instance):
            _charge(_KEYWORD)
            yield _error(f"{_short(instance)} is not one of {_short(values)}")

    def _const(self, _validator: Any, value: Any, instance: Any, _schema: Any) -> Iterator[Any]:
        if _key(instance) != _key(value):
            yield _error(f"{_short(value)} was expected")

    def _pattern(self, validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
        if validator.is_type(instance, "string") and not self._matches(pattern, instance):
            yield _error(f"{_short(instance)} does not match {pattern!r}")

    def _pattern_properties(
        self, validator: Any, patterns: Any, instance: Any, _schema: Any
    ) -> Iterator[Any]:
        if validator.is_type(instance, "object"):
            for pattern, part in patterns.items():
                for name, value in instance.items():
                    if self._matches(pattern, name):
                        yield from validator.descend(value, part, path=name, schema_path=pattern)


def unique_items(validator: Any, required: Any, instance: Any, _schema: Any) -> Iterator[Any]:
    """Do as jsonschema's own, which would compare each item with each other."""
    if required and validator.is_type(instance, "array") and len(set(map(_key, instance))) < len(instance):
        yield _error(f"{_short(instance)} has non-unique elements")


def _type(validator: Any, types: Any, instance: Any, _schema: Any) -> Iterator[Any]:
    kinds = [types] if isinstance(types, str) else types
    if not any(validator.is_type(instance, kind) for kind in kinds):
        yield _error(f"{_short(instance)} is not of type {', '.join(map(repr, kinds))}")


def _limit(refused: Collection[int], words: str) -> Keyword:
    """Return a keyword that refuses numbers which compare so with its own."""

    def check(validator: Any, limit: Any, instance: Any, _schema: Any) -> Iterator[Any]:
        if validator.is_type(instance, "number") and compare(instance, limit) in refused:
            yield _error(f"{_short(instance)} is {words} of {limit!r}")

    return check


_LIMITS = {
    "minimum": _limit((-1,), "less than the minimum"),
    "maximum": _limit((1,), "greater than the maximum"),
    "exclusiveMinimum": _limit((-1, 0), "less than or equal to the minimum"),
    "exclusiveMaximum": _limit((0, 1), "greater than or equal to the maximum"),
}


def _multiple_of(validator: Any, divisor: Any, instance: Any, _schema: Any) -> Iterator[Any]:
    if validator.is_type(instance, "number"):
        try:
            fits = is_multiple(instance, divisor)
        except NotDivided as error:
            raise WorkExceeded(str(error)) from None
        if not fits:
            yield _error(f"{_short(instance)} is not a multiple of {divisor!r}")


def _key(value: Any) -> object:
    """Return a hashable value, the same for equal JSON values only: 1 equals 1.0, and does not equal true."""
    _charge(1)
    if isinstance(value, list):
        return ("list", tuple(map(_key, value)))
    if isinstance(value, dict):
        return ("object", frozenset((name, _key(part)) for name, part in value.items()))
    if isinstance(value, Decimal):  # one that no number of JSON is, though it may equal a binary fraction
        return ("decimal", value)
    return (isinstance(value, bool), value)


_repr = Repr()
_repr.maxstring = _repr.maxother = 100
_repr.maxlist = 20
_short = _repr.repr


def _error(message: str) -> Any:
    from jsonschema.exceptions import ValidationError

    return ValidationError(message)
