"""Numbers of JSON compared as they are written: 0.1 is a tenth, and not the nearest binary fraction.

jsonschema divides by a binary fraction, by which 0.07 is no multiple of 0.01, and fails with an error where a
Decimal or a very large number is divided. A Decimal such as 0.10000000000000000001 passes its maximum of 0.1.
"""

from __future__ import annotations

from decimal import Decimal

__all__ = ["DIGITS", "NotDivided", "compare", "is_multiple"]

DIGITS = 4_000
"""Digits at most of a number that is divided or converted. Python writes no longer ones; they take long."""
_BITS = 13_289  # of a whole number with so many digits
Number = int | float | Decimal


class NotDivided(ValueError):
    """A number has more than `DIGITS` digits, or is not finite."""


def compare(one: Number, other: Number) -> int:
    """Return -1, 0 or 1: whether a number is less than another one, equal, or greater.

    Raises:
        NotDivided: A whole number has too many digits to be compared with one of another type.
    """
    if type(one) is not type(other):
        one, other = _decimal(one), _decimal(other)
    return (one > other) - (one < other)


def is_multiple(number: Number, divisor: Number) -> bool:
    """Return whether a number is a multiple of another one. Of 0 only 0 is.

    Raises:
        NotDivided: It has too many digits, or is not finite.
    """
    if isinstance(number, int) and isinstance(divisor, int) and divisor:
        return _checked(number) % _checked(divisor) == 0
    (digits, exponent), (divisor_digits, divisor_exponent) = _parts(number), _parts(divisor)
    if not digits or not divisor_digits:
        return not digits
    shift = exponent - divisor_exponent
    if shift >= 0:
        return digits * pow(10, shift, divisor_digits) % divisor_digits == 0
    # a number with fewer digits is no multiple of such a power of ten
    return -shift <= DIGITS and digits % (divisor_digits * 10**-shift) == 0


def _decimal(number: Number) -> Decimal:
    if isinstance(number, int):
        return Decimal(_checked(number))
    return Decimal(repr(number)) if isinstance(number, float) else number


def _checked(number: int) -> int:
    if number.bit_length() > _BITS:
        raise NotDivided(f"a number of more than {DIGITS} digits is not divided or converted")
    return number


def _parts(number: Number) -> tuple[int, int]:
    """Return a number as its digits and a power of ten; the sign is no matter."""
    if isinstance(number, int):
        return _checked(number), 0
    _, digits, exponent = _decimal(number).as_tuple()
    if len(digits) > DIGITS or not isinstance(exponent, int):
        raise NotDivided(f"a number that is not finite, or has more than {DIGITS} digits, is not divided")
    return int("".join(map(str, digits))), exponent
