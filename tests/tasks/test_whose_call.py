"""Whose call it is: the active task's and the named one's together, or nobody's."""

from __future__ import annotations

import asyncio
import contextvars
import json
import pickle
from collections.abc import AsyncIterator, Generator
from copy import deepcopy
from typing import Any

import pytest

from agentguard.enforcement.activation import active_task
from agentguard.errors import DenialCode, Denied
from agentguard.model import Budget, Identity, Mandate, TaskStatus
from agentguard.tasks.handle import CONFIG_KEY, TaskHandle, named_task
from agentguard.tasks.task import Task
from tests.doubles.flow import World

MODES = pytest.mark.parametrize("mode", ["sync", "async"])


def task(world: World, subject: str = "alice") -> Task:
    identity = Identity(subject=subject, actor="agent://a")
    return Task.new(world.endings, "purpose", identity, Mandate.of({"tools": "*"}), Budget(), 600)


@pytest.mark.promise("run-names-its-task")
@MODES
def test_an_active_task_beside_another_named_one_is_a_recorded_denial(mode: str) -> None:
    world = World()
    alice, bob = task(world).begin(), task(world, "bob").begin()
    with alice.active():
        assert world.denied(mode, named_task=bob.id).code is DenialCode.TASK_MISMATCH
        assert world.log.written[-1]["code"] == "task_mismatch"
        assert world.log.written[-1]["task"] == alice.id
        assert world.call(mode, named_task=alice.id, call_id="c2") == "done"
    assert len(world.ran) == 1


@pytest.mark.promise("run-names-its-task")
@MODES
def test_a_part_of_the_named_task_may_be_active_and_the_whole_of_it_may_not(mode: str) -> None:
    world = World()
    whole = task(world).begin()
    part = whole.narrow().begin()
    inner = part.narrow().begin()
    for number, active in enumerate((part, inner)):
        with active.active():
            assert world.call(mode, named_task=whole.id, call_id=f"c{number}") == "done"
    with whole.active():
        assert world.denied(mode, named_task=part.id).code is DenialCode.TASK_MISMATCH


@pytest.mark.promise("leaving-ends")
def test_two_tasks_that_generators_hold_in_one_context_leave_nothing_active() -> None:
    world = World()

    def hold(current: Task) -> Generator[None, None, None]:
        with current.active():
            yield

    def both() -> None:
        first, second = hold(task(world).begin()), hold(task(world, "bob").begin())
        next(first)
        active_first = active_task()
        # bob's task was begun before alice's was active, so it is no part of it
        next(second)
        first.close()
        assert active_task() not in (None, active_first)
        second.close()
        assert active_task() is None

    contextvars.copy_context().run(both)


@pytest.mark.promise("leaving-ends")
def test_a_generator_that_is_stepped_and_closed_in_other_contexts_ends_its_task() -> None:
    world, current = World(), list[Task]()

    def answer() -> Generator[Any, None, None]:
        with task(world) as held:
            current.append(held)
            yield "one"
            yield world.call("sync", named_task=named_task(held.config["configurable"]))

    stream = answer()
    said = [contextvars.copy_context().run(next, stream) for _ in range(2)]
    assert said == ["one", "done"]
    contextvars.copy_context().run(stream.close)
    assert current[0].state().status is TaskStatus.REVOKED
    assert active_task() is None


@pytest.mark.promise("leaving-ends")
@pytest.mark.parametrize("dropped", [True, False])
def test_an_async_generator_ends_its_task_consumed_or_dropped(dropped: bool) -> None:
    world, current = World(), list[Task]()

    async def answer() -> AsyncIterator[int]:
        async with task(world) as held:
            current.append(held)
            yield 1
            yield 2

    async def consume() -> None:
        async for _ in answer():
            if dropped:
                break
        await asyncio.sleep(0.05)

    asyncio.run(consume())
    assert current[0].state().status is (TaskStatus.REVOKED if dropped else TaskStatus.COMPLETED)


@pytest.mark.promise("id-is-no-key")
def test_only_a_handle_names_a_task_and_nothing_can_carry_it_away() -> None:
    current = task(World()).begin()
    handle = current.config["configurable"][CONFIG_KEY]
    assert current.id not in repr(handle) + str(handle)
    for form in (pickle.dumps, json.dumps):
        with pytest.raises(TypeError):
            form(handle)
    assert named_task({CONFIG_KEY: deepcopy(handle)}) == current.id
    assert named_task({}) is None


class _Posing(TaskHandle):
    pass


@pytest.mark.promise("id-is-no-key")
@pytest.mark.parametrize("form", [str, lambda id_: {"id": id_}, lambda id_: [id_], str.encode, _Posing])
def test_a_tasks_id_in_any_other_form_acts_for_nobody(form: Any) -> None:
    current = task(World()).begin()
    with pytest.raises(Denied) as caught:
        named_task({CONFIG_KEY: form(current.id)})
    assert caught.value.code is DenialCode.NO_TASK
