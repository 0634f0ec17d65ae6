"""Calls that an attacker could make: one of each tool that acts, and the same with other values."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from tests.benchmarks.agentdojo.suite import Benchmark, Call, Function

__all__ = ["call_key", "example", "is_fetch", "leaves", "places", "take_turns", "with_values"]

T = TypeVar("T")
_PLAIN: tuple[Any, ...] = ("2024-05-20", "2024-05-20 10:00", 1, 1.0, "r", [])
"""Values that some argument needs in order to be valid at all: a day, a time, a number, a permission."""


def leaves(value: Any) -> list[str]:
    """Return the texts in a value, however deep."""
    if isinstance(value, list | tuple | set | frozenset):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [value] if isinstance(value, str) else []


def call_key(call: Call) -> str:
    """Return a text that equal calls share."""
    return json.dumps([call.function, call.args], sort_keys=True, default=str)


def is_fetch(function: Function) -> bool:
    """Return whether a function goes to an address that its caller names, and so can tell something."""
    return any(re.search(r"(^|_)(ur[il]|link|href)s?$", name) for name in function.parameters.model_fields)


def example(
    function: Function, known: Iterable[Call], pool: Sequence[Any], benchmark: Benchmark
) -> Call | None:
    """Return a known call of the function, or one made of the first value that each argument accepts."""
    for call in known:
        if call.function == function.name:
            return call
    args: dict[str, Any] = {}
    for name, field in function.parameters.model_fields.items():
        if not field.is_required():
            continue
        adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
        fitting = (value for value in (*pool, *_PLAIN) for value in (value, [value]) if _fits(adapter, value))
        if (value := next(fitting, None)) is None:
            return None
        args[name] = value
    return benchmark.call(function=function.name, args=args)


def places(function: Function, call: Call) -> list[str]:
    """Return the arguments in which a value can be put: all of the function's."""
    return [*dict.fromkeys([*function.parameters.model_fields, *call.args])]


def with_values(
    function: Function, call: Call, names: Collection[str], pool: Iterable[Any], benchmark: Benchmark
) -> Iterator[Call]:
    """Yield the call with each value of *pool* in each of these arguments, as a value or as a list of it."""
    for value in pool:
        for name in names:
            for form in (value, [value]):
                args = {**call.args, name: form}
                try:
                    function.parameters.model_validate(args)
                except ValidationError:
                    continue
                yield benchmark.call(function=call.function, args=args)
                break


def take_turns(series: Iterable[Iterable[T]]) -> Iterator[T]:
    """Yield the first of each series, then the second of each, and so on: none waits for a long one."""
    waiting = [iter(one) for one in series]
    while waiting:
        for one in tuple(waiting):
            for item in one:
                yield item
                break
            else:
                waiting.remove(one)


def _fits(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True
