"""What a walk over a tool has visited: its numbers, its bounds, and what was set in each object."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from agentguard.langchain.objects import attributes, cached_names
from agentguard.model.original import Filled, Parts

__all__ = ["Key", "TooMuch", "Visits"]

Key = tuple[int, object]


class TooMuch(Exception):
    """More is reached than is looked at: more than `most`."""

    def __init__(self, most: int) -> None:
        self.most = most


class Visits:
    """The objects that one walk has visited. They live as long as this object.

    `filled` says of each object that can be referred to weakly which of its attributes were set. With
    *former*, that of an earlier walk, an attribute counts as not set if it was not set then in the very same
    object.
    """

    def __init__(self, most: int, former: Iterable[Filled] = ()) -> None:
        self.objects: list[object] = []
        self.filled: list[Filled] = []
        self.most = most
        self._visited: dict[Key, None] = {}
        self._numbers: dict[Key, int] = {}  # of what was visited, that which is no data
        self._former = {id(value): names for reference, names in former if (value := reference()) is not None}

    def __contains__(self, key: Key) -> bool:
        return key in self._visited

    def visit(self, key: Key, value: object) -> None:
        """Note that a value is visited.

        Raises:
            TooMuch: There are too many.
        """
        if len(self._visited) >= self.most:
            raise TooMuch(self.most)
        self._visited[key] = None
        self.objects.append(value)  # no other object can have its id while the walk lasts

    def number(self, key: Key) -> None:
        """Number what is no data. Data has no numbers: how much there is differs from request to request."""
        self._numbers[key] = len(self._numbers)

    def again(self, key: Key) -> Parts:
        """Return what stands for a value that was visited before."""
        number = self._numbers.get(key)
        return () if number is None else ("again", number)

    @contextmanager
    def apart(self, most: int) -> Iterator[None]:
        """Visit at most so many more inside the block.

        Raises:
            TooMuch: There are more. Then what the block has visited counts as not visited.
        """
        first, before = (len(self._visited), len(self._numbers)), self.most
        self.most = min(before, first[0] + most)
        try:
            yield
        except TooMuch as error:
            if error.most != before:
                self._forget(*first)
            raise
        finally:
            self.most = before

    @contextmanager
    def unnumbered(self) -> Iterator[None]:
        """Have what the block visits be no part of the definition; it is among the objects all the same."""
        first = len(self._visited), len(self._numbers)
        yield
        self._forget(*first)

    def _forget(self, visited: int, numbered: int) -> None:
        for entries, first in ((self._visited, visited), (self._numbers, numbered)):
            for key in list(entries)[first:]:
                del entries[key]

    def attributes(self, value: Any, kind: type) -> Mapping[str, Any]:
        """Return what an object has itself, by name."""
        values = vars(value) if kind is ModuleType else attributes(value)
        names = frozenset(name for name, item in values.items() if item is not None)
        try:
            self.filled.append((weakref.ref(value), names))
        except TypeError:  # it cannot be referred to weakly
            return values
        former = self._former.get(id(value))
        return values if former is None else {name: values[name] for name in values if name in former}

    def parted(self, value: Any, kind: type) -> tuple[dict[str, Any], list[Any]]:
        """Return the attributes of an object, and the values that its cached properties have made."""
        values, names = dict(self.attributes(value, kind)), cached_names(kind)
        return values, [values.pop(name) for name in names if name in values]
