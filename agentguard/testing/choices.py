"""The part of the store's contract about choice bits: what calls say by which values are in them."""
# ruff: noqa: S101, D102  a contract asserts, and its names are sentences

from __future__ import annotations

from agentguard.errors import BudgetExhausted, ChoiceExhausted
from agentguard.model import Budget, Outcome
from agentguard.testing.races import begin_together
from agentguard.testing.samples import sample_task
from agentguard.testing.scenarios import AwaitedPort, Contract, assert_raises, on_both_paths
from agentguard.testing.scenes import call, create_family, live_credential

__all__ = ["ChoiceContract"]


class ChoiceContract(Contract):
    """Tests that a store counts the choice bits of calls."""

    @on_both_paths
    async def test_choice_bits_count_on_the_task_and_all_that_it_descends_from(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store)
        await store.begin_call(call("1", choice_bits=13), None)
        await store.begin_call(call("2"), None)
        await store.begin_call(call("3", task="parent", choice_bits=7), None)
        counts = [(await store.task(name)).choice_bits for name in ("child", "parent", "root")]
        assert counts == [13, 20, 20]

    @on_both_paths
    async def test_a_task_comes_back_with_its_choice_bits_and_their_limit(self, store: AwaitedPort) -> None:
        state = sample_task(budget=Budget(choice_bits=512), choice_bits=17)
        await store.create_task(state)
        assert await store.task(state.id) == state

    @on_both_paths
    async def test_choice_bits_beyond_a_limit_anywhere_in_the_lineage_begin_no_call_and_count_nothing(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store, root=Budget(choice_bits=20))
        await store.begin_call(call("1", choice_bits=12), live_credential("1"))
        attempt = store.begin_call(call("2", choice_bits=9), live_credential("2"))
        assert "root has used 12 of its 20 choice bits" in await assert_raises(ChoiceExhausted, attempt)
        child = await store.task("child")
        assert (child.calls, child.choice_bits) == (1, 12)
        assert await store.live() == (live_credential("1"),)
        await store.begin_call(call("2", choice_bits=8), None)
        await store.begin_call(call("3"), None)
        await assert_raises(ChoiceExhausted, store.begin_call(call("4", choice_bits=1), None))
        assert (await store.task("root")).choice_bits == 20

    @on_both_paths
    async def test_a_budget_that_is_used_up_comes_before_choice_bits_that_are(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store, child=Budget(choice_bits=1), root=Budget(calls=0))
        attempt = store.begin_call(call("1", choice_bits=2), None)
        assert "root has used its 0 calls" in await assert_raises(BudgetExhausted, attempt)

    @on_both_paths
    async def test_a_resumed_call_says_its_choice_bits_once(self, store: AwaitedPort) -> None:
        await create_family(store, child=Budget(choice_bits=20))
        await store.begin_call(call("1", key="k", choice_bits=15), None)
        await store.end_call("1", Outcome.SUSPENDED)
        await store.begin_call(call("2", key="k", choice_bits=15), None)
        assert (await store.task("child")).choice_bits == 15

    def test_parallel_calls_do_not_overrun_the_choice_bits(self) -> None:
        for errors, state in begin_together(self, 8, Budget(choice_bits=32), choice_bits=10):
            assert errors.count(None) == 3
            assert sum(isinstance(error, ChoiceExhausted) for error in errors) == 5
            assert state.choice_bits == 30
