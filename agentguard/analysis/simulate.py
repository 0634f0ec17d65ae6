"""What a guard would now decide on calls that an audit log has recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agentguard.analysis.decide import Decide, Verdict, verdict
from agentguard.audit.requests import replayed
from agentguard.model import Decision, Effect, ToolSpec

__all__ = ["Simulation", "Turn", "simulate"]

_OF_RULES = frozenset(
    {"unknown_tool", "mandate", "policy", "policy_error", "obligation", "no_rights", "no_credential"}
)
_ASKED = frozenset({"approval_refused", "approval_unavailable"})


@dataclass(frozen=True, slots=True, order=True)
class Turn:
    """Recorded calls of one tool that would be decided otherwise; *example* is the id of one of them."""

    tool: str
    before: Verdict
    after: Verdict
    policies: tuple[str, ...]
    reason: str
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class Simulation:
    """The result for all records: how many stay the same, which turn, and how many cannot be decided anew."""

    same: int
    turns: tuple[Turn, ...]
    untold: int

    @property
    def asked_again(self) -> int:
        """How many calls were decided anew."""
        return self.same + sum(turn.count for turn in self.turns)


def simulate(
    decide: Decide, records: Iterable[Mapping[str, Any]], tool: Callable[[str], ToolSpec | None]
) -> Simulation:
    """Decide each recorded call anew; *tool* says what a tool is now.

    A call whose request was not recorded is counted in `untold`. A call that something else than rules has
    stopped (a budget, a task that was over, a store that failed) is left out.
    """
    same, untold = 0, 0
    turns: Counter[tuple[str, Verdict, Verdict, tuple[str, ...], str]] = Counter()
    examples: dict[object, str] = {}
    for record in records:
        if record.get("event") != "decision" or (before := _before(record)) is None:
            continue
        decision = _again(decide, record, tool)
        if decision is None:
            untold += 1
        elif (after := verdict(decision)) is before:
            same += 1
        else:
            turn = (str(record.get("tool")), before, after, decision.policy_ids, decision.reason)
            turns[turn] += 1
            examples.setdefault(turn, str(record.get("call") or record.get("digest")))
    counted = (Turn(*turn, count, examples[turn]) for turn, count in turns.items())
    return Simulation(same, tuple(sorted(counted)), untold)


def _before(record: Mapping[str, Any]) -> Verdict | None:
    """Return the recorded verdict, or None if something else than rules has stopped the call."""
    code = record.get("code")
    if record.get("effect") == "permit":
        return Verdict.ASKED if record.get("approval") else Verdict.PERMITTED
    if code in _ASKED:
        return Verdict.ASKED
    return Verdict.DENIED if code in _OF_RULES else None


def _again(
    decide: Decide, record: Mapping[str, Any], tool: Callable[[str], ToolSpec | None]
) -> Decision | None:
    if not isinstance(recorded := record.get("request"), Mapping):
        return None
    if (spec := tool(str(record.get("tool")))) is None:
        return Decision(effect=Effect.DENY, reason="not classified in the catalog")
    try:
        return decide(replayed(recorded, spec))
    except ValueError:
        return None
