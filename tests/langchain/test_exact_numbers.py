"""A limit on a number binds as it is written in the reviewed schema, whatever type the tool's number has."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import ValidationError
from langchain_core.tools import BaseTool, tool

from agentguard.langchain.exact_numbers import DIGITS, NotDivided, compare, is_multiple
from agentguard.langchain.schema import ArgumentSchema
from tests.tiers import examples


@tool
def pay_decimal(amount: Decimal) -> str:
    """Pay."""
    return "ok"


@tool
def pay_number(amount: float) -> str:
    """Pay."""
    return "ok"


@tool
def pay_whole(amount: int) -> str:
    """Pay."""
    return "ok"


def fits(pay: BaseTool, limit: dict[str, Any], amount: Any) -> bool:
    schema = ArgumentSchema(pay)
    schema.require({"type": "object", "properties": {"amount": {"type": "number", **limit}}})
    try:
        schema.validate({"amount": amount})
    except ValidationError:
        return False
    return True


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize(
    ("limit", "inside", "outside"),
    [
        ({"maximum": 0.1}, ["0.1", "-5", "1e-500"], ["0.10000000000000000001", "0.11", "1e500"]),
        ({"maximum": 0.1}, ["0.10"], ["0.1000000000000000055511151231257827021181583404541015625"]),
        ({"minimum": -0.1}, ["-0.1", "0"], ["-0.10000000000000000001", "-1e500"]),
        ({"exclusiveMinimum": 0}, ["1e-4000"], ["0", "-0"]),
        ({"exclusiveMaximum": 0.3}, ["0.29999999999999999999"], ["0.3", "0.300000000000000000001"]),
        ({"multipleOf": 0.01}, ["0.07", "19.99", "123456789012345678.01", "1e500"], ["0.075", "1e-400"]),
        ({"multipleOf": 1}, ["5", "1e500"], ["5.5", "12345678901234567890123456789.5"]),
        ({"enum": [0.1, 5]}, ["0.1", "5.0"], ["0.1000000000000000055511151231257827021181583404541015625"]),
        ({"const": 0.1}, ["0.10"], ["0.1000000000000000055511151231257827021181583404541015625"]),
    ],
    ids=str,
)
def test_a_limit_binds_a_decimal_as_it_is_written(
    limit: dict[str, Any], inside: list[str], outside: list[str]
) -> None:
    assert [text for text in inside if not fits(pay_decimal, limit, text)] == []
    assert [text for text in outside if fits(pay_decimal, limit, text)] == []


@pytest.mark.promise("reviewed-schema-binds")
def test_a_limit_binds_floats_and_large_whole_numbers_as_they_are_written() -> None:
    assert all(fits(pay_number, {"multipleOf": 0.01}, number) for number in (0.07, 19.99, 1e308, 0.0))
    assert not fits(pay_number, {"multipleOf": 0.01}, 0.075)
    assert fits(pay_whole, {"multipleOf": 0.1}, 10**17 + 1)
    assert not fits(pay_whole, {"multipleOf": 2.5}, 10**17 + 1)
    assert not fits(pay_whole, {"maximum": 2.0**53}, 2**53 + 1)
    assert compare(10**23, 1e23) == 0, "though the binary fraction is less"


def test_a_number_of_very_many_digits_is_refused_before_it_is_divided() -> None:
    with pytest.raises(NotDivided):
        is_multiple(Decimal("1." + "1" * DIGITS), 0.01)
    with pytest.raises(NotDivided):
        is_multiple(float("inf"), 0.01)


@pytest.mark.parametrize("other", [1.5, Decimal("1e999999"), Decimal("0.1")], ids=str)
def test_a_whole_number_of_very_many_digits_is_neither_converted_nor_divided(other: Any) -> None:
    number, start = 10**1_000_000, process_time()
    for numbers in ((number, other), (other, -number)):
        for operate in (compare, is_multiple):
            with pytest.raises(NotDivided):
                operate(*numbers)
    with pytest.raises(NotDivided):
        is_multiple(number, 7)
    assert compare(number, number + 1) == -1
    assert process_time() - start < 1.0  # to convert one took 43 s
    assert compare(10 ** (DIGITS - 1), 1.5) == 1


NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(allow_nan=False, allow_infinity=False, places=6),
    st.builds(
        lambda number, power: number * Decimal(10) ** power, st.integers(-999, 999), st.integers(-9, 9)
    ),
)


def _exact(number: Any) -> Fraction:
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


@settings(max_examples=examples(300), deadline=None)
@given(NUMBERS, NUMBERS)
def test_numbers_are_compared_and_divided_as_fractions_are(one: Any, other: Any) -> None:
    exact, by = _exact(one), _exact(other)
    assert compare(one, other) == (exact > by) - (exact < by)
    assert is_multiple(one, other) == ((exact / by).denominator == 1 if by else not exact)
