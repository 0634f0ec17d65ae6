"""The tools of `agentguard.testing` work, and each contract suite fails for an adapter that breaks it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_classic.agents import AgentExecutor, create_tool_calling_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import AccessRequest, Decision, Effect, Grant, ToolPath
from agentguard.ports import AuditLog, Broker, Policy
from agentguard.stores import MemoryStore
from agentguard.testing import (
    AuditContract,
    BrokerContract,
    FixedPolicy,
    PolicyContract,
    RecordingAudit,
    RecordingBroker,
    RecordingPolicy,
    ScriptedChatModel,
    StoreContract,
    captured_spans,
    sample_grant,
    sample_request,
)


@tool
def get_order(order_id: str) -> str:
    """Read an order."""
    return f"order {order_id}"


@pytest.fixture
def model() -> ScriptedChatModel:
    return ScriptedChatModel(
        script=[
            [("get_order", {"order_id": "1"}), ("get_order", {"order_id": "2"})],
            [("get_order", {"order_id": "3"})],
            "done",
        ]
    )


ASKED = {"messages": [("user", "go")]}
ORDERS = ["order 1", "order 2", "order 3"]


def results(state: Any) -> list[str]:
    return [str(message.content) for message in state["messages"] if isinstance(message, ToolMessage)]


def test_an_agent_follows_the_script_and_may_be_asked_again(model: ScriptedChatModel) -> None:
    agent: Any = create_agent(model, [get_order])
    for _ in range(2):
        state = agent.invoke(ASKED)
        assert results(state) == ORDERS
        assert state["messages"][-1].content == "done"


async def test_an_agent_follows_the_script_on_an_event_loop_and_as_a_stream(model: ScriptedChatModel) -> None:
    agent: Any = create_agent(model, [get_order])
    assert results(await agent.ainvoke(ASKED)) == ORDERS
    for mode in ("messages", "updates"):
        assert list(agent.stream(ASKED, stream_mode=mode))
        assert [part async for part in agent.astream(ASKED, stream_mode=mode)]


async def test_a_message_without_text_streams_its_tool_calls(model: ScriptedChatModel) -> None:
    messages = [HumanMessage("go")]
    whole = model.invoke(messages)
    chunks = list(model.stream(messages))
    later = [chunk async for chunk in model.astream(messages)]
    for parts in (chunks, later):
        joined = parts[0]
        for part in parts[1:]:
            joined = joined + part
        assert joined.tool_calls == whole.tool_calls
    assert [call["id"] for call in whole.tool_calls] == ["call-0-0", "call-0-1"]


def test_a_conversation_is_resumed_from_its_checkpoint_by_another_model(model: ScriptedChatModel) -> None:
    saver, config = InMemorySaver(), {"configurable": {"thread_id": "1"}}
    first: Any = create_agent(model, [get_order], checkpointer=saver, interrupt_before=["tools"])
    first.invoke(ASKED, config)
    second: Any = create_agent(model.model_copy(), [get_order], checkpointer=saver)
    assert results(second.invoke(None, config)) == ORDERS


def test_the_classic_executor_follows_the_script(model: ScriptedChatModel) -> None:
    prompt = ChatPromptTemplate.from_messages([("user", "{input}"), ("placeholder", "{agent_scratchpad}")])
    executor = AgentExecutor(agent=create_tool_calling_agent(model, [get_order], prompt), tools=[get_order])
    assert executor.invoke({"input": "go"})["output"] == "done"


def test_tool_results_count_where_no_answers_are_kept(model: ScriptedChatModel) -> None:
    stray = ToolMessage("x", tool_call_id="call-9-9")
    assert model.invoke([HumanMessage("go"), stray, stray]).content == "done"
    answer = AIMessage("", tool_calls=[{"name": "get_order", "args": {}, "id": "call-9-9"}])
    assert model.invoke([HumanMessage("go"), answer, stray, stray]).tool_calls[0]["args"] == {"order_id": "3"}


def test_threads_share_a_model_and_nobody_changes_its_script(model: ScriptedChatModel) -> None:
    model.script.append(AIMessage("own", id="kept"))
    model.script[1] = [("get_order", {"order_id": "3", "deep": {"list": [1]}})]

    def ask(number: int) -> Any:
        answer = model.invoke([HumanMessage("go"), *[AIMessage("x")] * (number % 4)])
        content, answer.content = answer.content, "changed"
        if answer.tool_calls:
            answer.tool_calls[0]["args"]["order_id"] = "changed"
            answer.tool_calls[0]["args"].get("deep", {})["list"] = "changed"
        return content

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(64))) == ["", "", "done", "own"] * 16
    again = model.invoke([HumanMessage("go"), AIMessage("x")]).tool_calls[0]["args"]
    assert again == {"order_id": "3", "deep": {"list": [1]}}


def test_a_script_that_is_used_up_says_so() -> None:
    with pytest.raises(ValueError, match="1 entries"):
        ScriptedChatModel(script=["only"]).invoke([AIMessage("x")])


class TestRecordingBroker(BrokerContract):
    def make(self) -> RecordingBroker:
        return RecordingBroker(paths=["write"])


class TestFixedPolicy(PolicyContract):
    def make(self) -> FixedPolicy:
        return FixedPolicy()


class TestRecordingPolicy(PolicyContract):
    def make(self) -> RecordingPolicy:
        return RecordingPolicy(FixedPolicy("deny"))


class NativeStore:
    """An adapter that has only async methods."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._store = MemoryStore(clock)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("a") or name in ("approval", "approval_for", "answer_approval"):
            raise AttributeError(name)
        plain = getattr(self._store, name[1:])

        async def native(*args: Any, **kwargs: Any) -> Any:
            return plain(*args, **kwargs)

        return native


