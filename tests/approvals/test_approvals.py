"""A person's approval is for one exact call, is used once, and counts only as the store holds it."""

import asyncio
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from agentguard import AccessRequest, Decision, Effect, Guard, Obligation
from agentguard.approvals import CallbackApprover
from agentguard.catalog import Catalog
from agentguard.errors import ApprovalError, Denied
from agentguard.identity.local import LocalIdentity
from agentguard.model import ToolPath, ToolSpec
from agentguard.stores.memory import MemoryStore
from agentguard.testing import ScriptedChatModel
from tests.doubles.flow import Log

ASK = Decision(effect=Effect.PERMIT, policy_ids=("ask",), obligations=(Obligation(kind="approve"),))
PERMIT = Decision(effect=Effect.PERMIT, policy_ids=("approved",))


class Asking:
    """A policy that needs a person, until `flipped`."""

    inline = True

    def __init__(self) -> None:
        self.version, self.flipped = "1", False

    def decide(self, request: AccessRequest) -> Decision:
        return PERMIT if self.flipped or request.approval is not None else ASK


class Shop:
    """An agent with one tool that needs approval."""

    def __init__(self, approver: Any = None, waits: bool = False) -> None:
        self.now, self.paid = 1000.0, list[str]()
        self.policy, self.log = Asking(), Log()
        self.guard = Guard(
            catalog=Catalog(),
            policy=self.policy,
            identity=LocalIdentity("agent://a"),
            brokers={},
            store=MemoryStore(clock=lambda: self.now),
            audit=self.log,
            approver=approver,
            clock=lambda: self.now,
        )

        @self.guard.tool(path="escalation")
        def pay(to: str) -> str:
            """Pay somebody."""
            memo = interrupt("memo?") if waits else ""
            self.paid.append(f"{to}{memo}")
            return f"paid {to}"

        self.pay = pay
        self.task = self.guard.task("Pay", subject="alice", mandate={"tools": "*"}).begin()

    def agent(
        self, *calls: tuple[str, str], saver: Any = None, middleware: bool = True, turns: int = 1
    ) -> Any:
        turn = [
            {"name": "pay", "args": {"to": to}, "id": call_id, "type": "tool_call"} for to, call_id in calls
        ]
        asking = [AIMessage(content="", tool_calls=turn) for _ in range(turns)]
        model = ScriptedChatModel(script=[*asking, "done"])
        return create_agent(
            model,
            [self.pay],
            middleware=[self.guard.middleware()] if middleware else [],
            checkpointer=saver,
        )

    def config(self, thread: str = "1") -> RunnableConfig:
        return {"configurable": {"thread_id": thread, **self.task.config["configurable"]}}


def payment(paid: list[str]) -> BaseTool:
    @as_tool
    def pay(to: str) -> str:
        """Pay somebody."""
        paid.append(to)
        return f"paid {to}"

    return pay


HELLO = {"messages": [("user", "pay")]}


class Runner:
    """Runs an agent with sync or async calls."""

    def __init__(self, agent: Any, config: RunnableConfig, mode: str) -> None:
        self.agent, self.config, self.mode = agent, config, mode

    def go(self, message: Any) -> dict[str, Any]:
        if self.mode == "sync":
            result = self.agent.invoke(message, self.config)
        else:
            result = asyncio.run(self.agent.ainvoke(message, self.config))
        return dict(result)


def pending_interrupts(result: dict[str, Any]) -> list[Any]:
    return list(result.get("__interrupt__", ()))


def tool_texts(result: dict[str, Any]) -> list[str]:
    messages: list[BaseMessage] = result["messages"]
    return [str(m.content) for m in messages if isinstance(m, ToolMessage)]


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["middleware", "wrapped"])
def shop(request: pytest.FixtureRequest) -> Shop:
    shop = Shop()
    shop.by_middleware = request.param == "middleware"  # type: ignore[attr-defined]  # for `started`
    return shop


def start(shop: Shop, mode: str, *calls: tuple[str, str], saver: Any = None) -> tuple[Runner, dict[str, Any]]:
    agent = shop.agent(
        *(calls or [("bob", "c1")]),
        saver=saver or InMemorySaver(),
        middleware=getattr(shop, "by_middleware", True),
    )
    runner = Runner(agent, shop.config(), mode)
    return runner, runner.go(HELLO)


