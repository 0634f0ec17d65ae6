"""No call of a model and no result ends a run unrecorded, and a secret dies before its result is read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool

from agentguard import Decision, Effect, Guard, Resource, ToolPath
from agentguard.audit.jsonl import JsonLinesAudit
from agentguard.catalog import Catalog
from agentguard.identity import LocalIdentity
from agentguard.model import AccessRequest, ToolSpec
from agentguard.stores.memory import MemoryStore
from agentguard.testing import RecordingAudit, RecordingBroker

WAYS = ["wrap", "async wrap", "middleware", "async middleware"]


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


class HandsOver(BaseChatModel):
    """A model that makes one call as it is, and then is done."""

    call: Any

    @property
    def _llm_type(self) -> str:
        return "hands-over"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        message = AIMessage("done")
        if not any(m.type == "tool" for m in messages):
            message = AIMessage("")
            message.tool_calls = [self.call]
        return ChatResult(generations=[ChatGeneration(message=message)])


class Permits:
    inline, version = True, "1"

    def decide(self, request: AccessRequest) -> Decision:
        return Decision(effect=Effect.PERMIT, policy_ids=("all",))


def guard_of(audit: Any, **ports: Any) -> Guard:
    spec = ToolSpec(name="note", path=ToolPath.READ, untrusted=True)
    resource = Resource(name="api", origins=("https://api.example.com",))
    given: dict[str, Any] = {
        "catalog": Catalog([spec], [resource]),
        "policy": Permits(),
        "identity": LocalIdentity("agent://a"),
        "brokers": {(None, path): RecordingBroker() for path in ToolPath},
        "store": MemoryStore(),
        "audit": audit,
    }
    return Guard(**(given | ports))


def told(guard: Guard, way: str, made: Any, call: dict[str, Any]) -> str:
    with guard.task("Note", subject="user:ada", mandate={"tools": "*"}):
        if "wrap" in way:
            (guarded,) = guard.wrap([made])
            answer = asyncio.run(guarded.ainvoke(call)) if "async" in way else guarded.invoke(call)
            return str(answer.text)
        agent: Any = create_agent(HandsOver(call=call), [made], middleware=[guard.middleware()])
        go = {"messages": [("user", "go")]}
        state = asyncio.run(agent.ainvoke(go)) if "async" in way else agent.invoke(go)
        return next(str(m.text) for m in state["messages"] if m.type == "tool")


@tool
def note(text: Any) -> str:
    """Note."""
    return "noted"


@pytest.mark.exhaustive
@pytest.mark.promise("never-unrecorded")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("call_id", "arguments", "runs"),
    [
        ("c1", {"text": nested(600)}, False),
        ("c1", {"text": nested(20_000)}, False),
        ("c\ud800", {"text": "x"}, True),
        ("c\0\n", {"text": "x"}, True),
        ("c1", {"text": "x\udfff"}, False),
        ("c1", {"text": 10**5000}, False),
        ("c1", {"text": float("nan")}, False),
        ("c1", {"text\ud800": "x"}, False),
    ],
)
def test_a_malformed_call_is_recorded_and_ends_no_run(
    tmp_path: Path, way: str, call_id: str, arguments: dict[str, Any], runs: bool
) -> None:
    file = tmp_path / "audit.jsonl"
    guard = guard_of(JsonLinesAudit(file))
    call = {"type": "tool_call", "name": "note", "id": call_id, "args": arguments}
    assert (told(guard, way, note, call) == "noted") == runs
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [record["effect"] for record in records if record["event"] == "decision"] == [
        "permit" if runs else "deny"
    ]


@pytest.mark.promise("never-unrecorded")
@pytest.mark.parametrize("way", WAYS)
def test_a_fault_while_a_call_is_judged_is_a_recorded_denial(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_arguments: Any) -> Any:
        raise RecursionError("a text of the fault")

    monkeypatch.setattr("agentguard.enforcement.access_requests.provenance_of", fails)
    audit = RecordingAudit()
    answer = told(
        guard_of(audit), way, note, {"type": "tool_call", "name": "note", "id": "c", "args": {"text": "x"}}
    )
    assert "Denied" in answer
    assert "fault" not in answer
    decisions = [record for record in audit.records() if record["event"] == "decision"]
    assert [(record["effect"], record["code"]) for record in decisions] == [("deny", "policy_error")]
    assert "a text of the fault" not in repr(audit.records())


class Watching(dict[str, Any]):
    """A result that notes how many credentials are alive while it is looked through."""

    def __init__(self, broker: RecordingBroker, alive: list[int]) -> None:
        super().__init__(text="x")
        self._broker, self._alive = broker, alive

    def items(self) -> Any:
        self._alive.append(len(self._broker.live))
        return super().items()


@pytest.mark.promise("revoked-before-looking")
@pytest.mark.parametrize("way", ["wrap", "async wrap"])
def test_a_credential_is_revoked_before_the_result_is_looked_through(way: str) -> None:
    broker, alive = RecordingBroker(), list[int]()
    spec = ToolSpec(name="note", path=ToolPath.READ, untrusted=True, resource="api")
    resource = Resource(name="api", origins=("https://api.example.com",))
    ports = {"catalog": Catalog([spec], [resource]), "brokers": {(None, path): broker for path in ToolPath}}

    @tool("note")
    def reads(text: Any) -> Any:
        """Note."""
        assert broker.live
        return Watching(broker, alive)

    told(
        guard_of(RecordingAudit(), **ports),
        way,
        reads,
        {"type": "tool_call", "name": "note", "id": "c", "args": {"text": "x"}},
    )
    assert alive == [0, 0], "first langchain makes a text of it, and at the end it is looked through"
