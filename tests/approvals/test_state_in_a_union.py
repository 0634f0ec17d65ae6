"""A tool that may be given the state, or nothing, gets what langgraph injects, and a yes is for it."""

from __future__ import annotations

from typing import Annotated, Any, Optional, Union

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import InjectedState
from langgraph.types import Command
from pydantic import BaseModel

from agentguard import Denied
from tests.approvals.bank import THREAD
from tests.approvals.test_run_state import BY, HELLO, Bank, an_agent, edited
from tests.conftest import Kit, Mode, classified, scripted, tool_call

# the old forms are what tools are written in, and have another type at run time than the new ones
WHOLE = Annotated[dict[str, Any], InjectedState]
OF_THE_WHOLE: dict[str, Any] = {
    "optional": Optional[WHOLE],  # noqa: UP045  an old form
    "optional with a field": Optional[Annotated[dict[str, Any], InjectedState("to")]],  # noqa: UP045  the same
    "a bar": Annotated[dict[str, Any], InjectedState()] | None,
    "a union": Union[WHOLE, str, None],  # noqa: UP007  the same
    "a union in a union": Union[WHOLE | None, int],  # noqa: UP007  the same
    "annotated optional": Annotated[dict[str, Any] | None, InjectedState()],
    "annotated twice": Annotated[Annotated[dict[str, Any], InjectedState()] | None, "more"],
    "a list": list[WHOLE],
}
OF_A_FIELD = {
    "annotated optional": Annotated[str | None, InjectedState("to")],
    "annotated union": Annotated[str | int, "whom", InjectedState("to")],
}
FORMS = [(name, hint, True) for name, hint in OF_THE_WHOLE.items()]
FORMS += [(name, hint, False) for name, hint in OF_A_FIELD.items()]


def paying(hint: Any, paid: list[Any], whole: bool) -> BaseTool:
    def pay(amount: int, state: Any = None) -> str:
        """Pay."""
        paid.append(state["to"] if whole else state)
        return "ok"

    pay.__annotations__["state"] = hint
    return tool(pay)


@pytest.mark.promise("state-is-approved")
@BY
@pytest.mark.parametrize(("name", "hint", "whole"), FORMS, ids=[f"{n}-{w}" for n, _, w in FORMS])
async def test_a_tool_gets_what_langgraph_injects_and_a_yes_is_for_it(
    name: str, hint: Any, whole: bool, by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    for edit in (True, False):
        pay = paying(hint, paid := list[Any](), whole)
        agent = an_agent(kit, pay, by, saver := InMemorySaver())
        (asked,) = (await mode.invoke(agent, HELLO, THREAD))["__interrupt__"]
        assert asked.value["arguments"] == {"amount": 5}
        assert asked.value["state"]["to"] == "alice"
        assert ("more" in asked.value["state"]) is whole
        value = await mode.call(kit.guard, "answer", asked.value, approved=True, approver="user:carol")
        if edit:
            edited(saver)
        await mode.invoke(agent, Command(resume={asked.id: value}), THREAD)
        assert paid == ([] if edit else ["alice"])


@BY
@pytest.mark.parametrize("value", [None, {"to": "mallory"}])
async def test_a_model_that_writes_such_an_argument_gives_the_tool_nothing(
    value: Any, by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    pay = paying(OF_THE_WHOLE["optional"], paid := list[Any](), True)
    tools, middleware = [classified(pay, path="write")], [kit.guard.middleware()]
    if by == "wrap":
        tools, middleware = list(kit.guard.wrap(tools)), []
    model = scripted(tool_call("pay", "c1", amount=5, state=value))
    agent: Any = create_agent(model, tools, middleware=middleware, state_schema=Bank)
    await mode.invoke(agent, HELLO)
    # a node takes away what the model wrote; the middleware sees it before, and refuses what is no null
    assert paid == (["alice"] if value is None or by == "wrap" else [])


@pytest.mark.promise("injected-from-framework")
async def test_an_argument_that_langgraph_fills_cannot_be_forged_in_a_direct_call(
    mode: Mode, kit: Kit, task: Any
) -> None:
    (pay,) = kit.guard.wrap([classified(paying(OF_THE_WHOLE["a union"], [], True), path="write")])
    with pytest.raises(Denied, match="only the application may set"):
        await mode.invoke(pay, {"amount": 5, "state": {"to": "mallory"}})


@BY
async def test_where_the_schema_shows_a_plain_argument_what_a_model_writes_is_not_taken_for_the_state(
    by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    class Shown(BaseModel):
        amount: int
        state: Any = None

    def pay(amount: int, state: Annotated[dict[str, Any], InjectedState] | None = None) -> str:
        """Pay."""
        paid.append(state)
        return "ok"

    paid = list[Any]()
    tools, middleware = [classified(tool(pay, args_schema=Shown), path="write")], [kit.guard.middleware()]
    if by == "wrap":
        tools, middleware = list(kit.guard.wrap(tools)), []
    model = scripted(tool_call("pay", "c1", amount=5, state={"to": "mallory"}))
    await mode.invoke(create_agent(model, tools, middleware=middleware, state_schema=Bank), HELLO)
    # whether it runs or is refused, what the model has written is judged as an argument
    assert paid == [{"to": "mallory"}] * len(kit.rule.asked)
    assert all(request.arguments.values.get("state") for request in kit.rule.asked)
