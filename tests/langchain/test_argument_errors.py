"""What a validator raises ends no run unrecorded, and its words are not told to the model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from jsonschema import ValidationError as JsonSchemaError
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import AfterValidator, Field, TypeAdapter, create_model
from pydantic_core import PydanticCustomError, PydanticKnownError

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
