"""Account numbers in a text: International Bank Account Numbers (ISO 13616), however they are parted."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["accounts_in"]

MOST_ATTEMPTS = 2_000
"""How many places of a text are tried; the text is no account number beyond them, but counts as one."""
_START = re.compile(r"(?=([A-Za-z])[\W_]{0,3}([A-Za-z])[\W_]{0,3}\d[\W_]{0,3}\d)")
_ALONE = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}[A-Za-z0-9]{11,30}(?![A-Za-z0-9])")
_CHARACTER = re.compile(r"[\W_]{0,3}([A-Za-z0-9])")
_FEWEST_DIGITS = 8  # of the numbers that banks give, so that a sentence with an hour in it is none
# the length of an IBAN by country: https://www.swift.com/standards/data-standards/iban
_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}


def accounts_in(text: str) -> Iterator[str]:
    """Yield the account numbers in a text, as they are written there.

    One that stands alone counts by its form, whatever its country and its check digits are. One that is
    parted by blanks or other signs, or stands against letters, counts if both are right.
    """
    end = 0
    for attempt, start in enumerate(_START.finditer(text)):
        if attempt >= MOST_ATTEMPTS:
            yield text[start.start() :]
            return
        if start.start() < end:
            continue
        alone = _ALONE.match(text, start.start())
        country = (start[1] + start[2]).upper()
        at = _end_of_number(text, start.start(), country) if alone is None else alone.end()
        if at:
            end = at
            yield text[start.start() : end]


def _end_of_number(text: str, at: int, country: str) -> int:
    """Return where the number ends that begins here, or 0 if none does."""
    characters = list[str]()
    for _ in range(_LENGTHS.get(country, 0)):
        if (match := _CHARACTER.match(text, at)) is None:
            return 0
        characters.append(match[1])
        at = match.end()
    number = "".join(characters).upper()
    if sum(map(str.isdigit, number)) < _FEWEST_DIGITS:
        return 0
    digits = "".join(str(int(character, 36)) for character in number[4:] + number[:4])
    return at if digits and int(digits) % 97 == 1 else 0
