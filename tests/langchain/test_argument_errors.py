"""What a validator raises ends no run unrecorded, and its words are not told to the model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from jsonschema import ValidationError as JsonSchemaError
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from agentguard.catalog import Catalog, spec_of
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call, tool_messages

DSN = "postgres://svc:hunter2@db.internal"


class _Wordless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class _WordlessValue(_Wordless, ValueError):
    pass


def _wordless(_value: Any) -> Any:
    raise _Wordless


def _wordless_value(_value: Any) -> Any:
    raise _WordlessValue


def _wordless_facts(_value: Any) -> Any:
    raise PydanticCustomError("lookup", "of {fact}", {"fact": _Wordless()})


def _surrogate(_value: Any) -> Any:
    raise RuntimeError("\ud800")


def _long(_value: Any) -> Any:
    raise RuntimeError("x" * 1_000_000)


def _reader(validator: Callable[[Any], Any]) -> BaseTool:
    checked = create_model("Checked", x=(Annotated[Any, AfterValidator(validator)], 1))
    tool = StructuredTool.from_function(lambda x: "ran", name="read", description="d", args_schema=checked)
    return classified(tool)


async def _answer(kit: Kit, mode: Mode, way: str, validator: Callable[[Any], Any]) -> Any:
    tool = _reader(validator)
    if way == "wrap":
        return await mode.invoke(kit.guard.wrap(tool)[0], tool_call("read", x=2))
    model = scripted(tool_call("read", x=2))
    agent: Any = create_agent(model, [tool], middleware=[kit.guard.middleware()])
    return tool_messages(await mode.invoke(agent, GO))[0]


@pytest.mark.parametrize("way", ["wrap", "middleware"])
@pytest.mark.parametrize(
    "validator", [_wordless, _wordless_value, _wordless_facts, _surrogate, _long], ids=lambda f: f.__name__
)
@pytest.mark.promise("never-unrecorded")
async def test_an_error_that_cannot_be_told_is_a_recorded_denial(
    monkeypatch: pytest.MonkeyPatch,
    mode: Mode,
    kit: Kit,
    task: Any,
    way: str,
    validator: Callable[[Any], Any],
) -> None:
    # pydantic reports there that it could not make a text of a fact, and pytest's hook makes a text of it
    monkeypatch.setattr(sys, "unraisablehook", lambda _report: None)
    answer = await _answer(kit, mode, way, validator)
    assert "the value is not accepted" in answer.text
    assert kit.decisions() == ["invalid_arguments"]
    assert len(str([*kit.audit.records()])) < 10_000


def _known(_value: Any) -> Any:
    raise PydanticKnownError("literal_error", {"expected": DSN})


def _custom(_value: Any) -> Any:
    raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": DSN})


def _asks_pydantic(value: Any) -> Any:
    return TypeAdapter(Literal["postgres://svc:hunter2@db.internal"]).validate_python(value)


def _asks_jsonschema(_value: Any) -> Any:
    raise JsonSchemaError(f"{DSN!r} is not of type 'integer'")


@pytest.mark.parametrize(
    "validator", [_known, _custom, _asks_pydantic, _asks_jsonschema], ids=lambda f: f.__name__
)
@pytest.mark.promise("validator-words-not-told")
async def test_facts_that_a_validator_puts_into_a_known_error_are_not_told(
    mode: Mode, kit: Kit, task: Any, validator: Callable[[Any], Any]
) -> None:
    answer = await _answer(kit, mode, "wrap", validator)
    assert "hunter2" not in answer.text
    assert kit.decisions() == ["invalid_arguments"]
    assert "hunter2" in str([*kit.audit.records()])


async def test_the_model_is_told_what_kind_of_value_an_argument_takes(
    mode: Mode, kit: Kit, task: Any
) -> None:
    def read(who: Annotated[str, Field(min_length=3)], age: int) -> str:
        return "ran"

    guarded = kit.wrap(StructuredTool.from_function(read, name="read", description="d"))
    answer = await mode.invoke(guarded, tool_call("read", who="a", age="many"))
    assert "who: String should have at least … characters" in answer.text
    assert "age: Input should be a valid integer" in answer.text


class _Targets(BaseModel):
    url: dict[str, int]


def _lookup(value: str) -> Any:
    return {"prod": DSN, "list": [DSN], "table": {DSN: 1}, "deep": {"who": {DSN: DSN}}}.get(value, value)


def _changed(value: Any) -> Any:
    value["url"] = DSN  # in place
    return value


LIMITS: list[tuple[str, dict[str, Any]]] = [
    ("prod", {"type": "string", "pattern": "^[a-z]+$"}),
    ("prod", {"enum": ["test"]}),
    ("prod", {"const": "test"}),
    ("prod", {"type": "string", "maxLength": 8}),
    ("prod", {"type": "string", "minLength": 100}),
    ("prod", {"type": "string", "format": "date"}),
    ("prod", {"type": "integer"}),
    ("prod", {"not": {"pattern": "post"}}),
    ("prod", {"anyOf": [{"enum": ["test"]}]}),
    ("prod", {"oneOf": [{"type": "integer"}, {"enum": ["test"]}]}),
    ("list", {"items": {"enum": ["test"]}}),
    ("list", {"uniqueItems": True, "contains": {"const": "x"}}),
    ("table", {"additionalProperties": False}),
    ("table", {"propertyNames": {"maxLength": 3}}),
    ("table", {"additionalProperties": {"maximum": 0}}),
    ("deep", {"properties": {"who": {"additionalProperties": {"type": "integer"}}}}),
]


@pytest.mark.promise("validator-words-not-told")
@pytest.mark.parametrize(("written", "limit"), LIMITS, ids=str)
@pytest.mark.parametrize("way", ["wrap", "middleware"])
async def test_a_value_that_a_validator_has_looked_up_is_not_told_by_the_reviewed_schema(
    mode: Mode, kit: Kit, way: str, written: str, limit: dict[str, Any]
) -> None:
    def read(x: Annotated[Any, AfterValidator(_lookup)]) -> str:
        return "ran"

    schema = {"type": "object", "properties": {"x": limit}}
    guard = kit.another(catalog=Catalog([spec_of("read", {"path": "read"}, schema)]))
    tool = StructuredTool.from_function(read, name="read", description="d")
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        if way == "wrap":
            answer = await mode.invoke(guard.wrap([tool])[0], tool_call("read", x=written))
        else:
            model = scripted(tool_call("read", x=written))
            agent: Any = create_agent(model, [tool], middleware=[guard.middleware()])
            answer = tool_messages(await mode.invoke(agent, GO))[0]
    assert answer.status == "error"
    assert "hunter2" not in answer.text
    assert "x" in answer.text
    assert kit.decisions() == ["invalid_arguments"]


@pytest.mark.promise("validator-words-not-told")
async def test_a_value_that_a_validator_changes_in_place_is_not_told(mode: Mode, kit: Kit) -> None:
    def read(x: Annotated[dict[str, Any], BeforeValidator(_changed)]) -> str:
        return "ran"

    schema = {"type": "object", "properties": {"x": {"properties": {"url": {"const": "test"}}}}}
    guard = kit.another(catalog=Catalog([spec_of("read", {"path": "read"}, schema)]))
    guarded = guard.wrap([StructuredTool.from_function(read, name="read", description="d")])[0]
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        answer = await mode.invoke(guarded, tool_call("read", x={"url": "a"}))
    assert "hunter2" not in answer.text
    assert "x.url: const 'test' is not satisfied" in answer.text


async def test_a_value_that_the_model_wrote_is_told_with_the_limit(mode: Mode, kit: Kit) -> None:
    def read(x: int) -> str:
        return "ran"

    schema = {"type": "object", "properties": {"x": {"type": "integer", "maximum": 100}}}
    guard = kit.another(catalog=Catalog([spec_of("read", {"path": "read"}, schema)]))
    guarded = guard.wrap([StructuredTool.from_function(read, name="read", description="d")])[0]
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        answer = await mode.invoke(guarded, tool_call("read", x=9_999))
    assert "9999 is greater than the maximum of 100" in answer.text


def _asks_a_model(_value: Any) -> Any:
    _Targets.model_validate({"url": {DSN: "no number"}})


def _names_a_place(value: Any) -> Any:
    raise ValidationError.from_exception_data("x", [{"type": "int_parsing", "loc": (DSN, 3), "input": value}])


@pytest.mark.promise("validator-words-not-told")
@pytest.mark.parametrize("validator", [_asks_a_model, _names_a_place], ids=lambda f: f.__name__)
@pytest.mark.parametrize("way", ["wrap", "middleware"])
async def test_a_place_that_a_validator_names_is_not_told(
    mode: Mode, kit: Kit, task: Any, way: str, validator: Callable[[Any], Any]
) -> None:
    answer = await _answer(kit, mode, way, validator)
    assert "hunter2" not in answer.text
    assert "x." in answer.text
    assert kit.decisions() == ["invalid_arguments"]
