"""The other values of what was done that `explain` tries: the numbers that rules name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal

from agentguard.model import Json

__all__ = ["other_tallies"]


def other_tallies(now: Mapping[str, Json], constants: Iterable[str]) -> Iterator[tuple[str, Json, Json]]:
    """Yield the place of a number, another value of it, and all that was done with that value."""
    numbers = sorted({Decimal(0), *map(Decimal, constants)})
    for path, present in _leaves(now, ()):
        for number in numbers:
            is_count = path[-1] == "count"
            if number >= 0 and number != present and not (is_count and number != number.to_integral_value()):
                value = int(number) if is_count else number
                yield ".".join(path), value, _with_leaf(now, path, value)


def _leaves(value: Json, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Json]]:
    if isinstance(value, Mapping):
        for name, part in sorted(value.items()):
            yield from _leaves(part, (*path, name))
    else:
        yield path, value


def _with_leaf(value: Mapping[str, Json], path: Sequence[str], leaf: Json) -> dict[str, Json]:
    name, *rest = path
    return {**value, name: _with_leaf(value[name], rest, leaf) if rest else leaf}
