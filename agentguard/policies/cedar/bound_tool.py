"""A tool and the rules that can hold for it: Cedar's answers about its calls, and the decisions they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from cedarpy import AuthzResult, Entities, PolicySet, is_authorized
from pydantic_core import to_json

from agentguard.model import AccessRequest, Decision, Effect, Obligation, ToolSpec
from agentguard.model.arguments import Json
from agentguard.policies.cedar.answers import Answer, KnownAnswers
from agentguard.policies.cedar.context import ContextWriter
from agentguard.policies.cedar.shapes import ToolShape
from agentguard.policies.cedar.slices import Slice
from agentguard.policies.cedar.source import Rule
from agentguard.policies.cedar.view import View, view_of

__all__ = ["BoundTool", "entities_of", "numbers_in"]

Thing = Mapping[str, Json] | None
_NUMBERED = re.compile(r"[^`]*policy `(policy\d+)`")  # the first: what follows may quote an argument
_DECISIONS = 64  # of one tool that are kept, each for other rules that determined it


@dataclass(frozen=True)
class BoundTool:
    """A tool as evaluation needs it. Its view and its context writer are made when it is first called."""

    version: str
    spec: ToolSpec
    action: Mapping[str, str]
    resource: Mapping[str, str]
    shape: ToolShape
    slice: Slice
    environment: tuple[str, ...]

    @cached_property
    def view(self) -> View:
        """The parts of a request that its rules may look at."""
        texts = (rule.text for rule in self.slice.rules)
        shape = self.shape
        return view_of(
            texts,
            shape.visible,
            facts=shape.facts,
            looks=shape.looks,
            lists=shape.lists,
            tallies=shape.tallies,
        )

    @cached_property
    def context(self) -> ContextWriter:
        """The writer of a request's context, with the parts that its rules may look at."""
        return ContextWriter(self.shape, self.environment, self.view)

    @cached_property
    def facts(self) -> frozenset[str]:
        """The names of the facts that its rules may look at."""
        thing = self.shape.instance
        of_thing = () if thing is None or self.view.resource is None else (thing.spec.name,)
        return frozenset((*self.view.facts, *of_thing))

    @cached_property
    def entities(self) -> Entities:
        """The one action of its calls, to which the thing is added that a call acts on."""
        return entities_of([self.spec])

    @cached_property
    def known_answers(self) -> KnownAnswers | None:
        """What Cedar has answered; None where the rules look at the time, which is never the same."""
        return None if "now" in self.view.parts else KnownAnswers(self.slice.constants)

    @cached_property
    def known_decision(self) -> Callable[[tuple[str, ...], bool, bool], Decision | None]:
        """`decision` without anything that a caller could change; None for one with obligations."""

        @lru_cache(_DECISIONS)
        def known(numbers: tuple[str, ...], allowed: bool, needs_person: bool) -> Decision | None:
            decision = self.decision(numbers, allowed, needs_person)
            return None if decision.obligations else decision

        return known

    def decision(self, numbers: tuple[str, ...], allowed: bool, needs_person: bool) -> Decision:
        """Return what the rules of these numbers have decided."""
        rules = sorted(map(self.slice.rule, numbers), key=lambda rule: rule.id)
        ids = tuple(rule.id for rule in rules)
        verb = "permitted, once approved," if needs_person else "permitted" if allowed else "forbidden"
        return Decision(
            effect=Effect.PERMIT if allowed else Effect.DENY,
            policy_ids=ids,
            reason=f"{verb} by {', '.join(ids)}" if ids else f"no policy permits {self.spec.name} here",
            advice=" ".join(rule.advice for rule in rules if rule.advice),
            obligations=tuple(_obligations(rules, needs_person)) if allowed else (),
            policy_version=self.version,
            applicable=allowed or bool(ids),
        )

    def answer(
        self, request: AccessRequest, entities: Entities, context: Mapping[str, Json], thing: Thing
    ) -> Answer:
        """Return the answer to a question about a thing, of Cedar or as it is known.

        *entities* are those of all tools; *thing* is None where the tool acts on its resource.
        """
        memory = self.known_answers
        if memory is None:
            return self._ask(request, entities, context, thing)
        part = None if thing is None else (thing["attrs"], thing["uid"]["id"] if self.view.identified else "")
        question = memory.question(request.identity.actor, context, part)
        answer = memory.get(question)
        if answer is None:
            answer = self._ask(request, entities, context, thing)
            if not answer.failure:
                memory.keep(question, answer)
        return answer

    def _ask(
        self, request: AccessRequest, entities: Entities, context: Mapping[str, Json], thing: Thing
    ) -> Answer:
        result = self.evaluation(self.slice.policies, request, entities, context, thing)
        errors = result.diagnostics.errors
        failure = _failure(errors, self.slice) if errors else ""
        return Answer(result.allowed, tuple(sorted(result.diagnostics.reasons)), failure)

    def evaluation(
        self,
        policies: PolicySet,
        request: AccessRequest,
        entities: Entities,
        context: Mapping[str, Json],
        thing: Thing,
    ) -> AuthzResult:
        """Return what Cedar answers by these policies."""
        question: dict[str, Any] = {
            "principal": {"type": "Agent", "id": request.identity.actor},
            "action": self.action,
            "resource": self.resource if thing is None else thing["uid"],
        }
        if context:
            question["context"] = to_json(context).decode()
        if thing is not None:
            entities = self.entities.with_added_json_str(to_json([thing]).decode())
        return is_authorized(question, policies, entities)


def entities_of(specs: Iterable[ToolSpec]) -> Entities:
    """Return the actions of these tools, each in the group of its path."""
    entities = [
        {
            "uid": {"type": "Action", "id": spec.name},
            "attrs": {},
            "parents": [{"type": "Action", "id": str(spec.path)}],
        }
        for spec in specs
    ]
    return Entities.from_json_str(json.dumps(entities))


def numbers_in(errors: Iterable[str]) -> frozenset[str]:
    """Return the numbers of the policies that could not be evaluated."""
    return frozenset(match[1] for match in map(_NUMBERED.match, errors) if match)


def _failure(errors: Iterable[str], rules: Slice) -> str:
    """Return which policies failed. Cedar's own words may hold argument values, and are not passed on."""
    ids = sorted(rules.rule(number).id for number in numbers_in(errors))
    if not ids:
        return "policy_error: Cedar could not read the request"
    return f"policy_error: {', '.join(ids)} could not be evaluated"


def _obligations(rules: list[Rule], needs_person: bool) -> Iterable[Obligation]:
    """Yield the obligations of the permits. If several narrow the same, the narrowest holds."""
    if needs_person:
        yield Obligation(kind="approve")
    scopes = [rule.scopes for rule in rules if rule.scopes is not None]
    if scopes:
        common: list[Json] = sorted(frozenset.intersection(*scopes))
        yield Obligation(kind="narrow_scopes", parameters={"scopes": common})
    lifetimes = [rule.lifetime for rule in rules if rule.lifetime is not None]
    if lifetimes:
        yield Obligation(kind="shorten_lifetime", parameters={"seconds": min(lifetimes)})
