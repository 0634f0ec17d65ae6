"""What is counted costs the same after ten thousand calls as after ten."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from agentguard.model import Addition, Budget, Call, Cell, Outcome, ToolPath
from agentguard.model.counts import BUCKETS
from agentguard.stores import MemoryStore, SqliteStore
from agentguard.testing import sample_task

OWNER, WINDOW = "task task-1", "user 86400 ada"
FEW, MANY, ROUNDS = 10, 10_000, 200


class Caller:
    """Makes calls that count in a task, per order and in a window, each judged by what it has just read."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.count = 0
        store.create_task(sample_task(budget=Budget(), deadline=1e12))

    def call(self) -> float:
        """Make one more call, and return the processor's time that it took."""
        self.count += 1
        order, bucket = f"pay\x1fper\x1forder\x1f{self.count % 5000}", self.count % BUCKETS
        names = (("pay", ""), ("pay\x1fsum\x1famount", ""), (order, "pay\x1fper\x1forder"))
        added = [Addition(OWNER, name, 0, 1, group) for name, group in names]
        added += [Addition(WINDOW, name, bucket, 1, group, 1e11) for name, group in names]
        cells = [Cell(one.owner, one.name) for one in added]
        begin = time.process_time()
        numbers = self.store.counted(cells)
        facts: dict[str, Any] = {"task_id": "task-1", "tool": "pay", "path": ToolPath.WRITE, "at": 1000.0}
        seen = tuple(zip(cells, numbers, strict=True))
        id_ = f"c{self.count}"
        self.store.begin_call(Call(id=id_, key=id_, numbers=seen, additions=tuple(added), **facts), None)
        self.store.end_call(id_, Outcome.DONE)
        return time.process_time() - begin


@pytest.mark.timing
@pytest.mark.promise("counters-are-bounded")
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_call_costs_the_store_the_same_after_ten_thousand_as_after_ten(tmp_path: Path, kind: str) -> None:
    def make(name: str) -> Any:
        return MemoryStore() if kind == "memory" else SqliteStore(tmp_path / f"{name}.db")

    callers = {FEW: Caller(make("few")), MANY: Caller(make("many"))}
    for number, caller in callers.items():
        for _ in range(number):
            caller.call()
    times: dict[int, list[float]] = {number: [] for number in callers}
    for _ in range(ROUNDS):  # one beside the other, so that what else runs here slows both
        for number, caller in callers.items():
            times[number].append(caller.call())
    assert median(times[MANY]) < 2 * median(times[FEW])
    for caller in callers.values():
        getattr(caller.store, "close", lambda: None)()
