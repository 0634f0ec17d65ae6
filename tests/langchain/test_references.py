"""A reference in a schema is found once, and to follow it costs counted work."""

from __future__ import annotations

from time import process_time
from typing import Any

import pytest
from jsonschema import ValidationError
from langchain_core.tools import StructuredTool

from agentguard import ConfigurationError
from agentguard.errors import DenialCode
from agentguard.langchain.json_schema import WorkExceeded, compile_schema
from tests.conftest import Kit, Mode, classified, tool_call

SECONDS = 2.0
FILL = {f"f{n}": {"type": "string"} for n in range(400)}
NEWEST = "https://json-schema.org/draft/2020-12/schema"
DRAFT_7, DRAFT_2019 = (
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft/2019-09/schema",
)


def _listed(reference: dict[str, Any], target: dict[str, Any], **more: Any) -> dict[str, Any]:
    definitions = {"x": {"type": "integer", **target}, **FILL}
    items = {"properties": {"t": {"type": "array", "items": reference}}}
    return {"$schema": NEWEST, "type": "object", "$defs": definitions, **items, **more}


SCHEMAS = {
    "pointer": _listed({"$ref": "#/$defs/x"}, {}),
    "anchor": _listed({"$ref": "#x"}, {"$anchor": "x"}),
    "dynamic anchor": _listed({"$dynamicRef": "#x"}, {"$dynamicAnchor": "x"}),
    "id": _listed(
        {"$ref": "https://b.example/"}, {"$id": "https://b.example/"}, **{"$id": "https://a.example/"}
    ),
    "relative id": _listed({"$ref": "b"}, {"$id": "b"}, **{"$id": "https://a.example/"}),
    "anchor in id": _listed({"$ref": "b#y"}, {"$id": "b", "$anchor": "y"}, **{"$id": "https://a.example/"}),
    "draft 7": _listed(
        {"$ref": "#x"},
        {"$id": "#x"},
        **{"$schema": DRAFT_7, "definitions": {"x": {"$id": "#x", "type": "integer"}}},
    ),
    "draft 2019": _listed({"$ref": "#x"}, {"$anchor": "x"}, **{"$schema": DRAFT_2019}),
    "recursive": {
        "$schema": DRAFT_2019,
        "$recursiveAnchor": True,
        "type": ["object", "integer"],
        "properties": {"t": {"type": "array", "items": {"$recursiveRef": "#"}}},
        "$defs": FILL,
    },
}


@pytest.mark.exhaustive(3)
@pytest.mark.promise("schemas-in-bounded-time")
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_reference_is_looked_for_once_for_each_schema(name: str) -> None:
    validate = compile_schema(SCHEMAS[name])
    with pytest.raises(ValidationError):
        validate({"t": [1, "no"]})
    start = process_time()
    validate({"t": list(range(2_000))})
    assert process_time() - start < SECONDS  # one look through the schema for each takes 10 s or more


@pytest.mark.promise("schemas-in-bounded-time")
@pytest.mark.parametrize("name", ["anchor", "id", "dynamic anchor"])
async def test_a_servers_references_hold_no_call_up(kit: Kit, task: Any, mode: Mode, name: str) -> None:
    post = StructuredTool(name="post", description="d", func=lambda **_: "ok", args_schema=SCHEMAS[name])
    guarded = kit.guard.wrap([classified(post, path="read")])[0]
    start = process_time()
    answer = await mode.invoke(guarded, tool_call("post", t=list(range(1_000))))
    assert answer.content == "ok"
    assert process_time() - start < SECONDS
    answer = await mode.invoke(guarded, tool_call("post", t=["no"]))
    assert kit.decisions()[-1] == DenialCode.INVALID_ARGUMENTS.value


def _chain(last: dict[str, Any], length: int = 40) -> dict[str, Any]:
    """Return a schema of which each part refers to the next one in another document."""
    parts = {
        f"d{n}": {
            "$id": f"https://x.example/{n}",
            "$dynamicAnchor": f"a{n}",
            "$ref": f"https://x.example/{n + 1}",
        }
        for n in range(length)
    }
    parts["end"] = {"$id": f"https://x.example/{length}", "$dynamicAnchor": "x", **last}
    return {
        "$schema": NEWEST,
        "$id": "https://x.example/",
        "$defs": parts,
        "properties": {"t": {"$ref": "0"}},
    }


def _steps(length: int = 45) -> dict[str, Any]:
    """Return a schema with a reference of many steps."""
    inner: dict[str, Any] = {}
    for _ in range(length):
        inner = {"$defs": {"a": inner}}
    items = {"allOf": [{"$ref": "#" + "/$defs/a" * length}] * 50}
    return {**inner, "properties": {"t": {"items": items}}}


@pytest.mark.exhaustive(1)
@pytest.mark.promise("schemas-in-bounded-time")
@pytest.mark.parametrize(
    "schema",
    [_chain({"items": {"allOf": [{"$dynamicRef": "#x"}] * 50}}), _steps()],
    ids=["documents", "steps"],
)
def test_a_long_way_to_a_place_is_counted(schema: dict[str, Any]) -> None:
    validate, start = compile_schema(schema), process_time()
    with pytest.raises(WorkExceeded):
        validate({"t": [1] * 2_000})
    assert process_time() - start < SECONDS


@pytest.mark.promise("schemas-in-bounded-time")
@pytest.mark.parametrize("keyword", ["$ref", "$id", "$anchor", "$dynamicRef"])
def test_a_long_name_is_refused(keyword: str) -> None:
    with pytest.raises(ConfigurationError, match="more than 1000 characters"):
        compile_schema({"properties": {"t": {"items": {keyword: "a" * 1_001}}}})


@pytest.mark.parametrize(
    "reference", ["https://else.example/s", "#nowhere", "#/$defs/none", "file:///etc/passwd"]
)
def test_a_reference_to_nowhere_denies_and_fetches_nothing(reference: str) -> None:
    validate = compile_schema({"properties": {"t": {"$ref": reference}}})
    with pytest.raises(Exception, match=r"Unresolvable|NoSuchAnchor|PointerToNowhere"):
        validate({"t": 1})


def test_the_metaschema_can_be_referred_to() -> None:
    validate = compile_schema({"properties": {"t": {"$ref": NEWEST}}})
    validate({"t": {"type": "string"}})
    with pytest.raises(ValidationError):
        validate({"t": {"type": 1}})
