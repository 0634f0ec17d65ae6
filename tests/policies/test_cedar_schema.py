"""What a policy is type-checked for is what it is given: JSON Schema to Cedar types and values."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from cedarpy import Schema
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from agentguard.analysis.lint import find_unclassified, find_unseen_arguments
from agentguard.errors import ConfigurationError
from agentguard.model import ToolPath, ToolSpec
from agentguard.policies.cedar.schema import schema_text
from agentguard.policies.cedar.types import Refused, ToolShape, quoted, shape_of
from tests.doubles.texts import texts
from tests.tiers import examples

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def spec(name: str = "tool", /, **properties: Any) -> ToolSpec:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return ToolSpec(name=name, path=ToolPath.WRITE, schema=schema)


def schema_of(*specs: ToolSpec) -> str:
    text = schema_text(specs, {spec.name: shape_of(spec) for spec in specs})
    Schema.from_str(text)
    return text


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "string"}, "String"),
        ({"type": "integer"}, "Long"),
        ({"type": "number"}, "decimal"),
        ({"type": "boolean"}, "Bool"),
        ({"type": "array", "items": {"type": "string"}}, "Set<String>"),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{ "a"?: Long }'),
        ({"enum": ["a", "b"]}, "String"),
        ({"const": "a", "type": "string"}, "String"),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, "decimal"),
        ({"allOf": [{"type": "string"}], "default": "a"}, "String"),
    ],
)
def test_a_json_type_has_its_cedar_type(part: dict[str, Any], expected: str) -> None:
    assert shape_of(spec(x=part)).text == f'{{ "x": {expected} }}'


@pytest.mark.parametrize(
    "part",
    [
        {"type": "object"},
        {"type": "array"},
        {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        {"enum": ["a", 1]},
        {"enum": []},
        {"type": "null"},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.com/schema"},
        {},
        True,
    ],
)
def test_of_what_cedar_cannot_type_only_the_presence_is_visible_and_it_is_reported(part: Any) -> None:
    shape = shape_of(spec(x=part, y={"type": "string"}))
    assert shape.text == '{ "x"?: Untyped, "y": String }'
    assert shape.unseen == ("x",)
    present = {"__entity": {"type": "Untyped", "id": "value"}}
    assert shape.convert({"x": {"any": ["thing"]}, "y": "seen"}) == {"x": present, "y": "seen"}
    assert shape.convert({"x": None, "y": "seen"}) == {"y": "seen"}


def test_unseen_arguments_are_named_with_their_place() -> None:
    class Item(BaseModel):
        model_config = ConfigDict(extra="allow")
        sku: str
        meta: dict[str, str]

    class Order(BaseModel):
        items: list[Item]
        free: Any

    tool = ToolSpec(name="order", path=ToolPath.WRITE, schema=Order.model_json_schema())
    assert find_unseen_arguments([tool, spec("plain")]) == {"order": ("items[].meta", "items[].*", "free")}
    assert shape_of(tool).text == '{ "free"?: Untyped, "items": Set<{ "sku": String }> }'


def test_a_recursive_type_ends() -> None:
    class Node(BaseModel):
        name: str
        children: list[Node] = []

    class Tree(BaseModel):
        root: Node

    shape = shape_of(ToolSpec(name="tree", path=ToolPath.READ, schema=Tree.model_json_schema()))
    assert shape.text == '{ "root": { "name": String } }'
    assert shape.unseen == ("root.children",)


def test_optional_nullable_and_defaulted_arguments_of_a_pydantic_model() -> None:
    class Refund(BaseModel):
        order_id: str
        amount: int = 5
        note: str | None = None
        reason: str | None

    shape = shape_of(ToolSpec(name="refund", path=ToolPath.WRITE, schema=Refund.model_json_schema()))
    assert shape.text == '{ "amount": Long, "note"?: String, "order_id": String, "reason"?: String }'
    values = {"order_id": "1", "amount": 5, "note": None, "reason": None}
    assert shape.convert(values) == {"order_id": "1", "amount": 5}
    with pytest.raises(Refused, match="'amount' is missing"):
        shape.convert({"order_id": "1"})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(50, "50.0"), (50.0, "50.0"), (0.1, "0.1"), (-1.2345, "-1.2345"), (1e3, "1000.0"), (0, "0.0")],
)
def test_a_number_is_an_exact_decimal(value: float, expected: str) -> None:
    converted = shape_of(spec(x={"type": "number"})).convert({"x": value})
    assert converted == {"x": {"__extn": {"fn": "decimal", "arg": expected}}}


@pytest.mark.parametrize(
    "value", [0.00001, 1.23456, 1e15, -1e300, 10**15, float("inf"), float("nan"), True, "1.0", [1.0]]
)
def test_a_number_is_never_rounded_or_guessed(value: Any) -> None:
    with pytest.raises(Refused, match="'x' "):
        shape_of(spec(x={"type": "number"})).convert({"x": value})


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("integer", 2**63),
        ("integer", -(2**63) - 1),
        ("integer", True),
        ("integer", 1.0),
        ("string", 1),
        ("string", {"__extn": {"fn": "decimal", "arg": "1.0"}}),
        ("boolean", 1),
        ("boolean", "true"),
    ],
)
def test_a_value_of_another_type_is_refused(kind: str, value: Any) -> None:
    with pytest.raises(Refused, match="'x' "):
        shape_of(spec(x={"type": kind})).convert({"x": value})


def test_a_refusal_does_not_hold_the_value() -> None:
    with pytest.raises(Refused) as caught:
        shape_of(spec(x={"type": "integer"})).convert({"x": "s3cret"})
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_undeclared_argument_is_refused_unless_the_schema_accepts_it() -> None:
    closed = spec(x={"type": "string"})
    with pytest.raises(Refused, match="'y' is not in the schema"):
        shape_of(closed).convert({"x": "a", "y": "b"})
    with pytest.raises(Refused, match="'y' is not in the schema"):
        shape_of(ToolSpec(name="bare", path=ToolPath.READ)).convert({"y": "b"})
    opened = ToolSpec(
        name="open", path=ToolPath.READ, schema={**(closed.schema or {}), "additionalProperties": True}
    )
    assert shape_of(opened).convert({"x": "a", "y": "b"}) == {"x": "a"}
    assert shape_of(opened).unseen == ("*",)


@pytest.mark.parametrize(
    "name", ["if", "__cedar", "is", "String", "", 'a"b', "a\nb", "a\\", "é", "\u2028", "`"]
)
def test_any_name_makes_a_valid_schema(name: str) -> None:
    text = schema_of(
        ToolSpec(
            name=f"tool {name}",
            path=ToolPath.READ,
            resource=name,
            schema=spec(**{name: {"type": "string"}}).schema,
        )
    )
    assert text.count(quoted(name)) >= 1


@pytest.mark.parametrize("name", ["__extn", "__entity", "__expr"])
def test_a_name_that_cedar_reads_as_a_value_is_unseen(name: str) -> None:
    shape = shape_of(spec(**{name: {"type": "string"}}))
    assert shape.unseen == (name,)
    assert shape.convert({name: "x"}) == {}


def test_the_schema_does_not_depend_on_the_order_of_tools_or_properties() -> None:
    one = spec("one", a={"type": "string"}, b={"type": "integer"})
    again = spec("one", b={"type": "integer"}, a={"type": "string"})
    two = spec("two")
    assert schema_of(one, two) == schema_of(two, again)


def test_unclassified_tools_are_listed() -> None:
    assert find_unclassified(["known", "new", "newer", "new"], [spec("known")]) == ("new", "newer")


KINDS = {
    "string": {"type": "string"},
    "number": {"type": "number"},
    "array": {"type": "array", "items": {"type": "integer"}},
    "object": {"type": "object", "properties": {"a": {"type": "boolean"}}, "additionalProperties": True},
}


@cache
def shape_with(kind: str) -> ToolShape:
    return shape_of(spec(x=KINDS[kind]))


@given(json_values)
@settings(max_examples=examples(200), deadline=None)
def test_any_value_converts_to_valid_json_or_is_refused(value: Any) -> None:
    for kind in KINDS:
        with suppress(Refused):
            json.dumps(shape_with(kind).convert({"x": value}), allow_nan=False)


KEYWORDS = ["type", "anyOf", "allOf", "enum", "const", "items", "properties", "required", "$ref", "default"]
WORDS = st.sampled_from(["string", "number", "object", "array", "#", "#/properties/x", "null"])
schemas = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=3),
    max_leaves=8,
)


@given(schemas)
@settings(max_examples=examples(200), deadline=None)
def test_any_schema_makes_a_valid_cedar_schema_or_a_configuration_error(part: Any) -> None:
    for wrapped in ({"properties": part}, {"properties": {"x": part}, "required": part}, {"required": part}):
        with suppress(ConfigurationError):
            schema_of(ToolSpec(name="tool", path=ToolPath.READ, schema=wrapped))
