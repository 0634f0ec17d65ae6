"""Names that a schema declares spell no secret: where they stand and which are there is counted."""

from __future__ import annotations

from time import process_time
from typing import Any

import pytest
from langchain_core.tools import StructuredTool, tool

from agentguard.model import Arguments, Provenance, Sensitivity, ToolPath, ToolSpec
from agentguard.provenance.arguments import provenance_of
from agentguard.provenance.structure import bits_of_order
from tests.conftest import Kit, Mode, classified
from tests.provenance.test_bounds import SECONDS
from tests.provenance.test_provenance import task

SECRET = "hunter2-and-an-API-key-of-forty-five-bytes"
BITS = [int(bit) for byte in SECRET.encode() for bit in f"{byte:08b}"]
STATE = task(untrusted=True, sensitivity=Sensitivity.RESTRICTED, words="mail Ada")
UNKNOWN = Provenance(user=False, trusted=False, untrusted=True, sensitivity=Sensitivity.RESTRICTED)
Json = dict[str, Any]
NAMES = ("title", "body", "owner", "due", "state", "label", "parent")
FREE = {"data": {"type": "object"}, **{name: {"type": "string", "default": ""} for name in NAMES}}


def _nested(names: list[str], leaf: Any) -> Any:
    for name in reversed(names):
        leaf = {name: leaf}
    return leaf


def _origins(schema: Json, arguments: Json, distinctions: tuple[str, ...] = ()) -> dict[str, Provenance]:
    spec = ToolSpec(name="post", path=ToolPath.WRITE, schema={"type": "object", **schema})
    return provenance_of(spec, Arguments.of(arguments, distinctions), STATE, {}).arguments


@pytest.mark.promise("untrusted-lends-nothing")
@pytest.mark.parametrize(
    "data",
    [
        _nested([NAMES[byte % 7] for byte in SECRET.encode()], ""),
        _nested([NAMES[byte % 7] for byte in SECRET.encode()], "Ada"),
        {"title": "", "owner": "", "state": {"body": "", "parent": {"due": ""}}},
        {"title": "Ada"},
        [{"title": ""}],
        {"": {"": {}}},
    ],
)
def test_an_arguments_name_is_a_value_inside_a_free_object(data: Any) -> None:
    origin = _origins({"properties": FREE}, {"data": data})["data"]
    assert (origin.user, origin.trusted, origin.sensitivity) == (False, False, Sensitivity.RESTRICTED)


PLACES: dict[str, Json] = {
    "reference": {"$ref": "#/$defs/To"},
    "escaped reference": {"$ref": "#/$defs/a~1b"},
    "chain": {"$ref": "#/$defs/Chain"},
    "union": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/To"}]},
    "allOf": {"allOf": [{"$ref": "#/$defs/To"}]},
    "items": {"items": {"$ref": "#/$defs/To"}},
    "prefixItems": {"prefixItems": [{"$ref": "#/$defs/To"}]},
}
TO = {"properties": {"who": {"type": "string"}, "id": {}}, "required": ["who"]}
DEFINITIONS = {"To": TO, "a/b": TO, "Chain": {"$ref": "#/$defs/To"}}


@pytest.mark.promise("value-of-user-exact")
@pytest.mark.parametrize("place", PLACES)
def test_a_name_is_declared_where_the_schema_describes_this_object(place: str) -> None:
    schema = {"properties": {"to": PLACES[place], "note": {}}, "$defs": DEFINITIONS}
    listed = place.endswith("tems")
    for to, trusted in (({"who": "Ada"}, True), ({"note": "Ada"}, False), ({"to": "Ada"}, False)):
        origin = _origins(schema, {"to": [to] if listed else to})["to"]
        assert (origin.trusted, origin.user) == (trusted, trusted), to
    assert not _origins(schema, {"to": {"who": ""}})["to"].trusted


@pytest.mark.promise("value-of-user-exact")
def test_a_tables_own_keys_are_values_and_the_properties_of_its_rows_are_none() -> None:
    schema = {"properties": {"by": {"additionalProperties": TO}}}
    assert _origins(schema, {"by": {"Ada": {"who": "Ada"}}})["by"].user
    assert not _origins(schema, {"by": {"EVIL": {"who": "Ada"}}})["by"].user
    assert not _origins(schema, {"by": {"who": {"who": "Ada"}}})["by"].user


def test_a_property_that_another_part_of_allof_requires_is_not_optional() -> None:
    schema = {"properties": {"to": {"allOf": [{"properties": {"who": {}}}, {"required": ["who"]}]}}}
    assert _origins(schema, {"to": {"who": ""}})["to"] == UNKNOWN


TREE: Json = {
    "properties": {"tree": {"$ref": "#/$defs/Node"}},
    "$defs": {"Node": {"properties": {key: {"$ref": "#/$defs/Node"} for key in ("left", "right")}}},
}


@pytest.mark.promise("untrusted-lends-nothing")
@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        (
            {"properties": {f"p{n}": {"type": "string"} for n in range(len(BITS))}},
            {f"p{n}": "" for n, bit in enumerate(BITS) if bit},
        ),
        (
            {"properties": {f"p{n}": {} for n in range(80)}},
            {f"p{n}": ["", None, [], {}][2 * BITS[2 * n] + BITS[2 * n + 1]] for n in range(80)},
        ),
        (TREE, {"tree": _nested([("left", "right")[bit] for bit in BITS[:90]], {})}),
        ({"properties": {"a": {}}}, {"a": {}, **{f"hunter{n}": "" for n in range(3)}}),
    ],
    ids=["which are there", "which empty value", "a tree", "undeclared arguments"],
)
def test_structure_that_says_much_is_nobodys_and_as_sensitive_as_the_task(
    schema: Json, arguments: Json
) -> None:
    origins = _origins(schema, arguments)
    assert {origins[name] for name in arguments if name != "a"} == {UNKNOWN}


