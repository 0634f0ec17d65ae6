"""Plain data is looked through quickly and wholly; what stands for a text without end is withheld."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import pytest
from langchain_core.documents import Document

from agentguard.redaction import REDACTED, redact

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
    start = perf_counter()
    assert redact(value, LIVE) is value
    assert perf_counter() - start < SECONDS


@pytest.mark.promise("results-in-bounded-time")
@pytest.mark.parametrize("kind", [list, dict])
def test_an_object_whose_text_would_have_no_end_is_withheld(kind: type) -> None:
    leaf: Any = "x"
    for _ in range(9):
        leaf = [leaf] * 10 if kind is list else {str(n): leaf for n in range(10)}
    document = Document(page_content="hello", metadata={"front": leaf})
    start = perf_counter()
    content, documents = redact(("one document", [document]), LIVE)
    assert (content, documents) == ("one document", REDACTED)
    assert perf_counter() - start < SECONDS


def test_a_large_document_is_passed_on() -> None:
    document = Document(page_content="word " * 1_000_000)
    assert redact(("one", [document]), LIVE)[1] == [document]
