"""Models number their calls anew: the same id in a later turn, or in a parallel agent, is another call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import MessagesState, StateGraph
from langgraph.types import Command, interrupt

from agentguard import AccessRequest, Guard
from tests.approvals.bank import THREAD, Bank, asks_a_person, payment
from tests.conftest import GO, PERMIT, Kit, Mode, classified, scripted, tool_call, tool_messages

BOTH = pytest.mark.parametrize("by", ["wrap", "middleware"])
CALL = tool_call("pay", "pay:0", to="bob", amount=5)


@pytest.fixture(params=["memory", "sqlite"])
async def saver(request: pytest.FixtureRequest, mode: Mode, tmp_path: Path) -> AsyncIterator[Any]:
    """Return a checkpointer, in memory or in a file."""
    file = str(tmp_path / "checkpoints.db")
    if request.param == "memory":
        yield InMemorySaver()
    elif mode.asynchronous:
        async with AsyncSqliteSaver.from_conn_string(file) as saver:
            yield saver
    else:
        with SqliteSaver.from_conn_string(file) as saver:
            yield saver


@pytest.mark.promise("call-ids-repeat")
@BOTH
async def test_an_approved_call_that_comes_again_in_a_later_turn_is_asked_about_again(
    by: str, mode: Mode, kit: Kit, task: Any, saver: Any
) -> None:
    bank = Bank(kit, mode, by, CALL, CALL, CALL, saver=saver)
    ids = set()
    for turn in range(3):
        question = await bank.asked(GO)
        ids.add(question["approval_id"])
        assert await bank.asked(None) == question, "a step that runs again is the same call"
        await bank.answer(question, approved=True)
        assert len(bank.paid) == turn + 1
    assert len(ids) == 3
    assert task.state().questions == task.state().calls == 3


@pytest.mark.promise("call-ids-repeat")
@BOTH
async def test_a_rejected_call_that_comes_again_in_a_later_turn_is_told_so(
    by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    bank = Bank(kit, mode, by, CALL, CALL)
    await bank.answer(await bank.asked(GO), approved=False)
    state = await bank.go(GO)
    assert "did not approve" in tool_messages(state)[-1].text
    assert (bank.paid, kit.decisions()) == ([], ["approval_refused"] * 2)


@pytest.mark.promise("call-ids-repeat")
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_step_is_the_same_one_whenever_its_checkpoint_is_written(
    durability: str, mode: Mode, kit: Kit, task: Any
) -> None:
    bank = Bank(kit, mode, "wrap", CALL, CALL)
    for turn in range(2):
        for message in (GO, None):
            state = await mode.invoke(bank.agent, message, THREAD, durability=durability)
            (question,) = state["__interrupt__"]
        answer = await mode.call(kit.guard, "answer", question.value, approved=True, approver="user:carol")
        await mode.invoke(bank.agent, Command(resume=answer), THREAD, durability=durability)
        assert len(bank.paid) == turn + 1


@pytest.mark.promise("call-ids-repeat")
async def test_an_answer_holds_in_a_process_that_resumes_the_run(
    mode: Mode, kit: Kit, task: Any, saver: Any
) -> None:
    first = Bank(kit, mode, "middleware", CALL, saver=saver)
    question = await first.asked(GO)
    second = Bank(kit, mode, "middleware", CALL, saver=saver, guard=kit.another())
    await second.answer(question, approved=True)
    assert (first.paid, second.paid) == ([], [("bob", 5)])


class Team:
    """An agent with two others as its tools, which make the same call with the same id."""

    def __init__(self, kit: Kit, mode: Mode, by: str, *, in_turn: bool = False) -> None:
        kit.rule.answer = lambda r: asks_a_person(r) if r.tool.name == "pay" else PERMIT
        self.paid, self.mode, self.guard = list[tuple[str, int]](), mode, kit.guard
        pay = payment(self.paid)
        self._pay: BaseTool = kit.guard.wrap([pay])[0] if by == "wrap" else pay
        self._middleware = [kit.guard.middleware()] if by == "middleware" else []
        helpers = (
            [self._helper("helper", 2)] if in_turn else [self._helper(f"helper_{n}", 1) for n in range(2)]
        )
        both = [tool_call(helper.name, f"c{n}", text="go") for n, helper in enumerate(helpers)]
        self.agent: Any = create_agent(
            scripted(both), helpers, middleware=self._middleware, checkpointer=InMemorySaver()
        )

    def _helper(self, name: str, number: int) -> BaseTool:
        """Return a tool that asks *number* agents one after the other."""
        agents: list[Any] = [
            create_agent(scripted(CALL), [self._pay], middleware=self._middleware) for _ in range(number)
        ]

        def ask(text: str) -> str:
            """Ask a helper."""
            states = [agent.invoke({"messages": [("user", text)]}) for agent in agents]
            return str([state["messages"][-1].text for state in states])

        async def aask(text: str) -> str:
            """Ask a helper."""
            states = [await agent.ainvoke({"messages": [("user", text)]}) for agent in agents]
            return str([state["messages"][-1].text for state in states])

        made = StructuredTool.from_function(ask, aask, name=name)
        return classified(made, path="read")


@pytest.mark.promise("call-ids-repeat")
@BOTH
async def test_parallel_agents_with_equal_ids_do_not_share_an_approval(
    by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    team = Team(kit, mode, by)
    first, second = (await mode.invoke(team.agent, GO, THREAD))["__interrupt__"]
    assert first.value["approval_id"] != second.value["approval_id"]
    yes = await mode.call(team.guard, "answer", first.value, approved=True, approver="user:carol")
    state = await mode.invoke(team.agent, Command(resume={first.id: yes, second.id: yes}), THREAD)
    assert team.paid == [("bob", 5)]
    (still,) = state["__interrupt__"]  # the answer was to another question
    assert still.value["approval_id"] == second.value["approval_id"]
    no = await mode.call(team.guard, "answer", second.value, approved=False, approver="user:carol")
    await mode.invoke(team.agent, Command(resume={still.id: no}), THREAD)
    assert team.paid == [("bob", 5)]
    assert sorted(kit.decisions("pay")) == ["approval_refused", "permit"]


@pytest.mark.promise("call-ids-repeat")
@BOTH
async def test_parallel_agents_are_both_approved_where_a_person_says_so_twice(
    by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    team = Team(kit, mode, by)
    waiting = (await mode.invoke(team.agent, GO, THREAD))["__interrupt__"]
    again = (await mode.invoke(team.agent, None, THREAD))["__interrupt__"]
    assert {i.value["approval_id"] for i in waiting} == {i.value["approval_id"] for i in again}
    answers = {}
    for one in waiting:
        answers[one.id] = await mode.call(
            team.guard, "answer", one.value, approved=True, approver="user:carol"
        )
    await mode.invoke(team.agent, Command(resume=answers), THREAD)
    assert team.paid == [("bob", 5)] * 2
    assert task.state().questions == 2


@pytest.mark.promise("call-ids-repeat")
@BOTH
async def test_agents_that_one_tool_asks_one_after_the_other_make_calls_of_their_own(
    by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    """When the tool's step runs again for the second approval, the first agent does not pay again."""
    team = Team(kit, mode, by, in_turn=True)
    message: Any = GO
    for n in range(2):
        (question,) = (await mode.invoke(team.agent, message, THREAD))["__interrupt__"]
        assert len(team.paid) == n
        answer = await mode.call(kit.guard, "answer", question.value, approved=True, approver="user:carol")
        message = Command(resume=answer)
    assert "__interrupt__" not in await mode.invoke(team.agent, message, THREAD)
    assert len(team.paid) == task.state().questions == 2


