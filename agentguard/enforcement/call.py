"""A tool call on its way through the guard.

`Invocation` is what a framework brings, and `Permit` what it gets back when the call may run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from types import MappingProxyType
from typing import Any, NamedTuple

from agentguard.concurrency.fork import this_process
from agentguard.enforcement.activation import active_task
from agentguard.enforcement.process import owner
from agentguard.enforcement.routing import Route
from agentguard.enforcement.run_state import RunState
from agentguard.errors import DenialCode, Denied
from agentguard.lease import Lease
from agentguard.model import (
    AccessRequest,
    Arguments,
    Call,
    Decision,
    Grant,
    Json,
    LiveCredential,
    Outcome,
    ToolSpec,
)

__all__ = ["Invocation", "Permit", "Repetition"]


class Repetition(NamedTuple):
    """The arguments of a call, validated again, and the names of those that default factories have made."""

    arguments: Arguments
    factory_names: tuple[str, ...] = ()


class Invocation(NamedTuple):
    """A tool call as a framework brings it; `problem` is what was wrong before it came this far.

    `arguments` is the frozen form of `values`, which are what the tool gets. `validate_again` makes them once
    more of what the model wrote, where application code takes part in that. `call_id` is the model's.
    `thread_id` is set where the call can be suspended and resumed: in a graph. `place` is then the step of
    the run that makes the call. A graph that runs a suspended step again runs the same step; a later turn, or
    another agent that runs beside it, is another one. `named_task` is the task that the run's
    config names, for code that no ContextVar reaches: a call is denied where another task is active,
    unless that one descends from it.
    `state` returns what the tool is given from the state of its graph, for a tool that is given any.
    `unseen` says that no model sees the result: only rules do, as a fact.
    """

    tool: str
    spec: ToolSpec | None
    arguments: Arguments | None
    values: Mapping[str, Any] = MappingProxyType({})
    validate_again: Callable[[], Repetition] | None = None
    problem: Denied | None = None
    call_id: str | None = None
    thread_id: str | None = None
    place: str = ""
    named_task: str | None = None
    state: Callable[[], Mapping[Any, Any]] | None = None
    unseen: bool = False

    @property
    def task_id(self) -> str | None:
        """The task of this context, else the one that the run's config names.

        Where both are present, `Authorization` denies the call unless they agree.
        """
        active = active_task()
        return self.named_task if active is None else active

    @property
    def path(self) -> str:
        """The tool's path, or ``unknown``."""
        return "unknown" if self.spec is None else str(self.spec.path)

    def key(self, task_id: str, digest: str, otherwise: str) -> str:
        """Name this call, the same when a graph runs its step again.

        The key of a call without id is made of *otherwise*, and so is that of a call which no graph runs
        again: models number their calls anew, so such a call is a new one.
        """
        call_id = self.call_id if self.call_id and self.thread_id is not None else otherwise
        parts = (task_id, self.thread_id or "", self.place, call_id, self.tool, digest)
        return sha256("\n".join(parts).encode(errors="surrogatepass")).hexdigest()


