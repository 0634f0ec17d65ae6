"""TODO operations."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from agentguard.concurrency.drive import Asked, delivering, settle, twins
from agentguard.concurrency.single_flight import Flights, Shared
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
        raise Denied.of(DenialCode.TASK_ENDED, str(error)) from None
    except ApprovalError as error:
        raise Denied.of(DenialCode.APPROVAL_REFUSED, str(error)) from None
    except Exception as error:  # noqa: BLE001  shared state that errs is a deny
        raise Denied.of(DenialCode.STORE_ERROR, f"store failed: {type(error).__name__}") from None
