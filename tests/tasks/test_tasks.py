"""A task's life: what begins in it, what ends with it, and that nothing widens."""

import asyncio
import errno
import time
from dataclasses import replace
from typing import Any

import pytest

from agentguard.catalog import Catalog
from agentguard.concurrency.drive import drive
from agentguard.enforcement.activation import active_task
from agentguard.errors import DenialCode, StoreError, TaskNotActive
from agentguard.model import Arguments, Budget, Identity, Mandate, TaskState, TaskStatus, ToolPath, ToolSpec
from agentguard.stores.memory import MemoryStore
from agentguard.tasks.handle import named_task
from agentguard.tasks.task import Task
from tests.doubles.flow import LOOKUP, World

ANY_TOOL = {"tools": "*"}


def task(world: World, mandate: Any = None, ttl: float = 600, **budget: Any) -> Task:
    identity = Identity(subject="alice", actor="agent://a")
    return Task.new(
        world.endings, "purpose", identity, Mandate.of(mandate or ANY_TOOL), Budget(**budget), ttl
    )


def test_a_task_is_active_inside_its_block_and_over_behind_it() -> None:
    world = World()
    with task(world) as current:
        assert active_task() == current.id
        assert world.call("sync", named_task=None) == "done"
    assert active_task() is None
    assert current.state().status is TaskStatus.COMPLETED
    assert world.denied("sync", named_task=current.id).code is DenialCode.TASK_ENDED


async def test_a_task_is_an_async_context_manager_too() -> None:
    world = World()
    async with task(world) as current:
        assert active_task() == current.id
    assert current.state().status is TaskStatus.COMPLETED


@pytest.mark.promise("task-end-revokes")
def test_a_block_left_by_an_exception_revokes_its_task() -> None:
    world = World()
    with pytest.raises(ZeroDivisionError), task(world) as current:
        raise ZeroDivisionError
    assert current.state().status is TaskStatus.REVOKED
    assert world.log.written[-1]["cause"] == "left by ZeroDivisionError"


@pytest.mark.promise("task-end-revokes")
def test_the_first_end_stands() -> None:
    world = World()
    current = task(world).begin()
    current.revoke("anomaly")
    current.complete()
    assert current.state().status is TaskStatus.REVOKED


@pytest.mark.promise("nothing-widens")
def test_a_task_begun_inside_another_has_at_most_its_authority() -> None:
    world = World()
    with (
        task(world, {"tools": ["lookup"], "args": {"order_id": ["4711"]}}, ttl=60),
        task(world, ttl=9999) as inner,
    ):
        state = inner.state()
        assert state.mandate.tools == {"lookup"}
        assert state.deadline == world.now + 60
        assert world.denied("sync", named_task=None).code is DenialCode.MANDATE


TAKES: dict[str, Any] = {"properties": {"order_id": {}, "to": {}}}


@pytest.mark.promise("limits-do-not-fall-away")
@pytest.mark.parametrize("name", ["orderId", "order-id", "Order_id", "refunds.order_id"])
def test_a_limit_that_none_of_its_tools_takes_is_an_error(name: str) -> None:
    world = World(catalog=Catalog([replace(LOOKUP, schema=TAKES)]))
    mistyped = {"tools": ["lookup"], "args": {name: ["4711"]}}
    with pytest.raises(ValueError, match=name):
        task(world, mistyped)
    with pytest.raises(ValueError, match=name):
        task(world).begin().narrow(mandate=mistyped)


@pytest.mark.parametrize("tools", ["*", ["lookup", "unknown"], ["lookup"]])
@pytest.mark.parametrize("known", [TAKES, None])
def test_a_limit_of_which_nothing_can_be_said_yet_is_none(tools: Any, known: Any) -> None:
    world = World(catalog=Catalog([replace(LOOKUP, schema=known)]))
    right = {"tools": tools, "args": {"order_id": ["4711"], "lookup.orderId": ["4711"]}}
    assert task(world, right).begin().state().mandate.args