@pytest.mark.promise("untrusted-lends-nothing")
@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ({"properties": {f"a{n}": {} for n in range(100)}}, {f"a{n}": "Ada" for n in range(0, 100, 2)}),
        ({"properties": {f"a{n}": {} for n in range(40)}, "additionalProperties": False}, "depth"),
        ({"properties": {}}, {"hunter2": "Ada"}),
    ],
    ids=["which repeat a word", "lists in lists", "a name of an argument"],
)
def test_structure_around_a_word_of_the_user_is_as_sensitive_as_the_task(
    schema: Json, arguments: Any
) -> None:
    if arguments == "depth":
        arguments = {}
        for n in range(40):
            value: Any = "Ada"
            for _ in range(SECRET.encode()[n] // 4):
                value = [value]
            arguments[f"a{n}"] = value
    origins = _origins(schema, arguments)
    assert min(origins[name].sensitivity for name in arguments) is Sensitivity.RESTRICTED


@pytest.mark.promise("untrusted-lends-nothing")
def test_the_order_of_keys_that_a_tool_can_see_is_counted() -> None:
    order = ", ".join(f'"k{n}"' for n in range(40))
    arguments = {"to": "Ada"}
    schema: Json = {"properties": {"to": {}}}
    assert _origins(schema, arguments)["to"].sensitivity is Sensitivity.PUBLIC
    same = tuple(f"to[{n}]: order [{order[:30]}]" for n in range(30))
    assert _origins(schema, arguments, same)["to"].sensitivity is Sensitivity.PUBLIC
    origin = _origins(schema, arguments, (f"to: order [{order}]",))["to"]
    assert origin.sensitivity is Sensitivity.RESTRICTED


def test_an_ordinary_call_with_many_optional_arguments_is_public() -> None:
    defaults = {f"p{n}": {"type": "string", "default": ""} for n in range(300)}
    schema = {"properties": {"to": {"type": "string"}, **defaults}, "required": ["to"]}
    every = {"to": "Ada", **dict.fromkeys(defaults, "")}
    for arguments in (every, {"to": "Ada"}, {"to": "Ada", "p7": "", "p8": ""}):
        origins = _origins(schema, arguments)
        assert origins["to"] == Provenance(sources=frozenset({"user"}))
        assert all(origins[name] == Provenance() for name in defaults)


@pytest.mark.promise("calls-in-bounded-time")
def test_a_servers_schema_is_read_in_bounded_time() -> None:
    definitions = {
        f"d{n}": {
            "properties": {
                f"p{bit}": {"anyOf": [{"$ref": f"#/$defs/d{(n * 7 + bit + at) % 60}"} for at in range(9)]}
                for bit in range(6)
            }
        }
        for n in range(60)
    }
    schema = {"properties": {"to": {"$ref": "#/$defs/d0"}}, "$defs": definitions}
    start = process_time()
    value = _nested([f"p{n % 6}" for n in range(90)], "Ada")
    _origins(schema, {"to": [value] * 10})
    assert process_time() - start < SECONDS


@tool
def vault() -> str:
    """Read a secret."""
    return SECRET


@pytest.mark.promise("untrusted-lends-nothing")
@pytest.mark.parametrize("value", ["", None])
async def test_which_arguments_of_a_servers_tool_are_there_is_as_sensitive_as_the_task(
    kit: Kit, task: Any, mode: Mode, value: Any
) -> None:
    schema = {"type": "object", "properties": {f"p{n}": {} for n in range(len(BITS))}}
    post = StructuredTool(name="post", description="Post.", func=lambda **_: "ok", args_schema=schema)
    read, write = kit.guard.wrap(
        [classified(vault, path="read", sensitivity="restricted"), classified(post, path="write")]
    )
    read.invoke({})
    arguments = {f"p{n}": value for n, bit in enumerate(BITS) if bit}
    await mode.invoke(write, arguments)
    origins = kit.rule.asked[-1].provenance
    assert {(origins[name].user, origins[name].sensitivity) for name in arguments} == {
        (False, Sensitivity.RESTRICTED)
    }


@pytest.mark.promise("judged-in-bounded-time")
@pytest.mark.parametrize("name", [": order []", ": order [", ": floats [1", ": 1", "[1"])
async def test_a_name_of_the_words_that_say_an_order_costs_no_time(
    name: str, kit: Kit, mode: Mode, task: Any
) -> None:
    @tool
    def page() -> str:
        """Read."""
        return "text"

    @tool
    def save(data: dict[str, Any]) -> str:
        """Save."""
        return "saved"

    read = classified(page, path="read", untrusted=True)
    reader, writer = kit.guard.wrap([read, classified(save, path="write")])
    await mode.invoke(reader, {})
    start = process_time()
    await mode.invoke(writer, {"data": {name * (140_000 // len(name)): 5.0}})
    assert process_time() - start < SECONDS


@pytest.mark.promise("untrusted-lends-nothing")
def test_words_in_a_name_hide_no_order() -> None:
    plain = bits_of_order(('data: order ["a", "b", "c", "d"]',))
    for place in ('data[": order []"]', 'data[": order ["]', "data: order ["):
        assert bits_of_order((f'{place}: order ["a", "b", "c", "d"]',)) >= plain > 4
    assert bits_of_order(('data: order ["a: order []", "b", "c", "d: order []"]',)) >= plain
    assert bits_of_order(('data[": order []"]: 5.0', "data: class A")) == 0
