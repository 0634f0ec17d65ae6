"""Which values stand in the user's own words, and the numbers in them."""

from __future__ import annotations

import re
from math import isfinite

__all__ = ["number", "words_contain"]

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
_UP_TO = re.compile(rf"(?<!\S)[{re.escape(EDGE)}]*\Z")
_FROM = re.compile(rf"[{re.escape(EDGE)}]*(?!\S)")


def words_contain(words: str, value: str | int | float) -> bool:
    """Return whether a value stands in the user's words as a whole; it may be quoted or punctuated."""
    if isinstance(value, str):
        return _stands_in(words, value)
    return not isinstance(value, bool) and any(_equals(token, value) for token in words.split())


def _stands_in(words: str, value: str) -> bool:
    at = words.find(value)
    while at >= 0:
        before, after = _UP_TO.search(words, 0, at), _FROM.match(words, at + len(value))
        if before and after:
            return True
        at = words.find(value, at + 1)
    return False


def _equals(token: str, value: int | float) -> bool:
    try:
        return number(_DECIMAL.sub("", token, count=1).rstrip(EDGE)) == value
    except ValueError:
        return False
