"""Several policies as one: what they say together, and under which version.

An error in a policy is raised under every rule, and so denies: it never counts as having no opinion.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

from agentguard.concurrency.drive import Operation, drive, operation_pair
from agentguard.errors import ConfigurationError
from agentguard.model import AccessRequest, Decision, Effect, Obligation, ToolSpec
from agentguard.ports import CatalogAware, Policy

__all__ = ["Combine", "Rule", "merged"]


class Rule(StrEnum):
    """How the decisions of several policies become one."""

    DENY_OVERRIDES = "deny-overrides"
    """One deny is a deny; who has no opinion does not count; somebody must permit."""
    UNANIMOUS = "unanimous"
    """All must permit; having no opinion is a deny."""
    FIRST_APPLICABLE = "first-applicable"
    """The first that has an opinion decides; the later ones are not asked."""


class Combine:
    """Judges by *policies*, in their order, under *rule*.

    A policy has no opinion when it denies as not applicable. Any other deny is an opinion: so is one that
    tells of an error, which would otherwise let a later policy permit what an earlier one could not
    judge. If nobody has an opinion, the answer is a deny.

    Obligations of all the permits hold together: scopes are intersected, the shortest lifetime holds,
    and any others are kept. `version` is a digest of the rule and of all the versions, and that of a
    decision is one of the versions that its parts were made under.

    Raises:
        ConfigurationError: There are no policies, or the rule is unknown.
    """

    def __init__(self, policies: Sequence[Policy], rule: Rule | str) -> None:
        if not policies:
            raise ConfigurationError("a combination needs at least one policy", hint="give it a policy")
        if rule not in list(Rule):
            raise ConfigurationError(f"unknown rule {rule!r}", hint=f"use one of {', '.join(Rule)}")
        self._policies, self._rule = tuple(policies), Rule(rule)
        self._twins = [operation_pair(policy, "decide") for policy in self._policies]
        self.inline = all(getattr(policy, "inline", False) for policy in self._policies)

    @property
    def version(self) -> str:
        """Names the rule and the rules of all the policies."""
        return _digest(self._rule, [str(policy.version) for policy in self._policies])

    def check_tools(self, tools: Iterable[ToolSpec]) -> None:
        """Tell each policy that asks for it of all the tools.

        Raises:
            ConfigurationError: One of them names a tool or an argument that does not exist.
        """
        known = tuple(tools)
        for policy in self._policies:
            if isinstance(policy, CatalogAware):
                policy.check_tools(known)

    def reload(self) -> bool:
        """Have each policy that can read its rules again; return whether there are such, and all have."""
        found = [getattr(policy, "reload", None) for policy in self._policies]
        done = [reload() for reload in found if reload is not None]
        return bool(done) and all(done)

    @property
    def rules(self) -> tuple[Any, ...]:
        """The rules of those policies that show theirs, as Cedar's does."""
        return tuple(rule for policy in self._policies for rule in getattr(policy, "rules", ()))

    def close(self) -> None:
        """Close the connections of each policy that has any."""
        for close in (getattr(policy, "close", None) for policy in self._policies):
            if close is not None:
                close()

    def decide(self, request: AccessRequest) -> Decision:
        """Answer the request; raise what a policy raises."""
        return drive(self._decide(request, [each.sync for each in self._twins]))

    async def adecide(self, request: AccessRequest) -> Decision:
        """Answer the request; raise what a policy raises."""
        return await self._decide(request, [each.async_ for each in self._twins])

    async def _decide(self, request: AccessRequest, asked: Sequence[Operation]) -> Decision:
        decisions: list[Decision] = []
        versions: list[str] = []
        for policy, ask in zip(self._policies, asked, strict=True):
            decisions.append(await _answer(ask, request))
            versions.append(decisions[-1].policy_version or str(policy.version))
            if self._rule is Rule.FIRST_APPLICABLE and _opinion(decisions[-1]):
                decisions = decisions[-1:]
                break
        if self._rule is not Rule.UNANIMOUS:
            decisions = [decision for decision in decisions if _opinion(decision)]
        together = _together(decisions, request.tool.name)
        return replace(together, policy_version=_digest(self._rule, versions))


def _digest(rule: Rule, versions: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([rule, *versions]).encode()).hexdigest()[:16]


async def _answer(ask: Callable[..., Awaitable[object]], request: AccessRequest) -> Decision:
    answer = await ask(request)
    if not isinstance(answer, Decision) or not isinstance(answer.effect, Effect):
        raise TypeError(f"a policy answered with {type(answer).__name__}")
    return answer


def _opinion(decision: Decision) -> bool:
    return decision.permitted or decision.applicable


def _together(decisions: Sequence[Decision], tool: str) -> Decision:
    """Return the denies as one if there are any, and else the permits as one."""
    counted = [each for each in decisions if not each.permitted] or decisions
    if not counted:
        reason = f"no policy permits {tool} here"
        return Decision(effect=Effect.DENY, reason=reason, applicable=False)
    permitted = counted[0].permitted
    return Decision(
        effect=counted[0].effect,
        policy_ids=tuple(dict.fromkeys(id for each in counted for id in each.policy_ids)),
        reason="; ".join(dict.fromkeys(each.reason for each in counted if each.reason)),
        advice=" ".join(dict.fromkeys(each.advice for each in counted if each.advice)),
        obligations=merged(o for each in counted for o in each.obligations) if permitted else (),
        decision_id=" ".join(each.decision_id for each in counted if each.decision_id),
        applicable=any(_opinion(each) for each in counted),
    )


def merged(obligations: Iterable[Obligation]) -> tuple[Obligation, ...]:
    """Return obligations that together demand the same, with one of each kind that narrows.

    Raises:
        ValueError: One that narrows does not say to what.
    """
    kept: list[Obligation] = []
    scopes: list[frozenset[str]] = []
    seconds: list[float] = []
    for each in obligations:
        if each.kind == "narrow_scopes":
            scopes.append(_scopes(each))
        elif each.kind == "shorten_lifetime":
            seconds.append(_seconds(each))
        elif each not in kept:
            kept.append(each)
    if scopes:
        common = sorted(frozenset.intersection(*scopes))
        kept.append(Obligation(kind="narrow_scopes", parameters={"scopes": common}))
    if seconds:
        kept.append(Obligation(kind="shorten_lifetime", parameters={"seconds": min(seconds)}))
    return tuple(kept)


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
