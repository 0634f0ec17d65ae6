"""A hostile result lends no value a low sensitivity, takes no room of trusted values, and holds no loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest

from agentguard.model import Arguments, Identity, Label, Mandate, Sensitivity, TaskState, ToolPath, ToolSpec
from agentguard.provenance.arguments import provenance_of, value_digests
from agentguard.provenance.labels import PER_RESULT, observe_result
from agentguard.provenance.leaves import digest
from agentguard.provenance.words import words_contain

WEB = ToolSpec(name="web", path=ToolPath.READ, untrusted=True)
VAULT = ToolSpec(name="vault", path=ToolPath.READ, sensitivity=Sensitivity.CONFIDENTIAL)
BOOK = ToolSpec(name="book", path=ToolPath.READ, trusted=frozenset({"email"}))
MIXED = ToolSpec(name="mixed", path=ToolPath.READ, untrusted=True, trusted=frozenset({"email"}))
POST = ToolSpec(name="post", path=ToolPath.WRITE)
SECONDS = 2.0  # for what takes a few hundredths of a second


def task(words: str = "", sensitivity: Sensitivity = Sensitivity.CONFIDENTIAL) -> TaskState:
    return TaskState(
        id="t",
        purpose="p",
        identity=Identity(subject="user:ada", actor="agent://a"),
        mandate=Mandate.of({"tools": "*"}),
        deadline=2e9,
        words=words,
        untrusted=True,
        sensitivity=sensitivity,
        labels=1,
    )


def sensitivity_of(value: Any, state: TaskState, *results: tuple[ToolSpec, Any]) -> Sensitivity:
    labels: dict[str, list[Label]] = {}
    for spec, result in results:
        for label in observe_result(spec, state, result).labels:
            labels.setdefault(label.digest, []).append(label)
    arguments = Arguments.of({"value": value})
    value_labels = {digest: labels[digest] for digest in value_digests(state, arguments) if digest in labels}
    return provenance_of(POST, arguments, state, value_labels).arguments["value"].sensitivity


def nested(leaf: Any, depth: int, width: int = 10, name: str | None = None) -> Any:
    """Return a small value that stands for *width* to the power of *depth* leaves, as aliases of YAML do."""
    for _ in range(depth):
        leaf = [leaf] * width if name is None else {f"{name}{n}": leaf for n in range(width)}
    return leaf


@pytest.mark.promise("untrusted-lends-nothing")
@pytest.mark.parametrize(
    "pieces", [list("rose-garden"), ["rose", "-", "garden"], [1, 9, 8, 4], {"rose": "garden"}]
)
def test_what_a_page_lists_makes_no_secret_public(pieces: Any) -> None:
    page = [*"abcdefghijklmnopqrstuvwxyz-", "rose", "garden", *range(2000)]
    assert sensitivity_of(pieces, task(), (WEB, page)) is Sensitivity.CONFIDENTIAL


@pytest.mark.promise("untrusted-lends-nothing")
def test_who_vouches_for_a_value_keeps_its_sensitivity() -> None:
    assert sensitivity_of(["spring"], task(words="the tag spring"), (WEB, ["x"])) is Sensitivity.PUBLIC
    assert sensitivity_of("a@b.example", task(), (BOOK, {"email": "a@b.example"})) is Sensitivity.PUBLIC
    assert sensitivity_of("a@b.example", task(), (BOOK, {"note": "a@b.example"})) is Sensitivity.CONFIDENTIAL
    read_twice = ((BOOK, {"email": "a@b.example"}), (VAULT, "a@b.example"))
    assert sensitivity_of("a@b.example", task(), *read_twice) is Sensitivity.CONFIDENTIAL


@pytest.mark.promise("trusted-labels-have-room")
@pytest.mark.parametrize(
    "noise", [[f"w{n}" for n in range(3 * PER_RESULT)], " ".join(f"a{n}" for n in range(100_000))]
)
def test_untrusted_parts_of_a_result_take_no_room_from_its_trusted_field(noise: Any) -> None:
    labels = observe_result(MIXED, task(), {"page": noise, "email": "a@b.example"}).labels
    assert [label.source for label in labels if label.trusted] == ["mixed.email"]
    assert sum(not label.trusted for label in labels) <= PER_RESULT


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.promise("trusted-labels-have-room")
@pytest.mark.parametrize(
    "page", [deep(205), deep(900), list(range(20_001)), {f"k{n}": n for n in range(20_001)}, "x" * 1_000_000]
)
@pytest.mark.parametrize("as_text", [False, True])
def test_nothing_beside_a_trusted_field_keeps_it_from_being_found(page: Any, as_text: bool) -> None:
    result = {"page": page, "email": "a@b.example"}
    labels = observe_result(MIXED, task(), json.dumps(result) if as_text else result).labels
    assert "mixed.email" in {label.source for label in labels if label.trusted}


@pytest.mark.promise("untrusted-lends-nothing")
def test_a_key_with_dots_is_no_path_to_a_trusted_field() -> None:
    spec = ToolSpec(name="form", path=ToolPath.READ, untrusted=True, trusted=frozenset({"customer.email"}))
    result = {"customer": {"email": "bob@b.example"}, "customer.email": "eve@e.example"}
    for order in (result, dict(reversed(result.items()))):
        labels = observe_result(spec, task(), order).labels
        trusted = {label.digest for label in labels if label.trusted}
        assert digest(task().root_id, "bob@b.example") in trusted
        assert digest(task().root_id, "eve@e.example") not in trusted


@pytest.mark.promise("results-in-bounded-time")
@pytest.mark.parametrize(
    "make_result",
    [
        lambda: nested("a1 " * 500, 7),
        lambda: nested("a1 " * 500, 7, name="n"),
        lambda: nested("x", 7, name="n" * 10_000),
        lambda: nested("x", 50_000, width=1, name="n"),
        lambda: [f"{n}@x " * 100_000 for n in range(20)],
        lambda: "[" * 1_000_000,
        lambda: {"n" * 1000 + str(n): n for n in range(50_000)},
    ],
    ids=["texts", "fields", "long names", "deep", "words", "brackets", "keys"],
)
@pytest.mark.parametrize("spec", [WEB, ToolSpec(name="all", path=ToolPath.READ, trusted=frozenset({"*"}))])
def test_a_result_is_looked_through_in_bounded_time(spec: ToolSpec, make_result: Callable[[], Any]) -> None:
    result = make_result()
    start = perf_counter()
    assert len(observe_result(spec, task(), result).labels) <= 2 * PER_RESULT
    assert perf_counter() - start < SECONDS


@pytest.mark.promise("results-in-bounded-time")
def test_what_a_result_says_again_is_noted_once() -> None:
    labels = observe_result(WEB, task(), ["see a1 and a1 or a1"] * 1000).labels
    assert len(labels) == len({label.digest for label in labels}) == 2


@pytest.mark.promise("calls-in-bounded-time")
@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("Please tag the letters of this. " * 500, ["e"] * 5000),
        ("a " * 8000, ["a " * n + "b" for n in range(1, 1000)]),
        ("a" * 16_000, ["a" * n for n in range(1, 1000)]),
        ('"' * 16_000, ['"' * n + " " for n in range(1, 1000)]),
        ("7 " * 8000, list(range(8, 5000))),
    ],
    ids=["letters", "blanks", "one word", "quotes", "numbers"],
)
def test_values_are_looked_up_in_the_users_words_in_bounded_time(words: str, values: list[Any]) -> None:
    start = perf_counter()
    provenance_of(POST, Arguments.of({"values": values}), task(words=words), {})
    assert perf_counter() - start < SECONDS


def test_a_value_with_blanks_is_found_among_its_parts() -> None:
    words = 'He said "Ada Byron", xAda Byron, Ada Byronx and (Ada  Byron).'
    assert words_contain(words, "Ada Byron")
    assert words_contain(words, "Ada  Byron")
    assert not words_contain(words, "said Ada")
    assert not words_contain("xAda Byron and Ada Byronx", "Ada Byron")
