"""A server's schema and a model's arguments cost bounded time and memory, before anything is judged."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest
from jsonschema import ValidationError
from langchain_core.tools import StructuredTool

from agentguard.langchain.json_schema import WorkExceeded, compile_schema
from tests.conftest import Kit, Mode, tool_call


def _each(part: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "array", "items": part}}}


def _all(*parts: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"allOf": list(parts)}}}


MANY = [f"value {number}" for number in range(4_500)]
COSTLY: dict[str, tuple[dict[str, Any], Any]] = {
    "required": (_each({"required": [f"r{n}" for n in range(1_000)]}), [{}] * 500),
    "properties": (_each({"properties": {f"p{n}": True for n in range(600)}}), [{}] * 9_000),
    "dependent": (_each({"dependentRequired": {f"p{n}": [] for n in range(500)}}), [{}] * 9_000),
    "uniqueItems": (
        _all(*({"uniqueItems": True, "maxItems": 10**6 + n} for n in range(900))),
        [*range(9_000)],
    ),
    "deep uniqueItems": (
        _all(*({"uniqueItems": True, "$id": f"u:{n}"} for n in range(90))),
        [[*range(9_000)]],
    ),
    "items": (_all(*({"items": True, "maxItems": 10**6 + n} for n in range(200))), [1] * 9_000),
    "pattern": (_all(*({"pattern": f"(x{n})?$"} for n in range(50))), "abcde" * 18_000),
    "const": (_each({"not": {"const": [*range(4_000), -1]}}), [[*range(4_000), 1]] * 100),
}


@pytest.mark.exhaustive(3)
@pytest.mark.parametrize("kind", COSTLY)
@pytest.mark.promise("schemas-in-bounded-time")
def test_a_keyword_is_charged_for_what_it_visits(kind: str) -> None:
    schema, value = COSTLY[kind]
    with pytest.raises((WorkExceeded, ValidationError)) as caught:
        compile_schema(schema)({"a": value})
    assert caught.type is WorkExceeded or kind == "required"


@pytest.mark.promise("schemas-in-bounded-time")
def test_values_to_choose_from_are_hashed_once() -> None:
    validate = compile_schema(_each({"enum": MANY}))
    started = time.thread_time()
    validate({"a": [MANY[-1]] * 8_000})
    assert time.thread_time() - started < 2
    for value, fits in ((1, True), (1.0, True), (True, False), ([{"k": 2}], True), ([{"k": True}], False)):
        choice = compile_schema(_each({"enum": [1, [{"k": 2}]]}))
        if fits:
            choice({"a": [value]})
        else:
            with pytest.raises(ValidationError, match="is not one of"):
                choice({"a": [value]})


@pytest.mark.exhaustive(2)
@pytest.mark.parametrize("refuses", [{"type": "integer"}, {"minLength": 2_000_000}, False, {"not": {}}])
@pytest.mark.promise("schemas-in-bounded-time")
def test_messages_hold_no_large_value(refuses: Any) -> None:
    branches = [refuses if refuses is False else {**refuses, "$comment": str(n)} for n in range(300)]
    validate = compile_schema({"type": "object", "properties": {"a": {"anyOf": branches}}})
    value = "x" * 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises((WorkExceeded, ValidationError)):
            validate({"a": value})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000_000


@pytest.mark.promise("schemas-in-bounded-time")
async def test_ordinary_arguments_are_within_the_work(mode: Mode, kit: Kit, task: Any) -> None:
    fields = {f"f{n}": {"type": "string", "enum": MANY[:200]} for n in range(20)}
    rows = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    tool = StructuredTool(
        name="read", description="d", args_schema=_each(rows), func=lambda a: "ran", coroutine=None
    )
    row = dict.fromkeys(fields, MANY[7])
    answer = await mode.invoke(kit.wrap(tool), tool_call("read", a=[row] * 300))
    assert answer.text == "ran"
    text = {"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, {"type": "string"}]}}}
    compile_schema(text)({"a": "x" * 1_000_000})
