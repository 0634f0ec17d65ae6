"""A tool call on its way through the guard, and the port operations that carry it.

`Invocation` is what a framework brings, `Permit` what it gets back when the call may run, `Io` every
port operation in the shape of one path, so that the flow is written once for sync and async.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Self

from agentguard._drive import Asked, delivering, settle, twins
from agentguard.errors import ApprovalError, DenialCode, Denied, TaskNotActive, denial
from agentguard.flight import Flights, Shared
from agentguard.lease import Lease
from agentguard.model import AccessRequest, Arguments, Call, Decision, Grant, ToolPath, ToolSpec
from agentguard.ports import Approver, AuditLog, Entitlements, Policy, Store, Transmitter
from agentguard.routes import Route

__all__ = ["Invocation", "Io", "Permit", "active_task", "stored"]

active_task: ContextVar[str | None] = ContextVar("agentguard_task", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """A tool call as a framework brings it; `problem` is what was wrong before it came this far.

    `call_id` is the model's; `thread_id` is set where the call can be suspended and resumed.
    `named_task` is what the run's config names, for where no ContextVar reaches.
    """

    tool: str
    spec: ToolSpec | None
    arguments: Arguments | None
    problem: Denied | None = None
    call_id: str | None = None
    thread_id: str | None = None
    named_task: str | None = None

    @property
    def task_id(self) -> str | None:
        """The task of this context, else the one that the run's config names."""
        return active_task.get() or self.named_task

    @property
    def path(self) -> str:
        """The tool's path, or ``unknown``."""
        return "unknown" if self.spec is None else self.spec.path.value

    def key(self, task_id: str, digest: str, otherwise: str) -> str:
        """Name this call, the same when a graph runs its node again; *otherwise* if it has no id."""
        parts = (task_id, self.thread_id or "", self.call_id or otherwise, self.tool, digest)
        return sha256("\n".join(parts).encode()).hexdigest()


class Permit:
    """A permitted call: used once, by exactly the tool and the arguments that were judged.

    `result` is what the tool's own code returned, before any framework has given it another form.
    `observed` is the denial that stands in the way of the call, where the guard only observes.
    """

    __slots__ = (
        "_entrance",
        "begun",
        "call",
        "decision",
        "grant",
        "invocation",
        "lease",
        "observed",
        "request",
        "result",
        "route",
        "task",
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
    ) -> None:
        self.observed = observed
        self.invocation, self.request, self.task, self.decision = invocation, request, request.task, decision
        self.grant, self.call, self.route = grant, call, route
        self.lease = Lease(invocation.tool, None, None)
        self.begun = False
        self.result: object = None
        self._entrance = [True]  # taken by a pop, which is atomic, so that of two threads one is first

    @property
    def entered(self) -> bool:
        """Whether the tool has begun, or can begin no more."""
        return not self._entrance

    def end(self) -> None:
        """Let the tool begin no more; one that still runs finds a dead lease."""
        self._entrance.clear()
        self.lease.close()

    def enter(self, digest: str) -> Lease:
        """Let the tool itself begin, once, with the arguments that were judged.

        Raises:
            Denied: They are others, or the permit was used.
        """
        judged = self.invocation.arguments
        if judged is None or digest != judged.digest:
            raise denial(DenialCode.ARGUMENTS_CHANGED, "the arguments are not those that were judged")
        try:
            self._entrance.pop()
        except IndexError:
            raise denial(DenialCode.GRANT_USED, "a permit is good for one execution in its call") from None
        return self.lease


_STORE = (
    "task",
    "create_task",
    "begin_call",
    "track",
    "end_call",
    "labels",
    "forget",
    "live",
    "end_task",
    "active",
    "save_approval",
    "answer_approval",
    "approval",
    "approval_for",
)
# what changes state goes on to its end when the caller is cancelled, so that the state is known
_SETTLED = {"create_task", "begin_call", "track", "end_call", "forget", "end_task"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Io:
    """Every port operation, as coroutine functions for either `drive` or an event loop.

    `to_the_end` awaits a coroutine to its end although the caller is cancelled meanwhile.
    """

    to_the_end: Asked
    task: Asked
    create_task: Asked
    begin_call: Asked
    track: Asked
    end_call: Asked
    labels: Asked
    forget: Asked
    live: Asked
    end_task: Asked
    active: Asked
    save_approval: Asked
    answer_approval: Asked
    approval: Asked
    approval_for: Asked
    decide: Asked
    append: Asked
    approve: Mapping[ToolPath, Asked]
    entitled: Asked | None
    share: Shared
    prepare: Mapping[str, Asked]
    issue: Mapping[str, Asked]
    revoke: Mapping[str, Asked]

    @classmethod
    def pair(
        cls,
        policy: Policy,
        store: Store,
        audit: AuditLog,
        routes: Iterable[Route],
        approvers: Mapping[ToolPath, Approver],
        entitlements: Entitlements | None,
        transmitters: Mapping[str, Transmitter],
        flights: Flights,
        timeout: float,
    ) -> tuple[Self, Self]:
        """Make both shapes, the synchronous one first; *timeout* in seconds holds for each operation."""
        brokers = {route.name: route.broker for route in routes}
        revoking: dict[str, Any] = {**brokers, **transmitters}
        preparing = {route.name: route.broker for route in routes if route.prepares}
        flat: dict[str, Any] = {
            name: twins(store, name, timeout=timeout, settled=name in _SETTLED) for name in _STORE
        }
        flat["decide"] = twins(policy, "decide", timeout=timeout)
        flat["append"] = twins(audit, "append", timeout=timeout, settled=True)
        flat["entitled"] = (None, None)
        if entitlements is not None:
            flat["entitled"] = twins(entitlements, "scopes", timeout=timeout)
        flat["share"] = flights
        nested: dict[str, dict[Any, Any]] = {
            "approve": {path: twins(approver, "approve") for path, approver in approvers.items()},
            "prepare": {n: delivering(twins(b, "prepare", timeout=timeout)) for n, b in preparing.items()},
            "issue": {n: delivering(twins(b, "issue", timeout=timeout)) for n, b in brokers.items()},
            "revoke": {n: twins(b, "revoke", timeout=timeout, settled=True) for n, b in revoking.items()},
        }
        shapes: list[Self] = []
        for shape in (0, 1):
            parts: dict[str, Any] = {name: pair[shape] for name, pair in flat.items()}
            parts |= {name: {k: pair[shape] for k, pair in table.items()} for name, table in nested.items()}
            shapes.append(cls(to_the_end=(_awaited, settle)[shape], **parts))
        return shapes[0], shapes[1]


async def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


async def stored(asked: Asked, *args: Any) -> Any:
    """Ask the store, for whose failure a call is denied.

    Raises:
        Denied: It failed, an approval does not hold, or the task is over.
    """
    try:
        return await asked(*args)
    except TaskNotActive as error:
        raise denial(DenialCode.TASK_ENDED, str(error)) from None
    except ApprovalError as error:
        raise denial(DenialCode.APPROVAL_REFUSED, str(error)) from None
    except Exception as error:  # noqa: BLE001  shared state that errs is a deny
        raise denial(DenialCode.STORE_ERROR, f"store failed: {type(error).__name__}") from None
