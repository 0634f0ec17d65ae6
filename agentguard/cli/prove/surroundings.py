"""What of two configurations decides beside their Cedar rules, and differs: the proof is not about that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentguard import Guard
from agentguard.model import ToolSpec
from agentguard.policies.cedar.source import Rule
from agentguard.policies.combine import Rule as Combination

__all__ = ["Surroundings"]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The rules of a configuration, and what stands around them: `policies` are the versions of others."""

    rules: tuple[Rule, ...]
    policies: tuple[str, ...]
    combination: str
    tools: Mapping[str, ToolSpec]
    environment: Mapping[str, str]
    mode: str

    @classmethod
    def of(cls, guard: Guard) -> Surroundings:
        """Read them from a guard, before the tools of an application are attached to it."""
        ports, options = guard.enforcement.ports, guard.enforcement.options
        policies: tuple[Any, ...] = getattr(ports.policy, "policies", (ports.policy,))
        return cls(
            rules=tuple(getattr(ports.policy, "rules", ())),
            policies=tuple(str(policy.version) for policy in policies if not hasattr(policy, "rules")),
            combination=str(getattr(ports.policy, "rule", Combination.UNANIMOUS)),
            tools={spec.name: spec for spec in guard.catalog},
            environment=dict(options.environment),
            mode="observe" if options.observe else "enforce",
        )

    def unproved(self, new: Surroundings) -> Iterator[str]:
        """Yield what may permit more in *new*, although its Cedar rules permit no more than these do."""
        if (self.policies, self.combination) != (new.policies, new.combination):
            yield "the policies beside the Cedar rules, or how they are combined, are others"
        elif new.policies and new.combination != Combination.UNANIMOUS and self._texts() != new._texts():
            yield (
                f"under {new.combination}, another policy may permit what the Cedar rules forbid no more;"
                " that policy is not looked at"
            )
        if names := [name for name, spec in sorted(new.tools.items()) if self.tools.get(name) != spec]:
            yield f"the catalog has another classification of {', '.join(names)}, or a new one"
        if self.environment != new.environment:
            yield "the values of the table [environment] are others"
        if (self.mode, new.mode) == ("enforce", "observe"):
            yield "the new configuration observes, and denies nothing"

    def _texts(self) -> list[str]:
        return sorted(rule.text for rule in self.rules)
