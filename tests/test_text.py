"""Text that others have chosen is shown as text."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import process_time
from typing import Literal
from unicodedata import combining, normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.errors import ConfigurationError
from agentguard.model import Arguments
from agentguard.text import composed, folded_address, printable
from tests.tiers import examples

FORGED = "x\n2026-01-01 INFO agentguard: done refund_order\x1b[2K"


class _Unreadable:
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.promise("text-is-text")
@pytest.mark.parametrize("text", [FORGED, "\r", "\u2028", "\u202e", "\x9b", "\ud800"])
def test_a_text_of_others_is_one_line_without_control_characters(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(f"{text}!").endswith("!")


def test_a_text_that_is_printable_stays_as_it_is() -> None:
    assert printable("Zürich 4711 東京") == "Zürich 4711 東京"


@pytest.mark.promise("text-is-text")
@pytest.mark.parametrize(
    "argument", [FORGED, ValueError(FORGED), ConfigurationError("x", hint=FORGED), [FORGED]]
)
def test_each_argument_of_a_log_line_of_ours_is_printable(
    caplog: pytest.LogCaptureFixture, argument: object
) -> None:
    log = logging.getLogger("agentguard")
    log.error("denied %s: %s after %.1f s and %d", argument, "policy", 1.25, 2)
    log.error("denied %(tool)s", {"tool": argument})
    for record in caplog.records:
        assert record.getMessage().isprintable()
    assert caplog.records[0].getMessage().endswith("policy after 1.2 s and 2")


@pytest.mark.promise("text-is-text")
@pytest.mark.parametrize("argument", ["x" * 1_000_000, "\ud800" * 1_000_000, ["x"] * 1_000_000])
def test_no_argument_of_a_log_line_pushes_others_out_of_the_log(
    caplog: pytest.LogCaptureFixture, argument: object
) -> None:
    log = logging.getLogger("agentguard")
    log.error("denied %s: %s", argument, "policy")
    log.error("denied %(tool)s", {"tool": argument})
    for record in caplog.records:
        assert len(record.getMessage()) < 5_000
        record.getMessage().encode()
    assert caplog.records[0].getMessage().endswith(": policy")


def test_an_argument_that_cannot_be_read_does_not_end_a_call(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("agentguard").error("denied %s", _Unreadable())
    assert len(caplog.records) == 1


LENGTH = 40_000
UNENDING: dict[str, Callable[[int], str]] = {
    "one accent": lambda n: "a" + "\u0301" * n,
    "accents above, then below": lambda n: "a" + "\u0301" * (n // 2) + "\u0316" * (n // 2),
    "accents of no letter, which begin a pair": lambda n: "\u0308" * n,
    "accents of two": lambda n: "\u0344\u0316" * (n // 2),
    "vowels of Tibetan": lambda n: "\u0f73" * n,
    "halfwidth marks": lambda n: "\uff76" + "\uff9e" * n,
    "marks beyond 16 bits": lambda n: "\U0001e8d0\u0301" * (n // 2),
    "runs of marks": lambda n: ("a" + "\u0301\u0316" * 500) * (n // 1_000),
    "runs of few marks": lambda n: ("a" + "\u0301\u0316" * 6) * (n // 13),
    "blanks": lambda n: " " * n + "\u00e9",
    "ends of lines": lambda n: "\u2028\r " * (n // 3) + "\u00e9",
}


@pytest.mark.promise("judged-in-bounded-time")
@pytest.mark.parametrize("text", UNENDING)
def test_a_text_is_compared_in_time_that_grows_with_its_length_alone(text: str) -> None:
    spent = list[float]()
    for length in (LENGTH // 8, LENGTH):
        unending = UNENDING[text](length)
        start = process_time()
        Arguments.of({"text": unending, unending: [unending]}).shown_digest  # noqa: B018  it is computed here
        folded_address(f"{unending}@corp.example"), folded_address(unending)
        spent.append(process_time() - start)
    assert spent[1] < 20 * max(spent[0], 0.05)  # measured: 8 times; it was 64 times and more, 20 s for most


@pytest.mark.promise("judged-in-bounded-time")
def test_no_label_of_a_domain_is_decoded_that_is_longer_than_any() -> None:
    assert folded_address("ada@xn--mnchen-3ya.example") == "ada@m\u00fcnchen.example"
    unending = f"ada@xn--{'mnchen' * 10_000}-3ya.example"  # the time to decode it grows with its square
    assert folded_address(unending) == unending


MARKS = st.sampled_from("\u0301\u0308\u0316\u0344\u0345\u0f73\u0f71\u3099\uff9e\U0001e8d0\u0653\u05b0")
LETTERS = st.sampled_from(
    "aeo\u00e9\u1e69\u03b1\u1f82\u304b\uff76\u0928\u0627\u05d0\u1100\u1161\u2260\ufdfa\U0001f600 ."
)
WORDS = st.lists(st.tuples(LETTERS, st.lists(MARKS, max_size=40)), max_size=4).map(
    lambda letters: "".join("".join((letter, *marks)) for letter, marks in letters)
)


def _with_30_marks(text: str, form: Literal["NFC", "NFKC"]) -> str:
    kept, count = list[str](), 0
    decomposed: Literal["NFD", "NFKD"] = "NFD" if form == "NFC" else "NFKD"
    for character in normalize(decomposed, text):
        count = count + 1 if combining(character) else 0
        kept += character if count <= 30 else ""
    return normalize(form, "".join(kept))


@pytest.mark.promise("a-no-stays-a-no")
@pytest.mark.parametrize("form", ["NFC", "NFKC"])
@settings(max_examples=examples(500), deadline=None)
@given(text=WORDS)
def test_texts_that_are_equivalent_are_composed_to_one(form: Literal["NFC", "NFKC"], text: str) -> None:
    assert composed(text, form) == _with_30_marks(text, form)
    assert composed(normalize("NFD", text), form) == composed(normalize("NFC", text), form)


@pytest.mark.parametrize(
    "text",
    [
        "Gr\u00fc\u00dfe aus Z\u00fcrich",
        "\u0110\u01b0\u1eddng Nguy\u1ec5n",
        "\u0645\u064f\u062d\u064e\u0645\u064e\u0651\u062f",
        "\u05d1\u05bc\u05b0\u05e8\u05b5\u05d0\u05e9\u05b4\u05c1\u05d9\u05ea",
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
        "\u0f56\u0f7c\u0f51\u0f0b\u0f61\u0f72\u0f42",
        "\ud55c\uad6d\uc5b4",
        "\u6771\u4eac\u3067\u3059",
        "\u2500" * 80,
        "\U0001f469\U0001f3fd " * 20,
    ],
)
def test_a_text_of_any_language_has_its_usual_normal_form(text: str) -> None:
    for spelling in (text, normalize("NFD", text)):
        assert composed(spelling) == normalize("NFC", text)
        assert composed(spelling, "NFKC") == normalize("NFKC", text)