class Permit:
    """A permitted call: used once, by exactly the tool and the arguments that were judged.

    `result` is what the tool's own code returned, before any framework has given it another form.
    `outcome` is how that code ended: a framework may make a result of what it raised, and the tool has failed
    all the same.
    `uncertain` says that nobody knows whether the tool took effect, though it has failed: it was given up in
    the middle, by a time-out or a connection that broke.
    `withheld` is the denial of a result that is not passed on, though the tool has run.
    `decided` says whether a decision about the call is on record, or will be, and `outcome_recorded` whether
    its outcome is.
    `missing_grant` is what the issuer misses of the user, and the question by which the user was asked.
    `state` is what the tool is given from the state of its graph, as a person has approved it.
    `observed` is the denial that stands in the way of the call, where the guard only observes.
    `revoke_early` revokes the call's credential before its end, while a large result is not yet looked at; it
    is told whether it has to block the thread. It is None without a credential, and when the call has ended.
    """

    __slots__ = (
        "_entrance",
        "_process",
        "_server_call",
        "_stops",
        "_unused",
        "begun",
        "call",
        "decided",
        "decision",
        "grant",
        "invocation",
        "lease",
        "missing_grant",
        "observed",
        "outcome",
        "outcome_recorded",
        "request",
        "result",
        "revoke_early",
        "route",
        "state",
        "task",
        "uncertain",
        "withheld",
    )

    def __init__(
        self,
        invocation: Invocation,
        request: AccessRequest,
        decision: Decision,
        grant: Grant | None,
        call: Call,
        route: Route | None = None,
        *,
        observed: Denied | None = None,
        state: RunState | None = None,
    ) -> None:
        self.observed, self.state = observed, state
        self.invocation, self.request, self.task, self.decision = invocation, request, request.task, decision
        self.grant, self.call, self.route = grant, call, route
        self.lease = Lease(invocation.tool, None, None, task_id=self.task.id)
        self.begun = self.decided = self.outcome_recorded = self.uncertain = False
        self.withheld: Denied | None = None
        self.missing_grant: dict[str, Json] = {}
        self.result: object = None
        self.revoke_early: Callable[[bool], Awaitable[None]] | None = None
        self.outcome = Outcome.DONE
        self._process = this_process()
        self._entrance = [True]  # taken by a pop, which is atomic: of two threads only one gets in
        self._server_call = [True]  # taken by a pop, as the entrance
        self._stops: list[Callable[[], None]] = []
        self._unused = False

    @property
    def is_of_another_process(self) -> bool:
        """Whether this process is a child that was forked from the one in which the call was permitted."""
        return self._process is not this_process()

    @property
    def entered(self) -> bool:
        """Whether the tool has begun, or can begin no more."""
        return not self._entrance

    @property
    def ran(self) -> bool:
        """Whether the tool has begun; this is known when the call has ended."""
        return not self._entrance and not self._unused

    @property
    def did_nothing(self) -> bool:
        """Whether it is known, when the call has ended, that the tool was not done: it uses up nothing."""
        return not self.ran or (self.outcome is Outcome.FAILED and not self.uncertain)

    def live(self, handle: str, expires_at: float) -> LiveCredential:
        """Return the record of a credential of this call, which is not yet known to be revoked."""
        return LiveCredential(
            call_id=self.call.id,
            task_id=self.call.task_id,
            broker=self.call.broker or "",
            handle=handle,
            expires_at=expires_at,
            owner=owner(),
        )

    def end(self) -> None:
        """Let the tool begin no more; a tool that still runs finds a dead lease."""
        with suppress(IndexError):  # the tool has begun, or the call has ended before
            self._unused = self._entrance.pop()
        self.leave()
        self.revoke_early = (
            None  # it holds the credential, and this permit: a cycle that would keep the secret
        )
        self.lease.close()

    def leave(self) -> None:
        """Let the tool make no call at its server any more, and stop the call that still runs there."""
        self._server_call.clear()
        while self._stops:
            self._stops.pop()()

    def enter_server(self, stop: Callable[[], None]) -> None:
        """Let the call that the tool makes at its own server begin, once, while the tool runs.

        *stop* is called when the tool is left. It must allow to be called from any thread, and when the call
        at the server has ended.

        Raises:
            Denied: The tool has made its call at the server, or the tool has ended.
        """
        self._require_process()
        self._stops.append(stop)  # before the pop: a thread that leaves meanwhile finds it
        try:
            self._server_call.pop()
        except IndexError:
            reason = "a permit is good for one execution at the server, while its call lasts"
            raise Denied.of(DenialCode.GRANT_USED, reason) from None

    def enter(self, digest: str) -> Lease:
        """Let the tool itself begin, once, with the arguments that were judged.

        Raises:
            Denied: The arguments are others, or the permit was used.
        """
        self._require_process()
        judged = self.invocation.arguments
        if judged is None or digest != judged.digest:
            raise Denied.of(DenialCode.ARGUMENTS_CHANGED, "the arguments are not those that were judged")
        try:
            self._entrance.pop()
        except IndexError:
            reason = "a permit is good for one execution in its call"
            raise Denied.of(DenialCode.GRANT_USED, reason) from None
        return self.lease

    def require_state(self, values: Mapping[Any, Any] | None = None) -> None:
        """Refuse a tool that is given another state than a person has approved.

        *values* are what it is given, by field; without them, what the graph's state has for it now. A tool
        in a parallel call may change the state in place. What the tool is not given does not matter.

        Raises:
            Denied: A field is not as it was approved.
        """
        if self.state is None or self.invocation.state is None:
            return
        if not self.state.covers(RunState.of(self.invocation.state() if values is None else values)):
            reason = "the state that the tool is given is not that which was approved"
            raise Denied.of(DenialCode.ARGUMENTS_CHANGED, reason)

    def _require_process(self) -> None:
        if self.is_of_another_process:
            reason = "the permit is one of the process that this one was forked from"
            raise Denied.of(DenialCode.GRANT_USED, reason)
