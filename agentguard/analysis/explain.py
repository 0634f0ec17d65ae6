"""Why a call is judged as it is, and the smallest changes that would turn the decision.

`turning` changes a request, asks for the decision again, and keeps the changes that turn it. It does not
interpret rules. What it tries is in `agentguard.analysis.changes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from agentguard.analysis.changes import Change, changes
from agentguard.analysis.decide import Decide, Verdict, verdict
from agentguard.model import AccessRequest, Decision

__all__ = ["Turned", "turning"]

ASKS = 2_500
"""How many changed requests are decided at most."""


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
    decide: Decide,
    request: AccessRequest,
    *,
    rules: Iterable[str] = (),
    most: int = 5,
    asks: int = ASKS,
) -> tuple[Turned, ...]:
    """Return at most *most* ways to turn the decision, the fewest changes first; the same each time.

    *decide* gives the whole decision of a guard. *rules* are texts in which constants are looked for. Single
    changes are tried, then pairs, until *decide* was called *asks* times. A change that was not tried may
    turn the decision as well.
    """
    before = verdict(decide(request))
    candidates = list(changes(request, rules))
    turns: list[Turned] = []
    for combination in _sets(candidates, turns, before):
        if asks <= 0 or len(turns) >= most:
            break
        asks -= 1
        changed = request
        for change in combination:
            changed = change.make(changed)
        decision = decide(changed)
        if verdict(decision) is not before:
            turns.append(Turned(combination, decision))
    return tuple(turns)


def _sets(
    candidates: Sequence[Change], turns: Sequence[Turned], before: Verdict
) -> Iterator[tuple[Change, ...]]:
    """Yield single changes, then pairs of which neither turns the decision alone."""
    for change in candidates:
        yield (change,)
    alone = {turned.changes[0] for turned in turns}
    for pair in combinations([change for change in candidates if change not in alone], 2):
        if pair[0].place != pair[1].place:
            yield pair
