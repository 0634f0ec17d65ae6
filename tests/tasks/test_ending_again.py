"""A task whose end cannot be stored acts for nobody, and its end is tried again until it is stored."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest
from langchain_core.tools import StructuredTool

from agentguard.concurrency.drive import drive
from agentguard.errors import DenialCode, TaskNotActive
from agentguard.model import AccessRequest, Budget, Identity, LiveCredential, Mandate, TaskStatus
from agentguard.stores.memory import MemoryStore
from agentguard.tasks.task import Task
from tests.conftest import ASK, PERMIT, Kit, Mode, classified, tool_call
from tests.doubles.flow import World

MODES = pytest.mark.parametrize("mode", ["sync", "async"])


class Locked(MemoryStore):
    """A store that can end no task for a while."""

    failures = 0

    def end_task(
        self, task_id: str, status: TaskStatus, owed: Iterable[LiveCredential] = ()
    ) -> tuple[str, ...]:
        if self.failures:
            self.failures -= 1
            raise OSError("database is locked")
        return super().end_task(task_id, status, owed)


def task(world: World) -> Task:
    identity = Identity(subject="alice", actor="agent://a")
    return Task.new(world.endings, "purpose", identity, Mandate.of({"tools": "*"}), Budget(), 600)


@pytest.fixture
def world() -> World:
    return World(store=Locked(), clock=time.time)


def wait_until_ended(current: Task) -> None:
    until = time.monotonic() + 10
    while current.state().status is TaskStatus.ACTIVE and time.monotonic() < until:
        time.sleep(0.02)


def drop_sync(world: World, tasks: list[Task]) -> None:
    def answer() -> Iterator[None]:
        with task(world) as current:
            tasks.append(current)
            yield

    stream = answer()
    next(stream)
    world.store.failures = 1
    del stream
    gc.collect()


def drop_async(world: World, tasks: list[Task]) -> None:
    async def answer() -> AsyncIterator[None]:
        async with task(world) as current:
            tasks.append(current)
            yield
            yield

    async def consume() -> None:
        async for _ in answer():
            world.store.failures = 1
            break
        gc.collect()
        await asyncio.sleep(0.05)

    asyncio.run(consume())


@pytest.mark.promise("end-is-tried-again")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@MODES
@pytest.mark.parametrize("drop", [drop_sync, drop_async])
def test_a_dropped_answer_whose_end_is_not_stored_acts_for_nobody_and_ends_with_the_next_sweep(
    drop: Any, mode: str, world: World
) -> None:
    tasks = list[Task]()
    drop(world, tasks)
    (current,) = tasks
    assert current.state().status is TaskStatus.ACTIVE
    assert world.denied(mode, named_task=current.id).code is DenialCode.TASK_ENDED
    assert drive(world.flow.sync.outbox.sweep()) == 0
    assert current.state().status is TaskStatus.REVOKED
    (end,) = [record for record in world.log.written if record["event"] == "task"]
    assert (end["task"], end["cause"]) == (current.id, "left by GeneratorExit")
    assert world.flow.calls.unended == {}


@pytest.mark.promise("end-is-tried-again")
@MODES
def test_neither_the_parts_of_such_a_task_act_nor_does_anything_begin_in_it(mode: str, world: World) -> None:
    current = task(world).begin()
    part = current.narrow().begin()
    world.store.failures = 2
    with pytest.raises(OSError, match="locked"):
        current.complete()
    with part.active():
        assert world.denied(mode, named_task=None).code is DenialCode.TASK_ENDED
    assert world.denied(mode, named_task=current.id).code is DenialCode.TASK_ENDED
    for begin in (current.narrow().begin, part.narrow().begin):
        with pytest.raises(TaskNotActive):
            begin()
    world.store.track(
        LiveCredential(
            call_id="c", task_id=part.id, broker="*/write", handle="h", expires_at=1e12, owner="elsewhere"
        )
    )
    assert drive(world.flow.sync.outbox.sweep()) == 1  # it has failed once more
    assert world.mint.revoked == ["h"], "what is alive of it is revoked all the same"
    assert asyncio.run(world.flow.async_.outbox.sweep()) == 0
    assert current.state().status is part.state().status is TaskStatus.COMPLETED
    assert world.ran == []


@pytest.mark.promise("end-is-tried-again")
async def test_a_call_that_a_person_approves_meanwhile_does_not_begin(mode: Mode) -> None:
    kit, ran, tasks = Kit(store=Locked()), list[str](), list[Task]()

    def approver(_request: AccessRequest) -> bool:
        with pytest.raises(OSError, match="locked"):
            tasks[0].revoke()
        return True

    kit.rule.answer = lambda request: PERMIT if request.approval is not None else ASK
    guard = kit.another(approver=approver)
    guard.enforcement.on_unrevoked = lambda: None  # the thread must not end the task meanwhile
    tool = StructuredTool.from_function(lambda: ran.append("paid"), name="pay", description="d")
    (pay,) = guard.wrap([classified(tool)])
    tasks.append(guard.task("Pay", subject="alice", mandate={"tools": "*"}).begin())
    kit.store.failures = 1  # type: ignore[attr-defined]  # it is Locked
    with tasks[0].active():
        message = await mode.invoke(pay, tool_call("pay"))
    assert (message.status, ran, kit.decisions()) == ("error", [], ["task_ended"])


@pytest.mark.promise("end-is-tried-again")
async def test_the_outboxs_thread_tries_again_by_itself(mode: Mode) -> None:
    store = Locked()
    guard = Kit(store=store).guard
    current = guard.task("Look", subject="alice", mandate={"tools": "*"})
    current.begin()
    store.failures = 2
    with pytest.raises(OSError, match="locked"):
        await mode.call(current, "revoke")
    await asyncio.to_thread(wait_until_ended, current)
    assert current.state().status is TaskStatus.REVOKED
    guard.close()
