"""What a guard is made of: the adapters that it asks (`Ports`), and how it works (`Options`)."""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import urandom

from agentguard.catalog import Catalog
from agentguard.enforcement.entitlements import Ceiling
from agentguard.enforcement.routing import Brokers
from agentguard.model import CallLimits, Outcome, ToolPath
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

__all__ = ["Options", "Ports", "outcome_of_error"]


def outcome_of_error(error: BaseException) -> Outcome:
    """Return how a call ended that left its tool by this exception, where no framework has a say."""
    return Outcome.FAILED if isinstance(error, Exception) else Outcome.CANCELLED


def _new_id() -> str:
    # as `secrets.token_urlsafe(16)`, in half the time: each call makes two
    return urlsafe_b64encode(urandom(16))[:-2].decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The adapters of one guard, each for a Protocol of `agentguard.ports`.

    `brokers` is keyed by resource name (None for all resources) and path. `entitlements` is what the users
    may do. `signals` are told, by name, of each task's end. `facts` are known from the start.
    """

    catalog: Catalog
    policy: Policy
    identity: IdentitySource
    brokers: Brokers
    store: Store
    audit: AuditLog
    approvers: Mapping[ToolPath, Approver] = field(default_factory=dict)
    entitlements: Entitlements | None = None
    signals: Mapping[str, Transmitter] = field(default_factory=dict)
    facts: tuple[DeclaredFact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How one guard works. `lifetime`, `approval_lifetime` and `timeout` are in seconds.

    `ceiling` is what the agent may do at most, as resource → scopes. With `observe`, rules are recorded
    and block nothing. With `record_requests`, the audit log holds all that a policy was asked, argument
    values included. `limits` say how much a call and its result may hold. `outcome_of` says how a call
    ended that left its tool by an exception: a framework's control flow is no failure.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    ceiling: Ceiling | None = None
    lifetime: float = 60.0
    approval_lifetime: float = 300.0
    timeout: float = 5.0
    limits: CallLimits = field(default_factory=CallLimits)
    clock: Callable[[], float] = time.time
    new_id: Callable[[], str] = _new_id
    observe: bool = False
    record_requests: bool = False
    outcome_of: Callable[[BaseException], Outcome] = outcome_of_error
