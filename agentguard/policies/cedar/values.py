"""A value of JSON as a value of Cedar, exactly or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation

from agentguard.model.arguments import Json

__all__ = [
    "CedarType",
    "Convert",
    "Refused",
    "boolean",
    "day",
    "decimal",
    "decimal_text",
    "long",
    "moment",
    "quoted",
    "string",
]

Convert = Callable[[Json], Json]

_LONG = 2**63
_DECIMAL, _PLACES = Decimal(_LONG) / 10_000, 4


class Refused(ValueError):
    """A value has no exact Cedar form. The message names the argument and never holds the value."""


@dataclass(frozen=True, slots=True)
class CedarType:
    """A type of Cedar, what makes a value of it from JSON, and the types of its fields if it is a record."""

    text: str
    convert: Convert
    fields: Mapping[str, CedarType] = field(default_factory=dict)


def string(value: Json) -> Json:
    """Return a text."""
    if type(value) is not str:
        raise Refused("is not a string")
    return value


def boolean(value: Json) -> Json:
    """Return true or false."""
    if type(value) is not bool:
        raise Refused("is not a boolean")
    return value


def long(value: Json) -> Json:
    """Return a whole number of 64 bits."""
    if type(value) is not int:  # bool is an int in Python, and not in JSON
        raise Refused("is not an integer")
    if not -_LONG <= value < _LONG:
        raise Refused("is beyond 64 bits")
    return value


def decimal(value: Json) -> Json:
    """Return a number of JSON as a Cedar decimal."""
    if type(value) is not int and type(value) is not float:
        raise Refused("is not a number")
    return _exact(Decimal(repr(value)))


def decimal_text(value: Json) -> Json:
    """Return a decimal that JSON has as a text."""
    try:
        return _exact(Decimal(string(value)))
    except InvalidOperation:
        raise Refused("is not a decimal") from None


def _exact(number: Decimal) -> Json:
    if not number.is_finite() or not -_DECIMAL <= number < _DECIMAL:
        raise Refused("is outside the range of a Cedar decimal")
    whole, _, fraction = f"{number:f}".partition(".")
    fraction = fraction.rstrip("0")
    if len(fraction) > _PLACES:
        raise Refused("has more than four decimals, and a rounded value would be another value")
    return {"__extn": {"fn": "decimal", "arg": f"{whole}.{fraction or '0'}"}}


def moment(value: Json) -> Json:
    """Return a time with its offset as a Cedar datetime, which has milliseconds: what is finer is cut off."""
    try:
        at = datetime.fromisoformat(string(value))
        if at.tzinfo is None:
            raise Refused("has no time zone, so nobody knows when it was")
        text = at.astimezone(UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError) as error:
        raise error if isinstance(error, Refused) else Refused("is not a time") from None
    return _datetime(text.replace("+00:00", "Z"))


def day(value: Json) -> Json:
    """Return a date as a Cedar datetime: its first moment, in UTC."""
    try:
        return _datetime(date.fromisoformat(string(value)).isoformat())
    except ValueError as error:
        raise error if isinstance(error, Refused) else Refused("is not a date") from None


def _datetime(text: str) -> Json:
    return {"__extn": {"fn": "datetime", "arg": text}}


def quoted(text: str) -> str:
    """Return *text* as a Cedar string literal, whatever characters it holds."""
    plain = (c if c.isprintable() and c not in '"\\' else f"\\u{{{ord(c):x}}}" for c in text)
    return f'"{"".join(plain)}"'