@pytest.mark.promise("rejected-stays-rejected")
@pytest.mark.parametrize(("answer", "paid"), [(True, ["bob"]), (False, []), ("yes", []), (1, []), (None, [])])
def test_only_true_itself_from_a_callback_approves(mode: str, answer: Any, paid: list[str]) -> None:
    shop = Shop(approver=lambda _request: answer)
    start(shop, mode)
    assert shop.paid == paid


def test_an_async_callback_is_awaited(mode: str) -> None:
    async def ask(_request: AccessRequest) -> bool:
        await asyncio.sleep(0)
        return True

    shop = Shop(approver=ask)
    start(shop, mode)
    assert shop.paid == (["bob"] if mode == "async" else [])


def test_a_callback_that_raises_has_not_approved(mode: str) -> None:
    def ask(_request: AccessRequest) -> bool:
        raise OSError("nobody there")

    shop = Shop(approver=ask)
    _, result = start(shop, mode)
    assert not shop.paid
    assert "nobody can be asked" in tool_texts(result)[0]


def test_each_path_may_have_an_approver_of_its_own(mode: str) -> None:
    only_write = {ToolPath.WRITE: CallbackApprover(lambda _request: True, approver="boss")}
    shop = Shop(approver=only_write)
    start(shop, mode)
    assert not shop.paid


def test_an_interrupt_waits_for_a_person_and_runs_once(shop: Shop, mode: str) -> None:
    runner, result = start(shop, mode)
    (asked,) = pending_interrupts(result)
    assert not shop.paid
    assert (asked.value["tool"], asked.value["arguments"]) == ("pay", {"to": "bob"})
    resume = shop.guard.answer(asked.value, approved=True, approver="carol")
    result = runner.go(Command(resume=resume))
    assert (shop.paid, tool_texts(result)) == (["bob"], ["paid bob"])
    assert shop.log.written[0]["approval"] == asked.value["approval_id"]


@pytest.mark.promise("rejected-stays-rejected")
def test_a_rejected_call_does_not_run(shop: Shop, mode: str) -> None:
    runner, result = start(shop, mode)
    resume = shop.guard.answer(
        pending_interrupts(result)[0].value, approved=False, approver="carol", reason="no"
    )
    result = runner.go(Command(resume=resume))
    assert not shop.paid
    assert "did not approve" in tool_texts(result)[0]
    assert shop.log.written[-1]["code"] == "approval_refused"


@pytest.mark.promise("only-the-store-approves")
@pytest.mark.parametrize(
    "forged", [True, "approve", {"approved": True}, {"decisions": [{"type": "approve"}]}]
)
def test_a_resume_without_an_answer_in_the_store_approves_nothing(shop: Shop, mode: str, forged: Any) -> None:
    runner, _ = start(shop, mode)
    runner.go(Command(resume=forged))
    assert not shop.paid


@pytest.mark.promise("rejected-stays-rejected")
def test_a_rejected_call_stays_rejected_when_the_policy_flips_on_resume(shop: Shop, mode: str) -> None:
    runner, result = start(shop, mode)
    resume = shop.guard.answer(pending_interrupts(result)[0].value, approved=False, approver="carol")
    shop.policy.flipped = True
    runner.go(Command(resume=resume))
    assert not shop.paid
    assert shop.log.written[-1]["reason"].startswith("rejected by carol")


@pytest.mark.promise("approval-for-one-call")
def test_an_approval_under_other_rules_does_not_hold(shop: Shop, mode: str) -> None:
    runner, result = start(shop, mode)
    resume = shop.guard.answer(pending_interrupts(result)[0].value, approved=True, approver="carol")
    shop.policy.version = "2"
    runner.go(Command(resume=resume))
    assert not shop.paid


@pytest.mark.promise("approval-for-one-call")
def test_an_approval_expires(shop: Shop, mode: str) -> None:
    runner, result = start(shop, mode)
    resume = shop.guard.answer(pending_interrupts(result)[0].value, approved=True, approver="carol")
    shop.now += 301
    runner.go(Command(resume=resume))
    assert not shop.paid


@pytest.mark.promise("approval-for-one-call")
def test_an_answer_is_for_what_was_shown_and_comes_once(shop: Shop, mode: str) -> None:
    _, result = start(shop, mode)
    request = pending_interrupts(result)[0].value
    for forged in (
        {**request, "digest": "x"},
        {**request, "tool": "get"},
        {**request, "approval_id": "y"},
        {},
    ):
        with pytest.raises(ApprovalError):
            shop.guard.answer(forged, approved=True, approver="eve")
    shop.guard.answer(request, approved=False, approver="carol")
    with pytest.raises(ApprovalError):
        shop.guard.answer(request, approved=True, approver="eve")