@pytest.mark.promise("nothing-widens")
def test_nothing_begins_inside_a_task_that_is_over() -> None:
    world = World()
    outer = task(world)
    with outer.active():
        outer.revoke()
        with pytest.raises(TaskNotActive):
            task(world).begin()


@pytest.mark.promise("task-end-revokes")
def test_ending_a_task_ends_its_children() -> None:
    world = World()
    parent = task(world).begin()
    child = parent.narrow().begin()
    grandchild = child.delegate("agent://c").begin()
    parent.revoke()
    assert grandchild.state().status is TaskStatus.REVOKED
    assert world.denied("sync", named_task=grandchild.id).code is DenialCode.TASK_ENDED


def test_the_end_of_a_child_is_recorded_beneath_all_that_it_descends_from() -> None:
    world = World()
    root = task(world).begin()
    child = root.narrow().begin().narrow().begin()
    child.complete()
    assert world.log.written[-1]["lineage"] == list(child.state().lineage)
    root.revoke()
    lineages = {record["task"]: record["lineage"] for record in world.log.written}
    assert lineages[root.id] == []
    assert lineages[child.state().lineage[0]] == [root.id]


@pytest.mark.promise("nothing-widens")
def test_calls_of_a_child_count_against_its_parents_budget() -> None:
    world = World()
    parent = task(world, calls=1).begin()
    child = parent.narrow().begin()
    assert world.call("sync", named_task=child.id) == "done"
    assert world.denied("sync", named_task=parent.id, call_id="c2").code is DenialCode.BUDGET


@pytest.mark.promise("nothing-widens")
def test_a_child_cannot_widen_its_mandate_its_time_or_its_subject() -> None:
    world = World()
    parent = task(world, {"tools": ["refund"], "args": {"order_id": ["4711", 1]}}, ttl=60)
    child = parent.narrow(mandate={"tools": "*", "args": {"order_id": ["4711", "4712", True]}}, ttl=9999)
    state = child._state
    assert state.mandate.tools == {"refund"}
    assert state.mandate.args["order_id"] == {"4711"}
    assert state.deadline == world.now + 60
    assert parent.delegate("agent://c")._state.identity.subject == "alice"


@pytest.mark.promise("actor-chain-kept")
def test_a_delegated_task_keeps_the_chain_of_actors() -> None:
    world = World()
    child = task(world).begin().delegate("agent://b").begin()
    world.call("sync", named_task=child.id)
    assert world.mint.issued[0].identity.act() == {"sub": "agent://b", "act": {"sub": "agent://a"}}


def test_a_task_is_found_through_the_config_where_no_context_reaches() -> None:
    world = World()
    current = task(world).begin()
    named = named_task(current.config["configurable"])
    assert named == current.id
    assert world.call("sync", named_task=named) == "done"


async def test_parallel_tasks_do_not_see_each_other() -> None:
    world = World()

    async def one() -> str:
        async with task(world) as current:
            await asyncio.sleep(0)
            assert active_task() == current.id
            return current.id

    assert len(set(await asyncio.gather(*(one() for _ in range(8))))) == 8


TOOL = ToolSpec(
    name="pay",
    path=ToolPath.WRITE,
    schema={"properties": {"to": {}, "amount": {}, "cc": {}}},
    sinks=frozenset({"to"}),
)


