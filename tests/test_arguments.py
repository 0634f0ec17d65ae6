"""Arguments in canonical JSON: by whichever encoder, the bytes are those of RFC 8785."""

import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from agentguard.model import Arguments

SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text() | st.floats(-1e9, 1e9)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


@given(values=st.dictionaries(st.text() | st.from_regex(r"\A[a-z_]{1,8}\Z"), VALUES))
@example(values={"a": '\x00\x08\x0b\x1f\x7f\u2028\ud7ff\U0001f600"\\/', "B": 2**53 - 1, "": None})
@example(values={"\U00010000": 1, "\ue000": 2})
def test_the_canonical_form_is_that_of_rfc_8785(values: dict[str, object]) -> None:
    assert Arguments.of(values).canonical == rfc8785.dumps(values)  # type: ignore[arg-type]  # JSON by its strategy


@given(values=st.dictionaries(st.text(), st.integers() | st.text(st.characters(exclude_categories=()))))
def test_what_rfc_8785_refuses_is_refused(values: dict[str, object]) -> None:
    def canonical(encode: object) -> object:
        try:
            return encode(values)  # type: ignore[operator]  # one of the two below
        except ValueError as error:
            return type(error)

    assert canonical(lambda given: Arguments.of(given).canonical) == canonical(rfc8785.dumps)
