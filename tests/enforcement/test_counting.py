"""Rules look at what was done: parallel calls overrun no limit, and what did nothing uses up nothing."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from decimal import Decimal
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from agentguard import AccessRequest, Decision, Effect, Obligation
from agentguard.catalog import Catalog
from agentguard.errors import ConfigurationError, DenialCode
from agentguard.model import Counted
from agentguard.policies import FunctionPolicy
from agentguard.stores import SqliteStore
from tests.conftest import GO, ORDERS, Kit, Mode, classified, scripted, tool_call

COUNTED = {"sum": ["amount"], "per": ["order_id"], "user": {"day": 86400}, "agent": {"hour": 3600}}
Refund = Callable[[str, float], str]


def refund_tool(body: Refund = lambda order_id, amount: f"refunded {amount} of {order_id}") -> BaseTool:
    """Make a tool that pays money back."""

    def refund_order(order_id: str, amount: float) -> str:
        """Pay money back."""
        return body(order_id, amount)

    return StructuredTool.from_function(refund_order, handle_tool_error=True)


def tally(request: AccessRequest) -> Any:
    return request.tallies["refund_order"]


def at_most_100(request: AccessRequest) -> bool:
    return bool(tally(request)["sum_with_this"]["amount"] <= 100)


def guarded(kit: Kit, rule: Callable[[AccessRequest], Any], tool: BaseTool, **changes: Any) -> Any:
    """Return a guard with this rule, and the tool behind it."""
    guard = kit.another(policy=FunctionPolicy(rule), **changes)
    (wrapped,) = guard.wrap(classified(tool, path="write", counted=COUNTED))
    return guard, wrapped


async def refund(mode: Mode, tool: BaseTool, amount: float, order: str = "1", call_id: str = "c1") -> str:
    return str(await mode.invoke(tool, tool_call("refund_order", call_id, order_id=order, amount=amount)))


@pytest.mark.promise("done-is-counted")
async def test_a_rule_sees_counts_and_sums_of_the_task_of_a_value_and_of_windows(
    kit: Kit, mode: Mode
) -> None:
    requests: list[AccessRequest] = []

    def rule(request: AccessRequest) -> bool:
        requests.append(request)
        return True

    guard, tool = guarded(kit, rule, refund_tool())
    with guard.task("refund", subject="alice", mandate={"tools": "*"}) as task:
        await refund(mode, tool, 30.5)
        with task.narrow("a part").active():
            await refund(mode, tool, 12, "2")
        await refund(mode, tool, 0.25)
    with guard.task("another", subject="alice", mandate={"tools": "*"}):
        await refund(mode, tool, 1)
    third, fourth = requests[2:]
    assert third.tallies["refund_order"] == {
        "count": 2,
        "sum": {"amount": Decimal("42.5")},
        "sum_with_this": {"amount": Decimal("42.75")},
        "per": {
            "order_id": {
                "count": 1,
                "sum": {"amount": Decimal("30.5")},
                "sum_with_this": {"amount": Decimal("30.75")},
            }
        },
    }
    assert fourth.tallies["refund_order"]["count"] == 0
    assert fourth.user_tallies["day"]["refund_order"]["sum"] == {"amount": Decimal("42.75")}
    assert fourth.user_tallies["day"]["refund_order"]["per"]["order_id"]["count"] == 2
    assert fourth.agent_tallies["hour"]["refund_order"]["count"] == 3


@pytest.mark.promise("done-is-counted")
async def test_what_was_denied_or_failed_uses_up_nothing_and_what_may_have_happened_does(
    kit: Kit, mode: Mode
) -> None:
    problems: list[BaseException] = []

    def body(order_id: str, amount: float) -> str:
        if problems:
            raise problems.pop()
        return "done"

    guard, tool = guarded(kit, at_most_100, refund_tool(body))
    with guard.task("refund", subject="alice", mandate={"tools": "*"}):
        for number in range(3):
            assert "not permitted" in await refund(mode, tool, 101, f"denied {number}")
        problems.append(ToolException("the order is closed"))
        assert "closed" in await refund(mode, tool, 90)
        problems.append(ValueError("broken"))
        with pytest.raises(ValueError, match="broken"):
            await refund(mode, tool, 80)
        problems.append(asyncio.CancelledError())
        with pytest.raises(asyncio.CancelledError):
            await refund(mode, tool, 1)
        problems.append(TimeoutError())
        with pytest.raises(TimeoutError):
            await refund(mode, tool, 2)
        assert "not permitted" in await refund(mode, tool, 98)
        assert "done" in await refund(mode, tool, 97)
        assert "not permitted" in await refund(mode, tool, 0.0001)


def hidden(problem: Exception, *, group: bool = False) -> Exception:
    """Return what a tool raises that hides why it has failed."""
    try:
        try:
            raise ExceptionGroup("of several", [problem]) if group else problem
        except Exception:  # noqa: BLE001  as many tools do
            raise ToolException("the shop does not answer")  # noqa: B904  many tools leave out the cause
    except ToolException as error:
        return error


def hidden_often(count: int) -> Exception:
    """Return an error with so many more behind it."""
    error: Exception = ValueError()
    for _ in range(count):
        outer = ValueError()
        outer.__context__, error = error, outer
    return error


class Misleading(Exception):
    """An error that says of itself that nothing is behind it, and that it is of another class."""

    __cause__ = __context__ = None
    __class__ = ExceptionGroup  # type: ignore[assignment]  # as a mock does


def misleading() -> Exception:
    error = Misleading()
    vars(BaseException)["__context__"].__set__(error, TimeoutError())
    return error


@pytest.mark.promise("done-is-counted")
@pytest.mark.parametrize(
    ("problem", "count"),
    [
        (hidden(TimeoutError()), 1),
        (hidden(TimeoutError(), group=True), 1),
        (hidden(httpx.ReadError("reset")), 1),
        (misleading(), 1),
        (httpx.RemoteProtocolError("no answer"), 1),
        (ConnectionResetError(), 1),
        (hidden_often(200), 1),
        (hidden_often(50), 0),
        (hidden(ValueError()), 0),
        (hidden(ConnectionRefusedError()), 0),
        (httpx.ConnectError("refused"), 0),
    ],
    ids=[*map(str, range(11))],
)
async def test_a_call_of_which_nobody_knows_whether_it_was_done_counts_whatever_hides_it(
    kit: Kit, mode: Mode, problem: Exception, count: int
) -> None:
    counts: list[int] = []

    def body(order_id: str, amount: float) -> str:
        if order_id == "1":
            raise problem
        return "done"

    def rule(request: AccessRequest) -> bool:
        counts.append(tally(request)["count"])
        return True

    guard, tool = guarded(kit, rule, refund_tool(body))
    with guard.task("refund", subject="alice", mandate={"tools": "*"}):
        with suppress(Exception):
            await refund(mode, tool, 1, "1")
        assert "done" in await refund(mode, tool, 1, "2")
    assert counts == [0, count]


@pytest.mark.promise("done-is-counted")
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_of_parallel_calls_no_more_run_than_the_limit_has_room_for(
    kit: Kit, tmp_path: Path, kind: str
) -> None:
    store = kit.store if kind == "memory" else SqliteStore(tmp_path / "s.db")
    barrier = threading.Barrier(8)
    entered: list[float] = []

    def rule(request: AccessRequest) -> bool:
        if request.task.calls == 0 and not tally(request)["count"]:
            with suppress(threading.BrokenBarrierError):
                barrier.wait(1.0)  # all have seen that nothing is done
        return at_most_100(request)

    def body(order_id: str, amount: float) -> str:
        entered.append(amount)
        return "done"

    guard, tool = guarded(kit, rule, refund_tool(body), store=store)
    with guard.task("refund", subject="alice", mandate={"tools": "*"}), ThreadPoolExecutor(8) as pool:
        calls = [tool_call("refund_order", f"c{n}", order_id=f"{n}", amount=30) for n in range(8)]
        list(pool.map(lambda pair: pair[1].run(tool.invoke, pair[0]), [(c, copy_context()) for c in calls]))
    assert entered == [30.0] * 3
    assert kit.decisions().count("permit") == 3
    assert kit.decisions().count(str(DenialCode.POLICY)) == 5
    getattr(store, "close", lambda: None)()


@pytest.mark.promise("done-is-counted")
async def test_a_task_that_began_before_its_tool_was_counted_is_told_of_no_number(
    kit: Kit, mode: Mode
) -> None:
    guard = kit.another(policy=FunctionPolicy(at_most_100))
    with guard.task("refund", subject="alice", mandate={"tools": "*"}):
        (tool,) = guard.wrap(classified(refund_tool(), path="write", counted=COUNTED))
        answer = await refund(mode, tool, 1)
    assert "cannot be counted" in answer
    (record,) = [r for r in kit.audit.records() if r["event"] == "decision"]
    assert record["code"] == DenialCode.UNCOUNTED
    assert "began before" in record["reason"]


@pytest.mark.promise("sums-are-exact")
@pytest.mark.parametrize("amount", [-1, 0.00001, 1e12])
async def test_an_amount_that_cannot_be_added_up_is_denied_also_where_no_rule_looks(
    kit: Kit, mode: Mode, amount: float
) -> None:
    guard, tool = guarded(kit, lambda request: True, refund_tool())
    with guard.task("refund", subject="alice", mandate={"tools": "*"}):
        assert "cannot be counted" in await refund(mode, tool, amount)
        assert "refunded" in await refund(mode, tool, 1)
    assert kit.decisions() == ["uncounted", "permit"]


@pytest.mark.promise("done-is-counted")
def test_an_approved_call_is_judged_by_what_is_done_by_then_and_nobody_is_asked_twice(kit: Kit) -> None:
    """Another call is done while the person looks, and again after the call was judged with the approval."""
    others = iter([50.0, 20.0, 20.0])
    beside: Any = None
    questions: list[tuple[bool, Decimal]] = []

    def another() -> None:
        beside.invoke(tool_call("refund_order", f"b{len(questions)}", order_id="b", amount=next(others)))

    def rule(request: AccessRequest) -> bool | Decision:
        if request.arguments.values["order_id"] == "b":
            return True
        total = tally(request)["sum_with_this"]["amount"]
        questions.append((request.approval is not None, total))
        if total > 100:
            return False
        if request.approval is None:
            return Decision(effect=Effect.PERMIT, obligations=(Obligation(kind="approve"),))
        if len(questions) == 2:
            another()  # between the judgement and the beginning
        return True

    def approve(request: AccessRequest) -> bool:
        asked.append(request)
        another()
        return True

    asked: list[AccessRequest] = []
    guard, beside = guarded(kit, rule, refund_tool(), approver=approve)
    with guard.task("refund", subject="alice", mandate={"tools": "*"}):
        answer = str(beside.invoke(tool_call("refund_order", "c1", order_id="a", amount=30)))
    assert "refunded" in answer
    assert questions == [(False, Decimal(30)), (True, Decimal(80)), (True, Decimal(100))]
    assert len(asked) == 1


def test_what_cannot_be_counted_is_an_error_when_the_tool_is_classified() -> None:
    for counted, problem in (
        ({"sum": ["amont"]}, "none of its arguments"),
        ({"per": ["order"]}, "none of its arguments"),
        ({"sum": ["order_id"]}, "which is no number"),
        ({"sums": ["amount"]}, "no valid counted"),
        ({"sum": "amount"}, "no valid counted"),
        ({"user": {"day": 0}}, "no valid length"),
        ({"agent": {"day": 86400.0}}, "no valid length"),
        (3, "no valid counted"),
    ):
        guard = Kit().guard
        with pytest.raises(ConfigurationError, match=problem):
            guard.wrap(classified(refund_tool(), path="write", counted=counted))
    catalog = Catalog(resources=[ORDERS])
    assert catalog.counted == {}
    kit = Kit()
    kit.guard.wrap(classified(refund_tool(), path="write", counted=True))
    assert kit.guard.catalog.counted == {"refund_order": Counted()}


@pytest.mark.process
@pytest.mark.promise("done-is-counted")
def test_processes_that_share_a_file_overrun_no_limit_together(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.enforcement.refunding_agent", "sqlite", f"{tmp_path / 's.db'}"]
    agents = [Popen([*command, "4", "30"], stdout=PIPE, text=True) for _ in range(3)]
    done = [int(agent.communicate(timeout=120.0)[0]) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0, 0]
    assert sum(done) == 3


@pytest.mark.promise("done-is-counted")
async def test_a_tool_that_waits_counts_and_goes_on_once_and_nobody_else_takes_its_place(
    kit: Kit, mode: Mode
) -> None:
    """The tool has begun when its run is suspended, so it may have done something already."""
    counts: list[int] = []

    def rule(request: AccessRequest) -> bool:
        counts.append(tally(request)["per"]["order_id"]["count"])
        return counts[-1] == 0

    guard, tool = guarded(kit, rule, refund_tool(lambda order_id, amount: str(interrupt("sure?"))))
    again = tool_call("refund_order", "c2", order_id="1", amount=5)
    model = scripted(tool_call("refund_order", "c1", order_id="1", amount=5), again)
    agent = create_agent(model, [tool], checkpointer=InMemorySaver())
    with guard.task("refund", subject="alice", mandate={"tools": "*"}) as task:
        config = {"configurable": {**task.config["configurable"], "thread_id": "1"}}
        assert "__interrupt__" in await mode.invoke(agent, GO, config)
        assert "not permitted" in str(await mode.invoke(tool, again)), "it is suspended, and counts"
        state = await mode.invoke(agent, Command(resume="yes"), config)
    assert counts == [0, 1, 0, 1], "it does not stand in its own way, and is counted once"
    answers = [message.text for message in state["messages"] if message.type == "tool"]
    assert answers[0] == "yes"
    assert "not permitted" in answers[1]
