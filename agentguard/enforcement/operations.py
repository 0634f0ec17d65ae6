"""Every operation that a guard asks of its ports, typed, in the form of one of the two paths.

There are two `Operations` for each guard: one whose operations block, for `drive`, and one for event
loops. All rooms of this package get the object of their path once, when they are made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, TypeVar

from agentguard.concurrency.drive import OperationPair, finish, operation_pair
from agentguard.concurrency.single_flight import Share, ShareOperations
from agentguard.concurrency.together import in_loop, in_threads
from agentguard.enforcement.routing import Route
from agentguard.enforcement.setup import Ports
from agentguard.errors import (
    ApprovalError,
    ApprovalUsed,
    BudgetExhausted,
    CallRejected,
    ChoiceExhausted,
    CountersChanged,
    CountersFull,
    DenialCode,
    Denied,
    TaskNotActive,
    safe_text,
)
from agentguard.model import (
    NO_READ_EFFECTS,
    AccessRequest,
    Approval,
    Basis,
    Call,
    CallKey,
    Cell,
    Credential,
    Decision,
    Grant,
    Label,
    LiveCredential,
    Login,
    LoginName,
    Outcome,
    ReadEffects,
    TaskState,
    TaskStatus,
    ToolPath,
)
from agentguard.ports import Broker, Transmitter

__all__ = ["Operations", "OperationsPair", "operations_of", "stored", "unapproved"]

T = TypeVar("T")
# what a model is told about an approval; of all else, that none holds
_ADVICE = {
    CallRejected: "A person did not approve this call. Do not make it again; tell the user.",
    ApprovalUsed: "A person approved this call and it was made before. It was not made again; tell the user.",
}
Approve = Callable[[Approval, AccessRequest], Awaitable[Approval]]
Prepare = Callable[[Callable[[str], None], Grant], Awaitable[None]]
Issue = Callable[[Callable[[Credential], None], Grant], Awaitable[None]]
Revoke = Callable[[str, str, float], Awaitable[None]]  # the user for whom, the handle, and its expiry


class EndCall(Protocol):
    """`ports.Store.end_call`."""

    def __call__(
        self,
        call_id: str,
        outcome: Outcome,
        *,
        effects: ReadEffects = NO_READ_EFFECTS,
        revoked: bool = False,
        remember: tuple[str, float] | None = None,
        undo: bool = False,
    ) -> Awaitable[None]:
        """Note how the call ended."""


class BeginIfUnchanged(Protocol):
    """`ports.ConditionalStore.begin_if_unchanged`."""

    def __call__(
        self, call: Call, credential: LiveCredential | None, basis: Basis
    ) -> Awaitable[tuple[TaskState, ...] | None]:
        """Begin the call, or return what has changed."""


class Active(Protocol):
    """`ports.Store.active`."""

    def __call__(
        self, subject: str, *, without: LoginName = "", folded: bool = False
    ) -> Awaitable[tuple[str, ...]]:
        """Return the ids of active tasks."""


class ActiveIn(Protocol):
    """`ports.Store.active_in`."""

    def __call__(self, login: Login, *, without: LoginName = "") -> Awaitable[tuple[str, ...]]:
        """Return the ids of active tasks."""


class Live(Protocol):
    """`ports.Store.live`."""

    def __call__(self, task_id: str | None = None) -> Awaitable[tuple[LiveCredential, ...]]:
        """Return what is not yet known to be revoked."""


class ToTheEnd(Protocol):
    """Awaits a coroutine to its end, although the caller is cancelled meanwhile."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> Awaitable[T]:
        """Await it."""