@pytest.mark.promise("mandate-limits")
@pytest.mark.parametrize(
    ("mandate", "arguments", "inside"),
    [
        ({"tools": ["pay"]}, {}, True),
        ({"tools": []}, {}, False),
        ({"tools": ["other"]}, {}, False),
        ({"tools": "*", "args": {"amount": [1]}}, {"amount": 1}, True),
        ({"tools": "*", "args": {"amount": [1]}}, {"amount": 1.0}, True),
        ({"tools": "*", "args": {"amount": [1]}}, {"amount": True}, False),
        ({"tools": "*", "args": {"amount": [1]}}, {"amount": None}, False),
        ({"tools": "*", "args": {"amount": [1]}}, {}, False),
        ({"tools": "*", "args": {"amount": [1]}}, {"amount": "1"}, False),
        ({"tools": "*", "args": {"cc": ["a", "b"]}}, {"cc": ["a", "b"]}, True),
        ({"tools": "*", "args": {"cc": ["a", "b"]}}, {"cc": ["a", "c"]}, False),
        ({"tools": "*", "args": {"cc": ["a"]}}, {"cc": []}, False),
        ({"tools": "*", "args": {"cc": ["a"]}}, {"cc": {"a": "a"}}, False),
        ({"tools": "*", "args": {"elsewhere": ["a"]}}, {}, True),
        ({"tools": "*", "resources": ["payments"]}, {}, False),
        ({"tools": "*", "counterparties": ["bob"]}, {"to": "bob"}, True),
        ({"tools": "*", "counterparties": ["bob"]}, {"to": "eve"}, False),
        ({"tools": "*", "counterparties": ["bob"]}, {}, False),
    ],
)
def test_a_mandate_limits_tools_resources_arguments_and_counterparties(
    mandate: Any, arguments: Any, inside: bool
) -> None:
    assert (Mandate.of(mandate).objection(TOOL, Arguments.of(arguments)) is None) is inside


def test_a_sink_that_the_tool_does_not_take_is_outside_the_counterparties() -> None:
    mistyped = replace(LOOKUP, schema=TAKES, sinks=frozenset({"recipient"}))
    mandate = Mandate.of({"tools": "*", "counterparties": ["bob"]})
    assert mandate.objection(mistyped, Arguments.of({"to": "bob"})) is not None


@pytest.mark.promise("mandate-limits")
@pytest.mark.parametrize("mandate", [{}, {"args": {}}, {"tools": "*", "arg": {}}])
def test_a_mandate_that_names_no_tools_or_unknown_limits_is_refused(mandate: Any) -> None:
    with pytest.raises(ValueError, match="mandate"):
        Mandate.of(mandate)


def test_a_mandate_survives_its_literal_form() -> None:
    mandate = Mandate.of({"tools": ["a"], "resources": ["r"], "args": {"x": [1, "2"]}, "counterparties": []})
    assert Mandate.of(mandate.literal()) == mandate


class Late(MemoryStore):
    """A store that begins a task, and is then not heard of in time."""

    inline = False

    def __init__(self, error: BaseException) -> None:
        super().__init__(clock=lambda: 1000.0)
        self.error = error

    def create_task(self, state: TaskState) -> None:
        super().create_task(state)
        raise self.error


@pytest.mark.promise("fault-told")
@pytest.mark.parametrize("error", [TimeoutError(), OSError(errno.ENOSPC, "x"), StoreError("locked")])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_task_that_could_not_be_begun_is_our_error_and_does_not_stay_active(
    error: Exception, asynchronous: bool
) -> None:
    world = World(store=Late(error))
    world.flow.on_unrevoked = world.flow.outbox_thread.watch
    prepared = task(world)
    with pytest.raises(StoreError, match=r"in time|No space left|locked"):
        asyncio.run(prepared.abegin()) if asynchronous else prepared.begin()
    until = time.monotonic() + 5
    while world.store.task(prepared.id).status is TaskStatus.ACTIVE and time.monotonic() < until:
        time.sleep(0.01)
    assert world.store.task(prepared.id).status is TaskStatus.REVOKED
    world.flow.close()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, asyncio.CancelledError])
def test_a_task_whose_beginning_was_interrupted_does_not_stay_active(interrupt: type[BaseException]) -> None:
    world = World(store=Late(interrupt()))
    prepared = task(world)
    with pytest.raises(interrupt):
        prepared.begin()
    assert drive(world.flow.sync.outbox.sweep()) == 0
    assert world.store.task(prepared.id).status is TaskStatus.REVOKED
