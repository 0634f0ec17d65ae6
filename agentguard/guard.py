"""`Guard`: the public face of the policy enforcement point.

The flow itself is `enforcement`, which knows no framework; here it is offered to langchain, and
built from a file. Two rooms, because this one needs `config` and `langchain`, which need the flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Self

from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from agentguard.approvals import InterruptApprover, for_each_path
from agentguard.catalog import Catalog
from agentguard.concurrency.drive import drive
from agentguard.config import Parts, build, load
from agentguard.enforcement.entitlements import Ceiling, FixedEntitlements
from agentguard.enforcement.flow import Enforcement, Flow
from agentguard.enforcement.routing import Brokers
from agentguard.enforcement.setup import Options, Ports
from agentguard.errors import Denied, TaskNotActive
from agentguard.intent import Derivation, Intent, Template
from agentguard.langchain import Coverage, GuardedTool, Tripwire, coverage
from agentguard.langchain.identification import METADATA_KEY
from agentguard.langchain.interrupts import interrupt
from agentguard.langchain.messages import outcome_of
from agentguard.langchain.registry import GateRegistry, ToolLike
from agentguard.langchain.tools import OnDeny
from agentguard.lease import live_secrets
from agentguard.model import AccessRequest, Budget, Decision, Effect, Identity, Mandate, Secret, ToolPath
from agentguard.policies import FunctionPolicy
from agentguard.ports import Approver, AuditLog, Entitlements, IdentitySource, Policy, Store, Transmitter
from agentguard.redaction import install_log_redaction
from agentguard.tasks.ending import Endings
from agentguard.tasks.task import Task
from agentguard.telemetry import Telemetry

if TYPE_CHECKING:
    from agentguard.langchain.mcp.interceptor import McpInterceptor
    from agentguard.langchain.middleware import GuardMiddleware
    from agentguard.signals import Receiver, SessionRevoked, Source

__all__ = ["Guard"]

Approvers = Approver | Callable[[AccessRequest], Any] | Mapping[ToolPath, Approver] | None


class Guard:
    """Judges each tool call of an agent for its task, and gives it a credential of its own.

    Make one from a file (`from_file`), or from parts. `policy` may be a plain function of the
    AccessRequest, sync or async, that answers with a bool or a Decision. `approver` is asked where a
    permit needs a person: an Approver, a function of the AccessRequest, one Approver for each path,
    or None for LangGraph's interrupt, which needs a checkpointer. Without either such a call is
    denied. `ceiling` is what the agent may do at most, as resource → scopes; `entitlements` what its
    users may: an Entitlements, or a table of subject → resource → scopes. `signals` are told, by
    name, that a task is over. With `observe`, rules block nothing: what they would deny is logged aloud,
    recorded, and runs without a credential. With `record_requests`, the audit log holds all that a
    policy was asked, argument values included. `templates` are kinds of task, for `mandate` and `derive`.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        policy: Policy | Callable[[AccessRequest], Any],
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
        clock: Callable[[], float] = time,
        observe: bool = False,
        record_requests: bool = False,
        templates: Iterable[Template] = (),
    ) -> None:
        if isinstance(entitlements, Mapping):
            entitlements = FixedEntitlements(entitlements)
        ports = Ports(
            catalog=catalog,
            policy=policy if isinstance(policy, Policy) else FunctionPolicy(policy),
            identity=identity,
            brokers=brokers,
            store=store,
            audit=audit,
            approvers=for_each_path(InterruptApprover(interrupt) if approver is None else approver),
            entitlements=entitlements,
            signals=signals or {},
        )
        options = Options(
            environment=environment or {},
            ceiling=ceiling,
            lifetime=lifetime,
            approval_lifetime=approval_lifetime,
            timeout=timeout,
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
        self._parts: list[object] = [store, audit]
        self._gates = GateRegistry(self.enforcement)
        install_log_redaction(live_secrets)

    @classmethod
    def from_file(cls, path: str | Path, **changes: Any) -> Self:
        """Build a guard from agentguard.toml; *changes* are arguments of the constructor.

        Raises:
            ConfigurationError: The file, a policy or the catalog is wrong; it says where.
        """
        return cls.from_parts(build(load(path)), **changes)

    @classmethod
    def from_parts(cls, parts: Parts, **changes: Any) -> Self:
        """Build a guard from what `config.build` made, which it closes with itself."""
        guard = cls(**{**parts.arguments(), **changes})
        ports = parts.ports
        adapters = (*ports.brokers.values(), *ports.signals.values(), ports.identity, ports.policy)
        guard._parts = [*adapters, *guard._parts]
        return guard

    @property
    def catalog(self) -> Catalog:
        """What each tool is."""
        return self.enforcement.ports.catalog

    # --- tasks

    def task(
        self,
        purpose: str,
        *,
        subject: str,
        mandate: Mapping[str, Any] | Mandate | Derivation,
        words: str = "",
        calls: int | None = None,
        writes: int | None = None,
        ttl: float = 900.0,
        subject_token: str | None = None,
    ) -> Task:
        """Return a task to be used as a context manager, sync or async.

        *mandate* is what it may touch at most, *words* what the user said, by which a value that the
        user named is known; *calls* and *writes* are its budget, *ttl* its life in seconds. Begun inside
        another task, it is a part of that one, and its words are that one's. *subject_token* proves the
        user to an issuer (RFC 8693); it stays in this process, and no tool sees it.

        Raises:
            ValueError: The mandate is malformed, limits what none of its tools takes, or was proposed by a
                model and granted by nobody.
            ConfigurationError: A policy does not fit the tools, which were all classified in code.
        """
        if self._gates.mistake is not None:
            raise self._gates.mistake
        identity = Identity(subject=subject, actor=self.enforcement.ports.identity.actor())
        derived = mandate if isinstance(mandate, Derivation) else Derivation(mandate=Mandate.of(mandate))
        if derived.mandate.proposed:
            raise ValueError("a model has proposed this mandate: grant it, or narrow a task by it")
        budget = derived.budget.within(Budget(calls=calls, writes=writes))
        token = None if subject_token is None else Secret(subject_token)
        return Task.new(
            self._endings,
            purpose,
            identity,
            derived.mandate,
            budget,
            ttl,
            token,
            words=words,
            kinds=derived.kinds,
        )

    def mandate(self, kind: str, /, **values: Any) -> Derivation:
        """Fill the template ``[tasks.kind]``; all of it is then the application's word.

        Raises:
            ValueError: There is no such template, or a value is missing, unknown, or of another type.
        """
        return self.intent.mandate(kind, **values)

    def derive(self, words: str) -> Derivation:
        """Say by the templates what the user's own words need at most: to be read, and given to `task`."""
        return self.intent.derive(words)

    def find(self, task_id: str, *, subject_token: str | None = None) -> Task:
        """Return a task that was begun before, here or in another process, which needs the token again.

        Raises:
            TaskNotActive: The store knows no such task.
        """
        state = self.enforcement.ports.store.task(task_id)
        if state is None:
            raise TaskNotActive(f"task {task_id} is unknown to the store")
        if subject_token is not None:
            self.enforcement.subject_tokens.keep(task_id, Secret(subject_token), state.deadline)
        return Task(self._endings, state, begun=True)

    def recover(self) -> int:
        """Revoke what processes that are gone, or ended tasks, have left alive; returns what is left.

        It happens by itself, in a thread, when the first task begins; this waits for it.

        Raises:
            StoreError: The outbox cannot be read.
        """
        return drive(self.enforcement.sync.outbox.sweep())

    async def arecover(self) -> int:
        """Do as `recover`, on an event loop."""
        return await self.enforcement.async_.outbox.sweep()

    def reload(self) -> bool:
        """Read the policy files of agentguard.toml again; return whether they are in force now.

        All of them are, or none: what is wrong leaves the old in force, and is logged as an error. An
        approval that was asked under the old does not hold under the new.
        """
        reload: Callable[[], bool] | None = getattr(self.enforcement.ports.policy, "reload", None)
        return reload is not None and reload()

    # --- decisions

    def decide(self, tool: str, arguments: Mapping[str, Any], *, task: Task | None = None) -> Decision:
        """Return what would be decided about a call now, without carrying anything out.

        The call is judged as a real one: by the tool's schema, the mandate, the rights of user and agent,
        and the policy. Nothing is recorded or minted, no budget is used, and no person is asked: where one
        would be asked, the decision permits with the obligation ``approve``. *task* is the task of this
        context, unless given. A denial says why in `reason`.
        """
        return drive(self._decide(self.enforcement.sync, tool, arguments, task))

    async def adecide(self, tool: str, arguments: Mapping[str, Any], *, task: Task | None = None) -> Decision:
        """Do as `decide`, on an event loop."""
        return await self._decide(self.enforcement.async_, tool, arguments, task)

    async def _decide(
        self, flow: Flow, tool: str, arguments: Mapping[str, Any], task: Task | None
    ) -> Decision:
        invocation = self._gates.invocation(tool, arguments, None if task is None else task.id)
        try:
            return (await flow.decide(invocation)).decision
        except Denied as denied:
            return Decision(
                effect=Effect.DENY,
                policy_ids=denied.policy_ids,
                reason=f"{denied.code}: {denied.reason}",
                advice=denied.advice,
                decision_id=denied.decision_id,
            )

    # --- approvals

    def answer(self, pending: Mapping[str, Any], *, approved: bool, approver: str, reason: str = "") -> Any:
        """Record a person's answer to an interrupt, and return the value to resume it with.

        *pending* is the interrupt's value. Call this where the person has authenticated: what they
        see must be what *pending* says, and *approver* is who they are.

        Raises:
            ApprovalError: It is unknown, expired, answered before, or not for the call it shows.
        """
        return drive(
            self.enforcement.sync.authorization.approvals.answer(pending, approved, approver, reason)
        )

    async def aanswer(
        self, pending: Mapping[str, Any], *, approved: bool, approver: str, reason: str = ""
    ) -> Any:
        """Do as `answer`, on an event loop."""
        return await self.enforcement.async_.authorization.approvals.answer(
            pending, approved, approver, reason
        )

    # --- signals

    def receiver(self, sources: Iterable[Source], *, audience: str) -> Receiver:
        """Return an ASGI application by which a security team ends tasks (CAEP ``session-revoked``).

        A signal names a task, one credential, or a user, all of whose active tasks then end. The user
        is who `subject` says; *sources* say who may send, and for which issuers.
        """
        from agentguard.signals import Receiver

        async def end(event: SessionRevoked) -> None:
            names = {kind: name.name for kind in ("token", "user") if (name := getattr(event, kind))}
            cause = f"signal of {event.issuer}: {event.reason}"
            await self._endings.async_.end_by_signal(cause, task=event.task_id, **names)

        return Receiver(sources, audience=audience, store=self.enforcement.ports.store, revoke=end)

    # --- langchain

    def wrap(
        self, tools: Iterable[ToolLike] | ToolLike, *, on_deny: OnDeny | None = None
    ) -> list[GuardedTool]:
        """Return guarded tools for any runnable, ToolNode or executor; the originals stay as they are.

        *on_deny* is ``"message"`` or ``"raise"`` for every form of call; by default a model's call
        is answered with a message, and an application's own `invoke` raises Denied.

        For the life of a guard one name is one tool. A tool that an application makes anew for each
        request has to be made of the same function, or of the same object's method; a closure or another
        BaseTool is another tool. What differs by request comes by an injected argument.

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
            metadata = {**(plain.metadata or {}), METADATA_KEY: facts}
            return self.wrap(plain.model_copy(update={"metadata": metadata}))[0]

        return classify

    def middleware(self) -> GuardMiddleware:
        """Return the middleware for `create_agent`; list it last. Needs ``agentguard[langchain]``."""
        from agentguard.langchain.middleware import GuardMiddleware  # an extra

        return GuardMiddleware(self.enforcement, self._gates.at_first_sight)

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

    def close(self) -> None:
        """Close the store and the audit log, and of a file's guard all else that was made for it."""
        self.enforcement.close()
        for part in self._parts:
            with suppress(AttributeError):
                part.close()  # type: ignore[attr-defined]  # not every adapter has one
