"""TODO operations."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from agentguard.concurrency.drive import Operation, capturing_result, finish, operation_pair
from agentguard.concurrency.single_flight import Share, ShareOperations
from agentguard.enforcement.routing import Route
from agentguard.errors import ApprovalError, DenialCode, Denied, TaskNotActive
from agentguard.model import ToolPath
from agentguard.ports import Approver, AuditLog, Entitlements, Policy, Store, Transmitter

__all__ = ["Io", "stored"]


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

    to_the_end: Operation
    task: Operation
    create_task: Operation
    begin_call: Operation
    track: Operation
    end_call: Operation
    labels: Operation
    forget: Operation
    live: Operation
    end_task: Operation
    active: Operation
    save_approval: Operation
    answer_approval: Operation
    approval: Operation
    approval_for: Operation
    decide: Operation
    append: Operation
    approve: Mapping[ToolPath, Operation]
    entitled: Operation | None
    share: Share
    prepare: Mapping[str, Operation]
    issue: Mapping[str, Operation]
    revoke: Mapping[str, Operation]

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
        flights: ShareOperations,
        timeout: float,
    ) -> tuple[Self, Self]:
        """Make both shapes, the synchronous one first; *timeout* in seconds holds for each operation."""
        brokers = {route.name: route.broker for route in routes}
        revoking: dict[str, Any] = {**brokers, **transmitters}
        preparing = {route.name: route.broker for route in routes if route.prepares}
        flat: dict[str, Any] = {
            name: operation_pair(store, name, timeout=timeout, shielded=name in _SETTLED) for name in _STORE
        }
        flat["decide"] = operation_pair(policy, "decide", timeout=timeout)
        flat["append"] = operation_pair(audit, "append", timeout=timeout, shielded=True)
        flat["entitled"] = (None, None)
        if entitlements is not None:
            flat["entitled"] = operation_pair(entitlements, "scopes", timeout=timeout)
        flat["share"] = flights
        nested: dict[str, dict[Any, Any]] = {
            "approve": {path: operation_pair(approver, "approve") for path, approver in approvers.items()},
            "prepare": {
                n: capturing_result(operation_pair(b, "prepare", timeout=timeout))
                for n, b in preparing.items()
            },
            "issue": {
                n: capturing_result(operation_pair(b, "issue", timeout=timeout)) for n, b in brokers.items()
            },
            "revoke": {
                n: operation_pair(b, "revoke", timeout=timeout, shielded=True) for n, b in revoking.items()
            },
        }
        shapes: list[Self] = []
        for shape in (0, 1):
            parts: dict[str, Any] = {name: pair[shape] for name, pair in flat.items()}
            parts |= {name: {k: pair[shape] for k, pair in table.items()} for name, table in nested.items()}
            shapes.append(cls(to_the_end=(_awaited, finish)[shape], **parts))
        return shapes[0], shapes[1]


async def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


async def stored(asked: Operation, *args: Any) -> Any:
    """Ask the store, for whose failure a call is denied.

    Raises:
        Denied: It failed, an approval does not hold, or the task is over.
    """
    try:
        return await asked(*args)
    except TaskNotActive as error:
        raise Denied.of(DenialCode.TASK_ENDED, str(error)) from None
    except ApprovalError as error:
        raise Denied.of(DenialCode.APPROVAL_REFUSED, str(error)) from None
    except Exception as error:  # noqa: BLE001  shared state that errs is a deny
        raise Denied.of(DenialCode.STORE_ERROR, f"store failed: {type(error).__name__}") from None
