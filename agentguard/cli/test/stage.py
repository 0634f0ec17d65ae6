"""A guard with the rules of a file, whose tools, credentials, facts and persons are stand-ins.

The whole way of a call is the real one: arguments are validated, provenance is found in what the stand-ins
return, and calls are counted. Nothing leaves the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool

from agentguard import AccessRequest, Guard
from agentguard.catalog import Catalog
from agentguard.cli._policies import attach
from agentguard.cli.test.scenarios import Scenario, Step
from agentguard.config import Parts
from agentguard.errors import ConfigurationError
from agentguard.identity import LocalIdentity
from agentguard.langchain import GuardedTool
from agentguard.model import FactSpec, Json, ToolPath, ToolSpec
from agentguard.ports import DeclaredFact, IdentitySource
from agentguard.stores.memory import MemoryStore
from agentguard.testing import RecordingAudit, RecordingBroker
from agentguard.text import printable

__all__ = ["Stage", "specs_of"]

_NO_SCHEMA: Mapping[str, Any] = {"type": "object", "properties": {}}


def specs_of(guard: Guard, tools: list[Any]) -> tuple[list[ToolSpec], list[FactSpec]]:
    """Return the tools as the rules know them, with the arguments of *tools*, and the declared facts.

    The facts that an application declares in code are those of the guards of its guarded tools.
    """
    attach(guard, tools)
    guarded = [tool for tool in tools if isinstance(tool, GuardedTool)]
    catalogs = [guard.catalog, *(tool.gate.enforcement.ports.catalog for tool in guarded)]
    facts = {name: spec for catalog in catalogs for name, spec in catalog.facts.items()}
    # a stand-in is defined here, and not where the catalog says
    specs = [replace(spec, source=None, server=None, facts=()) for spec in guard.catalog]
    return specs, list(facts.values())


class Stage:
    """What one scenario runs on: the guard, and the stand-in tools by name."""

    def __init__(
        self, parts: Parts, specs: Iterable[ToolSpec], facts: Iterable[FactSpec], scenario: Scenario
    ) -> None:
        self._step: Step | None = None
        self.questions = 0
        self.audit = RecordingAudit()
        tools, facts = list(specs), list(facts)
        if unknown := sorted(scenario.facts.keys() - {spec.name for spec in facts}):
            raise ConfigurationError(
                f"scenario {printable(scenario.name)}: there is no fact {printable(unknown[0])}",
                hint="name a fact of [facts]; those that an application declares in code need --tools",
            )
        brokers = {(spec.resource, path): RecordingBroker() for spec in tools for path in ToolPath}
        clock = parts.options.clock if scenario.at is None else scenario.at.timestamp
        self.guard = Guard.from_parts(
            parts,
            clock=clock,
            catalog=Catalog(tools, parts.ports.catalog.resources()),
            brokers=brokers,
            store=MemoryStore(clock),
            audit=self.audit,
            identity=_identity(parts, scenario.agent),
            signals={},
            approver=self._answer,
            facts=[DeclaredFact(spec, _Records(spec, scenario.facts)) for spec in facts],
            environment={**parts.options.environment, **scenario.environment},
            record_requests=True,
            observe=False,
        )
        stand_ins = self.guard.wrap([self._stand_in(spec) for spec in tools], on_deny="raise")
        self.tools = {tool.name: tool for tool in stand_ins}

    def call(self, step: Step, config: Any) -> None:
        """Make the call of a step; whatever the guard or the stand-in raises is raised."""
        self._step, self.questions = step, 0
        self.tools[str(step.tool)].invoke(step.args, config)

    def _answer(self, _request: AccessRequest) -> bool:
        self.questions += 1
        return self._step is not None and self._step.answer == "yes"

    def _stand_in(self, spec: ToolSpec) -> BaseTool:
        def run(**_arguments: Any) -> Any:
            step = self._step
            if step is None or step.fails:
                raise RuntimeError("the scenario says that this call fails")
            return step.result

        schema = {**_NO_SCHEMA, **(spec.schema or {}), "title": spec.name, "description": spec.name}
        return StructuredTool(name=spec.name, description=spec.name, args_schema=schema, func=run)


def _identity(parts: Parts, agent: str) -> IdentitySource:
    """Return the file's identity of the agent, unless a server would have to be asked for it."""
    identity = parts.ports.identity
    is_known = isinstance(identity, LocalIdentity) and not agent
    return identity if is_known else LocalIdentity(agent or "agent://test")


class _Records:
    """The records of a fact, as the scenario has them."""

    inline = True

    def __init__(self, spec: FactSpec, facts: Mapping[str, Mapping[str, Any]]) -> None:
        self._records = facts.get(spec.name, {})

    def read(self, _request: AccessRequest, key: tuple[Json, ...]) -> Any:
        """Return the record that the key names, or None."""
        return self._records.get(",".join(map(str, key)))
