"""A call that would be another call after a person's answer is denied before anybody is asked."""

from __future__ import annotations

import dataclasses
import itertools
import random
import time
import uuid
from datetime import UTC, date, datetime
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    Field,
    create_model,
    model_validator,
)

from agentguard import AccessRequest, Decision
from agentguard.langchain.made_defaults import repeated
from agentguard.langchain.schema import ArgumentSchema
from tests.conftest import ASK, GO, PERMIT, Kit, Mode, classified, scripted, tool_call, tool_messages

THREAD: Any = {"configurable": {"thread_id": "1"}}
COUNTER = itertools.count()


class Stamp(BaseModel):
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Inner(BaseModel):
    stamp: Stamp = Field(default_factory=Stamp)


class Lines(BaseModel):
    lines: list[Inner]


class Second(BaseModel):
    at: int = Field(default_factory=lambda: int(time.time()))


class Seconds(BaseModel):
    of: dict[str, list[Second]]


@dataclasses.dataclass
class Plain:
    text: str
    at: int = dataclasses.field(default_factory=lambda: 5)
    more: list[str] = dataclasses.field(default_factory=list)


class Steady(BaseModel):
    text: str = "a"
    more: list[str] = Field(default_factory=list)


class Aliased(BaseModel):
    at: int = Field(default_factory=lambda: 5, alias="when")
    second: Second = Field(default_factory=lambda: Second(at=5))
    more: dict[str, str] = Field(default_factory=dict)


class Mixed(BaseModel):
    text: str

    @model_validator(mode="after")
    def mix(self) -> Any:
        self.text += str(random.random())  # noqa: S311  it is no secret  no secret: any other value will do
        return self


ANEW: dict[str, tuple[Any, dict[str, Any]]] = {
    "an id": (Annotated[str, Field(default_factory=lambda: str(uuid.uuid4()))], {}),
    "the time": (Annotated[float, Field(default_factory=time.time)], {}),
    "deep in it": (Lines, {"what": {"lines": [{}]}}),
    "a validator": (Mixed, {"what": {"text": "a"}}),
    "a validator before": (Annotated[str, BeforeValidator(lambda v: f"{v}{uuid.uuid4()}")], {"what": "a"}),
    "a counter": (Annotated[str, AfterValidator(lambda v: f"{v}{next(COUNTER)}")], {"what": "a"}),
    "the time in seconds": (Annotated[int, Field(default_factory=lambda: int(time.time()))], {}),
    "the day": (Annotated[date, Field(default_factory=date.today)], {}),
    "one of two": (Annotated[str, Field(default_factory=lambda: random.choice(["eu", "eu"]))], {}),  # noqa: S311  it is no secret
    "a model of it": (Annotated[Second, Field(default_factory=Second)], {}),
    "seconds deep in it": (Seconds, {"what": {"of": {"a": [{}]}}}),
    "seconds in a dataclass": (list[Plain], {"what": [{"text": "a"}]}),
    "one of several fields": (Aliased, {"what": {"when": 6}}),
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


@pytest.mark.exhaustive
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


class Nested(BaseModel):
    day: date = Field(default_factory=date.today, validation_alias=AliasPath("when", "day"))
    hour: int = Field(
        default_factory=lambda: 5, validation_alias=AliasChoices("hour", AliasPath("when", "hours", 0))
    )


@pytest.mark.promise("same-call-or-not-asked")
def test_a_value_that_the_model_gives_at_a_path_is_no_made_default() -> None:
    tool = StructuredTool.from_function(
        lambda day, hour: "ok", name="act", description="Act.", args_schema=Nested
    )
    schema = ArgumentSchema(tool)
    given = repeated(schema, Nested, {"when": {"day": "2026-01-01", "hours": [7]}})
    assert given.factory_names == ()
    assert repeated(schema, Nested, {"when": {"hours": []}}).factory_names == ("day", "hour")


STEADY: dict[str, tuple[Any, dict[str, Any]]] = {
    "a validator": (Annotated[str, AfterValidator(str.strip)], {"what": " a "}),
    "a list": (list[str], {"what": ["a"]}),
    "a factory of python's": (Annotated[list[str], Field(default_factory=list)], {}),
    "a model of plain defaults": (Annotated[Steady, Field(default_factory=Steady)], {}),
    "a field that the model gives": (Second, {"what": {"at": 7}}),
    "fields by alias": (Aliased, {"what": {"when": 6, "second": {"at": 7}}}),
    "a dataclass": (list[Plain], {"what": [{"text": "a", "at": 6}]}),
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


@pytest.mark.promise("asked-once")
@pytest.mark.parametrize("by", ["wrap", "middleware"])
async def test_a_person_is_asked_anew_about_a_value_that_a_validator_changes_meanwhile(
    by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    rate = [1.25]
    kind = Annotated[Any, AfterValidator(lambda _value: rate[0])]
    agent = _agent(kit, classified(_tool(kind, ran := list[Any]())), by, what="a rate")
    first = (await mode.invoke(agent, GO, THREAD))["__interrupt__"][0]
    answer = await mode.call(kit.guard, "answer", first.value, approved=True, approver="user:carol")
    rate[0] = 1.5
    second = (await mode.invoke(agent, Command(resume={first.id: answer}), THREAD))["__interrupt__"][0]
    assert (first.value["arguments"]["what"], second.value["arguments"]["what"]) == (1.25, 1.5)
    answer = await mode.call(kit.guard, "answer", second.value, approved=True, approver="user:carol")
    await mode.invoke(agent, Command(resume={second.id: answer}), THREAD)
    assert ran == [1.5]
