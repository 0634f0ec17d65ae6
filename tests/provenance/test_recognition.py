"""Values that are the user's although the user has written them in another form."""

from __future__ import annotations

from time import thread_time
from typing import Any

import pytest

from agentguard import ConfigurationError
from agentguard.catalog import spec_of
from agentguard.model import TURN, Arguments, Identity, Label, Mandate, Sensitivity, TaskState
from agentguard.model.tool import RECOGNIZED
from agentguard.provenance.arguments import CHOICE, CallProvenance, provenance_of
from agentguard.provenance.recognition import FORMS, recognized_bits
from tests.conftest import Kit

WORDS = (
    "Book ADA  Lovelace on 12 March 2026 at 2:30 pm, or Mar 13th 2026. Not 03/04/2026, but 14/04/2026. "
    "Mark ångstrom θ İzmir 9:15 p.m. (12:45 am) 17:05:07 16:20. Not -7,25 or 8,25 % or 10:45,5 or 3/46,5. "
    "Pay 1.200,50 and €1 300 and 12,50 and 1'000.25 to Müller@Example.ORG. Order 3 200 units of 1.500."
)


def judged(form: str, value: Any, words: str = WORDS, **more: Any) -> CallProvenance:
    """Return the provenance of a call with one argument, in a task that has read a secret on a web page."""
    spec = spec_of(
        "book",
        {"path": "write", "recognized": {"what": form} if form else {}},
        {"type": "object", "properties": {"what": {}}},
    )
    facts = {"untrusted": True, "sensitivity": Sensitivity.RESTRICTED, "words": words, **more}
    task = TaskState(
        id="t",
        purpose="p",
        identity=Identity(subject="user:ada", actor="agent://a"),
        mandate=Mandate.of({"tools": "*"}),
        deadline=2.0**40,
        **facts,
    )
    labels: dict[str, list[Label]] = {}
    return provenance_of(spec, Arguments.of({"what": value}), task, labels)


USERS = [
    ("folded", "Ada Lovelace"),
    ("folded", "ada lovelace"),
    ("folded", "müller@example.org"),
    ("folded", "MARK"),
    ("folded", "Ångstrom"),
    ("folded", "Θ"),
    ("folded", "İZMIR"),
    ("date", "2026-03-12T21:15"),
    ("date", "2026-03-12T00:45"),
    ("date", "2026-03-12T16:20"),
    ("date", "2026-03-12"),
    ("date", "2026-03-12T14:30"),
    ("date", "2026-03-12T14:30:00"),
    ("date", "2026-03-13"),
    ("date", "2026-04-14"),
    ("amount", 1200.5),
    ("amount", 1300),
    ("amount", 12.5),
    ("amount", 1000.25),
]
NOBODYS = [
    ("folded", "Ada  Lovelace"),  # blanks of the model's own
    ("folded", "Mu\u0308ller@example.org"),  # a spelling of the model's own
    ("folded", "Muller@example.org"),
    ("folded", "Ada Lovelace on 12 Mar"),
    ("date", "2026-04-03"),  # who writes 03/04 may mean either
    ("date", "2026-03-04"),
    ("date", "2026-03-12T14:31"),
    ("date", "2026-03-12T14:30:01"),
    ("date", "2026-03-12T14:30:00+02:00"),
    ("date", "20260312"),
    ("date", "2026-W11-4"),
    ("date", "12 march 2026"),
    ("amount", 3200),  # without a currency these may be two numbers
    ("amount", 1500),  # or one and a half
    ("amount", 120050),
    ("amount", -1300),
    ("folded", "Mar\u212a"),  # the Kelvin sign, whose small letter is k
    ("folded", "\u212bngstrom"),  # the unit, whose small letter is å
    ("folded", "\u03f4"),  # a symbol, whose small letter is θ
    ("date", "2026-03-12T02:30"),  # the user wrote 2:30 pm
    ("date", "2026-03-12T09:15"),  # and 9:15 p.m.
    ("date", "2026-03-12T12:45"),  # and 12:45 am
    ("date", "2026-03-12T07:05"),  # and 17:05:07
    ("amount", 7.25),  # the user wrote -7,25 and 8,25 %
    ("amount", 8.25),
    ("amount", 45.5),  # and 10:45,5 and 3/46,5
    ("amount", 46.5),
    ("amount", True),
    ("amount", "1200.50"),
]


@pytest.mark.promise("recognized-as-declared")
@pytest.mark.parametrize(("form", "value"), USERS)
def test_a_value_in_another_form_is_the_users_where_the_catalog_says_so(form: str, value: Any) -> None:
    assert judged(form, value).arguments["what"].user
    assert not judged("", value).arguments["what"].user


@pytest.mark.promise("recognized-as-declared")
@pytest.mark.parametrize(("form", "value"), NOBODYS)
def test_a_value_that_the_user_has_not_clearly_written_is_nobodys(form: str, value: Any) -> None:
    assert not judged(form, value).arguments["what"].user


@pytest.mark.promise("recognized-as-declared")
@pytest.mark.parametrize("form", RECOGNIZED)
def test_each_form_recognizes_no_values_of_another(form: str) -> None:
    others = [value for other, value in USERS if other != form]
    assert others
    assert not any(judged(form, value).arguments["what"].user for value in others)


def test_what_a_user_has_written_exactly_is_recognized_in_each_form() -> None:
    for form in RECOGNIZED:
        assert judged(form, "Order").arguments["what"].user


@pytest.mark.promise("recognized-as-declared")
def test_no_form_reaches_over_two_turns() -> None:
    for form, value, words in (
        ("folded", "ada lovelace", f"ADA{TURN}Lovelace"),
        ("date", "2026-03-12", f"12 March{TURN}2026"),
        ("amount", 1300, f"€1{TURN}300"),
        ("amount", 1300, f"€1 300{TURN}"),
    ):
        assert judged(form, value, words).arguments["what"].user is (words[-1] == TURN)


@pytest.mark.promise("recognized-as-declared")
def test_the_case_that_the_model_has_chosen_is_charged_for_each_letter() -> None:
    words = "pay " + "ab" * 40
    exact, other = judged("folded", "ab" * 40, words), judged("folded", "aB" * 40, words)
    assert exact.arguments["what"].user
    assert other.choice.bits >= exact.choice.bits + 80
    secret = "aB" * CHOICE
    assert (
        judged("folded", secret, "pay " + secret.lower()).arguments["what"].sensitivity
        is Sensitivity.RESTRICTED
    )


def test_each_form_of_the_catalog_has_a_function() -> None:
    assert set(FORMS) == set(RECOGNIZED)


def test_an_unknown_form_or_argument_is_an_error(kit: Kit) -> None:
    with pytest.raises(ConfigurationError, match="unknown form fuzzy"):
        spec_of("book", {"path": "write", "recognized": {"what": "fuzzy"}})
    with pytest.raises(ConfigurationError, match="recognizes values of who"):

        @kit.guard.tool(path="write", recognized={"who": "folded"})
        def book(what: str) -> str:
            """Book something."""
            return what


@pytest.mark.promise("calls-in-bounded-time")
@pytest.mark.parametrize("form", RECOGNIZED)
def test_hostile_words_and_values_take_little_time(form: str) -> None:
    texts = ["1 " * 8_000, "1.111" * 3_000, "€1 " + "111 " * 4_000, "1" * 16_000 + ",50", "a\u0301" * 8_000]
    start = thread_time()
    for words in texts:
        for value in (words, 5, 1.5, "2026-03-12", "1" * 100_000):
            assert recognized_bits(form, words, value) is None or form == "folded"
    assert thread_time() - start < 2
