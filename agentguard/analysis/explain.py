"""Why a call is judged as it is, and the smallest changes that would turn the decision.

`turning` changes a request, asks for the decision again, and keeps the changes that turn it. It does not
interpret rules. What it tries is in `agentguard.analysis.changes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from agentguard.analysis.changes import Change, changes
from agentguard.analysis.simulate import Verdict, judge, verdict
from agentguard.model import AccessRequest, Decision
from agentguard.ports import Policy

__all__ = ["Turned", "turning"]

ASKS = 2_000
"""How often a policy is asked at most."""


@dataclass(frozen=True, slots=True)
class Turned:
    """Changes that together turn the decision, none of which could be left out."""

    changes: tuple[Change, ...]
    decision: Decision

    @property
    def verdict(self) -> Verdict:
        """What the decision is then."""
        return verdict(self.decision)

    def __str__(self) -> str:
        return f"{self.verdict} if {' and '.join(change.words for change in self.changes)}"


def turning(
    policy: Policy,
    request: AccessRequest,
    *,
    rules: Iterable[str] = (),
    most: int = 5,
    asks: int = ASKS,
) -> tuple[Turned, ...]:
    """Return at most *most* ways to turn the decision, the fewest changes first; the same each time.

    *rules* are texts in which constants are looked for. Single changes are tried, then pairs, as long as
    the policy has been asked no more than *asks* times; it may turn by what was not tried.
    """
    before = verdict(judge(policy, request))
    candidates = list(changes(request, rules))
    found: list[Turned] = []
    for tried in _sets(candidates, found, before):
        if asks <= 0 or len(found) >= most:
            break
        asks -= 1
        changed = request
        for change in tried:
            changed = change.make(changed)
        decision = judge(policy, changed)
        if verdict(decision) is not before:
            found.append(Turned(tried, decision))
    return tuple(found)


def _sets(
    candidates: Sequence[Change], found: Sequence[Turned], before: Verdict
) -> Iterator[tuple[Change, ...]]:
    """Yield single changes, then pairs of which neither turns the decision alone."""
    for change in candidates:
        yield (change,)
    alone = {turned.changes[0] for turned in found}
    for pair in combinations([each for each in candidates if each not in alone], 2):
        if pair[0].place != pair[1].place:
            yield pair
