"""What a store must do with the effects of reading: taint and labels. A part of `StoreContract`."""
# ruff: noqa: S101, D102  a contract asserts, and its names are sentences

from __future__ import annotations

from agentguard.model import LABELS, RECORD, TRUSTED_LABELS, Label, Outcome, ReadEffects, Sensitivity
from agentguard.testing.samples import sample_task
from agentguard.testing.scenarios import AwaitedPort, Contract, on_both_paths
from agentguard.testing.scenes import call, create_family

__all__ = ["EffectsContract"]


class EffectsContract(Contract):
    """A task and its ancestors keep what they have read: untrusted text, sensitivity, and labels."""

    @on_both_paths
    async def test_what_was_read_taints_the_task_and_all_that_it_descends_from(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store)
        for name in ("1", "2"):
            await store.begin_call(call(name, task="parent"), None)
        await store.end_call("1", Outcome.DONE)
        assert not (await store.task("parent")).untrusted
        effects = ReadEffects(untrusted=True, sensitivity=Sensitivity.CONFIDENTIAL)
        await store.end_call("2", Outcome.FAILED, effects=effects)
        for name, expected in (("root", True), ("parent", True), ("child", False)):
            state = await store.task(name)
            assert (state.untrusted, state.sensitivity == Sensitivity.CONFIDENTIAL) == (expected, expected)
        await store.begin_call(call("3", task="parent"), None)
        await store.end_call("3", Outcome.DONE, effects=ReadEffects(sensitivity=Sensitivity.INTERNAL))
        assert (await store.task("parent")).sensitivity is Sensitivity.CONFIDENTIAL
        assert (await store.task("parent")).untrusted
        await store.end_call("never-begun", Outcome.DONE, effects=effects)

    @on_both_paths
    async def test_labels_are_kept_for_a_whole_family_and_counted_once(self, store: AwaitedPort) -> None:
        await create_family(store)
        await store.create_task(sample_task("other"))
        labels = (
            Label("d1", "a", True),
            Label("d1", "b", False, Sensitivity.INTERNAL),
            Label("d2", "a", True),
            Label("d2", f'a{RECORD}["a","x",{{"y":[["d1",["user"]]]}}]', False),  # the same in a record
        )
        for name, part in (("1", labels), ("2", labels[:2])):
            await store.begin_call(call(name, task="child"), None)
            await store.end_call(name, Outcome.DONE, effects=ReadEffects(labels=part))
        assert set(await store.labels("root", {"d1", "unknown"})) == set(labels[:2])
        assert set(await store.labels("root", {"d2"})) == set(labels[2:])
        assert set(await store.labels("other", {"d1", "d2"})) == set()
        counts = {name: (await store.task(name)).labels for name in ("root", "parent", "child", "other")}
        assert counts == {"root": 4, "parent": 4, "child": 4, "other": 0}

    @on_both_paths
    async def test_labels_do_not_grow_without_bound(self, store: AwaitedPort) -> None:
        await store.create_task(sample_task())
        sizes = (
            (LABELS - 1, False),
            (5, False),
            (5, False),
            (TRUSTED_LABELS - 1, True),
            (5, True),
            (5, True),
        )
        for name, (size, trusted) in zip("123456", sizes, strict=True):
            labels = tuple(Label(f"{name}-{n}", "tool", trusted) for n in range(size))
            await store.begin_call(call(name, task="task-1"), None)
            await store.end_call(name, Outcome.DONE, effects=ReadEffects(labels=labels))
        assert (await store.task("task-1")).labels == LABELS + TRUSTED_LABELS
        labels_left = await store.labels("task-1", {"2-0", "2-1", "3-0", "4-0", "5-0", "5-1", "6-0"})
        assert {label.digest for label in labels_left} == {"2-0", "4-0", "5-0"}
