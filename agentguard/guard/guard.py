"""`Guard`: made from a file or from parts, it offers the flow to langchain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Self

from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from agentguard.approvals import InterruptApprover, for_each_path
from agentguard.catalog import Catalog
from agentguard.config import Parts, build, load
from agentguard.credentials.callers import Caller
from agentguard.enforcement.entitlements import Ceiling, FixedEntitlements
from agentguard.enforcement.flow import Enforcement
from agentguard.enforcement.health import HealthChecks
from agentguard.enforcement.routing import Brokers
from agentguard.enforcement.setup import Options, Ports
from agentguard.intent import Intent, Template
from agentguard.langchain import Coverage, GuardedTool, Tripwire, coverage
from agentguard.langchain.identification import METADATA_KEY, classified
from agentguard.langchain.interrupts import interrupt, is_resumed
from agentguard.langchain.messages import outcome_of
from agentguard.langchain.registry import GateRegistry, ToolLike
from agentguard.langchain.tools import OnDeny
from agentguard.lease import live_secrets
from agentguard.model import AccessRequest, CallLimits, ToolPath
from agentguard.policies import FunctionPolicy
from agentguard.policies.combine import Combine, Rule
from agentguard.ports import (
    Approver,
    AuditLog,
    DeclaredFact,
    Entitlements,
    IdentitySource,
    Policy,
    Store,
    Transmitter,
)
from agentguard.redaction import install_log_redaction
from agentguard.tasks.ending import Endings
from agentguard.telemetry import Telemetry

if TYPE_CHECKING:
    from agentguard.langchain.mcp.interceptor import McpInterceptor
    from agentguard.langchain.middleware import GuardMiddleware
    from agentguard.signals import Source

from agentguard.guard.decisions import DecisionMethods
from agentguard.guard.display import DisplayMethods
from agentguard.guard.endpoints import EndpointMethods
from agentguard.guard.facts import FactMethods
from agentguard.guard.health import HealthMethods
from agentguard.guard.life import Closer, LifeMethods
from agentguard.guard.tasks import TaskMethods

__all__ = ["Guard"]

PolicyLike = Policy | Callable[[AccessRequest], Any]

Approvers = Approver | Callable[[AccessRequest], Any] | Mapping[ToolPath, Approver] | None


class Guard(
    TaskMethods, DecisionMethods, EndpointMethods, FactMethods, HealthMethods, LifeMethods, DisplayMethods
):
    """Judges each tool call of an agent for its task, and gives it a credential of its own.

    Make one from a file (`from_file`), or from parts. `policy` may be a plain function of the
    AccessRequest, sync or async, that answers with a bool or a Decision. `approver` is asked where a
    permit needs a person: an Approver, a function of the AccessRequest, one Approver for each path,
    or None for LangGraph's interrupt, which needs a checkpointer. Without either such a call is
    denied. `ceiling` is what the agent may do at most, as resource → scopes; `entitlements` what its
    users may: an Entitlements, or a table of subject → resource → scopes. `signals` are told, by
    name, that a task is over. With `observe`, rules block nothing: what they would deny is logged aloud,
    recorded, and runs without a credential. With `record_requests`, the audit log holds all that a
    policy was asked, argument values included. `limits` say how much the arguments of a call and its result
    may hold. `templates` are kinds of task, for `mandate` and `derive`. `facts` are records that rules may
    look at; `fact` adds more.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        policy: PolicyLike,
        identity: IdentitySource,
        brokers: Brokers,
        store: Store,
        audit: AuditLog,
        approver: Approvers = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        trace_arguments: bool = False,
        trace_stages: bool = False,
        environment: Mapping[str, str] | None = None,
        ceiling: Ceiling | None = None,
        entitlements: Entitlements | Mapping[str, Ceiling] | None = None,
        signals: Mapping[str, Transmitter] | None = None,
        lifetime: float = 60.0,
        approval_lifetime: float = 300.0,
        timeout: float = 5.0,
        limits: CallLimits | None = None,
        clock: Callable[[], float] = time,
        observe: bool = False,
        record_requests: bool = False,
        templates: Iterable[Template] = (),
        facts: Iterable[DeclaredFact] = (),
    ) -> None:
        if isinstance(entitlements, Mapping):
            entitlements = FixedEntitlements(entitlements)
        ports = Ports(
            catalog=catalog,
            policy=_policy(policy),
            identity=identity,
            brokers=brokers,
            store=store,
            audit=audit,
            approvers=for_each_path(
                InterruptApprover(interrupt, is_resumed=is_resumed) if approver is None else approver
            ),
            entitlements=entitlements,
            signals=signals or {},
            facts=tuple(facts),
        )
        options = Options(
            environment=environment or {},
            ceiling=ceiling,
            lifetime=lifetime,
            approval_lifetime=approval_lifetime,
            timeout=timeout,
            limits=limits or CallLimits(),
            clock=clock,
            observe=observe,
            record_requests=record_requests,
            outcome_of=outcome_of,
        )
        telemetry = Telemetry(tracer_provider, meter_provider, arguments=trace_arguments, stages=trace_stages)
        self.enforcement = Enforcement(ports, options, telemetry)
        self.enforcement.on_unrevoked = self.enforcement.outbox_thread.watch
        self._endings = Endings.of(self.enforcement)
        self.intent = Intent(templates, catalog)
        self._health = HealthChecks(self.enforcement)
        self.enforcement.telemetry.observe(self._health)
        self._closer = Closer(self.enforcement, (store, audit))
        self._issuer = ""
        self._sources: tuple[Source, ...] = ()
        self._callers: Callable[[], tuple[Caller, ...]] = tuple
        self._introspection_rate = 500.0
        self._gates = GateRegistry(self.enforcement)
        self._connect(ports.facts)
        install_log_redaction(live_secrets)

    @classmethod
    def from_file(cls, path: str | Path, *, beside: PolicyLike | None = None, **changes: Any) -> Self:
        """Build a guard from agentguard.toml; *changes* are arguments of the constructor.

        *beside* is a policy in Python that stands beside the file's: a call needs the permit of both, so this
        one can only narrow. `reload` reads the file's again. With ``policy=`` another one replaces it.

        Raises:
            ConfigurationError: The file, a policy or the catalog is wrong; it says where.
        """
        parts = build(load(path))
        if beside is not None:
            both = (changes.pop("policy", parts.ports.policy), beside)
            changes["policy"] = Combine([_policy(policy) for policy in both], Rule.UNANIMOUS)
        return cls.from_parts(parts, **changes)

    @classmethod
    def from_parts(cls, parts: Parts, **changes: Any) -> Self:
        """Build a guard from what `config.build` made, which it closes with itself."""
        guard = cls(**{**parts.arguments(), **changes})
        guard._issuer, guard._sources = parts.issuer, parts.sources
        guard._callers, guard._introspection_rate = parts.callers, parts.introspection_rate
        ports = parts.ports
        adapters = (*ports.brokers.values(), *ports.signals.values(), ports.identity, ports.policy)
        adapters += tuple(fact.source for fact in ports.facts)
        guard._closer.parts[:0] = adapters
        return guard

    @property
    def catalog(self) -> Catalog:
        """What each tool is."""
        return self.enforcement.ports.catalog

    # --- langchain

    def wrap(
        self, tools: Iterable[ToolLike] | ToolLike, *, on_deny: OnDeny | None = None
    ) -> list[GuardedTool]:
        """Return guarded tools for any runnable, ToolNode or executor; the originals stay as they are.

        *on_deny* is ``"message"`` or ``"raise"`` for every form of call; by default a model's call
        is answered with a message, and an application's own `invoke` raises Denied.

        For the life of a guard one name is one tool. A tool that an application makes anew for each
        request is the same one where its code is defined in the same place and its schema is the same. What
        a closure or an object of the request holds makes no other tool. A function that a framework defines,
        such as that of ``runnable.as_tool()``, is the same only as the same object.

        Raises:
            ConfigurationError: Two tools have one name, a classification is wrong, or a policy does
                not fit the tools.
        """
        several = tools if isinstance(tools, Iterable) and not isinstance(tools, BaseTool) else [tools]
        return self._gates.wrap(several, on_deny)

    def tool(self, **facts: Any) -> Callable[[ToolLike], GuardedTool]:
        """Classify and wrap a function or tool: ``@guard.tool(path="read", resource="orders")``.

        Takes what ``[tools.name]`` in agentguard.toml takes; the file has precedence.
        """

        def classify(function: ToolLike) -> GuardedTool:
            plain = function if isinstance(function, BaseTool) else as_tool(function)
            metadata = {**(plain.metadata or {}), METADATA_KEY: classified(**facts)}
            return self.wrap(plain.model_copy(update={"metadata": metadata}))[0]

        return classify

    def middleware(
        self,
        tools: Iterable[ToolLike] = (),
        *,
        hears_user: bool = False,
        offers_allowed: bool = False,
        most_denials: int | None = None,
    ) -> GuardMiddleware:
        """Return the middleware for `create_agent`; list it last. Needs ``agentguard[langchain]``.

        The tools of an agent are known before its first call is judged. *tools* are known from now on, such
        as those of sub-agents that have not run yet: so a mandate knows which of them takes which argument.

        With *hears_user*, an agent that begins adds the messages of `user_message` to the task's words. With
        *offers_allowed*, the model is offered no tool that mandate or path rule out whatever the arguments.
        After *most_denials* denied calls in a row, the task is revoked and the agent tells the user.

        Raises:
            ConfigurationError: Two of *tools* have one name, a classification is wrong, or a policy does not
                fit them.
            ValueError: *most_denials* is less than 1.
        """
        from agentguard.langchain.middleware_options import MiddlewareOptions, middleware_of  # an extra

        self._gates.wrap(tools, None)
        options = MiddlewareOptions(hears_user, offers_allowed, most_denials)
        return middleware_of(self.enforcement, self._gates, options)

    def callbacks(self) -> list[Tripwire]:
        """Return callbacks for a run's config: a tool that no gate let through is stopped."""
        return [Tripwire(self.enforcement)]

    def mcp_interceptor(self, *, on_deny: OnDeny | None = None) -> McpInterceptor:
        """Return the interceptor for langchain-mcp-adapters; list it last. Needs ``agentguard[mcp]``."""
        from agentguard.langchain.mcp.interceptor import McpInterceptor

        return McpInterceptor(self.enforcement, on_deny)

    def coverage(self, agent: object) -> Coverage:
        """Say of every tool that *agent* can reach whether its calls are judged."""
        return coverage(agent)


def _policy(policy: PolicyLike) -> Policy:
    return policy if isinstance(policy, Policy) else FunctionPolicy(policy)
