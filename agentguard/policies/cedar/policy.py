"""Cedar in this process: the policy that a guard uses by default.

Policies are plain Cedar. They are read once, and type-checked against the agent's real tools whenever the
catalog changes. A request that is denied is evaluated again with ``context.approval``; if that is permitted,
the call needs a person's approval. These annotations have a meaning:

    @id("small-refunds")     required: decisions and records name it
    @advice("Ask first.")    on a forbid: told to the model when it refuses
    @lifetime("30")          on a permit: credentials live at most so many seconds
    @scopes("refunds:write") on a permit: credentials hold at most these scopes
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from cedarpy import Entities, is_authorized
from pydantic_core import to_json

from agentguard.errors import ConfigurationError
from agentguard.model import (
    AccessRequest,
    Decision,
    Effect,
    Obligation,
    ToolPath,
    ToolSpec,
)
from agentguard.model.arguments import Json
from agentguard.model.inputs import APPROVED
from agentguard.policies.cedar.answers import Answer, KnownAnswers
from agentguard.policies.cedar.context import ContextWriter, NotGiven, View, view_of
from agentguard.policies.cedar.schema import resource_of, schema_text
from agentguard.policies.cedar.slices import Slice, slices
from agentguard.policies.cedar.source import Rule, read_file, read_text, unique
from agentguard.policies.cedar.types import Refused, ToolShape, shape_of
from agentguard.policies.cedar.validation import validate

__all__ = ["CedarPolicy"]

_NUMBERED = re.compile(r"[^`]*policy `(policy\d+)`")  # the first: what follows may quote an argument
_DECISIONS = 64  # of one tool that are kept, each for other rules that determined it
_UNFIT = "The arguments do not fit the tool's schema."


@dataclass(frozen=True)
class _Tool:
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
        return view_of((rule.text for rule in self.slice.rules), self.shape.visible)

    @cached_property
    def context(self) -> ContextWriter:
        """The writer of a request's context, with the parts that its rules may look at."""
        return ContextWriter(self.shape, self.environment, self.view)

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


@dataclass(frozen=True, slots=True)
class _Bound:
    """The rules as checked against one catalog; replaced as a whole."""

    version: str
    schema: str
    entities: Entities
    tools: Mapping[str, _Tool] = field(default_factory=dict)


