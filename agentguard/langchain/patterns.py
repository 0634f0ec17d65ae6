"""Patterns of somebody else, run in an engine of linear time with the meaning of ECMA-262, JSON Schema's.

The engine is pydantic's (Rust's `regex`), which has neither lookaround nor backreferences. Its time grows
with the text, and with the pattern as it is when each counted repetition in it is written out. So a pattern
knows how much work a text is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pydantic_core import SchemaError, SchemaValidator, core_schema

__all__ = ["Pattern", "compile_pattern"]

_LONGEST = 2_000  # characters of a pattern at most
_STEPS = 60  # a byte of a text is compared with so many parts of a pattern for one unit of work, of 2.5 µs
_LEAST = 12  # a pattern counts as if it had so many parts
_BYTES = 3  # bytes of a character that is not ASCII, as most have
_SPACE = r"\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_SHORTHANDS = {
    "d": "[0-9]", "D": "[^0-9]", "w": "[A-Za-z0-9_]", "W": "[^A-Za-z0-9_]",
    "s": f"[{_SPACE}]", "S": f"[^{_SPACE}]",
}  # fmt: skip
"""What ECMA-262 means by these: Rust would take digits of all scripts, and other blanks."""
_DOT = r"[^\n\r\u2028\u2029]"
# the escapes of ECMA-262 with `u` that Rust has too: any other letter means nothing, or another thing to each
_ESCAPE = re.compile(
    r"\\(?:[pP]\{[A-Za-z0-9_=]+\}|u\{[0-9A-Fa-f]+\}|u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|[dDwWsSbBtnvfr]|[^A-Za-z0-9])",
    re.DOTALL,
)
_REPETITION = re.compile(r"\{([0-9]+)(?:,([0-9]*))?\}")
_GROUP = re.compile(r"\(\?(?:P?<[^>=!][^>]*>|[A-Za-z-]*:)")
_FLAGS = re.compile(r"\(\?([A-Za-z]*)(?:-([A-Za-z]*))?[:)]")
_KNOWN_FLAGS = frozenset("is")  # that mean the same to both; `m` has other ends of lines
_WORD_ENDS = {r"\b": r"(?-u:\b)", r"\B": r"(?-u:\B)"}
_MEANS_MORE = frozenset("[]&~-")  # in a class of characters, Rust takes these for signs


class Pattern(NamedTuple):
    """A compiled pattern; `size` is how many parts it has once its counted repetitions are written out."""

    engine: SchemaValidator
    size: int

    def work(self, text: str) -> int:
        """Return how many units of work it is at most to compare a text with the pattern."""
        size = self.size if text.isascii() else self.size * _BYTES
        return 1 + (len(text) + 1) * max(size, _LEAST) // _STEPS

    def matches(self, text: str) -> bool:
        """Return whether the pattern stands somewhere in the text."""
        return self.engine.isinstance_python(text, strict=True)


def compile_pattern(text: str) -> Pattern | None:
    r"""Return a compiled pattern, or None if the engine of linear time does not take it.

    A pattern that could mean another thing to this engine than by ECMA-262 is not taken either: one with an
    empty class (``[]``), with other flags than ``i`` and ``s``, with an escape of a letter that ECMA-262 does
    not have (``\A``), or with two repetitions of one part (``x++``).
    """
    if len(text) > _LONGEST:
        return None
    reader = _Reader(text)
    try:
        translated = "".join(reader.read())
        engine = SchemaValidator(core_schema.str_schema(pattern=translated, regex_engine="rust-regex"))
    except (ValueError, IndexError, SchemaError):
        return None
    return Pattern(engine, reader.sizes[0])


class _Reader:
    """Reads a pattern part by part, writes it in Rust's form, and counts its parts."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._part = text, 0, 0
        self._repeated = (
            0  # signs of repetition behind the part that was read last; a second one makes it lazy
        )
        self._are_dots_plain = [False]  # in each group around the place that is read
        self.sizes = [0]  # of each of these groups

    def read(self) -> Iterator[str]:
        """Yield the pattern in Rust's form.

        Raises:
            ValueError: It may mean another thing to Rust.
            IndexError: It ends too early, or closes a group that it did not open.
        """
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == "(":
                yield self._open()
            elif character == ")":
                self._at += 1
                self._are_dots_plain.pop()
                self._add(self.sizes.pop() + 1)  # a group is a part too: groups may stand in each other
                yield character
            elif character in "*+?{|":
                yield self._operator(character)
            else:
                yield self._single(character)

    def _add(self, size: int) -> None:
        self._part, self._repeated = size, 0
        self.sizes[-1] += size

    def _open(self) -> str:
        are_plain = self._are_dots_plain[-1]
        if flags := _FLAGS.match(self._text, self._at):
            on, off = flags[1], flags[2] or ""
            if not _KNOWN_FLAGS.issuperset(on + off):
                raise ValueError("a flag of Rust's alone")
            are_plain = "s" not in off and (are_plain or "s" in on)
        if flags and flags[0].endswith(")"):
            self._part = 0
            self._are_dots_plain[-1] = are_plain
        else:
            self.sizes.append(0)
            self._are_dots_plain.append(are_plain)
        self._repeated = 0
        match = _GROUP.match(self._text, self._at)
        opening = flags[0] if flags else match[0] if match else "("
        self._at += len(opening)
        return opening

    def _operator(self, character: str) -> str:
        repetition = _REPETITION.match(self._text, self._at)
        operator = repetition[0] if repetition else character
        self._at += len(operator)
        if character == "|":
            self._add(1)
            return operator
        if operator == "{" or self._repeated > (operator == "?"):
            raise ValueError("a repetition of a repetition")
        self._repeated += 1
        if repetition:
            times = max(1, *(int(number or 0) for number in repetition.groups()))
            size, self._part = self._part, self._part * times
            self.sizes[-1] += self._part - size
        # the choice to go on or not is a part too
        self._part += 1
        self.sizes[-1] += 1
        return operator

    def _single(self, character: str) -> str:
        self._add(1)
        if character == "[":
            return self._class()
        if character == "\\":
            escape = self._escape()
            return _WORD_ENDS.get(escape) or _SHORTHANDS.get(escape[1:], escape)
        self._at += 1
        return _DOT if character == "." and not self._are_dots_plain[-1] else character

    def _escape(self) -> str:
        if (match := _ESCAPE.match(self._text, self._at)) is None:
            raise IndexError
        self._at += len(match[0])
        return match[0][1:] if match[0] in (r"\<", r"\>") else match[0]  # Rust has words begin and end there

    def _class(self) -> str:
        """Return a class of characters, in which no sign of Rust's stands for an operation on sets."""
        start = "[^" if self._text.startswith("[^", self._at) else "["
        self._at += len(start)
        if self._text[self._at] == "]":
            raise ValueError("a class without characters")
        parts = [start]
        while self._text[self._at] != "]":
            first, is_set = self._member()
            parts.append(first)
            if self._text[self._at] == "-" and self._text[self._at + 1] != "]":
                self._at += 1
                last, is_last_set = self._member()
                parts.append(rf"\-{last}" if is_set or is_last_set else f"-{last}")
        self._at += 1
        return "".join((*parts, "]"))

    def _member(self) -> tuple[str, bool]:
        """Return one member of a class, and whether it stands for many characters."""
        character = self._text[self._at]
        if character != "\\":
            self._at += 1
            return (f"\\{character}" if character in _MEANS_MORE else character), False
        escape = self._escape()
        if escape == r"\b":
            return r"\x08", False
        is_set = escape[1:] in _SHORTHANDS or escape.startswith((r"\p", r"\P"))
        return _SHORTHANDS.get(escape[1:], escape), is_set
