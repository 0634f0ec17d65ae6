"""What is told of a call and recorded of it is what happened: to the model, in the log, to the issuer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import BaseModel, field_validator
from pydantic_core import PydanticCustomError

from agentguard.errors import StoreError
from agentguard.stores import MemoryStore
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call, tool_messages


def tool_of(name: str, function: Any, coroutine: Any = None, **more: Any) -> BaseTool:
    return classified(StructuredTool.from_function(function, coroutine, name=name, description="d", **more))


# --- a tool that failed has failed


def _raises() -> str:
    raise ToolException("503 from upstream")


def _answers() -> Any:
    return ToolMessage("503 from upstream", tool_call_id="c1", status="error")


def _works() -> str:
    return "fine"


HANDLED = pytest.mark.parametrize(
    ("function", "expected"), [(_raises, "failed"), (_answers, "failed"), (_works, "done")]
)


@HANDLED
@pytest.mark.promise("failed-is-failed")
async def test_a_failure_that_the_framework_handles_is_recorded_as_one(
    mode: Mode, kit: Kit, task: Any, function: Any, expected: str
) -> None:
    guarded = kit.wrap(tool_of("read", function, handle_tool_error=True))
    answer = await mode.invoke(guarded, tool_call("read"))
    assert answer.status == ("error" if expected == "failed" else "success")
    assert kit.outcomes() == [expected]


@HANDLED
@pytest.mark.promise("failed-is-failed")
async def test_the_same_behind_the_middleware(
    mode: Mode, kit: Kit, task: Any, function: Any, expected: str
) -> None:
    tool = tool_of("read", function, handle_tool_error=True)
    agent: Any = create_agent(scripted(tool_call("read")), [tool], middleware=[kit.guard.middleware()])
    await mode.invoke(agent, GO)
    assert kit.outcomes() == [expected]


@HANDLED
@pytest.mark.promise("failed-is-failed")
async def test_the_same_in_an_executor_which_calls_run(
    mode: Mode, kit: Kit, task: Any, function: Any, expected: str
) -> None:
    guarded = kit.wrap(tool_of("read", function, handle_tool_error=True))
    await mode.run(guarded, {}, tool_call_id="c1")
    assert kit.outcomes() == [expected]


# --- of a call that never ran nobody is told that it was made


def _down(*_: Any, **__: Any) -> None:
    raise StoreError("the disk is full")


@pytest.mark.promise("made-only-if-it-ran")
@pytest.mark.parametrize("gate", ["wrap", "middleware"])
async def test_a_call_that_a_store_did_not_begin_is_not_said_to_be_made(mode: Mode, gate: str) -> None:
    kit, ran = Kit(store=_Breakable()), list[str]()
    tool = classified(tool_of("refund", lambda: ran.append("paid")), path="write", untrusted=True)
    with kit.guard.task("Refund", subject="alice", mandate={"tools": "*"}).begin().active():
        if gate == "wrap":
            answer = await mode.invoke(kit.guard.wrap(tool)[0], tool_call("refund"))
        else:
            model = scripted(tool_call("refund"))
            agent: Any = create_agent(model, [tool], middleware=[kit.guard.middleware()])
            (answer,) = tool_messages(await mode.invoke(agent, GO))
    assert ran == []
    assert "was made" not in answer.text
    assert answer.status == "error"


@pytest.mark.promise("made-only-if-it-ran")
async def test_of_a_call_that_ran_the_model_is_told_not_to_repeat_it(mode: Mode) -> None:
    kit, ran = Kit(store=_Breakable(begins=True)), list[str]()
    tool = classified(tool_of("refund", lambda: ran.append("paid")), path="write", untrusted=True)
    with kit.guard.task("Refund", subject="alice", mandate={"tools": "*"}).begin().active():
        answer = await mode.invoke(kit.guard.wrap(tool)[0], tool_call("refund"))
    assert ran == ["paid"]
    assert "was made" in answer.text


class _Breakable(MemoryStore):
    """A store that is down when a call ends, and unless it *begins* them, when one begins."""

    def __init__(self, *, begins: bool = False) -> None:
        super().__init__()
        self.end_call = _down  # type: ignore[method-assign]  # it fails, whatever it is given
        if not begins:
            self.begin_call = _down  # type: ignore[method-assign]  # the same


# --- what a validator says is not told to the model

DSN = "postgres://svc:hunter2@db.internal"


def _value_error() -> None:
    raise ValueError(f"no answer of {DSN}")


def _assertion() -> None:
    raise AssertionError(f"no answer of {DSN}")


def _custom() -> None:
    raise PydanticCustomError("lookup", f"no answer of {DSN}")


def _custom_in_disguise() -> None:
    raise PydanticCustomError("missing", f"no answer of {DSN}")


class _OfTheDriver(Exception):
    def __init__(self) -> None:
        super().__init__(f"no answer of {DSN}")
        self.message = str(self)


def _another() -> None:
    raise _OfTheDriver


@pytest.mark.parametrize("fails", [_value_error, _assertion, _custom, _custom_in_disguise, _another])
@pytest.mark.promise("validator-words-not-told")
async def test_what_a_validator_raises_is_for_the_operator_and_not_for_the_model(
    mode: Mode, kit: Kit, task: Any, fails: Callable[[], None]
) -> None:
    class Checked(BaseModel):
        who: str
        age: int

        @field_validator("who")
        @classmethod
        def known(cls, value: str) -> str:
            fails()
            return value

    guarded = kit.wrap(tool_of("read", lambda who, age: who, args_schema=Checked))
    answer = await mode.invoke(guarded, tool_call("read", who="bob", age="many"))
    assert "hunter2" not in answer.text
    assert kit.decisions() == ["invalid_arguments"]
    assert DSN in str([*kit.audit.records()])
    if fails is not _another:  # pydantic itself lets that one pass, and looks no further
        assert "who: the value is not accepted" in answer.text
        assert "age: Input should be a valid integer" in answer.text