class CedarPolicy:
    """Answers requests by Cedar policies. It denies each call of a tool that `check_tools` was not given.

    An error in any policy, in the context, or in the answer is a deny: Cedar skips a policy that fails, and
    a forbid must not be skipped. Between requests the policy keeps nothing but answers to questions that came
    already (`answers`), which are the same as ever. Its reasons name arguments and
    policies, never values. `environment` lists the names that the application promises to give with each
    request; rules see them as ``context.environment``.
    """

    inline = True

    def __init__(self, rules: Iterable[Rule], *, environment: Iterable[str] = ()) -> None:
        self.rules = unique(rules)
        self._environment = tuple(sorted(environment))
        self._bound = self._bind(())

    @classmethod
    def from_files(cls, paths: Iterable[str | Path], *, environment: Iterable[str] = ()) -> CedarPolicy:
        """Read policies from files, in UTF-8.

        Raises:
            ConfigurationError: A file cannot be read, or a policy in it is wrong.
        """
        rules = (rule for path in paths for rule in read_file(Path(path)))
        return cls(rules, environment=environment)

    @classmethod
    def from_text(
        cls, text: str, name: str = "policy.cedar", *, environment: Iterable[str] = ()
    ) -> CedarPolicy:
        """Read policies from a text; *name* stands for the file in errors.

        Raises:
            ConfigurationError: A policy in it is wrong.
        """
        return cls(read_text(text, name), environment=environment)

    @property
    def version(self) -> str:
        """A digest of the policies and of the schema, the same for any order of policies and files."""
        return self._bound.version

    @property
    def schema(self) -> str:
        """The Cedar schema of the checked tools, for editors and the Cedar command line."""
        return self._bound.schema

    def check_tools(self, tools: Iterable[ToolSpec]) -> None:
        """Check all policies against these tools, and answer for them from now on.

        Raises:
            ConfigurationError: A rule names a tool, a resource or an argument that does not exist,
                or uses one as another type: with file, line and @id. The former tools stay in force.
        """
        self._bound = self._bind(tuple(tools))

    def _bind(self, specs: tuple[ToolSpec, ...]) -> _Bound:
        for spec in specs:
            if spec.name in set(ToolPath):
                raise ConfigurationError(
                    f"a tool is named {spec.name}, like a path",
                    hint='rename the tool: in Cedar, Action::"read" stands for all tools on the read path',
                )
        shapes = {spec.name: shape_of(spec) for spec in specs}
        schema = schema_text(specs, shapes, self._environment)
        if (
            specs
        ):  # without tools every rule that names one would be an error, and nothing is permitted anyway
            validate(self.rules, specs, shapes, self._environment)
        sliced = slices(self.rules, specs)
        content = json.dumps([sorted(rule.text for rule in self.rules), schema])
        version = hashlib.sha256(content.encode()).hexdigest()[:16]
        return _Bound(
            version=version,
            schema=schema,
            entities=_entities(specs),
            tools={
                spec.name: _Tool(
                    version,
                    spec,
                    {"type": "Action", "id": spec.name},
                    {"type": "Resource", "id": resource_of(spec)},
                    shapes[spec.name],
                    sliced[spec.name],
                    self._environment,
                )
                for spec in specs
            },
        )

    def decide(self, request: AccessRequest) -> Decision:
        """Answer the request. Never raises: a request that cannot be evaluated is denied, with the reason."""
        bound = self._bound
        try:
            return self._evaluate(request, bound)
        except Refused as error:
            # the text names arguments, and holds no value of them and nothing of the rules
            advice = "" if isinstance(error, NotGiven) else f"{_UNFIT} Correct them: {error}."
            return _deny(bound, f"no policy can judge {request.tool.name}: {error}", advice)
        except Exception as error:  # noqa: BLE001  whatever went wrong, the request was not evaluated
            return _deny(bound, f"policy_error: {type(error).__name__}")

    def _evaluate(self, request: AccessRequest, bound: _Bound) -> Decision:
        tool = bound.tools.get(request.tool.name)
        if tool is None or (tool.spec is not request.tool and tool.spec != request.tool):
            return _deny(bound, f"the policies were not checked against tool {request.tool.name}")
        context = tool.context.write(request)
        answer, needs_person = _answer(request, tool, bound, context), False
        if not (answer.allowed or answer.failure) and request.approval is None and tool.view.approval:
            second = _answer(request, tool, bound, {**context, "approval": APPROVED})
            if second.allowed:
                answer, needs_person = second, True
        if answer.failure:
            return _deny(bound, answer.failure)
        decision = tool.known_decision(answer.numbers, answer.allowed, needs_person)
        return decision or tool.decision(answer.numbers, answer.allowed, needs_person)


def _entities(specs: Iterable[ToolSpec]) -> Entities:
    entities = [
        {
            "uid": {"type": "Action", "id": spec.name},
            "attrs": {},
            "parents": [{"type": "Action", "id": str(spec.path)}],
        }
        for spec in specs
    ]
    return Entities.from_json_str(json.dumps(entities))


def _answer(request: AccessRequest, tool: _Tool, bound: _Bound, context: Mapping[str, Json]) -> Answer:
    """Return the answer to a question, of Cedar or as it is known."""
    memory = tool.known_answers
    if memory is None:
        return _ask(request, tool, bound, context)
    question = memory.question(request.identity.actor, context)
    answer = memory.get(question)
    if answer is None:
        answer = _ask(request, tool, bound, context)
        if not answer.failure:
            memory.keep(question, answer)
    return answer


def _ask(request: AccessRequest, tool: _Tool, bound: _Bound, context: Mapping[str, Json]) -> Answer:
    question: dict[str, Any] = {
        "principal": {"type": "Agent", "id": request.identity.actor},
        "action": tool.action,
        "resource": tool.resource,
    }
    if context:
        question["context"] = to_json(context).decode()
    result = is_authorized(question, tool.slice.policies, bound.entities)
    errors = result.diagnostics.errors
    failure = _failure(errors, tool.slice) if errors else ""
    return Answer(result.allowed, tuple(sorted(result.diagnostics.reasons)), failure)


def _failure(errors: Iterable[str], rules: Slice) -> str:
    """Return which policies failed. Cedar's own words may hold argument values, and are not passed on."""
    numbers = {match[1] for match in map(_NUMBERED.match, errors) if match}
    ids = sorted(rules.rule(number).id for number in numbers)
    if not ids:
        return "policy_error: Cedar could not read the request"
    return f"policy_error: {', '.join(ids)} could not be evaluated"


def _deny(bound: _Bound, reason: str, advice: str = "") -> Decision:
    return Decision(effect=Effect.DENY, reason=reason, advice=advice, policy_version=bound.version)


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
