"""Which values are the user's although the user has written them in another form.

The catalog says for which arguments, since another spelling may be another value: an id may differ in its
case alone. Nothing is guessed. A text that can be read in two ways, such as 03/12/2026, is recognized as
neither.

    folded   case, white space and Unicode form (NFC, UAX #15) of the user's words do not count; the value
             is in NFC, with single blanks, and each of its letters is the user's in one of its two cases: the
             Kelvin sign is no K
    date     an ISO date, or one with hours and minutes, of which the user has written the day, the month and
             the year: 12 March 2026, Mar 12th 2026, 12.3.2026, 2026/03/12; months are English, 9:30 pm is
             half past 21
    amount   a number: 1.200,50 or 12,50 or 1'200.50, with a currency also 1 200,50
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import lru_cache

from agentguard.model import TURN
from agentguard.provenance.words import EDGE, words_contain
from agentguard.text import composed

__all__ = ["FORMS", "recognized_bits"]

Leaf = str | int | float
_KEPT = 32  # texts of users that are kept in another form
_LONGEST = 16_384  # characters of a value that is compared without its case: it stands in the user's words


def recognized_bits(form: str, words: str, value: Leaf) -> int | None:
    """Return how many bits it says that a value has this spelling, or None if it is none of the user's.

    The user has written another spelling, so the model may have chosen this one: of a text, the case of each
    letter is a bit.

    Raises:
        KeyError: There is no such form.
    """
    return FORMS[form](words, value)


def _folded(words: str, value: Leaf) -> int | None:
    if not isinstance(value, str) or not value or len(value) > _LONGEST:
        return None
    lower = value.lower()
    if value != composed(value) or not words_contain(_folded_words(words), lower):
        return None
    if not all(map(_is_a_case, value)):
        return None
    return sum(letter.lower() != letter.upper() for letter in value)


@lru_cache(4096)
def _is_a_case(letter: str) -> bool:
    """Return whether a character is a small one, or what a small one becomes as a capital.

    Some characters that are only like a letter have that letter as their small one.
    """
    small = letter.lower()
    return letter in (small, composed(small.upper()))


def _date(words: str, value: Leaf) -> int | None:
    if not isinstance(value, str) or len(value) > len("2026-03-12T14:30:00"):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if value not in (moment.date().isoformat(), moment.isoformat(), moment.isoformat(timespec="minutes")):
        return None
    text = _folded_words(words)
    if not any(words_contain(text, spelling) for spelling in _day_spellings(moment.date())):
        return None
    if "T" not in value:
        return 0
    if moment.second or moment.microsecond or moment.tzinfo is not None:
        return None
    return 0 if (moment.hour, moment.minute) in _times(text) else None


def _amount(words: str, value: Leaf) -> int | None:
    if isinstance(value, bool | str):
        return None
    return 0 if value >= 0 and value in _amounts(words) else None


FORMS: Mapping[str, Callable[[str, Leaf], int | None]] = {
    "folded": _folded,
    "date": _date,
    "amount": _amount,
}
"""By the name in the catalog: a function of the user's words and a value, as `recognized_bits`."""


@lru_cache(_KEPT)
def _folded_words(words: str) -> str:
    turns = composed(words).lower().split(TURN)
    return TURN.join(" ".join(turn.split()) for turn in turns)


_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september", "october"),
    *("november", "december"),
)


