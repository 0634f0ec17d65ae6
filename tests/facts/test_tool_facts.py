"""A READ tool of the catalog as the source of a fact."""

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest
from langchain_core.tools import tool

import agentguard
from agentguard import AccessRequest, Decision, Guard
from agentguard.errors import ConfigurationError, DenialCode, Denied
from agentguard.facts import ToolFact, type_of
from agentguard.model import FactSpec, FactType
from tests.conftest import DENY, PERMIT, Kit, Mode, classified
from tests.doubles.conditional_store import DistantStore

TYPE = type_of({"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]})
ORDER = FactSpec(
    name="order", keys={"refund_order": ("order_id",)}, type=FactType(TYPE), tool="get_order", timeout=5.0
)
TEXT, RECORD = json.dumps({"status": "pending"}), {"status": "pending", "secret": "s"}
RESULTS: dict[str, Any] = {
    "a record": RECORD,
    "a text of JSON": TEXT,
    "content and artifact": ("some words", RECORD),
    "a block of text": [{"type": "text", "text": TEXT}],
}


@tool
def refund_order(order_id: str) -> str:
    """Refund an order."""
    return f"refunded {order_id}"


def reading(result: Any, **classification: Any) -> Any:
    @tool(response_format="content_and_artifact" if isinstance(result, tuple) else "content")
    def get_order(id: str) -> Any:
        """Get an order."""
        agentguard.credential("orders")
        return result() if callable(result) else result

    facts = {"path": "read", "resource": "orders", **classification}
    return classified(get_order, **facts)


def guarded(guard: Guard, result: Any, spec: FactSpec = ORDER, **classification: Any) -> tuple[Any, Any]:
    read = guard.wrap(reading(result, **classification))[0]
    refund = guard.wrap(classified(refund_order.model_copy(), path="write"))[0]
    guard.add_fact(spec, ToolFact("get_order", ("id",)))
    return read, refund


def pending(request: AccessRequest) -> Decision:
    if request.tool.name == "get_order":
        return PERMIT
    return PERMIT if request.facts["order"] == {"status": "pending"} else DENY


@pytest.mark.parametrize("form", RESULTS)
async def test_a_tool_reads_the_record_with_a_decision_a_record_and_a_credential_of_its_own(
    kit: Kit, mode: Mode, form: str
) -> None:
    kit.rule.answer = pending
    read, refund = guarded(kit.guard, RESULTS[form])
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}):
        assert await mode.invoke(refund, {"order_id": "4711"}) == "refunded 4711"
    assert read.name == "get_order"
    records = [record for record in kit.audit.records() if record["event"] == "decision"]
    assert [(record["tool"], record["effect"]) for record in records] == [
        ("get_order", "permit"),
        ("refund_order", "permit"),
    ]
    assert records[0]["subject"] == "alice"
    assert [grant.tool for grant in kit.broker.issued] == ["get_order"]
    assert len(kit.broker.revoked) == 1


@pytest.mark.promise("a-tool-that-reads-a-fact-is-judged")
async def test_a_tool_that_is_denied_reads_no_record(kit: Kit, mode: Mode) -> None:
    kit.rule.deny("get_order")
    _read, refund = guarded(kit.guard, RECORD)
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}), pytest.raises(Denied) as caught:
        await mode.invoke(refund, {"order_id": "4711"})
    assert caught.value.code is DenialCode.NO_FACT
    assert caught.value.reason == "fact order: get_order is denied: policy: the internal reason"
    assert not kit.broker.issued


@pytest.mark.promise("a-tool-that-reads-a-fact-is-judged")
async def test_a_tool_outside_of_the_mandate_reads_no_record(kit: Kit, mode: Mode) -> None:
    _read, refund = guarded(kit.guard, RECORD)
    limited = kit.guard.task("test", subject="alice", mandate={"tools": ["refund_order"]})
    with limited, pytest.raises(Denied) as caught:
        await mode.invoke(refund, {"order_id": "4711"})
    assert "get_order is denied: mandate" in caught.value.reason


async def test_what_only_rules_see_the_task_has_not_read(kit: Kit, mode: Mode) -> None:
    kit.rule.answer = pending
    read, refund = guarded(kit.guard, RECORD, untrusted=True, sensitivity="restricted")
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}) as task:
        await mode.invoke(refund, {"order_id": "4711"})
        state = kit.store.task(task.id)
        assert state is not None
        assert (state.untrusted, state.sensitivity, state.labels) == (False, 0, 0)
        await mode.invoke(read, {"id": "4711"})
        state = kit.store.task(task.id)
        assert state is not None
        assert state.untrusted


def failing() -> Any:
    raise httpx.ConnectError("to s3cret.example")


def hanging() -> Any:
    time.sleep(0.4)
    return RECORD


@pytest.mark.promise("a-fact-that-is-not-known-denies")
@pytest.mark.parametrize("result", [failing, hanging, "s3cret", None])
async def test_a_tool_that_has_no_good_answer_denies(kit: Kit, mode: Mode, result: Any) -> None:
    kit.rule.answer = pending
    read, refund = guarded(kit.guard, result, replace(ORDER, timeout=0.2))
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}), pytest.raises(Denied) as caught:
        await mode.invoke(refund, {"order_id": "4711"})
    assert caught.value.code is DenialCode.NO_FACT
    assert "s3cret" not in caught.value.reason
    del read


async def test_a_tool_that_nobody_has_any_more_reads_nothing(kit: Kit, mode: Mode) -> None:
    refund = guarded(kit.guard, RECORD)[1]
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}), pytest.raises(Denied) as caught:
        await mode.invoke(refund, {"order_id": "4711"})
    assert "the guard has not seen the tool get_order" in caught.value.reason


def test_only_a_read_tool_reads_a_fact(kit: Kit) -> None:
    with pytest.raises(ConfigurationError, match="is a tool of the path write"):
        guarded(kit.guard, RECORD, path="write")
    other = kit.another()
    other.add_fact(ORDER, ToolFact("get_order", ("id",)))
    with pytest.raises(ConfigurationError, match="is a tool of the path write"):
        other.wrap(reading(RECORD, path="write"))


async def test_many_calls_at_once_read_their_own_records(kit: Kit) -> None:
    kit.rule.answer = pending
    read, refund = guarded(kit.guard, RECORD)
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}):
        answers = await asyncio.gather(*(refund.ainvoke({"order_id": str(n)}) for n in range(20)))
    assert answers == [f"refunded {n}" for n in range(20)]
    assert len(kit.broker.revoked) == 20
    del read


@pytest.mark.promise("facts-are-asked-once-and-only-where-needed")
async def test_a_call_that_is_judged_by_what_is_remembered_reads_it_once(kit: Kit, mode: Mode) -> None:
    """The call of the tool that reads it changes what the call was judged by."""
    reads: list[int] = []

    def counting() -> Any:
        reads.append(len(reads))
        return RECORD

    kit.rule.answer = pending
    guard = kit.another(store=DistantStore())
    read, refund = guarded(guard, counting)
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        for number in range(3):
            assert await mode.invoke(refund, {"order_id": str(number)}) == f"refunded {number}"
    assert len(reads) == 3
    del read