class TestNativeStore(StoreContract):
    synchronous = False

    def make(self, clock: Callable[[], float]) -> NativeStore:
        return NativeStore(clock)


def test_the_fakes_are_the_ports_that_they_stand_for() -> None:
    assert isinstance(RecordingBroker(), Broker)
    assert isinstance(FixedPolicy(), Policy)
    assert isinstance(RecordingPolicy(), Policy)
    assert isinstance(RecordingAudit(), AuditLog)


def test_a_broker_shows_what_is_still_alive() -> None:
    broker = RecordingBroker(clock=lambda: 100.0)
    one, two = broker.issue(sample_grant("one")), broker.issue(sample_grant("two"))
    broker.revoke(one.handle, one.expires_at)
    assert [grant.id for grant in broker.issued] == ["one", "two"]
    assert (broker.revoked, broker.live) == (["one"], ("two",))
    assert (two.reveal(), two.expires_at) == ("test-secret-2", 160.0)
    assert two.headers("GET", "https://x.test", None) == {"Authorization": "Bearer test-secret-2"}


def test_adapters_fail_when_they_are_told_to() -> None:
    broker, audit = RecordingBroker(), RecordingAudit()
    broker.issue_error = broker.revoke_error = audit.error = IssueError("down")
    with pytest.raises(IssueError, match="down"):
        broker.issue(sample_grant())
    with pytest.raises(IssueError, match="down"):
        broker.revoke("x", 1.0)
    with pytest.raises(IssueError, match="down"):
        audit.append({"event": "x"})
    assert (broker.issued, broker.revoked, list(audit.records())) == ([], [], [])


def test_policies_answer_and_record() -> None:
    decision = Decision(effect=Effect.DENY, policy_ids=("mine",))
    policy = RecordingPolicy(FixedPolicy(decision, version="7"))
    assert policy.decide(sample_request()) is decision
    assert policy.requests == [sample_request()]
    assert policy.version == "7"
    assert FixedPolicy().decide(sample_request()).permitted
    assert not FixedPolicy("deny").decide(sample_request()).permitted


def test_spans_are_captured_of_the_given_provider_only() -> None:
    with captured_spans() as spans, captured_spans() as other_spans:
        with spans.tracer_provider.get_tracer("x").start_as_current_span("mine"):
            assert spans.finished() == ()
        assert [span.name for span in spans.finished()] == ["mine"]
        assert other_spans.finished() == ()


def test_a_missing_sdk_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, InMemorySpanExporter.__module__, None)
    with pytest.raises(ConfigurationError, match="pip install opentelemetry-sdk"), captured_spans():
        raise AssertionError


@pytest.mark.process
def test_importing_the_room_imports_no_framework_and_no_test_runner() -> None:
    program = (
        "import sys, agentguard.testing\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'pytest', '_pytest', 'langgraph', 'langchain', 'langchain_core'}))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


class Forgetful(MemoryStore):
    """A store with a mistake that the contract must catch: it forgets the descendants of a task."""

    def end_task(self, task_id: str, status: Any, owed: Any = ()) -> tuple[str, ...]:
        self._descendants.clear()
        return super().end_task(task_id, status, owed)


class Generous(MemoryStore):
    def begin_call(self, call: Any, credential: Any) -> None:
        state = self._tasks.get(call.task_id)
        if state is not None:
            self._tasks[call.task_id] = replace(state, calls=0, writes=0)
        super().begin_call(call, credential)


class Credulous(MemoryStore):
    def answer_approval(self, approval: Any) -> None:
        self._approvals._approvals[approval.id] = approval


def broken(contract: Any) -> list[str]:
    """Run a contract without pytest, and return the tests that failed."""
    failed = []
    for name in dir(contract):
        if name.startswith("test_"):
            try:
                getattr(contract, name)()
            except Exception:  # noqa: BLE001  a failing test raises anything
                failed.append(name)
    return failed


@pytest.mark.parametrize("store", [Forgetful, Generous, Credulous])
def test_the_store_contract_catches_a_store_that_breaks_it(store: type[MemoryStore]) -> None:
    class Contract(StoreContract):
        def make(self, clock: Callable[[], float]) -> MemoryStore:
            return store(clock)

    assert broken(Contract())


def test_the_other_contracts_catch_what_breaks_them() -> None:
    class Moody:
        version = ""

        def __init__(self) -> None:
            self.count = 0

        def decide(self, request: AccessRequest) -> Decision:
            self.count += 1
            return Decision(effect=Effect.PERMIT, policy_ids=(str(self.count),))

    class Showy(RecordingBroker):
        def __init__(self) -> None:
            super().__init__(paths=["read"])

        def issue(self, grant: Grant) -> Any:
            self.paths = frozenset(ToolPath)
            return super().issue(grant)

    class Lossy(RecordingAudit):
        def append(self, record: Any) -> None:
            self._lines = [str(record)]

    class Policies(PolicyContract):
        make = staticmethod(Moody)

    class Brokers(BrokerContract):
        make = staticmethod(Showy)

    class Audits(AuditContract):
        make = staticmethod(Lossy)

    assert len(broken(Policies())) == 2
    assert broken(Brokers()) == ["test_it_serves_the_paths_that_it_says"]
    assert len(broken(Audits())) == 4
