"""Blanks of a template: where the user's words fill them, and with what."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite

from agentguard.model import Scalar

__all__ = ["Parameter", "number"]

# a comma stands before thousands alone: in "1,50" it is somebody's decimal point
_DIGITS = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(\.[0-9]+)?")


def number(text: str) -> int | float:
    """Return the number that a text is, with a currency sign and commas before thousands at most.

    Raises:
        ValueError: It is none.
    """
    bare = text.strip().lstrip("$€£¥").rstrip(".,")
    if (found := _DIGITS.fullmatch(bare)) is None:
        raise ValueError("this is no number")
    plain = bare.replace(",", "")
    if found[1] is None:
        return int(plain)
    if not isfinite(value := float(plain)):
        raise ValueError("this is no number")
    return value


def _integer(text: str) -> int:
    if isinstance(value := number(text), float):
        raise ValueError("this is no integer")
    return value


TYPES: Mapping[str, tuple[type | tuple[type, ...], Callable[[str], Scalar]]] = {
    "string": (str, str),
    "integer": (int, _integer),
    "number": ((int, float), number),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A blank of a template. `pattern` finds it in the user's words: its first group, or all of it.

    Without a pattern only the application fills it. What is not `required` and not given leaves its
    limit without a value, which refuses.
    """

    type: str = "string"
    pattern: str | None = None
    required: bool = True

    def found(self, words: str) -> tuple[Scalar, ...]:
        """Return what the words say, each value once."""
        if self.pattern is None:
            return ()
        texts = (match[match.re.groups and 1] for match in re.finditer(self.pattern, words, re.IGNORECASE))
        read, convert = list[Scalar](), TYPES[self.type][1]
        for text in filter(None, texts):  # a group that stands for nothing says nothing
            try:
                read.append(convert(text))
            except ValueError:
                continue  # no number: the words do not say it
        return tuple(dict.fromkeys(read))

    def fits(self, value: object) -> bool:
        """Return whether the application may fill it with this value."""
        return isinstance(value, TYPES[self.type][0]) and not isinstance(value, bool)