def _approver() -> tuple[list[str], Any]:
    """Return what always approves, and the names of the tools that it was asked about."""
    asked = list[str]()

    def approve(request: AccessRequest) -> bool:
        asked.append(request.tool.name)
        return True

    return asked, approve


def _loop(kit: Kit, approve: Any, **changes: Any) -> tuple[Guard, Any, list[Any]]:
    kit.rule.answer = asks_a_person
    guard = kit.another(approver=approve, **changes)
    return guard, guard.wrap([payment(paid := list[Any]())])[0], paid


@pytest.mark.promise("call-ids-repeat")
@pytest.mark.parametrize("config", [None, THREAD], ids=["no thread", "a thread, and no graph"])
async def test_a_loop_without_a_graph_may_repeat_an_id(config: Any, mode: Mode, kit: Kit) -> None:
    asked, approve = _approver()
    guard, pay, paid = _loop(kit, approve)
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        for _ in range(3):
            assert (await mode.invoke(pay, CALL, config)).status == "success"
    assert (len(asked), len(paid)) == (3, 3)
    assert kit.decisions() == ["permit"] * 3


@pytest.mark.promise("call-ids-repeat")
async def test_a_person_who_is_asked_at_once_is_asked_in_each_turn_of_a_graph(mode: Mode, kit: Kit) -> None:
    asked, approve = _approver()
    guard = kit.another(approver=approve)
    bank = Bank(kit, mode, "middleware", CALL, CALL, guard=guard)
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        for _ in range(2):
            await bank.go(GO)
    assert (len(asked), len(bank.paid)) == (2, 2)


@pytest.mark.promise("call-ids-repeat")
async def test_a_tool_that_interrupts_itself_is_one_call_in_each_turn(
    mode: Mode, kit: Kit, task: Any
) -> None:
    ran = list[Any]()

    @tool
    def order(what: str) -> str:
        """Order."""
        ran.append((what, interrupt("which color?")))
        return "ordered"

    call = tool_call("order", "order:0", what="paint")
    model = scripted(call, call)
    model.script.insert(1, "done")
    agent: Any = create_agent(
        model,
        [classified(order, path="write")],
        middleware=[kit.guard.middleware()],
        checkpointer=InMemorySaver(),
    )
    for turn, color in enumerate(("red", "blue")):
        assert (await mode.invoke(agent, GO, THREAD))["__interrupt__"][0].value == "which color?"
        await mode.invoke(agent, Command(resume=color), THREAD)
        assert task.state().calls == turn + 1
    assert ran == [("paint", "red"), ("paint", "blue")]


@pytest.mark.promise("call-ids-repeat")
async def test_two_nodes_of_a_graph_that_make_an_equal_call_make_two(mode: Mode, kit: Kit, task: Any) -> None:
    kit.rule.answer = asks_a_person
    pay = kit.guard.wrap([payment(paid := list[Any]())])[0]
    builder: Any = StateGraph(MessagesState)

    def step(_state: MessagesState) -> Any:
        return {"messages": [pay.invoke(CALL)]}

    async def astep(_state: MessagesState) -> Any:
        return {"messages": [await pay.ainvoke(CALL)]}

    for name in ("one", "two"):
        builder.add_node(name, astep if mode.asynchronous else step)
    builder.set_entry_point("one")
    builder.add_edge("one", "two")
    graph: Any = builder.compile(checkpointer=InMemorySaver())
    message: Any = GO
    for n in range(2):
        (question,) = (await mode.invoke(graph, message, THREAD))["__interrupt__"]
        assert len(paid) == n
        answer = await mode.call(kit.guard, "answer", question.value, approved=True, approver="user:carol")
        message = Command(resume=answer)
    await mode.invoke(graph, message, THREAD)
    assert len(paid) == 2
