"""Which values stand in the user's own words, and the numbers in them."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import lru_cache
from math import isfinite

from agentguard.model import TURN

__all__ = ["number", "phrases_count", "words_contain", "words_count"]

# a comma stands only before thousands: in "1,50" it may be a decimal point
_DIGITS = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(\.[0-9]+)?")


def number(text: str) -> int | float:
    """Return the number that a text spells; it may have a currency sign, and commas before thousands.

    Raises:
        ValueError: The text is no number.
    """
    bare = text.strip().lstrip("$€£¥").rstrip(".,")
    if (match := _DIGITS.fullmatch(bare)) is None:
        raise ValueError("this is no number")
    plain = bare.replace(",", "")
    if match[1] is None:
        return int(plain)
    if not isfinite(value := float(plain)):
        raise ValueError("this is no number")
    return value


EDGE = "\"'`´‘’“”«»()[]{}<>,;:.!?…"  # noqa: RUF001  quotation marks as people write them
_DECIMAL = re.compile(rf"\A[{re.escape(EDGE)}]*?(?=[.,]?\d)")  # ".50" is not 50
_WORDS_KEPT = 32  # texts of users that are kept taken apart
_OCCURRENCES = 256  # places of one value with blanks in it that are looked at


def words_contain(words: str, value: str | int | float) -> bool:
    """Return whether a value stands in the user's words as a whole; it may be quoted or punctuated.

    The words are taken apart once. The time for each value does not grow with the number of its places: of a
    value with blanks in it, only the first 256 places are looked at.
    """
    if isinstance(value, bool):
        return False
    index = _index(words)
    return index.contains(value) if isinstance(value, str) else value in index.numbers


def words_count(words: str) -> int:
    """Return how many values without blanks stand in the user's words; each may be taken with its quotes."""
    return _index(words).count


def phrases_count(words: str) -> int:
    """Return how many values with blanks in them stand in the user's words, at most.

    That is the number of pairs of a place where a value may begin and one where it may end. Words that are
    repeated count at each place, since a phrase of more of them is another value.
    """
    return _index(words).phrases


class _Index:
    """A user's words, taken apart: the tokens by what is left of them without quotes, and the numbers."""

    def __init__(self, words: str) -> None:
        self._words, self._tokens = words, defaultdict[str, set[str]](set)
        self.numbers: set[int | float] = set()
        for token in words.split():
            self._tokens[token.strip(EDGE)].add(token)
        tokens = {token for tokens in self._tokens.values() for token in tokens}
        for token in tokens:
            try:
                self.numbers.add(number(_DECIMAL.sub("", token, count=1).rstrip(EDGE)))
            except ValueError:
                continue
        self.count = len(self.numbers) + sum(map(_forms, tokens))
        self._starts, self._ends = _edges(words), _edges(words[::-1])[::-1]
        self.phrases = begun = 0
        for is_start, is_end in zip(self._starts, self._ends, strict=True):
            self.phrases += begun * is_end
            begun += is_start

    def contains(self, value: str) -> bool:
        if not any(map(str.isspace, value)):
            return any(value in token for token in self._tokens.get(value.strip(EDGE), ()))
        if TURN in value:
            return False
        at = self._words.find(value)
        for _ in range(_OCCURRENCES):
            if at < 0:
                return False
            if self._starts[at] and self._ends[at + len(value)]:
                return True
            at = self._words.find(value, at + 1)
        return False


def _forms(token: str) -> int:
    """Return how many values a token stands for: each may have some of the quotes around it."""
    bare = len(token.strip(EDGE))
    if not bare:
        return len(token) * (len(token) + 1) // 2
    before = len(token) - len(token.lstrip(EDGE))
    return (before + 1) * (len(token) - bare - before + 1)


_index = lru_cache(_WORDS_KEPT)(_Index)


def _edges(words: str) -> bytearray:
    """Return for each place whether nothing but quotes and punctuation is between it and a blank before."""
    places = bytearray(len(words) + 1)
    places[0] = True
    for at, character in enumerate(words):
        places[at + 1] = character.isspace() or (places[at] and character in EDGE)
    return places
