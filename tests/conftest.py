"""What several tests share: both ways to call, and a guard whose every port remembers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolCall, ToolMessage
from langchain_core.tools import BaseTool

import agentguard
from agentguard import (
    AccessRequest,
    Decision,
    Effect,
    Guard,
    Obligation,
    Resource,
    ToolPath,
)
from agentguard.catalog import Catalog
from agentguard.identity.local import LocalIdentity
from agentguard.stores.memory import MemoryStore
from agentguard.testing import RecordingAudit, RecordingBroker, ScriptedChatModel

pytest_plugins = ["tests.tiers", "tests.files_of_tiers"]

ORDERS = Resource(name="orders", origins=("https://orders.example",))
FACTS = {"path": "read", "resource": "orders"}
PERMIT = Decision(effect=Effect.PERMIT, policy_ids=("allow",))
DENY = Decision(effect=Effect.DENY, policy_ids=("secret-rule",), reason="the internal reason")
ASK = Decision(effect=Effect.PERMIT, obligations=(Obligation(kind="approve"),))


class Rule:
    """A policy that asks a function, and remembers what it was asked."""

    inline, version = True, "1"

    def __init__(self) -> None:
        self.answer: Callable[[AccessRequest], Decision] = lambda _request: PERMIT
        self.asked: list[AccessRequest] = []

    def decide(self, request: AccessRequest) -> Decision:
        self.asked.append(request)
        return self.answer(request)

    def deny(self, tool: str) -> None:
        self.answer = lambda request: DENY if request.tool.name == tool else PERMIT


@dataclass
class Kit:
    """A guard, and what its ports have seen."""

    rule: Rule = field(default_factory=Rule)
    broker: RecordingBroker = field(default_factory=RecordingBroker)
    audit: RecordingAudit = field(default_factory=RecordingAudit)
    store: MemoryStore = field(default_factory=MemoryStore)
    guard: Guard = field(init=False)

    def __post_init__(self) -> None:
        self.guard = self.another()

    def another(self, **changes: Any) -> Guard:
        """Make one more guard on the same ports, but for *changes*."""
        ports: dict[str, Any] = {
            "catalog": Catalog(resources=[ORDERS]),
            "policy": self.rule,
            "identity": LocalIdentity("agent://test"),
            "brokers": dict.fromkeys([(None, path) for path in ToolPath], self.broker),
            "store": self.store,
            "audit": self.audit,
        }
        return Guard(**(ports | changes))

    def wrap(self, tool: BaseTool, **facts: Any) -> BaseTool:
        """Classify *tool* and put the guard around it."""
        return self.guard.wrap(classified(tool, **facts))[0]

    def decisions(self, tool: str | None = None) -> list[str]:
        """Say what was decided, in order: ``permit``, or the code of the denial."""
        return [
            str(r.get("code") or r["effect"])
            for r in self.audit.records()
            if r["event"] == "decision" and tool in (None, r["tool"])
        ]

    def outcomes(self) -> list[str]:
        """Say how the calls that ran have ended."""
        return [str(r["outcome"]) for r in self.audit.records() if r["event"] == "outcome"]


def classified(tool: BaseTool, **facts: Any) -> BaseTool:
    """Write the classification into the tool's own metadata."""
    tool.metadata = {**(tool.metadata or {}), "agentguard": agentguard.classified(**facts or FACTS)}
    return tool


@pytest.fixture
def kit() -> Kit:
    return Kit()


@pytest.fixture
def task(kit: Kit) -> Iterator[Any]:
    """Make a task active in which everything is within the mandate."""
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}) as task:
        yield task


class Mode:
    """Calls a runnable or a tool, synchronously or not, by one name."""

    def __init__(self, name: str) -> None:
        self.asynchronous = name == "async"

    async def call(self, target: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call ``target.method`` or its ``a…`` twin."""
        if self.asynchronous:
            return await getattr(target, f"a{method}")(*args, **kwargs)
        return getattr(target, method)(*args, **kwargs)

    async def invoke(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.call(target, "invoke", *args, **kwargs)

    async def run(self, tool: BaseTool, *args: Any, **kwargs: Any) -> Any:
        return await self.call(tool, "run", *args, **kwargs)

    async def stream(self, target: Any, *args: Any) -> list[Any]:
        if self.asynchronous:
            return [chunk async for chunk in target.astream(*args)]
        return list(target.stream(*args))


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> Mode:
    return Mode(request.param)


def tool_call(name: str, call_id: str | None = "c1", **args: Any) -> ToolCall:
    return ToolCall(name=name, args=args, id=call_id, type="tool_call")


def scripted(*steps: ToolCall | list[ToolCall]) -> ScriptedChatModel:
    """Make a model that calls tools, step by step, and then says that it is done."""
    calls = [step if isinstance(step, list) else [step] for step in steps]
    return ScriptedChatModel(script=[*(AIMessage("", tool_calls=c) for c in calls), "done"])


GO: Any = {"messages": [("user", "go")]}


def tool_messages(result: Mapping[str, Any]) -> list[ToolMessage]:
    return [message for message in result["messages"] if isinstance(message, ToolMessage)]


@pytest.fixture
def signal_handlers() -> Iterator[None]:
    """Have no signal ignored because whoever has started the tests ignores it, as nohup does."""
    ignored = [
        n for n in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT) if signal.getsignal(n) is signal.SIG_IGN
    ]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
