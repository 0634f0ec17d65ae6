"""What a guard would now decide on calls that an audit log has recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from agentguard.audit.requests import replayed
from agentguard.model import AccessRequest, Decision, Effect, ToolSpec
from agentguard.ports import Policy

__all__ = ["Decide", "Simulation", "Turn", "Verdict", "judge", "simulate", "verdict"]

Decide = Callable[[AccessRequest], Decision]
"""Gives the whole decision of a guard (mandate, rights, policy, obligations), and carries out nothing."""

_OF_RULES = frozenset({"unknown_tool", "mandate", "policy", "policy_error", "obligation"})
_ASKED = frozenset({"approval_refused", "approval_unavailable"})


class Verdict(StrEnum):
    """A decision on a call. Asking a person is a verdict of its own."""

    PERMITTED = "permitted"
    ASKED = "asked"
    DENIED = "denied"


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


def verdict(decision: Decision) -> Verdict:
    """Return the verdict of a decision."""
    if not decision.permitted:
        return Verdict.DENIED
    return Verdict.ASKED if decision.obliges("approve") else Verdict.PERMITTED


def judge(policy: Policy, request: AccessRequest) -> Decision:
    """Answer as a guard does: the mandate first; what errs, lies or obliges to the unknown is a deny."""
    if objection := request.task.mandate.objection(request.tool, request.arguments):
        return Decision(effect=Effect.DENY, reason=f"mandate: {objection}")
    try:
        decision = policy.decide(request)
    except Exception as error:  # noqa: BLE001  a policy that errs, in whatever way, is a deny
        return Decision(effect=Effect.DENY, reason=f"policy failed: {type(error).__name__}")
    if not isinstance(decision, Decision) or not isinstance(decision.effect, Effect):
        return Decision(effect=Effect.DENY, reason=f"policy answered with {type(decision).__name__}")
    if decision.permitted and (kind := decision.not_understood) is not None:
        return replace(decision, effect=Effect.DENY, reason=f"{kind} is not understood", obligations=())
    return decision


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
