"""The methods of a guard that declare facts: records of the application that rules may look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from agentguard.enforcement.fact_call import lend_credentials
from agentguard.enforcement.flow import Enforcement
from agentguard.facts.function import Keys, fact_of
from agentguard.facts.tool import ToolFact
from agentguard.langchain.fact_calls import fact_calls
from agentguard.langchain.registry import GateRegistry
from agentguard.model import FactSpec
from agentguard.ports import DeclaredFact, FactSource

__all__ = ["FactMethods"]

F = TypeVar("F", bound=Callable[..., Any])


class FactMethods:
    """A part of `Guard`."""

    enforcement: Enforcement
    _gates: GateRegistry

    def fact(
        self, *, tools: Keys, key: str | Iterable[str] = (), name: str | None = None, **options: Any
    ) -> Callable[[F], F]:
        """Declare that a function, sync or async, reads a record that rules may look at.

            @guard.fact(tools=["cancel_order", "refund_order"], key="order_id")
            def order(order_id: str) -> Order: ...

        Rules then say ``context.facts.order.status``. The record is read for each decision of which a rule in
        force looks at it, and in parallel with others. A call is denied, with the code ``no_fact``, where the
        function raises, is late, returns another type, too much, or None, unless its type admits None
        (``Order | None``; a rule then tests ``context.facts has order``).

        *tools* are those for whose calls the fact holds, and *key* the arguments that name the record: the
        function takes their values, in order, after ``request`` if its first parameter has this name. A
        mapping of *tools* gives each tool's own arguments. Without an argument the record is that of the
        user, so the function needs the request. The name of the fact is that of the function.

        *options* are ``type`` (in place of the function's annotation), ``inline`` (the function answers from
        memory, without a thread), and the fields of `FactSpec`: ``timeout``, ``size``, ``lifetime``,
        ``shared``, ``trusted``, ``sensitivity``, ``resource``, ``credential`` and ``scopes``.

        Raises:
            ConfigurationError: The declaration is wrong, or the policy does not fit it.
        """

        def declare(function: F) -> F:
            declared = fact_of(function, tools=tools, key=key, name=name, **options)
            self.add_fact(declared.spec, declared.source)
            return function

        return declare

    def add_fact(self, spec: FactSpec, source: FactSource) -> None:
        """Declare a fact with a source of its own, such as `agentguard.facts.SqlFact` or `ToolFact`.

        A tool that a `ToolFact` calls is one that this guard has wrapped, or that an agent was given.

        Raises:
            ConfigurationError: The declaration is wrong, or the policy does not fit it.
        """
        self.enforcement.facts.add(spec, source)
        self._connect([DeclaredFact(spec, source)])
        self._gates.check_policies()

    def _connect(self, facts: Iterable[DeclaredFact]) -> None:
        """Let sources have what they need of this guard: its tools, and credentials."""
        lend_credentials(self.enforcement)
        for fact in facts:
            if isinstance(fact.source, ToolFact):
                fact.source.calls = fact_calls(self._gates)
