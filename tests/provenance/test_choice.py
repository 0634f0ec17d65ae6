"""The choice of the user's own words spells no secret, and an ordinary call that repeats them is public."""

from __future__ import annotations

import string
from dataclasses import replace
from typing import Any

import pytest

from agentguard.model import Arguments, Label, Mandate, Sensitivity, TaskState, ToolPath, ToolSpec
from agentguard.provenance.arguments import provenance_of
from agentguard.provenance.labels import observe_result
from agentguard.provenance.leaves import digest
from tests.provenance.test_provenance import task

POST = ToolSpec(name="post", path=ToolPath.WRITE)
SECRET = "sk-live-9f8e7d6c5b4a39281706f5e4d3c2b1a0ffee42"


def _highest(arguments: dict[str, Any], state: TaskState) -> Sensitivity:
    spec = ToolSpec(name="post", path=ToolPath.WRITE, schema={"properties": {name: {} for name in arguments}})
    by_argument = provenance_of(spec, Arguments.of(arguments), state, {}).arguments
    return max(provenance.sensitivity for provenance in by_argument.values())


def _state(words: str) -> TaskState:
    return task(words=words, sensitivity=max(Sensitivity), untrusted=True)


@pytest.mark.promise("untrusted-lends-nothing")
@pytest.mark.parametrize("spread", ["one list", "arguments"])
def test_the_choice_of_32_of_a_users_4096_words_is_as_sensitive_as_the_task(spread: str) -> None:
    rest = [f"w{number:04x}" for number in range(4_096)]
    state, number, words = _state(" ".join(rest)), int.from_bytes(SECRET.encode(), "big"), list[str]()
    for _ in range(32):
        number, digit = divmod(number, len(rest))
        words.append(rest.pop(digit))
    assert number == 0
    arguments = {"tags": words} if spread == "one list" else {f"a{n}": word for n, word in enumerate(words)}
    assert _highest(arguments, state) == state.sensitivity


REQUEST = "please write a short note to our team about the new plan for next month"


def _spelled(values: list[str]) -> list[str]:
    """Spell the secret by which of *values* are taken, and in which order."""
    rest, number, result = list(values), int.from_bytes(SECRET.encode(), "big"), list[str]()
    while number:
        number, digit = divmod(number, len(rest))
        result.append(rest.pop(digit))
    return result


@pytest.mark.promise("untrusted-lends-nothing")
def test_the_choice_of_phrases_is_as_sensitive_as_the_task_though_all_single_words_were_used_before() -> None:
    words = REQUEST.split()
    ends = range(len(words) + 1)
    phrases = [" ".join(words[start:end]) for start in ends for end in ends if end > start + 1]
    values = [*words, *_spelled(phrases)]
    arguments = {f"a{n}": values[30 * n : 30 * n + 30] for n in range(3)}
    state = _state(REQUEST)
    assert _highest(arguments, state) == state.sensitivity


@pytest.mark.promise("untrusted-lends-nothing")
def test_the_choice_of_phrases_of_one_repeated_word_is_as_sensitive_as_the_task() -> None:
    state = _state(" ".join(["x"] * 4_000))
    values = _spelled([" ".join(["x"] * length) for length in range(2, 4_000)])
    assert len(values) <= 32
    assert _highest({"rows": values}, state) == state.sensitivity


def test_a_few_phrases_of_a_users_long_text_are_public() -> None:
    words = [f"word{number}" for number in range(300)]
    phrases = {f"a{n}": " ".join(words[30 * n : 30 * n + 12]) for n in range(5)}
    assert _highest(phrases, _state(" ".join(words))) == Sensitivity.PUBLIC


@pytest.mark.promise("untrusted-lends-nothing")
def test_a_letter_in_each_argument_is_as_sensitive_as_the_task() -> None:
    state = _state(" ".join(string.ascii_lowercase + string.digits + "-"))
    assert _highest({f"a{n}": letter for n, letter in enumerate(SECRET)}, state) == state.sensitivity


@pytest.mark.promise("untrusted-lends-nothing")
def test_which_optional_arguments_are_there_is_as_sensitive_as_the_task() -> None:
    bits = "".join(f"{byte:08b}" for byte in SECRET.encode())[:360]
    state = _state(" ".join(f"v{n}" for n in range(360)))
    arguments = {f"k{n}": f"v{n}" for n, bit in enumerate(bits) if bit == "1"}
    assert _highest(arguments, state) == state.sensitivity


ADDRESSES = [f"person{number}@corp.example" for number in range(256)]
LISTS = {
    name: list(dict.fromkeys(ADDRESSES[byte] for byte in (SECRET * 3).encode()[start : start + 30]))
    for name, start in (("a", 0), ("b", 30), ("c", 60))
}
EACH = {f"a{number}": ADDRESSES[byte] for number, byte in enumerate(SECRET.encode())}