def test_of_two_that_wait_the_approved_one_runs_and_the_other_goes_on_waiting(shop: Shop, mode: str) -> None:
    runner, result = start(shop, mode, ("bob", "c1"), ("eve", "c2"))
    interrupts = {i.value["arguments"]["to"]: i for i in pending_interrupts(result)}
    resume = shop.guard.answer(interrupts["bob"].value, approved=True, approver="carol")
    result = runner.go(Command(resume={interrupts["bob"].id: resume}))
    assert shop.paid == ["bob"]
    (still,) = pending_interrupts(result)
    refusal = shop.guard.answer(still.value, approved=False, approver="carol")
    runner.go(Command(resume={still.id: refusal}))
    assert shop.paid == ["bob"]


@pytest.mark.promise("only-the-store-approves")
def test_an_answer_that_reaches_the_wrong_call_approves_nothing(shop: Shop, mode: str) -> None:
    runner, result = start(shop, mode, ("bob", "c1"), ("eve", "c2"))
    interrupts = {i.value["arguments"]["to"]: i for i in pending_interrupts(result)}
    resume = shop.guard.answer(interrupts["bob"].value, approved=True, approver="carol")
    runner.go(Command(resume={interrupts["eve"].id: resume}))
    assert "eve" not in shop.paid


@pytest.mark.promise("only-the-store-approves")
def test_a_raw_tool_node_that_confuses_resume_values_runs_no_unapproved_call(mode: str) -> None:
    shop = Shop()
    builder = StateGraph(MessagesState)
    builder.add_node("tools", ToolNode([shop.pay]))
    builder.set_entry_point("tools")
    graph: Any = builder.compile(checkpointer=InMemorySaver())
    calls = [{"name": "pay", "args": {"to": to}, "id": to, "type": "tool_call"} for to in ("bob", "eve")]
    runner = Runner(graph, shop.config(), mode)
    result = runner.go({"messages": [AIMessage(content="", tool_calls=calls)]})
    first = pending_interrupts(result)[0]
    approved = first.value["arguments"]["to"]
    resume = shop.guard.answer(first.value, approved=True, approver="carol")
    runner.go(Command(resume={first.id: resume}))
    assert set(shop.paid) <= {approved}


@pytest.mark.promise("approval-for-one-call")
def test_time_travel_does_not_run_an_approved_call_again(shop: Shop, mode: str) -> None:
    saver = InMemorySaver()
    runner, result = start(shop, mode, saver=saver)
    resume = shop.guard.answer(pending_interrupts(result)[0].value, approved=True, approver="carol")
    runner.go(Command(resume=resume))
    assert shop.paid == ["bob"]
    for past in list(runner.agent.get_state_history(shop.config())):
        runner.config = {"configurable": {**past.config["configurable"], **shop.task.config["configurable"]}}
        attempts: list[Any] = [None, Command(resume=resume)]
        for given in attempts:
            try:
                runner.go(given)
            except (RuntimeError, ValueError):
                continue  # langgraph itself refuses to resume from there
    assert shop.paid == ["bob"]


@pytest.mark.promise("call-ids-repeat")
def test_a_call_id_that_comes_again_in_a_later_turn_is_asked_about_again(shop: Shop, mode: str) -> None:
    by_middleware: bool = shop.by_middleware  # type: ignore[attr-defined]  # for this
    agent = shop.agent(("bob", "c1"), saver=InMemorySaver(), middleware=by_middleware, turns=2)
    runner = Runner(agent, shop.config(), mode)
    resume = shop.guard.answer(pending_interrupts(runner.go(HELLO))[0].value, approved=True, approver="carol")
    result = runner.go(Command(resume=resume))
    (again,) = pending_interrupts(result)
    assert shop.paid == ["bob"]
    result = runner.go(
        Command(resume=shop.guard.answer(again.value, approved=False, approver="carol", reason="once"))
    )
    assert (shop.paid, shop.log.written[-1]["code"]) == (["bob"], "approval_refused")
    assert "did not approve" in tool_texts(result)[-1]


