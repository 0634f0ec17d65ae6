"""Whatever is raised around a call that is judged, read or approved is a recorded denial."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from langchain_core.tools import tool
from pydantic import ValidationError

from agentguard import Decision, Effect, Obligation
from agentguard.errors import Denied
from agentguard.model import AccessRequest, Approval
from agentguard.testing import RecordingAudit
from tests.langchain.test_unrecorded import WAYS, guard_of, note, told

CALL = {"type": "tool_call", "name": "note", "id": "c", "args": {"text": "x"}}
ASK = Decision(effect=Effect.PERMIT, obligations=(Obligation(kind="approve"),))


REFUSED = (Denied, ValidationError)  # the tool's own error, where the application calls it


class Broken(Exception):
    """A fault with s3cret in its text."""


class Asks:
    """A policy that asks a person, and whose version cannot be read from then on."""

    inline, broken = True, False

    @property
    def version(self) -> str:
        if self.broken:
            raise Broken("s3cret")
        return "1"

    def decide(self, request: AccessRequest) -> Decision:
        self.broken = True
        return ASK


class AsksAndChanges(Asks):
    """Its version cannot be read once a person has approved."""

    def decide(self, request: AccessRequest) -> Decision:
        self.broken = request.approval is not None
        return Decision(effect=Effect.PERMIT) if self.broken else ASK


class Approves:
    inline = answers_at_once = True

    def approve(self, pending: Approval, request: AccessRequest) -> Approval:
        return pending.answered(approved=True, approver="user:bob", reason="")


class Uncomparable(Approval):
    """An answer that cannot be compared with the question."""

    __hash__ = None  # type: ignore[assignment]  # nor hashed

    def __eq__(self, other: object) -> bool:
        raise Broken("s3cret")


class ApprovesOddly(Approves):
    def approve(self, pending: Approval, request: AccessRequest) -> Approval:
        return Uncomparable(**{name: getattr(pending, name) for name in Approval.__dataclass_fields__})


def denials(audit: RecordingAudit) -> list[str]:
    assert "s3cret" not in repr(list(audit.records()))
    return [r["code"] for r in audit.records() if r["event"] == "decision" and r["effect"] == "deny"]


@pytest.mark.promise("never-unrecorded")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("policy", "approver"),
    [(Asks, Approves), (AsksAndChanges, Approves), (lambda: lambda _request: ASK, ApprovesOddly)],
)
def test_a_fault_while_a_person_is_asked_is_a_recorded_denial(way: str, policy: Any, approver: Any) -> None:
    audit = RecordingAudit()
    text = told(guard_of(audit, policy=policy(), approver=approver()), way, note, CALL)
    assert "Denied" in text
    assert denials(audit) == ["policy_error"]


class Unreadable(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise Broken("s3cret")

    def __iter__(self) -> Iterator[str]:
        raise Broken("s3cret")

    def __len__(self) -> int:
        return 1


@pytest.mark.promise("never-unrecorded")
@pytest.mark.parametrize("method", ["invoke", "ainvoke", "run", "arun"])
@pytest.mark.parametrize("arguments", [5, None, ["x"], Unreadable()], ids=["5", "None", "list", "mapping"])
def test_arguments_that_cannot_be_read_are_a_recorded_denial(method: str, arguments: Any) -> None:
    audit = RecordingAudit()
    guard = guard_of(audit)
    (guarded,) = guard.wrap([note], on_deny="raise")
    with guard.task("Note", subject="user:ada", mandate={"tools": "*"}), pytest.raises(REFUSED):
        carry_out(getattr(guarded, method), arguments)
    assert denials(audit) == ["invalid_arguments"]


def carry_out(method: Any, arguments: Any) -> None:
    async def wait() -> None:
        await method(arguments)

    asyncio.run(wait()) if method.__name__.startswith("a") else method(arguments)


class Unwritable:
    def __str__(self) -> str:
        raise Broken("s3cret")


# a thread counts only in a graph's run, which langgraph marks so
IN_A_GRAPH = {"thread_id": Unwritable(), "__pregel_scratchpad": None}


@pytest.mark.promise("never-unrecorded")
@pytest.mark.parametrize("configurable", [IN_A_GRAPH, {"agentguard_task": Unwritable()}])
def test_a_config_that_cannot_be_read_is_a_recorded_denial(configurable: Any) -> None:
    audit = RecordingAudit()
    guard = guard_of(audit)
    (guarded,) = guard.wrap([note])
    with guard.task("Note", subject="user:ada", mandate={"tools": "*"}):
        text = guarded.invoke(CALL, {"configurable": configurable}).text
    assert "Denied" in text
    assert len(denials(audit)) == 1


class NoComparison:
    def __eq__(self, other: object) -> bool:
        raise Broken("s3cret")

    def __hash__(self) -> int:
        return 1


@pytest.mark.promise("never-unrecorded")
@pytest.mark.parametrize("way", WAYS[2:])
def test_arguments_that_cannot_be_compared_do_not_run(way: str) -> None:
    audit, ran = RecordingAudit(), list[object]()

    @tool("note")
    def takes_all(text: Any) -> str:
        """Note."""
        ran.append(text)
        return "noted"

    text = told(guard_of(audit), way, takes_all, {**CALL, "args": {"text": NoComparison()}})
    assert "Denied" in text
    assert ran == []
    assert len(denials(audit)) == 1


@pytest.mark.promise("never-unrecorded")
@pytest.mark.parametrize(
    "arguments",
    [{"text": "x"}, 5, Unreadable(), {"text": object()}],
    ids=["text", "5", "mapping", "object"],
)
@pytest.mark.parametrize("known", [True, False])
def test_a_decision_without_a_call_answers_with_a_denial(
    arguments: Any, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_arguments: Any) -> Any:
        raise Broken("s3cret")

    monkeypatch.setattr("agentguard.enforcement.access_requests.provenance_of", fails)
    guard = guard_of(RecordingAudit())
    if known:
        guard.wrap([note])
    task = guard.task("Note", subject="user:ada", mandate={"tools": "*"}).begin()
    for decision in (
        guard.decide("note", arguments, task=task),
        asyncio.run(guard.adecide("note", arguments, task=task)),
    ):
        assert not decision.permitted
        assert "s3cret" not in decision.advice
