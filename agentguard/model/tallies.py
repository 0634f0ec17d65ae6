"""What was done, by tool, as JSON: a sum is a number, exact to a ten-thousandth."""

from __future__ import annotations

from decimal import Decimal

from agentguard.model.arguments import Json

__all__ = ["tallies_json", "tallies_of"]

_SUMS = frozenset({"sum", "sum_with_this"})


def tallies_json(value: Json) -> Json:
    """Return tallies as JSON. A sum has at most 15 digits, so each reader of JSON has the same number."""
    if isinstance(value, dict):
        return {name: tallies_json(part) for name, part in value.items()}
    if not isinstance(value, Decimal):
        return value
    return int(value) if value == value.to_integral_value() else float(value)


def tallies_of(value: Json, is_sum: bool = False) -> Json:
    """Return what `tallies_json` has written."""
    if isinstance(value, dict):
        return {name: tallies_of(part, is_sum or name in _SUMS) for name, part in value.items()}
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("what was done is no number")
    return Decimal(repr(value)) if is_sum else value
