"""A person is asked once about a call, and no answer of theirs is lost or told as another one."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain_core.messages import AIMessage
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import MessagesState, StateGraph
from langgraph.types import Command, interrupt

from agentguard import Guard
from agentguard.errors import ApprovalError
from agentguard.stores import MemoryStore, SqliteStore
from tests.approvals.bank import THREAD, Bank, asks_a_person
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call, tool_messages

BY = pytest.mark.parametrize("by", ["wrap", "middleware"])
PAY = tool_call("pay", "c1", to="bob", amount=5)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Orders:
    """An agent whose tool asks for a color by an interrupt of its own; `ran` are the colors."""

    def __init__(self, kit: Kit, guard: Guard, by: str, *around: Any) -> None:
        self.ran = list[Any]()
        kit.rule.answer = asks_a_person

        @tool
        def order(what: str) -> str:
            """Order."""
            self.ran.append(interrupt("color?"))
            return "ordered"

        tools, middleware = [classified(order, path="write")], [*around, guard.middleware()]
        if by == "wrap":
            tools, middleware = list(guard.wrap(tools)), list(around)
        model = scripted(tool_call("order", "c1", what="x"))
        self.agent: Any = create_agent(model, tools, middleware=middleware, checkpointer=InMemorySaver())


def waiting(state: Any) -> Any:
    (one,) = state["__interrupt__"]
    return one


def resumed(waits: Any, value: Any, by_id: bool) -> Command[Any]:
    return Command(resume={waits.id: value} if by_id else value)


async def answered(mode: Mode, guard: Guard, question: Any, **how: Any) -> Any:
    return await mode.call(guard, "answer", question, approver="user:carol", **{"approved": True} | how)


# --- an approver that answers at once


@pytest.mark.promise("asked-once")
@BY
@pytest.mark.parametrize("answers", [[True, False], [True, True]])
async def test_a_person_who_answered_at_once_is_not_asked_again_when_the_tool_interrupts_itself(
    by: str, answers: list[bool], mode: Mode, kit: Kit
) -> None:
    left = list(answers)
    guard = kit.another(approver=lambda _request: left.pop(0))
    orders = Orders(kit, guard, by)
    with guard.task("t", subject="alice", mandate={"tools": "*"}) as task:
        assert waiting(await mode.invoke(orders.agent, GO, THREAD)).value == "color?"
        await mode.invoke(orders.agent, Command(resume="red"), THREAD)
        assert task.state().questions == 1
    assert orders.ran == ["red"]
    assert left == answers[1:]


@pytest.mark.promise("asked-once")
@pytest.mark.parametrize("outermost", [True, False])
async def test_a_retry_of_an_approved_call_neither_runs_nor_asks_again(
    outermost: bool, mode: Mode, kit: Kit
) -> None:
    asked, ran = list[Any](), list[str]()

    def carol(request: Any) -> bool:
        asked.append(request)
        return True

    @tool
    def pay(to: str) -> str:
        """Pay."""
        ran.append(to)
        raise OSError("network")

    kit.rule.answer, guard = asks_a_person, kit.another(approver=carol)
    middleware: list[Any] = [
        ToolRetryMiddleware(max_retries=2, initial_delay=0, jitter=False),
        guard.middleware(),
    ]
    agent: Any = create_agent(
        scripted(tool_call("pay", "c1", to="bob")),
        [classified(pay, path="write")],
        middleware=middleware if outermost else middleware[::-1],
        checkpointer=InMemorySaver(),
    )
    with guard.task("t", subject="alice", mandate={"tools": "*"}) as task:
        state = await mode.invoke(agent, GO, THREAD)
        assert (len(asked), ran, task.state().questions) == (1, ["bob"], 1)
    if outermost:
        assert "A person approved this call and it was made before" in tool_messages(state)[0].text


# --- time passes


@pytest.fixture(params=["memory", "sqlite"])
def timed(request: pytest.FixtureRequest, kit: Kit, tmp_path: Any) -> Any:
    clock = Clock()
    store: Any = (
        MemoryStore(clock=clock) if request.param == "memory" else SqliteStore(tmp_path / "s", clock=clock)
    )
    yield kit.another(store=store, clock=clock, approval_lifetime=60.0), clock
    getattr(store, "close", lambda: None)()


@pytest.mark.promise("asked-once")
@BY
async def test_a_used_yes_does_not_expire_while_the_tool_waits_for_an_answer_of_its_own(
    by: str, mode: Mode, kit: Kit, timed: Any
) -> None:
    guard, clock = timed
    orders = Orders(kit, guard, by)
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        asked = waiting(await mode.invoke(orders.agent, GO, THREAD))
        value = await answered(mode, guard, asked.value)
        own = waiting(await mode.invoke(orders.agent, resumed(asked, value, by_id=True), THREAD))
        clock.now += 61
        await mode.invoke(orders.agent, resumed(own, "red", by_id=True), THREAD)
    assert orders.ran == ["red"]


@pytest.mark.promise("asked-once")
@BY
@pytest.mark.parametrize("in_time", [True, False], ids=["answered and unused", "not answered"])
@pytest.mark.parametrize("by_id", [True, False])
async def test_a_question_that_expired_is_asked_anew_by_another_id(
    by: str, in_time: bool, by_id: bool, mode: Mode, kit: Kit, timed: Any
) -> None:
    guard, clock = timed
    orders = Orders(kit, guard, by)
    with guard.task("t", subject="alice", mandate={"tools": "*"}) as task:
        first = waiting(await mode.invoke(orders.agent, GO, THREAD))
        value: Any = None
        if in_time:
            value = await answered(mode, guard, first.value)
        clock.now += 61
        resume = None if value is None else resumed(first, value, by_id)
        second = waiting(await mode.invoke(orders.agent, resume, THREAD))
        assert second.value["approval_id"] != first.value["approval_id"]
        assert second.value["expires_at"] == clock.now + 60
        assert task.state().questions == 2
        with pytest.raises(ApprovalError):
            await answered(mode, guard, first.value)
        value = await answered(mode, guard, second.value)
        own = waiting(await mode.invoke(orders.agent, resumed(second, value, by_id), THREAD))
        assert own.value == "color?"
        await mode.invoke(orders.agent, resumed(own, "red", by_id), THREAD)
    assert orders.ran == ["red"]


@pytest.mark.promise("asked-once")
async def test_an_expired_question_counts_each_time_and_a_no_to_it_holds(
    mode: Mode, kit: Kit, timed: Any
) -> None:
    guard, clock = timed
    bank = Bank(kit, mode, "middleware", PAY, guard=guard)
    with guard.task("t", subject="alice", mandate={"tools": "*"}, questions=2) as task:
        first = await bank.asked(GO)
        clock.now += 61
        await bank.asked(None)
        await answered(mode, guard, first, approved=False)
        state = await bank.go(None)
        assert "did not approve" in tool_messages(state)[0].text
        assert task.state().questions == 2
    assert bank.paid == []


@pytest.mark.promise("asked-once")
async def test_a_task_asks_no_more_than_its_budget_about_questions_that_expire(
    mode: Mode, kit: Kit, timed: Any
) -> None:
    guard, clock = timed
    bank = Bank(kit, mode, "middleware", PAY, guard=guard)
    with guard.task("t", subject="alice", mandate={"tools": "*"}, questions=2, ttl=9999):
        await bank.asked(GO)
        clock.now += 61
        await bank.asked(None)
        clock.now += 61
        assert "__interrupt__" not in await bank.go(None)
    assert kit.decisions() == ["budget"]


@pytest.mark.promise("asked-once")
async def test_a_question_that_has_no_time_is_asked_once(mode: Mode, kit: Kit) -> None:
    guard = kit.another(approval_lifetime=0.0)
    bank = Bank(kit, mode, "middleware", PAY, guard=guard)
    with guard.task("t", subject="alice", mandate={"tools": "*"}) as task:
        await bank.asked(GO)
        assert task.state().questions == 1


# --- the rules or the call change


@pytest.mark.promise("asked-once")
@BY
@pytest.mark.parametrize("by_id", [True, False])
async def test_a_person_is_asked_anew_where_the_rules_have_changed_since_the_question(
    by: str, by_id: bool, mode: Mode, kit: Kit, task: Any
) -> None:
    orders = Orders(kit, kit.guard, by)
    first = waiting(await mode.invoke(orders.agent, GO, THREAD))
    value = await answered(mode, kit.guard, first.value)
    kit.rule.version = "2"
    second = waiting(await mode.invoke(orders.agent, resumed(first, value, by_id), THREAD))
    assert second.value["approval_id"] != first.value["approval_id"]
    value = await answered(mode, kit.guard, second.value)
    own = waiting(await mode.invoke(orders.agent, resumed(second, value, by_id), THREAD))
    assert own.value == "color?"
    await mode.invoke(orders.agent, resumed(own, "red", by_id), THREAD)
    assert orders.ran == ["red"]
    assert "approval_refused" not in kit.decisions()


@pytest.mark.promise("only-the-store-approves")
@BY
async def test_an_answer_to_another_question_leaves_this_one_open(
    by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    bank = Bank(kit, mode, by, [PAY, tool_call("pay", "c2", to="eve", amount=6)])
    bob, eve = sorted((await bank.go(GO))["__interrupt__"], key=lambda i: str(i.value["arguments"]["to"]))
    value = await answered(mode, kit.guard, bob.value)
    state = await bank.go(Command(resume={eve.id: value}))
    assert {i.value["arguments"]["to"] for i in state["__interrupt__"]} == {"bob", "eve"}
    assert bank.paid == []
    waits = {i.value["arguments"]["to"]: i.id for i in state["__interrupt__"]}
    no = await answered(mode, kit.guard, eve.value, approved=False)
    await bank.go(Command(resume={waits["bob"]: value, waits["eve"]: no}))
    assert bank.paid == [("bob", 5)]


# --- the words are true


@pytest.mark.promise("asked-once")
async def test_a_run_that_is_resumed_without_an_answer_is_told_so(mode: Mode, kit: Kit, task: Any) -> None:
    bank = Bank(kit, mode, "middleware", PAY)
    await bank.asked(GO)
    text = tool_messages(await bank.go(Command(resume="yes")))[0].text
    assert "No person has answered" in text
    assert "did not approve" not in text


@pytest.mark.promise("asked-once")
async def test_of_two_calls_of_one_node_the_first_is_told_as_made(mode: Mode, kit: Kit, task: Any) -> None:
    kit.rule.answer, paid = asks_a_person, list[str]()

    @tool
    def pay(to: str) -> str:
        """Pay."""
        paid.append(to)
        return f"paid {to}"

    guarded: BaseTool = kit.guard.wrap(classified(pay, path="write"))[0]
    calls = [tool_call("pay", f"c{to}", to=to) for to in ("bob", "eve")]

    def step(_state: MessagesState) -> Any:
        return {"messages": [guarded.invoke(call) for call in calls]}

    async def astep(_state: MessagesState) -> Any:
        return {"messages": [await guarded.ainvoke(call) for call in calls]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("step", astep if mode.asynchronous else step)
    builder.set_entry_point("step")
    graph = builder.compile(checkpointer=InMemorySaver())
    state = await mode.invoke(graph, {"messages": [AIMessage("go")]}, THREAD)
    for _ in calls:
        asked = waiting(state)
        value = await answered(mode, kit.guard, asked.value)
        state = await mode.invoke(graph, resumed(asked, value, by_id=True), THREAD)
    assert paid == ["bob", "eve"]
    first, second = tool_messages(state)
    assert "A person approved this call and it was made before" in first.text
    assert second.text == "paid eve"


async def test_a_plain_value_for_several_waiting_calls_is_refused_by_langgraph_itself(
    mode: Mode, kit: Kit, task: Any
) -> None:
    bank = Bank(kit, mode, "middleware", [PAY, tool_call("pay", "c2", to="eve", amount=6)])
    first, second = (await bank.go(GO))["__interrupt__"]
    value = await answered(mode, kit.guard, first.value)
    with pytest.raises(RuntimeError, match="specify the interrupt id"):
        await bank.go(Command(resume=value))
    other = await answered(mode, kit.guard, second.value)
    await bank.go(Command(resume={first.id: value, second.id: other}))
    assert sorted(bank.paid) == [("bob", 5), ("eve", 6)]
