"""The flow of a call with ports that remember, and can be made to fail."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

import pytest

from agentguard.catalog import Catalog
from agentguard.concurrency.drive import drive, lift
from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.flow import Enforcement, Flow
from agentguard.enforcement.guarded_call import GuardedCall
from agentguard.enforcement.setup import Options, Ports
from agentguard.errors import Denied
from agentguard.identity.local import LocalIdentity
from agentguard.model import (
    AccessRequest,
    Arguments,
    Credential,
    Decision,
    Effect,
    Grant,
    Identity,
    Mandate,
    Resource,
    TaskState,
    TaskStatus,
    ToolPath,
    ToolSpec,
)
from agentguard.ports import BrokerTraits
from agentguard.stores.memory import MemoryStore
from agentguard.tasks.ending import Endings

PAYMENTS = Resource(name="payments", origins=("https://pay.example",))
REFUND = ToolSpec(name="refund", path=ToolPath.WRITE, resource="payments", scopes=frozenset({"a", "b"}))
LOOKUP = ToolSpec(name="lookup", path=ToolPath.READ, untrusted=True)
ARGUMENTS = Arguments.of({"order_id": "4711"})
PORTS = {field.name for field in fields(Ports)}
PERMIT = Decision(effect=Effect.PERMIT, policy_ids=("p",))


class Rule:
    """A policy that answers with a value, or with what a function makes of the request."""

    inline, version = True, "1"

    def __init__(self, answer: Any = PERMIT) -> None:
        self.answer, self.asked = answer, list[AccessRequest]()

    def decide(self, request: AccessRequest) -> Decision:
        self.asked.append(request)
        answer: Decision = self.answer(request) if callable(self.answer) else self.answer
        return answer


class Mint:
    """A broker that remembers, and can be made to fail."""

    inline = True

    def __init__(self, *paths: ToolPath, fail: str = "", returns: Any = None) -> None:
        self.paths = frozenset(paths or ToolPath)
        self.issued, self.revoked = list[Grant](), list[str]()
        self.fail, self.returns = fail, returns
        self.traits = BrokerTraits()

    def issue(self, grant: Grant) -> Credential:
        if self.fail == "issue":
            raise ConnectionError("with a secret in it: s3cret")
        self.issued.append(grant)
        credential = Credential(
            "s3cret", id=grant.id, expires_at=1e12, headers=lambda *_: {}, handle=f"h-{grant.id}"
        )
        return credential if self.returns is None else self.returns()

    def revoke(self, handle: str, expires_at: float) -> None:
        if self.fail == "revoke":
            raise ConnectionError
        self.revoked.append(handle)


class Log:
    """An audit log in memory."""

    inline = True

    def __init__(self) -> None:
        self.written, self.fail = list[Mapping[str, Any]](), False

    def append(self, record: Mapping[str, Any]) -> None:
        if self.fail:
            raise OSError("disk full")
        self.written.append(record)

    def records(self, task_id: str | None = None) -> Iterable[Mapping[str, Any]]:
        return self.written


async def carry_out(flow: Flow, invocation: Invocation, body: Callable[[Permit], Awaitable[Any]]) -> Any:
    async with GuardedCall(flow, invocation) as permit:
        permit.enter(ARGUMENTS.digest if invocation.arguments is None else invocation.arguments.digest)
        return await body(permit)


class World:
    """A guard's flow with everything around it in view."""

    def __init__(self, **changes: Any) -> None:
        self.policy, self.mint, self.log = Rule(), Mint(), Log()
        self.now = 1000.0
        self.store: Any = MemoryStore(clock=lambda: self.now)
        parts: dict[str, Any] = {
            "catalog": Catalog([REFUND, LOOKUP], [PAYMENTS]),
            "policy": self.policy,
            "identity": LocalIdentity("agent://a"),
            "brokers": {(None, path): self.mint for path in ToolPath},
            "store": self.store,
            "audit": self.log,
            "clock": lambda: self.now,
            **changes,
        }
        telemetry = parts.pop("telemetry", None)
        ports = {name: parts.pop(name) for name in PORTS & parts.keys()}
        self.flow = Enforcement(Ports(**ports), Options(**parts), telemetry)
        self.endings = Endings.of(self.flow)
        self.store, self.ran = self.flow.ports.store, list[Permit]()

    def begin(self, **changes: Any) -> TaskState:
        state: dict[str, Any] = {
            "id": "t1",
            "purpose": "Refund order 4711",
            "identity": Identity(subject="alice", actor="agent://a"),
            "mandate": Mandate.of({"tools": "*"}),
            "deadline": self.now + 600,
        }
        task = TaskState(**{**state, **changes})
        self.store.create_task(task)
        return task

    def body(self, permit: Permit) -> str:
        self.ran.append(permit)
        return "done"

    def call(
        self,
        mode: str,
        body: Callable[[Permit], Any] | None = None,
        spec: ToolSpec | None = REFUND,
        **changes: Any,
    ) -> Any:
        facts = {"tool": "refund" if spec is None else spec.name, "spec": spec, "arguments": ARGUMENTS}
        invocation = Invocation(**{"named_task": "t1", "call_id": "c1", **facts, **changes})
        execute: Callable[[Permit], Awaitable[Any]] = lift(body or self.body)
        if mode == "sync":
            return drive(carry_out(self.flow.sync, invocation, execute))
        return asyncio.run(carry_out(self.flow.async_, invocation, execute))

    def end(self, task_id: str, status: TaskStatus, cause: str) -> None:
        drive(self.endings.sync.end(task_id, status, cause))

    def denied(self, mode: str, **changes: Any) -> Denied:
        with pytest.raises(Denied) as caught:
            self.call(mode, **changes)
        return caught.value