@lru_cache(256)
def _day_spellings(day: date) -> tuple[str, ...]:
    """Return how people write a day, in small letters."""
    number, year = day.day, day.year
    ending = "th" if 4 <= number <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    month = _MONTHS[day.month - 1]
    spellings = [f"{year:04}-{day.month:02}-{number:02}", f"{year:04}/{day.month:02}/{number:02}"]
    spellings += [f"{number}.{day.month}.{year}", f"{number:02}.{day.month:02}.{year}"]
    for name in dict.fromkeys((month, month[:3], f"{month[:3]}.", "sept" if day.month == 9 else month)):
        for n in (str(number), f"{number:02}", f"{number}{ending}"):
            spellings += [f"{n} {name} {year}", f"{n} {name}, {year}", f"{n} of {name} {year}"]
            spellings += [f"{name} {n}, {year}", f"{name} {n} {year}", f"the {n} of {name}, {year}"]
        spellings += [f"{number}. {name} {year}"]
    if number > 12 or number == day.month:  # else nobody knows which of the two is the month
        spellings += [f"{a}/{b}/{year}" for a, b in ((number, day.month), (day.month, number))]
        spellings += [f"{a:02}/{b:02}/{year}" for a, b in ((number, day.month), (day.month, number))]
    return tuple(dict.fromkeys(spellings))


_NO_EDGE = rf"[^\s{re.escape(EDGE)}]"
_TIME = re.compile(
    rf"(?<!{_NO_EDGE})(?<!\d[.,:])(\d{{1,2}})(?::(\d{{2}}))?(?: ?([ap])\.?m\b\.?)?(?!{_NO_EDGE})(?![.,:]\d)"
)


@lru_cache(_KEPT)
def _times(text: str) -> frozenset[tuple[int, int]]:
    """Return the hours and minutes that stand in the user's words, in small letters."""
    times = set[tuple[int, int]]()
    for hours, minutes, half in _TIME.findall(text):
        hour, minute = int(hours), int(minutes or 0)
        if half and 1 <= hour <= 12:
            times.add((hour % 12 + 12 * (half == "p"), minute))
        elif minutes and not half:
            times.add((hour, minute))
    return frozenset(times)


_CURRENCY = r"(?:[€$£¥]|\b(?:eur|usd|gbp|chf|sek|nok|dkk|pln|czk)\b)"
_BEFORE, _AFTER = (
    r"(?<![\d.,'\u2019\u2212-])(?<!\d[\s\u00a0\u202f:/])",
    r"(?![\d'\u2019]|[.,]\d|\s?[%\u2030])",
)
_FORM = re.compile(
    rf"{_BEFORE}(?:"
    r"(?P<dots>\d{1,3}(?:\.\d{3})+),(?P<dots_cents>\d{1,2})"
    r"|(?P<millions>\d{1,3}(?:\.\d{3}){2,})"
    r"|(?P<marks>\d{1,3}(?:['\u2019\u00a0\u202f\u2009]\d{3})+)(?:[.,](?P<marks_cents>\d{1,2}))?"
    r"|(?P<plain>\d+),(?P<plain_cents>\d{1,2})"
    rf"){_AFTER}"
)
_SPACED = re.compile(
    rf"(?:{_CURRENCY}\s?(\d{{1,3}}(?: \d{{3}})+)(?:[.,](\d{{1,2}}))?{_AFTER}"
    rf"|{_BEFORE}(\d{{1,3}}(?: \d{{3}})+)(?:[.,](\d{{1,2}}))?\s?{_CURRENCY})",
    re.IGNORECASE,
)
_NO_DIGIT = re.compile(r"\D")
_DIGITS = 13


@lru_cache(_KEPT)
def _amounts(words: str) -> frozenset[int | float]:
    """Return the numbers that stand in the user's words in other forms than Python's."""
    numbers = set[int | float]()
    for match in _FORM.finditer(words):
        whole = match["dots"] or match["millions"] or match["marks"] or match["plain"]
        cents = match["dots_cents"] or match["marks_cents"] or match["plain_cents"]
        numbers.add(_number(whole, cents))
    for match in _SPACED.finditer(words):
        numbers.add(_number(match[1] or match[3], match[2] or match[4]))
    return frozenset(numbers)


def _number(whole: str, cents: str | None) -> int | float:
    digits = _NO_DIGIT.sub("", whole)
    if len(digits) > _DIGITS:  # a float would stand for several numbers, and a long text takes long to read
        return -1
    return int(digits) if cents is None else float(f"{digits}.{cents}")
