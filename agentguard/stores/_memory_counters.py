"""The numbers of the store in memory. The store holds its lock around each call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from agentguard.model import Addition, Call, Cell
from agentguard.model.counts import family_of
from agentguard.stores import _counter_rules

_Key = tuple[str, str]  # an owner and a name


class CounterTable:
    """Numbers by owner and name, in buckets; none of them is 0."""

    def __init__(self) -> None:
        self._numbers: defaultdict[_Key, dict[int, int]] = defaultdict(dict)
        self._until: dict[tuple[str, str, int], float] = {}
        self._of_families: defaultdict[str, set[str]] = defaultdict(set)

    def value(self, cell: Cell, without: Iterable[Addition] = ()) -> int:
        """Return a number, less what the additions *without* are of it."""
        buckets = self._numbers.get((cell.owner, cell.name), {})
        total = sum(number for bucket, number in buckets.items() if bucket >= cell.since)
        return total - _counter_rules.added_by(without, cell)

    def check(self, call: Call, before: Iterable[Addition]) -> None:
        """Check what `begin` will do; *before* is what the same call has added before it was suspended.

        Raises:
            CountersChanged: A number is another than that by which the call was judged.
            CountersFull: There is no room for what the call adds.
        """
        _counter_rules.require_unchanged(call, (self.value(cell, before) for cell, _ in call.numbers))
        for addition in call.additions:
            owner, name, bucket, _, group, _ = addition
            buckets = self._numbers.get((owner, name), {})
            _counter_rules.grown(buckets.get(bucket, 0), addition)
            if group and bucket not in buckets:
                _counter_rules.within_limit(self._numbers.get((owner, group), {}).get(bucket, 0), addition)

    def begin(self, call: Call, before: Iterable[Addition]) -> None:
        """Add what a call adds, in place of what the same call has added before."""
        self.remove(before)
        for owner, name, bucket, amount, group, until in call.additions:
            present = self._numbers.get((owner, name), {}).get(bucket, 0)
            if group and not present:
                values = self._numbers.get((owner, group), {}).get(bucket, 0)
                self._put(owner, group, bucket, values + 1, until)
            self._put(owner, name, bucket, present + amount, until)

    def _put(self, owner: str, name: str, bucket: int, number: int, until: float) -> None:
        self._numbers[owner, name][bucket] = number
        if until:
            self._until[owner, name, bucket] = until
        else:
            self._of_families[owner].add(name)

    def remove(self, additions: Iterable[Addition]) -> None:
        """Take back what was added; what is pruned by now is 0."""
        for owner, name, bucket, amount, group, _ in additions:
            if self._subtract(owner, name, bucket, amount) and group:
                self._subtract(owner, group, bucket, 1)

    def _subtract(self, owner: str, name: str, bucket: int, amount: int) -> bool:
        """Return whether the number is 0 now, and was not before."""
        number = self._numbers.get((owner, name), {}).get(bucket, 0)
        if number > amount:
            self._numbers[owner, name][bucket] = number - amount
            return False
        self._drop(owner, name, bucket)
        return number > 0

    def _drop(self, owner: str, name: str, bucket: int) -> None:
        buckets = self._numbers.get((owner, name), {})
        buckets.pop(bucket, None)
        self._until.pop((owner, name, bucket), None)
        if not buckets:
            self._numbers.pop((owner, name), None)
            if owner in self._of_families:
                self._of_families[owner].discard(name)

    def prune(self, now: float, tasks: Collection[str]) -> None:
        """Delete the parts of windows that are over, and what belongs to families without a task."""
        old = now - _counter_rules.KEEP_BUCKETS
        for key in [key for key, until in self._until.items() if until <= old]:
            self._drop(*key)
        families = set(map(family_of, tasks))
        for owner in [owner for owner in self._of_families if owner not in families]:
            for name in self._of_families.pop(owner):
                self._numbers.pop((owner, name), None)

    def __len__(self) -> int:
        return len(self._numbers)
