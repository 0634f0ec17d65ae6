"""How many bits the parts of a call say: each part is counted as what it can say, and no less."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, comb, factorial, log2
from typing import Any

import pytest

from agentguard.model import Arguments, Label, Mandate, Sensitivity, ToolPath, ToolSpec
from agentguard.model.declared import declared_in
from agentguard.provenance.arguments import provenance_of
from agentguard.provenance.leaves import digest
from agentguard.provenance.structure import bits_of_order, bits_of_presence, take_apart
from agentguard.provenance.words import phrases_count
from tests.provenance.test_provenance import task

PROMISE = pytest.mark.promise("small-pieces-are-charged")
NAMES = ("a", "b", "c", "d")
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "one": {"type": "object", "properties": {"x": {}}, "required": ["x"]},
        "some": {"type": "object", "properties": {name: {"type": "string"} for name in NAMES}},
        "list": {"type": "array"},
        "text": {"type": "string", "default": ""},
        "choice": {"anyOf": [{"type": "string"}, {"type": "array"}], "default": ""},
    },
}


@PROMISE
@pytest.mark.parametrize(
    ("name", "value", "bits"),
    [
        ("one", {"x": 1}, 1),
        ("one", {"x": {}}, 1),
        ("list", [1], 1 + log2(2)),
        ("list", [1, 2, 3], 1 + log2(4)),
        ("list", [[1, 2], 3], 1 + log2(3) + 1 + log2(3)),
        ("some", {"a": "x", "c": "y"}, 1 + log2(5) + log2(comb(4, 2))),
        ("some", {"a": "x"}, 1 + log2(5) + log2(4)),
        ("some", dict.fromkeys(NAMES, "x"), 1 + log2(5)),
        ("text", "", 0),
        ("text", "word", 0),
    ],
)
def test_each_part_of_an_arguments_structure_says_its_bits(name: str, value: Any, bits: float) -> None:
    assert take_apart(name, value, declared_in(TREE))[1] == pytest.approx(bits)


@PROMISE
def test_which_of_several_empty_values_stands_there_says_bits() -> None:
    schema = {"properties": {"choice": {"anyOf": [{"const": ""}, {"const": []}], "default": ""}}}
    place = declared_in(schema)
    choices = place.omission_choices("choice", "")
    assert take_apart("choice", "", place)[1] == pytest.approx(log2(choices))


@PROMISE
@pytest.mark.parametrize("there", range(5))
def test_which_optional_properties_are_there_says_how_many_and_which(there: int) -> None:
    place = declared_in(TREE["properties"]["some"])
    assert bits_of_presence(place, NAMES[:there]) == pytest.approx(log2(5) + log2(comb(4, there)))


@PROMISE
def test_an_order_of_keys_says_which_order_it_is_and_a_repeated_one_which_of_those_before() -> None:
    one, other = 'x: order ["a", "b", "c"]', 'y: order ["c", "a", "b"]'
    again = 'z: order ["a", "b", "c"]'
    assert bits_of_order([one]) == pytest.approx(log2(factorial(3)))
    assert bits_of_order([one, other]) == pytest.approx(2 * log2(factorial(3)) + log2(2))
    assert bits_of_order([one, other, again]) == pytest.approx(2 * log2(factorial(3)) + log2(2) + log2(3))
    assert bits_of_order(["x: class shop.Publish"]) == 0


WORDS = " ".join(f"w{number}" for number in range(64))
MANDATE = Mandate.of({"tools": "*", "args": {"to": [f"m{number}" for number in range(16)]}})
FULL = {"type": "object", "properties": {"to": {}, "cc": {}}, "required": ["to", "cc"]}
SECRET = task(words=WORDS, sensitivity=max(Sensitivity), untrusted=True)
LABELS = {
    digest(SECRET.root_id, f"l{number}"): [
        Label(digest(SECRET.root_id, f"l{number}"), "contacts.email", trusted=True)
    ]
    for number in range(32)
}


@PROMISE
@pytest.mark.parametrize(
    ("arguments", "changes", "bits"),
    [
        ({"to": "w1"}, {}, 6),
        ({"to": "w1", "cc": "w2"}, {}, log2(64) + log2(63)),
        ({"to": "w1", "cc": "w1"}, {}, 12),
        ({"to": "w1 w2"}, {}, log2(phrases_count(WORDS))),
        ({"to": "m1"}, {"mandate": MANDATE}, 4),
        ({"to": "w1"}, {"labels": 32}, 7),
        ({"to": "l1"}, {"labels": 32}, 6),
        ({"to": "l1"}, {"labels": 32, "words": ""}, 5),
        ({"to": "unknown"}, {}, 0),
        ({"to": "w1"}, {"sensitivity": Sensitivity.PUBLIC}, 0),
        ({"to": ["w1"]}, {}, 6 + 1 + 1),
        ({"to": {}}, {}, 0),
    ],
)
@pytest.mark.parametrize("tools", [1, 8])
def test_a_call_says_the_choice_of_each_value_and_of_its_tool(
    arguments: dict[str, Any], changes: dict[str, Any], bits: float, tools: int
) -> None:
    state = replace(SECRET, **changes)
    labels = LABELS if state.labels else {}
    spec = ToolSpec(name="post", path=ToolPath.WRITE, schema=FULL)
    choice = provenance_of(spec, Arguments.of(arguments), state, labels, tools=tools).choice
    assert choice.bits == (ceil(bits + log2(tools) - 1e-9) if bits else 0)


@PROMISE
def test_a_call_says_which_of_its_optional_arguments_are_there_and_the_order_of_keys() -> None:
    schema = {"type": "object", "properties": {name: {} for name in NAMES}}
    spec = ToolSpec(name="post", path=ToolPath.WRITE, schema=schema)
    arguments = Arguments.of({"a": "w1"}, ('x: order ["a", "b", "c", "d"]',))
    assert provenance_of(spec, arguments, SECRET, {}).choice.bits == ceil(
        log2(64) + log2(5) + log2(4) + log2(factorial(4))
    )
