"""Arguments in canonical JSON: by whichever encoder, the bytes are those of RFC 8785."""

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from agentguard.model import Arguments
from tests.doubles.texts import CHARACTERS, texts

SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts() | st.floats(-1e9, 1e9)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(texts(), inner), max_leaves=8)


@given(values=st.dictionaries(texts() | st.from_regex(r"\A[a-z_]{1,8}\Z", alphabet=CHARACTERS), VALUES))
@example(values={"a": '\x00\x08\x0b\x1f\x7f\u2028\ud7ff\U0001f600"\\/', "B": 2**53 - 1, "": None})
@example(values={"\U00010000": 1, "\ue000": 2})
def test_the_canonical_form_is_that_of_rfc_8785(values: dict[str, object]) -> None:
    assert Arguments.of(values).canonical == rfc8785.dumps(values)  # type: ignore[arg-type]  # JSON by its strategy


@given(values=st.dictionaries(texts(), st.integers() | st.text(st.characters(exclude_categories=()))))
def test_what_rfc_8785_refuses_is_refused(values: dict[str, object]) -> None:
    def canonical(encode: object) -> object:
        try:
            return encode(values)  # type: ignore[operator]  # one of the two below
        except ValueError as error:
            return type(error)

    if any(type(v) is int and abs(v) >= 2**53 and v in LONG for v in values.values()):
        return  # the one thing that is not refused: see below
    assert canonical(lambda arguments: Arguments.of(arguments).canonical) == canonical(rfc8785.dumps)


LONG = range(-(2**63), 2**64)


@pytest.mark.promise("large-integers-exact")
@given(
    number=st.integers(2**53, 2**64 - 1) | st.integers(-(2**63), -(2**53)),
    rest=st.dictionaries(texts(), VALUES),
)
@example(number=725653563933458433, rest={})
def test_all_digits_of_a_64_bit_integer_are_kept(number: int, rest: dict[str, object]) -> None:
    for values in ({**rest, "n": number}, {**rest, "n": [{"\U00010000": number, "\ue000": [number, True]}]}):
        arguments = Arguments.of(values)
        assert str(number).encode() in arguments.canonical
        assert arguments.values == json.loads(json.dumps(values))
        assert arguments.canonical.replace(str(number).encode(), b"0") == rfc8785.dumps(_zero(values, number))


def _zero(value: Any, number: int) -> Any:
    if isinstance(value, dict):
        return {name: _zero(part, number) for name, part in value.items()}
    if isinstance(value, list):
        return [_zero(part, number) for part in value]
    return 0 if type(value) is int and value == number else value


@pytest.mark.promise("large-integers-exact")
@pytest.mark.parametrize("values", [{"n": 2**64}, {"n": [-(2**63) - 1]}, {"n": {"m": 10**400}}])
def test_an_integer_beyond_64_bits_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="exceeds"):
        Arguments.of(values)
