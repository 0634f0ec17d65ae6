"""A block that was left makes no task active: in no other context, thread or copy of a context."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import ExitStack
from contextvars import Context, copy_context
from typing import Any

import pytest

from agentguard.enforcement.activation import Blocks, active_task
from agentguard.errors import DenialCode
from agentguard.model import Budget, Identity, Mandate
from agentguard.tasks.task import Task
from tests.doubles.flow import World

NOBODY = (DenialCode.NO_TASK, DenialCode.TASK_ENDED)  # the second tells which task was left behind
MODES = pytest.mark.parametrize("mode", ["sync", "async"])


def task(world: World, subject: str = "alice") -> Task:
    identity = Identity(subject=subject, actor="agent://a")
    return Task.new(world.endings, "purpose", identity, Mandate.of({"tools": "*"}), Budget(), 600)


def in_a_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def in_another_context(function: Callable[[], object]) -> None:
    Context().run(function)


def held_by_active(world: World) -> Generator[None, None, None]:
    with task(world).begin().active():
        yield


def held_by_with(world: World) -> Generator[None, None, None]:
    with task(world):
        yield


def held_inside_another(world: World) -> Generator[None, None, None]:
    with ExitStack() as stack:
        outer = task(world).begin()
        stack.enter_context(outer.active())
        stack.enter_context(outer.narrow())
        yield


async def aheld_by_active(world: World) -> AsyncIterator[None]:
    current = await task(world).abegin()
    async with current.aactive():
        yield
        yield


async def aheld_by_with(world: World) -> AsyncIterator[None]:
    async with task(world):
        yield
        yield


def next_user(world: World, mode: str) -> None:
    """Act in a context where alice's block was left: unnamed, and as bob in both ways."""
    assert active_task() is None
    assert world.denied(mode, named_task=None).code in NOBODY
    assert world.log.written[-1]["task"] is None
    bob = task(world, "bob").begin()
    assert bob.state().lineage == ()
    assert world.call(mode, named_task=bob.id, call_id="named") == "done"
    with task(world, "bob"):
        assert world.call(mode, named_task=None, call_id="active") == "done"
    assert [permit.task.identity.subject for permit in world.ran] == ["bob", "bob"]


@pytest.mark.promise("left-is-not-active")
@MODES
@pytest.mark.parametrize("elsewhere", [in_a_thread, in_another_context])
@pytest.mark.parametrize("hold", [held_by_active, held_by_with, held_inside_another])
def test_a_generator_that_is_closed_elsewhere_leaves_nothing_active_where_it_was_stepped(
    hold: Callable[[World], Generator[None, None, None]], elsewhere: Callable[[Any], None], mode: str
) -> None:
    world = World()

    def serve() -> None:
        answer = hold(world)
        next(answer)
        assert active_task() is not None
        elsewhere(answer.close)
        next_user(world, mode)

    copy_context().run(serve)


@pytest.mark.promise("left-is-not-active")
@pytest.mark.parametrize("hold", [aheld_by_active, aheld_by_with])
def test_an_async_generator_that_is_dropped_leaves_nothing_active_on_its_loop(
    hold: Callable[[World], AsyncIterator[None]],
) -> None:
    world = World()

    async def serve() -> None:
        async for _ in hold(world):
            break
        gc.collect()
        await asyncio.sleep(0.05)
        await asyncio.to_thread(next_user, world, "sync")
        await asyncio.to_thread(copy_context().run, lambda: active_task())
        assert active_task() is None
        async with task(world, "bob") as bob:
            assert (await asyncio.to_thread(bob.state)).lineage == ()

    asyncio.run(serve())


@pytest.mark.promise("left-is-not-active")
@pytest.mark.parametrize("ends", [True, False])
async def test_work_in_the_background_does_not_act_on_after_the_block_was_left(ends: bool) -> None:
    world, go, codes = World(), asyncio.Event(), list[DenialCode]()

    async def work() -> None:
        await go.wait()
        codes.append((await asyncio.to_thread(world.denied, "sync", named_task=None)).code)

    current = await task(world).abegin()
    async with current if ends else current.aactive():
        background = asyncio.create_task(work())
        await asyncio.sleep(0)
    go.set()
    await background
    expected = DenialCode.TASK_ENDED if ends else DenialCode.NO_TASK
    assert (codes, world.ran) == ([expected], [])


@pytest.mark.promise("left-is-not-active")
@MODES
def test_a_task_that_is_entered_twice_leaves_nothing_active(mode: str) -> None:
    world = World()

    def serve() -> None:
        current = task(world)
        with task(world) as outer, current:
            with current:
                pass
            # the outer block of the ended task still runs: it does not act for the task around it
            assert world.denied(mode, named_task=None).code is DenialCode.TASK_ENDED
            assert active_task() == current.id != outer.id
        next_user(world, mode)

    copy_context().run(serve)


@pytest.mark.promise("left-is-not-active")
def test_a_task_that_two_threads_enter_leaves_nothing_active_in_either() -> None:
    world, barrier = World(), threading.Barrier(2)
    current, active = task(world).begin(), list[str | None]()

    def work() -> None:
        with current:
            barrier.wait()
            barrier.wait()
        active.append(active_task())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert active == [None, None]


@pytest.mark.promise("left-is-not-active")
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_one_task_that_two_generators_hold_is_active_nowhere_when_both_were_closed_elsewhere(
    order: tuple[int, int],
) -> None:
    blocks, contexts = Blocks(), [Context(), Context()]

    def hold() -> Generator[None, None, None]:
        blocks.enter("t1")
        try:
            yield
        finally:
            blocks.leave()

    answers = [hold(), hold()]
    for context, answer in zip(contexts, answers, strict=True):
        context.run(next, answer)
    in_a_thread(answers[order[0]].close)
    assert [context.run(active_task) for context in contexts] == ["t1", "t1"]
    in_a_thread(answers[order[1]].close)
    assert [context.run(active_task) for context in contexts] == [None, None]


@pytest.mark.promise("run-names-its-task")
@MODES
def test_of_two_generators_in_one_context_the_config_tells_whose_call_it_is(mode: str) -> None:
    world = World()

    def answer(current: Task) -> Generator[Any, None, None]:
        with current.active():
            yield
            yield world.denied(mode, named_task=current.id).code

    def serve() -> None:
        alice, bob = answer(task(world).begin()), answer(task(world, "bob").begin())
        next(alice)
        next(bob)
        assert next(alice) is DenialCode.TASK_MISMATCH
        bob.close()
        alice.close()
        assert active_task() is None

    copy_context().run(serve)
    assert world.ran == []
