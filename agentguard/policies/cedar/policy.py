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
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cedarpy import Entities

from agentguard.errors import ConfigurationError
from agentguard.model import (
    AccessRequest,
    Decision,
    Effect,
    ToolPath,
    ToolSpec,
)
from agentguard.model.arguments import Json
from agentguard.model.inputs import APPROVED
from agentguard.model.looks import Looks
from agentguard.policies.cedar.bound_tool import BoundTool, entities_of, numbers_in
from agentguard.policies.cedar.conditions import ExaminedRule, conditions_of
from agentguard.policies.cedar.context import NotGiven
from agentguard.policies.cedar.instances import opened, require_types
from agentguard.policies.cedar.lists import values_named
from agentguard.policies.cedar.schema import resource_of, schema_text
from agentguard.policies.cedar.slices import slices
from agentguard.policies.cedar.source import Rule, read_file, read_text, unique
from agentguard.policies.cedar.tallies import Tallies
from agentguard.policies.cedar.types import Refused, shape_of
from agentguard.policies.cedar.validation import validate

__all__ = ["CedarPolicy"]

_UNFIT = "The arguments do not fit the tool's schema."


@dataclass(frozen=True, slots=True)
class _Bound:
    """The rules as checked against one catalog; replaced as a whole."""

    specs: tuple[ToolSpec, ...]
    version: str
    schema: str
    entities: Entities
    tools: Mapping[str, BoundTool]


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
        specs = tuple(tools)
        if specs != self._bound.specs:
            self._bound = self._bind(specs)

    def _bind(self, specs: tuple[ToolSpec, ...]) -> _Bound:
        for spec in specs:
            if spec.name in set(ToolPath):
                raise ConfigurationError(
                    f"a tool is named {spec.name}, like a path",
                    hint='rename the tool: in Cedar, Action::"read" stands for all tools on the read path',
                )
        texts = values_named(self.rules)
        counted = {spec.name: spec.counted for spec in specs if spec.counted is not None}
        shapes = {
            spec.name: replace(shape_of(spec, texts), tallies=Tallies.of(spec, counted)) for spec in specs
        }
        require_types(shapes)
        rules = opened(self.rules, shapes)
        schema = schema_text(specs, shapes, self._environment)
        if (
            specs
        ):  # without tools every rule that names one would be an error, and nothing is permitted anyway
            validate(rules, specs, shapes, self._environment)
        sliced = slices(rules, specs)
        content = json.dumps([sorted(rule.text for rule in self.rules), schema])
        version = hashlib.sha256(content.encode()).hexdigest()[:16]
        return _Bound(
            specs=specs,
            version=version,
            schema=schema,
            entities=entities_of(specs),
            tools={
                spec.name: BoundTool(
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

    def examine(self, request: AccessRequest) -> tuple[ExaminedRule, ...]:
        """Return each rule whose head fits the request, with its conditions as they are for the request.

        For authors of rules: it tells values of arguments. A tool that the rules were not checked against has
        none.

        Raises:
            ValueError: The request has no Cedar form, so each call like it is denied.
        """
        bound = self._bound
        tool = bound.tools.get(request.tool.name)
        if tool is None:
            return ()
        context, thing = tool.context.write(request), tool.context.resource(request)
        roots: dict[str, Json] = {"context": context, "principal": {"id": request.identity.actor}}
        roots["resource"] = {} if thing is None else thing["attrs"]
        examined = []
        for rule in tool.slice.rules:
            conditions = conditions_of(rule.text)
            result = tool.evaluation(conditions.policies, request, bound.entities, context, thing)
            true, unclear = frozenset(result.diagnostics.reasons), numbers_in(result.diagnostics.errors)
            examined.append(ExaminedRule(rule, conditions.examined(true, unclear, roots)))
        return tuple(examined)

    def facts_for(self, tool: ToolSpec) -> Collection[str]:
        """Return the names of the facts that the rules may look at in calls of a tool."""
        bound_tool = self._bound.tools.get(tool.name)
        return () if bound_tool is None else bound_tool.facts

    def counts_for(self, tool: ToolSpec) -> Collection[tuple[str, str]]:
        """Return whose calls of which tools the rules may look at in calls of *tool*, of those done."""
        bound_tool = self._bound.tools.get(tool.name)
        return () if bound_tool is None else bound_tool.view.tallies

    def looks_for(self, tool: ToolSpec) -> Looks:
        """Return the places inside of a tool's arguments at whose provenance the rules may look."""
        bound_tool = self._bound.tools.get(tool.name)
        return {} if bound_tool is None else bound_tool.view.inside

    def _evaluate(self, request: AccessRequest, bound: _Bound) -> Decision:
        tool = bound.tools.get(request.tool.name)
        if tool is None or (tool.spec is not request.tool and tool.spec != request.tool):
            return _deny(bound, f"the policies were not checked against tool {request.tool.name}")
        context, thing = tool.context.write(request), tool.context.resource(request)
        answer, needs_person = tool.answer(request, bound.entities, context, thing), False
        if not (answer.allowed or answer.failure) and request.approval is None and tool.view.approval:
            second = tool.answer(request, bound.entities, {**context, "approval": APPROVED}, thing)
            if second.allowed:
                answer, needs_person = second, True
        if answer.failure:
            return _deny(bound, answer.failure)
        decision = tool.known_decision(answer.numbers, answer.allowed, needs_person)
        return decision or tool.decision(answer.numbers, answer.allowed, needs_person)


def _deny(bound: _Bound, reason: str, advice: str = "") -> Decision:
    return Decision(effect=Effect.DENY, reason=reason, advice=advice, policy_version=bound.version)
