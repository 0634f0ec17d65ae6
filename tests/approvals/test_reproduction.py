"""A call that would be another call after a person's answer is denied before anybody is asked."""

from __future__ import annotations

import itertools
import random
import time
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, create_model, model_validator

from agentguard import AccessRequest, Decision
from tests.conftest import ASK, GO, PERMIT, Kit, Mode, classified, scripted, tool_call, tool_messages

THREAD: Any = {"configurable": {"thread_id": "1"}}
COUNTER = itertools.count()


class Stamp(BaseModel):
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Inner(BaseModel):
    stamp: Stamp = Field(default_factory=Stamp)


class Lines(BaseModel):
    lines: list[Inner]


class Mixed(BaseModel):
    text: str

    @model_validator(mode="after")
    def mix(self) -> Any:
        self.text += str(random.random())  # noqa: S311  no secret: any other value will do
        return self


ANEW: dict[str, tuple[Any, dict[str, Any]]] = {
    "an id": (Annotated[str, Field(default_factory=lambda: str(uuid.uuid4()))], {}),
    "the time": (Annotated[float, Field(default_factory=time.time)], {}),
    "deep in it": (Lines, {"what": {"lines": [{}]}}),
    "a validator": (Mixed, {"what": {"text": "a"}}),
    "a validator before": (Annotated[str, BeforeValidator(lambda v: f"{v}{uuid.uuid4()}")], {"what": "a"}),
    "a counter": (Annotated[str, AfterValidator(lambda v: f"{v}{next(COUNTER)}")], {"what": "a"}),
    "a class": (
        Annotated[Any, AfterValidator(lambda v: v if next(COUNTER) % 2 else float(v))],
        {"what": 1},
    ),
}


def _tool(kind: Any, ran: list[Any]) -> BaseTool:
    def act(to: str, what: Any) -> str:
        ran.append(what)
        return "ok"

    schema = create_model("Schema", to=(str, ...), what=Annotated[kind, "a default may be in it"])
    return StructuredTool.from_function(act, name="act", description="Act.", args_schema=schema)


def _asks(request: AccessRequest) -> Decision:
    return PERMIT if request.approval else ASK


def _agent(kit: Kit, tool: BaseTool, by: str, guard: Any = None, **args: Any) -> Any:
    """Return an agent that makes one call; a person is asked about it."""
    kit.rule.answer, guard = _asks, guard or kit.guard
    tools, middleware = ([tool], [guard.middleware()]) if by == "middleware" else (guard.wrap([tool]), [])
    model = scripted(tool_call("act", "c1", to="bob", **args))
    return create_agent(model, tools, middleware=middleware, checkpointer=InMemorySaver())


@pytest.mark.promise("same-call-or-not-asked")
@pytest.mark.parametrize("by", ["wrap", "middleware"])
@pytest.mark.parametrize("case", ANEW)
async def test_nobody_is_asked_in_vain(case: str, by: str, mode: Mode, kit: Kit, task: Any) -> None:
    kind, args = ANEW[case]
    agent = _agent(kit, classified(_tool(kind, ran := list[Any]())), by, **args)
    state = await mode.invoke(agent, GO, THREAD)
    assert "__interrupt__" not in state
    assert ran == []
    assert kit.decisions() == ["approval_unavailable"]
    (record,) = (r for r in kit.audit.records() if r["event"] == "decision")
    assert ": what" in record["reason"]
    assert "bob" not in record["reason"]
    assert tool_messages(state)[0].status == "error"


@pytest.mark.promise("same-call-or-not-asked")
@pytest.mark.parametrize("by", ["wrap", "middleware"])
@pytest.mark.parametrize("case", ["an id", "the time"])
async def test_a_value_that_the_model_gives_is_approved(
    case: str, by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    kind, value = ANEW[case][0], {"an id": "7", "the time": 7.5}[case]
    agent = _agent(kit, classified(_tool(kind, ran := list[Any]())), by, what=value)
    waiting = (await mode.invoke(agent, GO, THREAD))["__interrupt__"][0].value
    answer = await mode.call(kit.guard, "answer", waiting, approved=True, approver="user:carol")
    await mode.invoke(agent, Command(resume=answer), THREAD)
    assert ran == [value]


STEADY: dict[str, tuple[Any, dict[str, Any]]] = {
    "a validator": (Annotated[str, AfterValidator(str.strip)], {"what": " a "}),
    "a list": (list[str], {"what": ["a"]}),
    "a set": (set[str], {"what": ["a", "b", "c", "d"]}),
}


@pytest.mark.promise("same-call-or-not-asked")
@pytest.mark.parametrize("case", STEADY)
async def test_control_what_stays_the_same_is_asked_about_and_runs(
    case: str, mode: Mode, kit: Kit, task: Any
) -> None:
    kind, args = STEADY[case]
    agent = _agent(kit, classified(_tool(kind, ran := list[Any]())), "middleware", **args)
    waiting = (await mode.invoke(agent, GO, THREAD))["__interrupt__"][0].value
    answer = await mode.call(kit.guard, "answer", waiting, approved=True, approver="user:carol")
    await mode.invoke(agent, Command(resume=answer), THREAD)
    assert len(ran) == 1


@pytest.mark.promise("same-call-or-not-asked")
async def test_control_who_answers_at_once_approves_what_runs(mode: Mode, kit: Kit) -> None:
    shown = list[Any]()

    def carol(request: AccessRequest) -> bool:
        shown.append(request.arguments.values["what"])
        return True

    guard = kit.another(approver=carol)
    agent = _agent(kit, classified(_tool(ANEW["an id"][0], ran := list[Any]())), "middleware", guard)
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(agent, GO, THREAD)
    assert shown == ran
    assert len(ran) == 1


async def test_a_call_that_no_person_is_asked_about_is_validated_once(
    mode: Mode, kit: Kit, task: Any
) -> None:
    counted = list[str]()

    def check(value: str) -> str:
        counted.append(value)
        return value

    agent = _agent(kit, classified(_tool(Annotated[str, AfterValidator(check)], [])), "middleware", what="a")
    kit.rule.answer = lambda _request: PERMIT
    await mode.invoke(agent, GO, THREAD)
    assert counted == ["a"]
