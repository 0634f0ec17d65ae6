"""The policy enforcement point: the one flow around a tool call.

    identify → classify → decide → (approve) → issue → execute → revoke → record

It knows the ports, and neither adapters nor frameworks. A framework runs the tool inside the flow:

    async with GuardedCall(flow, invocation) as permit:
        ...  # the tool runs, with `permit`

Entering the block judges the call, begins it and mints its credential. Leaving the block undoes whatever
entering has begun, whichever way the call ends. `Enforcement` holds what both paths of a guard share;
`Enforcement.sync` and `Enforcement.async_` are the flow on either path.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from agentguard.concurrency.abandonable import AbandonableThreads
from agentguard.concurrency.worker import Worker, blocks
from agentguard.enforcement.authorization import Authorization
from agentguard.enforcement.call import Invocation
from agentguard.enforcement.calls_here import CallsHere
from agentguard.enforcement.evaluation import Evaluation, grant_of
from agentguard.enforcement.fact_reading import FactReading
from agentguard.enforcement.fact_sources import FactSources
from agentguard.enforcement.failures import best_effort
from agentguard.enforcement.missing_grants import GrantQuestions
from agentguard.enforcement.operations import Operations, operations_of
from agentguard.enforcement.outbox import Outbox
from agentguard.enforcement.outbox_thread import OutboxThread
from agentguard.enforcement.recollection import Recollection
from agentguard.enforcement.recording import Recording
from agentguard.enforcement.routing import Routes
from agentguard.enforcement.setup import Options, Ports
from agentguard.enforcement.task_credentials import ReusableCredentials, SubjectTokens
from agentguard.errors import Denied
from agentguard.model import AccessRequest, TaskState, TaskStatus
from agentguard.telemetry import Telemetry

__all__ = ["Enforcement", "Flow"]

T = TypeVar("T")
log = logging.getLogger("agentguard")


class Enforcement:
    """What both paths of a guard share. Built once; it holds no state of a call.

    `on_unrevoked` is called when a credential is left in the outbox that no running call holds.
    """

    def __init__(self, ports: Ports, options: Options, telemetry: Telemetry | None = None) -> None:
        if options.observe:
            log.warning("OBSERVE MODE: agentguard blocks nothing; what it would deny runs without credential")
        self.ports, self.options = ports, options
        self.telemetry = telemetry or Telemetry()
        self.routes = Routes(ports.brokers, ports.store)
        self.transmitters = {f"signals/{name}": port for name, port in ports.signals.items()}
        self.reuse = ReusableCredentials(options.clock, timeout=2 * options.timeout)
        self.subject_tokens = SubjectTokens(options.clock)
        self.calls = CallsHere()
        self.results = AbandonableThreads("the look at a result")
        self.on_unrevoked: Callable[[], None] = lambda: None
        self.worker = Worker("agentguard-flow", options.timeout)
        operations = operations_of(
            ports, self.routes, self.transmitters, self.reuse.flights.share, options.timeout
        )
        self.facts = FactSources(ports.catalog, options.clock, ports.facts)
        self.blocking = operations.sync
        conditional = operations.sync.begin_if_unchanged is not None
        self.recollection = Recollection() if conditional else None
        self.sync = Flow(self, operations.sync)
        self.async_ = Flow(self, operations.async_, self.sync if _in_one_go(ports) else None)
        self.outbox_thread = OutboxThread(self.sync.outbox)

    def close(self) -> None:
        """Stop the threads of this process. No call begins any more."""
        self.calls.closing = True
        self.outbox_thread.close()
        self.worker.close()


class Flow:
    """The flow on one path, with the rooms that have the operations of that path."""

    def __init__(
        self, enforcement: Enforcement, operations: Operations, blocking: Flow | None = None
    ) -> None:
        ports, options = enforcement.ports, enforcement.options
        self.enforcement, self.operations = enforcement, operations
        self._blocking = blocking
        self.facts = FactReading(
            enforcement.facts,
            ports.policy,
            options.clock,
            asynchronous=operations is not enforcement.blocking,
        )
        self.authorization = Authorization(
            ports,
            options,
            enforcement.routes,
            enforcement.subject_tokens,
            operations,
            enforcement.calls,
            self.facts,
        )
        self.grant_questions = GrantQuestions(ports, options, operations)
        self.recording = Recording(ports.identity, operations, requests=options.record_requests)
        self.outbox = Outbox(
            operations,
            enforcement.calls,
            options.clock,
            enforcement.telemetry.revocation_unknown,
            {route.name: route.outlives for route in enforcement.routes},
        )

    async def refuse(self, invocation: Invocation, denied: Denied) -> None:
        """Record a denial that the framework's side found by itself."""
        telemetry = self.enforcement.telemetry
        if self.enforcement.calls.closed:
            return  # and so is the log
        with telemetry.call(invocation.tool, invocation.call_id, invocation.arguments) as span:
            await self.recording.denial(invocation, denied, span)

    async def end_session(self, task: TaskState, denied: Denied) -> None:
        """End the oldest task of a family, as a policy obliges to; a failure is logged and tried again."""
        end = self.outbox.end_task
        if end is not None:
            cause = f"a policy ends the session ({', '.join(denied.policy_ids)}): {denied.reason}"
            await best_effort("the end of a session", end, task.root_id, TaskStatus.REVOKED, cause)

    async def decide(self, invocation: Invocation) -> Evaluation:
        """Judge a call without any effect: nothing is recorded, asked of a person, or minted.

        Raises:
            Denied: The call would be denied.
        """
        span = self.enforcement.telemetry.untraced()
        request = await self.authorization.requests.of_call(invocation, span)
        await self.authorization.require_unrejected(request)
        return await self.evaluate(request)

    async def evaluate(self, request: AccessRequest) -> Evaluation:
        """Judge a request that somebody else has made, such as a recorded one.

        Raises:
            Denied: The call would be denied. Where a person has to be asked first, the obligations of the
                decision after the answer count.
        """
        evaluation = await self.authorization.evaluate(request)
        if not evaluation.question:
            grant_of(evaluation, "", self.enforcement.options.lifetime, None, None)
        return evaluation

    @property
    def hands_over(self) -> bool:
        """Whether `in_one_go` hands the steps to a thread, which ends them though the caller is cancelled."""
        return self._blocking is not None

    def in_one_go(self, steps: Callable[[Flow], Coroutine[Any, Any, T]]) -> Awaitable[T]:
        """Take several steps that ask the store and the log one thing after the other.

        On an event loop they run in the guard's own thread, by the operations that block, where all of the
        ports concerned allow it: that costs one hand-over to a thread and not one for each operation.

        Raises:
            TimeoutError: The thread was not done in time. It goes on with the steps all the same.
        """
        if self._blocking is None:
            return steps(self)
        return self.enforcement.worker.run(steps(self._blocking))


def _in_one_go(ports: Ports) -> bool:
    """Return whether a call may ask its store, log and rights in one thread."""
    return (
        getattr(ports.policy, "inline", False)
        and not getattr(ports.store, "inline", False)
        and blocks(ports.store, "task", "labels", "begin_call", "end_call")
        and blocks(ports.audit, "append")
        and (ports.entitlements is None or getattr(ports.entitlements, "inline", False))
    )