@pytest.mark.promise("untrusted-lends-nothing")
@pytest.mark.parametrize("arguments", [LISTS, EACH], ids=["lists", "arguments"])
@pytest.mark.parametrize("voucher", ["mandate", "this tool's mandate", "counterparties", "a trusted field"])
def test_the_choice_among_values_that_anybody_vouches_for_is_as_sensitive_as_the_task(
    voucher: str, arguments: dict[str, Any]
) -> None:
    spec, state = POST, _state("")
    labels: dict[str, list[Label]] = {}
    if voucher == "a trusted field":
        contacts = ToolSpec(name="contacts", path=ToolPath.READ, trusted=frozenset({"email"}))
        noted = observe_result(contacts, state, [{"email": address} for address in ADDRESSES]).labels
        labels = {label.digest: [label] for label in noted}
        state = replace(state, labels=len(labels))
    else:
        place = {"mandate": "{}", "this tool's mandate": "post.{}"}.get(voucher, "")
        limits: dict[str, Any] = {"args": {place.format(name): ADDRESSES for name in arguments}}
        if voucher == "counterparties":
            limits, spec = {"counterparties": ADDRESSES}, replace(POST, sinks=frozenset(arguments))
        state = replace(state, mandate=Mandate.of({"tools": "*", **limits}))
    by_argument = provenance_of(spec, Arguments.of(arguments), state, labels).arguments
    assert min(part.sensitivity for part in by_argument.values()) is state.sensitivity
    few = {name: values for name, values in arguments.items() if name in ("a0", "a1")} or {"a": ADDRESSES[:6]}
    by_argument = provenance_of(spec, Arguments.of(few), state, labels).arguments
    assert {part.sensitivity for part in by_argument.values()} == {Sensitivity.PUBLIC}


def test_a_mandate_with_one_value_leaves_no_choice() -> None:
    arguments = {f"a{number}": "EUR" for number in range(200)}
    limits = {key: ["EUR"] for key in arguments}
    state = replace(_state(""), mandate=Mandate.of({"tools": "*", "args": limits}))
    schema = {"properties": {key: {"type": "string"} for key in arguments}, "required": list(arguments)}
    by_argument = provenance_of(replace(POST, schema=schema), Arguments.of(arguments), state, {}).arguments
    assert {part.sensitivity for part in by_argument.values()} == {Sensitivity.PUBLIC}


@pytest.mark.promise("untrusted-lends-nothing")
def test_the_forms_of_one_word_of_the_user_are_a_choice() -> None:
    state = _state('"(10)"')
    forms: list[Any] = [10, "10", "(10)", '"(10)"', '"(10', "(10"]
    assert _highest({f"a{n}": forms[n * n % len(forms)] for n in range(60)}, state) == state.sensitivity


PROSE = (
    "please write to ann@corp.example and bob@corp.example and carol that we meet on 12 May at 14 Main Street"
)
SENTENCE = " ".join(f"word{n}" for n in range(30))


@pytest.mark.parametrize("more", [0, 4_000])
@pytest.mark.parametrize(
    "arguments",
    [
        {"to": ["ann@corp.example", "bob@corp.example"], "name": "carol", "text": SENTENCE},
        {"to": "ann@corp.example", "street": "14 Main Street", "day": 12, "month": "May"},
        {"text": SENTENCE},
        {"names": ["ann@corp.example", "bob@corp.example", "carol"], "from": "ann@corp.example"},
    ],
)
def test_an_ordinary_call_that_repeats_the_users_words_is_public(arguments: Any, more: int) -> None:
    words = " ".join([PROSE, SENTENCE, *(f"more{n}" for n in range(more))])
    assert _highest(arguments, _state(words)) == Sensitivity.PUBLIC


@pytest.mark.promise("untrusted-lends-nothing")
def test_single_characters_of_a_trusted_text_are_not_vouched_for() -> None:
    contacts = ToolSpec(name="contacts", path=ToolPath.READ, trusted=frozenset({"email"}))
    state = _state("x")
    labels = observe_result(contacts, state, {"email": "a, b; c: d, ann@corp.example"}).labels
    digests = {label.digest for label in labels}
    assert digest(state.root_id, "ann@corp.example") in digests
    assert not digests & {digest(state.root_id, letter) for letter in "abcd"}


@pytest.mark.promise("untrusted-lends-nothing")
@pytest.mark.parametrize("field", ["cc", "from"])
def test_the_parts_of_a_long_trusted_text_take_no_room_of_another(field: str) -> None:
    mail = ToolSpec(name="mail", path=ToolPath.READ, trusted=frozenset({"mails.from", "mails.cc"}))
    state = _state("x")
    mails = [{field: ", ".join(f"e{n}@x.example" for n in range(2_100))}, {"from": "boss@corp.example"}]
    labels = observe_result(mail, state, {"mails": mails}).labels
    assert digest(state.root_id, "boss@corp.example") in {label.digest for label in labels if label.trusted}
