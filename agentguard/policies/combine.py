"""Several policies as one: their joint decision, and its version.

An error in a policy is raised under every rule, so the guard denies. An error never counts as no opinion.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import Any

from agentguard.concurrency.drive import Operation, drive, operation_pair
from agentguard.errors import ConfigurationError
from agentguard.model import AccessRequest, Decision, Effect, Obligation, Outcome, ToolSpec
from agentguard.model.looks import Looks, united
from agentguard.ports import CatalogAware, CountsOnDemand, FactsOnDemand, Policy
from agentguard.ports.looks import looks_of

__all__ = ["Combine", "Rule", "merge_obligations"]


class Rule(StrEnum):
    """How the decisions of several policies become one."""

    DENY_OVERRIDES = "deny-overrides"
    """One deny is a deny. A policy without opinion does not count. At least one policy must permit."""
    UNANIMOUS = "unanimous"
    """All policies must permit. A policy without opinion is a deny."""
    FIRST_APPLICABLE = "first-applicable"
    """The first policy that has an opinion decides. Later policies are not asked."""


class Combine:
    """Decides by *policies*, in their order, under *rule*.

    A policy has no opinion when it denies as not applicable. Any other deny is an opinion. A deny that tells
    of an error is an opinion too: otherwise a later policy could permit a request that an earlier policy
    could not evaluate. If no policy has an opinion, the answer is a deny.

    The obligations of all permits hold together: scopes are intersected, the shortest lifetime holds, and all
    other obligations are kept. `version` is a digest of the rule and of the versions of all policies. The
    `policy_version` of a decision is a digest of the rule and of the versions of the decisions in it.

    Raises:
        ConfigurationError: There are no policies, or the rule is unknown.
    """

    def __init__(self, policies: Sequence[Policy], rule: Rule | str) -> None:
        if not policies:
            raise ConfigurationError("a combination needs at least one policy", hint="give it a policy")
        if rule not in list(Rule):
            raise ConfigurationError(f"unknown rule {rule!r}", hint=f"use one of {', '.join(Rule)}")
        self._policies, self._rule = tuple(policies), Rule(rule)
        self._operations = [operation_pair(policy, "decide") for policy in self._policies]
        self.inline = all(getattr(policy, "inline", False) for policy in self._policies)

    @property
    def version(self) -> str:
        """A digest of the rule and of the versions of all policies."""
        return _digest(self._rule, [str(policy.version) for policy in self._policies])

    def check_tools(self, tools: Iterable[ToolSpec]) -> None:
        """Have each policy that checks tools check them.

        Raises:
            ConfigurationError: One of them names a tool or an argument that does not exist.
        """
        specs = tuple(tools)
        for policy in self._policies:
            if isinstance(policy, CatalogAware):
                policy.check_tools(specs)

    def facts_for(self, tool: ToolSpec) -> Collection[str]:
        """Return the names of the facts that any of the policies looks at in calls of a tool."""
        names: set[str] = set()
        for policy in self._policies:
            if isinstance(policy, FactsOnDemand):
                names.update(policy.facts_for(tool))
            else:
                names.update(fact.name for fact in tool.facts)
        return names

    def counts_for(self, tool: ToolSpec) -> Collection[tuple[str, str]] | None:
        """Return whose calls of which tools one of the policies may look at; None for all."""
        looks = set[tuple[str, str]]()
        for policy in self._policies:
            of_policy = policy.counts_for(tool) if isinstance(policy, CountsOnDemand) else None
            if of_policy is None:
                return None
            looks.update(of_policy)
        return looks

    def looks_for(self, tool: ToolSpec) -> Looks:
        """Return the places inside of a tool's arguments at which one of the policies may look."""
        return united([looks_of(policy, tool) for policy in self._policies])

    def reload(self) -> bool:
        """Have each policy that has `reload` read its rules again.

        Returns whether there is such a policy, and all of them have put their new rules in force.
        """
        reloads = [getattr(policy, "reload", None) for policy in self._policies]
        results = [reload() for reload in reloads if reload is not None]
        return bool(results) and all(results)

    @property
    def rules(self) -> tuple[Any, ...]:
        """The rules of those policies that have `rules`, as Cedar's has."""
        return tuple(rule for policy in self._policies for rule in getattr(policy, "rules", ()))

    def examine(self, request: AccessRequest) -> tuple[Any, ...]:
        """Return the rules whose heads fit a request, of the policies that have `examine`."""
        examining = [getattr(policy, "examine", None) for policy in self._policies]
        return tuple(rule for examine in examining if examine is not None for rule in examine(request))

    @property
    def rule(self) -> Rule:
        """How their decisions become one."""
        return self._rule

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The policies that are asked, in order."""
        return tuple(self._policies)

    @property
    def services(self) -> tuple[Any, ...]:
        """The services that the policies ask."""
        return tuple(one for policy in self._policies for one in getattr(policy, "services", ()))

    def health(self) -> None:
        """Ask the service of each policy whether it answers at all.

        Raises:
            AgentGuardError: One does not.
        """
        for policy in self._policies:
            if (health := getattr(policy, "health", None)) is not None:
                health()

    @property
    def learn(self) -> Callable[[AccessRequest, Outcome], None] | None:
        """What tells each policy that learns of it how a call has ended; None if there is no such policy."""
        learners = [learn for policy in self._policies if (learn := getattr(policy, "learn", None))]
        return partial(_tell, learners) if learners else None

    def close(self) -> None:
        """Close the connections of each policy that has any."""
        for close in (getattr(policy, "close", None) for policy in self._policies):
            if close is not None:
                close()

    def decide(self, request: AccessRequest) -> Decision:
        """Answer the request; raise what a policy raises."""
        return drive(self._decide(request, [operation.sync for operation in self._operations]))

    async def adecide(self, request: AccessRequest) -> Decision:
        """Answer the request; raise what a policy raises."""
        return await self._decide(request, [operation.async_ for operation in self._operations])

    async def _decide(self, request: AccessRequest, operations: Sequence[Operation]) -> Decision:
        decisions: list[Decision] = []
        versions: list[str] = []
        for policy, decide in zip(self._policies, operations, strict=True):
            decisions.append(await _answer(decide, request))
            versions.append(decisions[-1].policy_version or str(policy.version))
            if self._rule is Rule.FIRST_APPLICABLE and _has_opinion(decisions[-1]):
                decisions = decisions[-1:]
                break
        if self._rule is not Rule.UNANIMOUS:
            decisions = [decision for decision in decisions if _has_opinion(decision)]
        joint = _joined(decisions, request.tool.name)
        return replace(joint, policy_version=_digest(self._rule, versions))


def _digest(rule: Rule, versions: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([rule, *versions]).encode()).hexdigest()[:16]


async def _answer(decide: Callable[..., Awaitable[object]], request: AccessRequest) -> Decision:
    answer = await decide(request)
    if not isinstance(answer, Decision) or not isinstance(answer.effect, Effect):
        raise TypeError(f"a policy answered with {type(answer).__name__}")
    return answer


def _has_opinion(decision: Decision) -> bool:
    return decision.permitted or decision.applicable


def _joined(decisions: Sequence[Decision], tool: str) -> Decision:
    """Return the denies as one if there are any, and else the permits as one."""
    decisive = [decision for decision in decisions if not decision.permitted] or decisions
    if not decisive:
        reason = f"no policy permits {tool} here"
        return Decision(effect=Effect.DENY, reason=reason, applicable=False)
    permitted = decisive[0].permitted
    obligated = decisive if permitted else decisions  # one policy's deny keeps no other's from being executed
    obligations = [obligation for decision in obligated for obligation in decision.obligations]
    return Decision(
        effect=decisive[0].effect,
        policy_ids=tuple(dict.fromkeys(id for decision in decisive for id in decision.policy_ids)),
        reason="; ".join(dict.fromkeys(decision.reason for decision in decisive if decision.reason)),
        advice=" ".join(dict.fromkeys(decision.advice for decision in decisive if decision.advice)),
        obligations=merge_obligations(obligations) if permitted else tuple(obligations),
        decision_id=" ".join(decision.decision_id for decision in decisive if decision.decision_id),
        applicable=any(map(_has_opinion, decisive)),
    )


def merge_obligations(obligations: Iterable[Obligation]) -> tuple[Obligation, ...]:
    """Return obligations that demand the same, with at most one of each kind that narrows.

    Raises:
        ValueError: An obligation that narrows does not say to what.
    """
    merged: list[Obligation] = []
    scopes: list[frozenset[str]] = []
    seconds: list[float] = []
    for obligation in obligations:
        if obligation.kind == "narrow_scopes":
            scopes.append(_scopes(obligation))
        elif obligation.kind == "shorten_lifetime":
            seconds.append(_seconds(obligation))
        elif obligation not in merged:
            merged.append(obligation)
    if scopes:
        common = sorted(frozenset.intersection(*scopes))
        merged.append(Obligation(kind="narrow_scopes", parameters={"scopes": common}))
    if seconds:
        merged.append(Obligation(kind="shorten_lifetime", parameters={"seconds": min(seconds)}))
    return tuple(merged)


def _scopes(obligation: Obligation) -> frozenset[str]:
    scopes = obligation.parameters.get("scopes")
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise ValueError("narrow_scopes has no list of scopes")
    return frozenset(scopes)


def _seconds(obligation: Obligation) -> float:
    seconds = obligation.parameters.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise ValueError("shorten_lifetime has no positive number of seconds")
    return seconds


def _tell(
    learners: Iterable[Callable[[AccessRequest, Outcome], None]], request: AccessRequest, outcome: Outcome
) -> None:
    for learn in learners:
        learn(request, outcome)
