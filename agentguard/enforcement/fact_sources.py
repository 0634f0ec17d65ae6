"""The facts of a guard, each with what reads it, its places and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agentguard.catalog import Catalog
from agentguard.concurrency.abandonable import RUNNING, AbandonableThreads
from agentguard.concurrency.abandonable_tasks import AbandonableTasks
from agentguard.enforcement.fact_cache import FactCache
from agentguard.errors import ConfigurationError
from agentguard.model import FactSpec
from agentguard.ports import DeclaredFact, FactSource

__all__ = ["FactSources", "OpenFact"]


class OpenFact:
    """A fact with what reads it, and the places for that."""

    def __init__(self, declared: DeclaredFact, clock: Callable[[], float]) -> None:
        self.spec, source = declared.spec, declared.source
        self.plain = getattr(source, "read", None)
        self.native = getattr(source, "aread", None)
        self.inline = self.plain is not None and getattr(source, "inline", False)
        self.threads = AbandonableThreads(f"fact {self.spec.name}")
        self.tasks = AbandonableTasks(RUNNING)
        self.cache = FactCache(self.spec, clock) if self.spec.lifetime else None
        if self.plain is None and self.native is None:
            raise ConfigurationError(
                f"the source of fact {self.spec.name} has neither read nor aread",
                hint="see agentguard.ports.FactSource",
            )
        if self.spec.shared and getattr(source, "by_subject", False):
            raise ConfigurationError(
                f"fact {self.spec.name} is read by the user, and shared by all users",
                hint="leave out shared, or by_subject",
            )


class FactSources:
    """All facts of a guard, by name. An application adds facts while it starts."""

    def __init__(
        self, catalog: Catalog, clock: Callable[[], float], facts: Iterable[DeclaredFact] = ()
    ) -> None:
        self._catalog, self._clock = catalog, clock
        self._by_name: dict[str, OpenFact] = {}
        for fact in facts:
            self.add(fact.spec, fact.source)

    def add(self, spec: FactSpec, source: FactSource) -> None:
        """Add a fact, which the catalog learns too.

        Raises:
            ConfigurationError: The declaration is wrong, or another fact has its name.
        """
        if spec.name in self._by_name:
            raise ConfigurationError(
                f"two facts are named {spec.name}", hint="rename one of them: rules name facts"
            )
        fact = OpenFact(DeclaredFact(spec, source), self._clock)
        self._catalog.declare(spec)
        self._by_name[spec.name] = fact

    def get(self, name: str) -> OpenFact | None:
        """Return the fact of this name; None for one that only another guard of the catalog has."""
        return self._by_name.get(name)
