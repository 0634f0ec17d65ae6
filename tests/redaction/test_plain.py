"""Plain data is looked through quickly and wholly; what stands for a text without end is withheld."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from time import process_time
from typing import Any

import pytest
from langchain_core.documents import Document

from agentguard.redaction import REDACTED, redact, redact_exception

SECRET = "eyJhbGciOi.s3cr3t-t0ken.xyz"
LIVE = (SECRET,)
SECONDS = 2.0


class Text(str):
    """A text with an attribute, as a caller's own class may have."""

    hidden: str


def with_attribute() -> Text:
    text = Text("innocent")
    text.hidden = SECRET
    return text


@pytest.mark.promise("results-in-bounded-time")
@pytest.mark.parametrize(
    "place",
    [
        lambda: {SECRET: 1},
        lambda: {"a": [{"b": (f"x{SECRET}y",)}]},
        lambda: [{frozenset({SECRET})}],
        lambda: {"a": {(1, (2, SECRET)): 3}},
        lambda: [b"x" + SECRET.encode()],
        lambda: [bytearray(SECRET.encode())],
        lambda: ["clean", {"deep": with_attribute()}],
    ],
)
def test_a_secret_anywhere_in_plain_data_is_found(place: Any) -> None:
    clean = redact(place(), LIVE)
    assert SECRET not in repr(clean)
    assert SECRET not in repr([vars(item) for item in _texts(clean)])


def _texts(value: Any) -> list[Text]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, Text) else []


@pytest.mark.promise("results-in-bounded-time")
def test_clean_plain_data_is_passed_on_as_it_is_also_where_it_holds_itself() -> None:
    value: dict[str, Any] = {"rows": [{"id": n, "text": "some words"} for n in range(50_000)]}
    value["itself"] = value
    start = process_time()
    assert redact(value, LIVE) is value
    assert process_time() - start < SECONDS


@pytest.mark.promise("results-in-bounded-time")
@pytest.mark.parametrize("kind", [list, dict])
def test_an_object_whose_text_would_have_no_end_is_withheld(kind: type) -> None:
    leaf: Any = "x"
    for _ in range(9):
        leaf = [leaf] * 10 if kind is list else {str(n): leaf for n in range(10)}
    document = Document(page_content="hello", metadata={"front": leaf})
    start = process_time()
    content, documents = redact(("one document", [document]), LIVE)
    assert (content, documents) == ("one document", REDACTED)
    assert process_time() - start < SECONDS


def test_a_large_document_is_passed_on() -> None:
    document = Document(page_content="word " * 1_000_000)
    assert redact(("one", [document]), LIVE)[1] == [document]


MANY = 900_000
LARGE: dict[str, Callable[[], Any]] = {
    "beside": lambda: {"echo": SECRET, "rows": [str(number) for number in range(MANY)]},
    "among": lambda: [SECRET, *map(str, range(MANY))],
    "numbers": lambda: {"echo": SECRET, "rows": list(range(MANY))},
    "names": lambda: {SECRET: 1, **{str(number): number for number in range(MANY // 3)}},
    "bytes": lambda: [SECRET.encode(), *(b"%d" % number for number in range(MANY // 3))],
}


@pytest.mark.timing
@pytest.mark.promise("results-in-bounded-time")
@pytest.mark.parametrize("kind", LARGE)
def test_many_short_texts_beside_an_echoed_secret_are_looked_through_at_once(kind: str) -> None:
    value = LARGE[kind]()
    size, start = len(value), process_time()
    clean = redact(value, LIVE)
    took = process_time() - start  # measured: 0.2 to 0.6 s, where it was 3 s
    assert took < SECONDS
    assert type(clean) is type(value)
    assert len(clean) == size
    assert SECRET not in str(clean)[:200]
    assert REDACTED in str(clean)[:200]


@pytest.mark.promise("results-in-bounded-time")
@pytest.mark.parametrize("echoed", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_a_long_text_in_many_places_is_not_written_out(echoed: bool, nested: bool) -> None:
    text = "y" * 100_000  # 148 KB of YAML, with an alias for each place
    places: list[Any] = [[text] for _ in range(12_000)] if nested else [text] * 12_000
    start = process_time()
    assert redact([*places, SECRET] if echoed else places, LIVE) == REDACTED
    assert process_time() - start < SECONDS


@pytest.mark.promise("results-in-bounded-time")
def test_clean_plain_data_in_an_object_or_beside_a_secret_is_kept_however_many_lists_it_has() -> None:
    rows: list[Any] = [[] for _ in range(150_000)]  # more than are walked one by one
    document = Document(page_content="x", metadata={"rows": rows})
    start = process_time()
    assert redact(document, LIVE) is document
    clean = redact({"echo": SECRET, "rows": rows}, LIVE)
    assert process_time() - start < SECONDS
    assert clean["echo"] == REDACTED
    assert clean["rows"] is rows


ran: list[str] = []


class Costly(str):
    """A text whose own methods do more than they should."""

    def __str__(self, *_: Any) -> Any:
        ran.append("code of the class")
        raise AssertionError("code of the class ran")

    __repr__ = __format__ = __len__ = __contains__ = replace = __str__


class CostlyBytes(bytes):
    def __bytes__(self) -> bytes:
        ran.append("code of the class")
        raise AssertionError("code of the class ran")

    __iter__ = replace = __contains__ = __bytes__  # type: ignore[assignment]  # all fail


@pytest.mark.promise("results-in-bounded-time")
@pytest.mark.parametrize("wrapping", [lambda text: text, lambda text: [text], lambda text: ("x", text)])
def test_no_code_of_a_text_runs_to_clear_it(wrapping: Callable[[Any], Any]) -> None:
    ran.clear()
    clean: Any = wrapping(Costly("innocent"))
    if type(clean) is not list:  # whose own text Python writes with that of its items
        assert redact(clean, LIVE) is clean
    for secret in (Costly(f"x{SECRET}"), CostlyBytes(b"x" + SECRET.encode())):
        cleared = redact(wrapping(secret), LIVE)
        expected = "x[redacted]" if isinstance(secret, str) else b"x[redacted]"
        assert cleared == wrapping(expected)
    assert not ran


@pytest.mark.promise("results-in-bounded-time")
def test_what_stands_for_a_text_without_end_is_withheld_whatever_holds_it() -> None:
    leaf: Any = "x"
    for _ in range(40):
        leaf = [leaf, leaf]
    start = process_time()
    for value in (itertools.repeat(leaf), [ValueError(leaf)], {"a": leaf}.values(), [leaf, SECRET]):
        found = redact(value, LIVE)
        assert found is REDACTED
    failure = redact_exception(ValueError("x", SECRET, leaf), LIVE)
    assert (type(failure), "too much" in str(failure)) == (RuntimeError, True)
    assert process_time() - start < SECONDS