class Together(Protocol):
    """Runs coroutines side by side, and returns their results in their order."""

    def __call__(self, coroutines: Iterable[tuple[str, Coroutine[Any, Any, T]]], /) -> Awaitable[list[T]]:
        """Run them; each comes with the name of the party that it asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """The operations of one path. Those of brokers go by the name of their route."""

    to_the_end: ToTheEnd
    together: Together
    # the store
    task: Callable[[str], Awaitable[TaskState | None]]
    create_task: Callable[[TaskState], Awaitable[None]]
    begin_call: Callable[[Call, LiveCredential | None], Awaitable[None]]
    track: Callable[[LiveCredential], Awaitable[None]]
    end_call: EndCall
    counted: Callable[[Sequence[Cell], CallKey | None], Awaitable[Sequence[int]]]
    labels: Callable[[str, Collection[str]], Awaitable[Iterable[Label]]]
    forget: Callable[[str], Awaitable[None]]
    live: Live
    end_task: Callable[[str, TaskStatus, Iterable[LiveCredential]], Awaitable[tuple[str, ...]]]
    revise_task: Callable[[str, Callable[[TaskState], TaskState]], Awaitable[TaskState]]
    active: Active
    active_in: ActiveIn
    save_approval: Callable[[Approval], Awaitable[Approval]]
    answer_approval: Callable[[Approval], Awaitable[None]]
    approval: Callable[[str], Awaitable[Approval | None]]
    approval_for: Callable[[str], Awaitable[Approval | None]]
    rejection: Callable[[str, str, str], Awaitable[Approval | None]]
    remember: Callable[[str, float], Awaitable[bool]]
    begin_if_unchanged: BeginIfUnchanged | None = None
    # the other ports
    decide: Callable[[AccessRequest], Awaitable[Decision]]
    append: Callable[[Mapping[str, Any]], Awaitable[None]]
    entitled: Callable[[str, str], Awaitable[Collection[str] | None]] | None
    share: Share
    learn: Callable[[AccessRequest, Outcome], Awaitable[None]] | None = None
    approve: Mapping[ToolPath, Approve]
    prepare: Mapping[str, Prepare]
    issue: Mapping[str, Issue]
    revoke: Mapping[str, Revoke]


class OperationsPair(NamedTuple):
    """The operations of a guard, for the synchronous and for the asynchronous path."""

    sync: Operations
    async_: Operations


_OF_THE_STORE = tuple(field.name for field in fields(Operations))[2:21]
# what changes state goes on to its end when the caller is cancelled, so that the state is known
_SHIELDED = frozenset({"create_task", "begin_call", "track", "end_call", "forget", "end_task", "revise_task"})


def operations_of(
    ports: Ports,
    routes: Iterable[Route],
    transmitters: Mapping[str, Transmitter],
    flights: ShareOperations,
    timeout: float,
) -> OperationsPair:
    """Make the operations of both paths; *timeout* in seconds holds for each operation."""
    single = _single(ports, timeout)
    entitled = None
    if ports.entitlements is not None:
        entitled = operation_pair(ports.entitlements, "scopes", timeout=timeout)
    by_name = _by_name(ports, list(routes), transmitters, timeout)
    return OperationsPair(
        sync=Operations(
            to_the_end=_as_it_is,
            together=in_threads,
            entitled=None if entitled is None else entitled.sync,
            share=flights.sync,
            **{name: pair.sync for name, pair in single.items()},  # type: ignore[arg-type]  # by these names
            **{name: {key: pair.sync for key, pair in pairs.items()} for name, pairs in by_name.items()},  # type: ignore[arg-type]  # the same
        ),
        async_=Operations(
            to_the_end=finish,
            together=in_loop,
            entitled=None if entitled is None else entitled.async_,
            share=flights.async_,
            **{name: pair.async_ for name, pair in single.items()},  # type: ignore[arg-type]  # by these names
            **{name: {key: pair.async_ for key, pair in pairs.items()} for name, pairs in by_name.items()},  # type: ignore[arg-type]  # the same
        ),
    )


def _single(ports: Ports, timeout: float) -> dict[str, OperationPair]:
    """Return the operations of the ports of which there is one each."""
    single = {
        name: operation_pair(ports.store, name, timeout=timeout, shielded=name in _SHIELDED)
        for name in _OF_THE_STORE
    }
    if any(hasattr(ports.store, f"{prefix}begin_if_unchanged") for prefix in ("", "a")):
        single["begin_if_unchanged"] = operation_pair(
            ports.store, "begin_if_unchanged", timeout=timeout, shielded=True
        )
    single["decide"] = operation_pair(ports.policy, "decide", timeout=timeout)
    single["append"] = operation_pair(ports.audit, "append", timeout=timeout, shielded=True)
    if any(getattr(ports.policy, name, None) is not None for name in ("learn", "alearn")):
        single["learn"] = operation_pair(ports.policy, "learn", timeout=timeout)
    return single


def _by_name(
    ports: Ports, routes: Collection[Route], transmitters: Mapping[str, Transmitter], timeout: float
) -> dict[str, dict[Any, OperationPair]]:
    """Return the operations of approvers by path, and those of brokers and transmitters by their names."""
    brokers = {route.name: route.broker for route in routes}
    preparing = {route.name: route.broker for route in routes if route.prepares}
    revoking: dict[str, Any] = {**brokers, **transmitters}

    def minting(broker: Broker, verb: str) -> OperationPair:
        return operation_pair(broker, verb, timeout=timeout, shielded=True, delivers=True)

    return {
        "approve": {path: operation_pair(port, "approve") for path, port in ports.approvers.items()},
        "prepare": {name: minting(broker, "prepare") for name, broker in preparing.items()},
        "issue": {name: minting(broker, "issue") for name, broker in brokers.items()},
        "revoke": {
            name: operation_pair(port, "revoke", timeout=timeout, shielded=True, names_party=True)
            for name, port in revoking.items()
        },
    }


def _as_it_is(coroutine: Coroutine[Any, Any, T]) -> Awaitable[T]:
    return coroutine  # `drive` steps it to its end


def unapproved(error: ApprovalError, policy_ids: tuple[str, ...] = ()) -> Denied:
    """Return the denial of a call for which no approval holds; *error* says why.

    *policy_ids* are the policies that have asked for the approval.
    """
    advice = _ADVICE.get(type(error), "")
    return Denied.of(DenialCode.APPROVAL_REFUSED, str(error), advice=advice, policy_ids=policy_ids)


async def stored(answer: Awaitable[T]) -> T:
    """Await an operation of the store; the call is denied if it fails.

    Raises:
        Denied: The store failed, an approval does not hold, a budget is used up, or the task is over.
        CountersChanged, ChoiceExhausted: The call is to be judged anew.
    """
    try:
        return await answer
    except TaskNotActive as error:
        raise Denied.of(DenialCode.TASK_ENDED, str(error)) from None
    except ChoiceExhausted:
        raise
    except BudgetExhausted as error:
        raise Denied.of(DenialCode.BUDGET, str(error)) from None
    except ApprovalError as error:
        raise unapproved(error) from None
    except CountersFull as error:
        raise Denied.of(DenialCode.UNCOUNTED, str(error)) from None
    except CountersChanged:
        raise
    except Exception as error:  # noqa: BLE001  a call without known shared state is denied
        raise Denied.of(DenialCode.STORE_ERROR, f"store failed: {safe_text(error)}") from None
