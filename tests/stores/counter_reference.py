"""What a store must count, on a page: a slow reference, and random steps that a store and it both take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from agentguard.errors import CountersChanged, TaskNotActive
from agentguard.model import Addition, Call, Cell, Outcome, TaskStatus
from agentguard.testing.scenarios import AwaitedPort
from agentguard.testing.scenes import call, create_family

__all__ = ["Reference", "Step", "compare", "steps"]

Step = tuple[Any, ...]
OWNERS = ("task root", "user ada", "agent one\x1f3600")
NAMES = ("pay", "pay\x1fsum\x1famount", "pay\x1fper\x1forder\x1f1", "pay\x1fper\x1forder\x1f2")
GROUP = "pay\x1fper\x1forder"
CELLS = [Cell(owner, name, since) for owner in OWNERS for name in (*NAMES, GROUP) for since in (0, 2)]
additions = st.builds(
    lambda owner, name, bucket, amount: Addition(
        owner,
        name,
        0 if owner == OWNERS[0] else bucket,
        1 if "per" in name else amount,
        GROUP if "per" in name else "",
        0.0 if owner == OWNERS[0] else 1e11,
    ),
    st.sampled_from(OWNERS),
    st.sampled_from(NAMES),
    st.integers(1, 3),
    st.integers(1, 9),
)
# no call adds twice to one number of one bucket
several = st.lists(additions, max_size=4, unique_by=lambda one: one[:3]).map(tuple)
tasks = st.sampled_from(["child", "parent", "root"])
keys = st.sampled_from(["k1", "k2"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), tasks, keys, several, st.lists(st.sampled_from(CELLS), max_size=3)),
        st.tuples(st.just("begin late"), tasks, keys, several, st.sampled_from(CELLS)),
        st.tuples(st.just("end"), st.integers(0, 8), st.sampled_from(Outcome), st.booleans()),
        st.tuples(st.just("end task"), tasks),
        st.tuples(st.just("crash")),
    ),
    max_size=20,
)


@dataclass
class Reference:
    """Every call that has ever begun, and whether it counts: it was not undone."""

    calls: list[Call] = field(default_factory=list)
    running: list[Call] = field(default_factory=list)
    suspended: list[Call] = field(default_factory=list)
    over: set[str] = field(default_factory=set)

    def value(self, cell: Cell, without: Call | None = None) -> int:
        """Return a number: a sum over all calls that count."""
        added = [one for each in self.calls if each is not without for one in each.additions]
        if cell.name == GROUP:
            added = [
                Addition(owner, GROUP, bucket, 1)
                for owner, _, bucket in {one[:3] for one in added if one.group}
            ]
        return sum(one.amount for one in added if one[:2] == cell[:2] and one.bucket >= cell.since)

    def prior(self, new: Call) -> Call | None:
        """Return the suspended call that this one resumes."""
        return next((one for one in self.suspended if one.same == new.same), None)

    def begin(self, new: Call) -> None:
        """Note a call that has begun."""
        if (prior := self.prior(new)) is not None:
            self.calls.remove(prior)
            self.suspended.remove(prior)
        self.calls.append(new)
        self.running.append(new)

    def end(self, old: Call, outcome: Outcome, *, undo: bool) -> None:
        """Note the end of a call."""
        self.running.remove(old)
        if undo:
            self.calls.remove(old)
            old = call(old.id, key=old.key, task=old.task_id)
            self.calls.append(old)
        if outcome is Outcome.SUSPENDED:
            self.suspended = [one for one in self.suspended if one.same != old.same]
            self.suspended.append(old)


async def compare(store: AwaitedPort, sequence: list[Step]) -> None:
    """Take the steps with the store and the reference, and compare all numbers after each."""
    await create_family(store, deadline=1e12)
    reference = Reference()
    for number, (kind, *facts) in enumerate(sequence):
        if kind.startswith("begin"):
            await _begin(store, reference, f"c{number}", facts, late=kind == "begin late")
        elif kind == "end" and reference.running:
            ended = reference.running[facts[0] % len(reference.running)]
            if facts[1] is Outcome.SUSPENDED and reference.prior(ended) is not None:
                continue  # of two suspended calls of one key nobody says which is resumed
            await store.end_call(ended.id, facts[1], undo=facts[2])
            reference.end(ended, facts[1], undo=facts[2])
        elif kind == "end task":
            reference.over |= {facts[0], *await store.end_task(facts[0], TaskStatus.COMPLETED)}
        elif kind == "crash":
            reference.running.clear()  # nobody ends them any more, and they count
        expected = [reference.value(cell) for cell in CELLS]
        assert list(await store.counted(CELLS)) == expected, (number, kind, facts)
        for one in reference.suspended:
            plain = [cell for cell in CELLS if cell.name != GROUP]
            values = [reference.value(cell, one) for cell in plain]
            assert list(await store.counted(plain, one.same)) == values


async def _begin(
    store: AwaitedPort, reference: Reference, name: str, facts: list[Any], *, late: bool
) -> None:
    task, key, added, cells = facts
    new = call(name, key=key, task=task, additions=added)
    prior = reference.prior(new)
    cells = [cells] if late else cells
    numbers = tuple((cell, reference.value(cell, prior) + late) for cell in cells if cell.name != GROUP)
    if prior is not None:  # the same call, so it is counted as before
        added = added or prior.additions
    new = call(name, key=key, task=task, additions=added, numbers=numbers)
    try:
        await store.begin_call(new, None)
    except CountersChanged:
        assert late
        assert numbers
    except TaskNotActive:
        assert task in reference.over
    else:
        assert task not in reference.over
        assert not (late and numbers)
        reference.begin(new)