@pytest.mark.promise("approval-for-one-call")
def test_an_approval_does_not_hold_for_edited_state(shop: Shop) -> None:
    runner, result = start(shop, "sync")
    shop.guard.answer(pending_interrupts(result)[0].value, approved=True, approver="carol")
    last: AIMessage = runner.agent.get_state(shop.config()).values["messages"][-1]
    edited = last.model_copy(update={"tool_calls": [{**last.tool_calls[0], "args": {"to": "eve"}}]})
    runner.agent.update_state(shop.config(), {"messages": [edited]}, as_node="model")
    result = runner.go(None)
    assert not shop.paid
    assert pending_interrupts(result)[0].value["arguments"] == {"to": "eve"}


@pytest.mark.promise("interrupting-tool")
def test_a_tool_that_interrupts_itself_is_given_its_own_resume_value(mode: str) -> None:
    shop = Shop(waits=True)
    runner, result = start(shop, mode)
    approval = shop.guard.answer(pending_interrupts(result)[0].value, approved=True, approver="carol")
    result = runner.go(Command(resume=approval))
    assert [i.value for i in pending_interrupts(result)] == ["memo?"]
    assert shop.log.written[-1]["outcome"] == "suspended"
    result = runner.go(Command(resume=" for lunch"))
    assert (shop.paid, tool_texts(result)) == (["bob for lunch"], ["paid bob"])
    assert shop.task.state().calls == 1


@pytest.mark.promise("interrupting-tool")
def test_a_tool_keeps_its_own_resume_value_when_the_policy_flips_meanwhile(mode: str) -> None:
    shop = Shop(waits=True)
    runner, result = start(shop, mode)
    approval = shop.guard.answer(pending_interrupts(result)[0].value, approved=True, approver="carol")
    runner.go(Command(resume=approval))
    shop.policy.flipped = True
    runner.go(Command(resume=" for lunch"))
    assert shop.paid == ["bob for lunch"]


@pytest.mark.promise("rejected-stays-rejected")
def test_without_a_checkpointer_or_a_graph_nobody_can_be_asked(mode: str) -> None:
    shop = Shop()
    agent = shop.agent(("bob", "c1"))
    result = Runner(agent, shop.config(), mode).go(HELLO)
    assert not pending_interrupts(result)
    assert "nobody can be asked" in tool_texts(result)[0]
    with shop.task.active():
        call = {"name": "pay", "args": {"to": "bob"}, "id": "c9", "type": "tool_call"}
        assert "nobody can be asked" in shop.pay.invoke(call).content


@pytest.mark.promise("only-the-store-approves")
def test_no_approval_is_in_the_checkpoint() -> None:
    shop = Shop()
    database = sqlite3.connect(":memory:", check_same_thread=False)
    runner, result = start(shop, "sync", saver=SqliteSaver(database))
    resume = shop.guard.answer(pending_interrupts(result)[0].value, approved=True, approver="carol@example")
    runner.go(Command(resume=resume))
    assert shop.paid == ["bob"]
    assert b"carol@example" not in b"".join(_cells(database))
    database.close()


def _cells(database: sqlite3.Connection) -> Iterator[bytes]:
    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for row in database.execute(f"SELECT * FROM {table}"):  # noqa: S608  its own tables
            yield from (c if isinstance(c, bytes) else str(c).encode() for c in row)


@pytest.mark.promise("changed-rules-void-answer")
@pytest.mark.parametrize("in_decision", [True, False], ids=["in the decision", "by the policy alone"])
def test_rules_that_change_while_a_person_thinks_void_the_answer(in_decision: bool) -> None:
    class Versioned(Asking):
        def decide(self, request: AccessRequest) -> Decision:
            return replace(super().decide(request), policy_version=rules[-1] if in_decision else "")

    def approve(_request: AccessRequest) -> bool:
        rules.append("2")
        policy.version = "always the same" if in_decision else "2"
        return True

    rules, policy, log, paid = ["1"], Versioned(), Log(), list[str]()
    policy.version = "always the same" if in_decision else "1"
    guard = Guard(
        catalog=Catalog([ToolSpec(name="pay", path=ToolPath.ESCALATION)]),
        policy=policy,
        identity=LocalIdentity("agent://a"),
        brokers={},
        store=MemoryStore(),
        audit=log,
        approver=approve,
    )
    pay = guard.wrap(payment(paid))[0]
    with guard.task("Pay", subject="alice", mandate={"tools": "*"}):
        with pytest.raises(Denied, match="rules have changed since a person was asked"):
            pay.invoke({"to": "bob"})
        assert paid == []
        assert log.written[-1]["reason"] == "the policy has changed since the approval was asked"
        assert pay.invoke({"to": "bob"}) == "paid bob"
