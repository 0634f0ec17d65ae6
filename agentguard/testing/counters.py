"""What a store must do with numbers of calls. A part of `StoreContract`."""
# ruff: noqa: S101, D102  a contract asserts, and its names are sentences

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agentguard.concurrency.drive import drive
from agentguard.errors import AgentGuardError, BudgetExhausted, CountersChanged, CountersFull, TaskNotActive
from agentguard.model import Addition, Budget, Cell, Counted, Outcome, TaskStatus, ToolPath
from agentguard.model.counts import MOST, VALUES
from agentguard.testing.samples import sample_task
from agentguard.testing.scenarios import AwaitedPort, Contract, assert_raises, on_both_paths
from agentguard.testing.scenes import call, create_family

__all__ = ["CounterContract"]

ROOT, USER = "task root", "user ada"
CALLS, SUM = Cell(ROOT, "pay"), Cell(ROOT, "pay sum")
ADDED = (Addition(ROOT, "pay", 0, 1), Addition(ROOT, "pay sum", 0, 60))


class CounterContract(Contract):
    """A call adds to numbers while it runs and when it is done, and begins only if it saw the newest ones."""

    @on_both_paths
    async def test_a_task_says_what_is_counted_in_it(self, store: AwaitedPort) -> None:
        counted = {"pay": Counted(sum=("amount",), per=("order_id",)), "ask": Counted()}
        await store.create_task(sample_task(counted=counted))
        assert (await store.task("task-1")).counted == counted

    @on_both_paths
    async def test_a_call_is_counted_while_it_runs_and_when_it_is_done(self, store: AwaitedPort) -> None:
        await create_family(store)
        assert tuple(await store.counted([CALLS, SUM])) == (0, 0)
        assert tuple(await store.counted([])) == ()
        await store.begin_call(call("1", additions=ADDED), None)
        assert tuple(await store.counted([SUM, CALLS])) == (60, 1)
        await store.end_call("1", Outcome.DONE)
        await store.begin_call(call("2", task="root", additions=ADDED), None)
        assert tuple(await store.counted([CALLS, SUM])) == (2, 120)

    @on_both_paths
    async def test_what_is_undone_uses_up_nothing_and_once(self, store: AwaitedPort) -> None:
        await create_family(store)
        for name in ("1", "2"):
            await store.begin_call(call(name, additions=ADDED), None)
        for _ in range(2):
            await store.end_call("1", Outcome.FAILED, undo=True)
        await store.end_call("never-begun", Outcome.FAILED, undo=True)
        assert tuple(await store.counted([CALLS, SUM])) == (1, 60)
        await store.end_call("2", Outcome.CANCELLED)
        await store.end_call("2", Outcome.CANCELLED, undo=True)
        assert tuple(await store.counted([CALLS, SUM])) == (1, 60)

    @on_both_paths
    async def test_a_call_begins_only_if_the_numbers_are_those_that_it_was_judged_by(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store)
        first = call("1", numbers=((CALLS, 0), (SUM, 0)), additions=ADDED)
        await store.begin_call(first, None)
        late = call("2", numbers=((SUM, 0),), additions=ADDED)
        await assert_raises(CountersChanged, store.begin_call(late, None))
        assert tuple(await store.counted([CALLS, SUM])) == (1, 60)
        assert (await store.task("root")).calls == 1
        await store.begin_call(call("3", numbers=((CALLS, 1), (SUM, 60)), additions=ADDED), None)
        await store.end_call("3", Outcome.FAILED, undo=True)
        await assert_raises(CountersChanged, store.begin_call(call("4", numbers=((SUM, 120),)), None))
        await store.begin_call(call("5", numbers=((SUM, 60),)), None)

    @on_both_paths
    async def test_a_refused_call_adds_nothing(self, store: AwaitedPort) -> None:
        await create_family(store, root=Budget(writes=0))
        refused = call("1", path=ToolPath.WRITE, additions=ADDED)
        await assert_raises(BudgetExhausted, store.begin_call(refused, None))
        await store.end_task("child", TaskStatus.COMPLETED)
        await assert_raises(TaskNotActive, store.begin_call(call("2", additions=ADDED), None))
        assert tuple(await store.counted([CALLS, SUM])) == (0, 0)

    @on_both_paths
    async def test_a_suspended_call_stays_counted_and_does_not_stand_in_its_own_way(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store)
        before = call("1", key="k", additions=ADDED)
        await store.begin_call(before, None)
        assert tuple(await store.counted([SUM], before.same)) == (60,), "it runs, and is not suspended"
        await store.end_call("1", Outcome.SUSPENDED)
        assert tuple(await store.counted([CALLS, SUM])) == (1, 60)
        assert tuple(await store.counted([CALLS, SUM], before.same)) == (0, 0)
        assert tuple(await store.counted([SUM], call("2", key="other").same)) == (60,)
        await assert_raises(CountersChanged, store.begin_call(call("2", numbers=((SUM, 0),)), None))
        again = call("3", key="k", numbers=((CALLS, 0), (SUM, 0)), additions=ADDED)
        await store.begin_call(again, None)
        assert tuple(await store.counted([CALLS, SUM], again.same)) == (1, 60)
        await store.end_call("3", Outcome.SUSPENDED, undo=True)
        assert tuple(await store.counted([CALLS, SUM])) == (0, 0)
        await store.begin_call(call("4", key="k", numbers=((SUM, 0),), additions=ADDED), None)
        assert tuple(await store.counted([CALLS, SUM])) == (1, 60)

    @on_both_paths
    async def test_a_window_sums_its_buckets_and_another_owner_has_its_own(self, store: AwaitedPort) -> None:
        await create_family(store)
        for name, bucket in (("1", 10), ("2", 11), ("3", 13)):
            window = Addition(USER, "pay", bucket, 5, until=5000.0)
            await store.begin_call(call(name, additions=(window, *ADDED)), None)
        values = await store.counted([Cell(USER, "pay", since) for since in (0, 11, 12, 14)])
        assert tuple(values) == (15, 10, 5, 0)
        assert tuple(await store.counted([Cell("user bob", "pay"), Cell(USER, "ask"), CALLS])) == (0, 0, 3)
        await assert_raises(
            CountersChanged, store.begin_call(call("4", numbers=((Cell(USER, "pay", 11), 5),)), None)
        )
        await store.begin_call(call("5", numbers=((Cell(USER, "pay", 12), 5),)), None)
        await store.end_call("3", Outcome.FAILED, undo=True)
        assert tuple(await store.counted([Cell(USER, "pay", 12)])) == (0,)

    @on_both_paths
    async def test_no_sum_grows_beyond_what_is_exact(self, store: AwaitedPort) -> None:
        await create_family(store)
        large = call("1", additions=(Addition(ROOT, "pay sum", 0, MOST - 1),))
        await store.begin_call(large, None)
        await store.begin_call(call("2", additions=(Addition(ROOT, "pay sum", 0, 1),)), None)
        text = await assert_raises(
            CountersFull,
            store.begin_call(call("3", additions=(*ADDED[:1], Addition(ROOT, "pay sum", 0, 1))), None),
        )
        assert str(MOST) not in text
        assert tuple(await store.counted([CALLS, SUM])) == (0, MOST)

    @on_both_paths
    async def test_an_argument_has_a_bounded_number_of_values_and_what_is_undone_takes_none(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store)
        group = "pay\x1fper\x1forder_id"

        def of_order(name: str) -> tuple[Addition, ...]:
            return (Addition(ROOT, f"{group}\x1f{name}", 0, 1, group),)

        for start in range(0, VALUES - 1, 500):  # a call that has many of them at once saves time
            many = [
                one for number in range(start, min(start + 500, VALUES - 1)) for one in of_order(f"{number}")
            ]
            await store.begin_call(call(f"many {start}", additions=tuple(many)), None)
        for name in ("2", "3"):
            await store.begin_call(call(name, additions=of_order(f"failed {name}")), None)
            await store.end_call(name, Outcome.FAILED, undo=True)
        await store.begin_call(call("4", additions=of_order("last")), None)
        text = await assert_raises(
            CountersFull, store.begin_call(call("5", additions=(*ADDED, *of_order("one more"))), None)
        )
        assert "order_id" in text
        assert tuple(await store.counted([CALLS, Cell(ROOT, group)])) == (0, VALUES)
        await store.begin_call(call("6", additions=of_order("last")), None)
        assert tuple(await store.counted([Cell(ROOT, f"{group}\x1flast")])) == (2,)

    def test_of_parallel_calls_that_saw_the_same_numbers_one_begins(self) -> None:
        self._begin_together(["child"] * 8)

    def test_of_parallel_calls_of_several_tasks_that_saw_the_same_window_one_begins(self) -> None:
        for _ in range(3):
            self._begin_together([f"task-{number}" for number in range(8)])

    def _begin_together(self, tasks: list[str]) -> None:
        for asynchronous in (False, True)[not self.synchronous :]:
            self.now = Contract.now
            adapter = self.adapter()
            store = AwaitedPort(adapter, asynchronous=asynchronous)
            run: Any = asyncio.run if asynchronous else drive
            for task in dict.fromkeys(tasks):
                run(store.create_task(sample_task(task)))
            errors = (_in_a_loop if asynchronous else _in_threads)(store, tasks)
            assert errors.count(None) == 1
            assert sum(isinstance(error, CountersChanged) for error in errors) == 7
            assert tuple(run(store.counted([Cell(USER, "pay", 5)]))) == (1,)
            getattr(adapter, "close", lambda: None)()


def _in_threads(store: AwaitedPort, tasks: list[str]) -> list[AgentGuardError | None]:
    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(lambda one: drive(_begin(store, *one)), enumerate(tasks)))


def _in_a_loop(store: AwaitedPort, tasks: list[str]) -> list[AgentGuardError | None]:
    async def together() -> list[AgentGuardError | None]:
        return list(await asyncio.gather(*(_begin(store, *one) for one in enumerate(tasks))))

    return asyncio.run(together())


async def _begin(store: AwaitedPort, number: int, task: str) -> AgentGuardError | None:
    added = (Addition(USER, "pay", 7, 1, until=5000.0),)
    numbers = ((Cell(USER, "pay", 5), 0),)
    try:
        await store.begin_call(call(f"{number}", task=task, numbers=numbers, additions=added), None)
    except AgentGuardError as error:
        return error
    return None
