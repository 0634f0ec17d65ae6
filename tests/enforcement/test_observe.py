"""A guard that only observes lets rules pass, aloud and on record; it gives nothing that they do not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import agentguard
from agentguard import CredentialUnavailable, Denied, Guard
from agentguard.errors import AuditError, StoreError
from agentguard.model import (
    AccessRequest,
    Approval,
    Call,
    Decision,
    Effect,
    Label,
    LiveCredential,
    Obligation,
    Sensitivity,
    TaskState,
)
from agentguard.stores.memory import MemoryStore
from agentguard.testing.scenes import pending_approval
from tests.conftest import (
    ASK,
    DENY,
    FACTS,
    GO,
    PERMIT,
    Kit,
    Mode,
    classified,
    scripted,
    tool_call,
    tool_messages,
)

WRITE = {"path": "write", "resource": "orders"}
NOTHING: dict[str, Any] = {"tools": []}
EVERYTHING = {"tools": "*"}


class Shop:
    """Tools that note what they were asked, and whether they held a credential."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.inner: Callable[[], Any] = lambda: None

    def tool(self, name: str, **facts: Any) -> BaseTool:
        """Make a tool, classified if there are facts."""

        def act(order: str) -> str:
            """Act on an order."""
            self.note(order)
            self.inner()
            return f"done {order}"

        async def aact(order: str) -> str:
            """Act on an order."""
            return act(order)

        made = StructuredTool.from_function(act, aact, name=name)
        return classified(made, **facts) if facts else made

    def note(self, order: str) -> None:
        try:
            self.calls.append((order, agentguard.credential("orders").reveal()))
        except CredentialUnavailable:
            self.calls.append((order, "none"))


@pytest.fixture
def shop() -> Shop:
    return Shop()


def observing(kit: Kit, **changes: Any) -> Guard:
    return kit.another(**({"observe": True} | changes))


def records(kit: Kit) -> list[dict[str, Any]]:
    return [record for record in kit.audit.records() if record["event"] == "decision"]


def aloud(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        r.getMessage()
        for r in caplog.records
        if r.levelno == logging.WARNING and "OBSERVED" in r.getMessage()
    ]


async def observed(
    guard: Guard, tool: BaseTool, mode: Mode, mandate: dict[str, Any] = EVERYTHING, **task: Any
) -> Any:
    with guard.task("test", subject="alice", mandate=mandate, **task):
        return await mode.invoke(tool, {"order": "7"})


# --- what rules say is recorded, and blocks nothing


def unknown_obligation() -> Decision:
    return Decision(effect=Effect.PERMIT, obligations=(Obligation(kind="sing"),))


@pytest.mark.promise("observe-blocks-nothing")
@pytest.mark.parametrize(
    ("answer", "mandate", "code"),
    [
        (DENY, EVERYTHING, "policy"),
        (PERMIT, NOTHING, "mandate"),
        (PERMIT, {"tools": "*", "args": {"order": ["8"]}}, "mandate"),
        (ASK, EVERYTHING, "approval_unavailable"),
        (unknown_obligation(), EVERYTHING, "obligation"),
        (None, EVERYTHING, "policy_error"),
    ],
)
async def test_what_a_rule_denies_runs_without_credential_aloud_and_on_record(
    kit: Kit,
    shop: Shop,
    mode: Mode,
    caplog: pytest.LogCaptureFixture,
    answer: Decision | None,
    mandate: dict[str, Any],
    code: str,
) -> None:
    kit.rule.answer = lambda _request: answer  # type: ignore[assignment,return-value]  # None is a policy that errs
    guard = observing(kit, record_requests=True)
    (tool,) = guard.wrap(shop.tool("refund", **WRITE))
    assert await observed(guard, tool, mode, mandate) == "done 7"
    assert shop.calls == [("7", "none")]
    assert kit.broker.issued == []
    (record,) = records(kit)
    assert (record["effect"], record["code"], record["observed"]) == ("deny", code, True)
    assert record["request"]["arguments"] == {"order": "7"}
    assert kit.outcomes() == ["done"]
    (line,) = aloud(caplog)
    assert "refund" in line
    assert code in line


@pytest.mark.promise("observe-blocks-nothing")
@pytest.mark.parametrize("way", ["middleware", "tool"])
async def test_a_run_goes_on_where_a_denied_tool_asks_for_its_credential(
    kit: Kit, mode: Mode, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    def refund(order: str) -> str:
        """Pay back."""
        return f"with {agentguard.credential('orders').reveal()}"

    kit.rule.answer = lambda _request: DENY
    guard, tool = observing(kit), classified(StructuredTool.from_function(refund), **WRITE)
    guarded: Any = {"tools": [tool], "middleware": [guard.middleware()]}
    if way == "tool":
        guarded = {"tools": guard.wrap(tool)}
    agent: Any = create_agent(scripted(tool_call("refund", order="7")), **guarded)
    with guard.task("test", subject="alice", mandate=EVERYTHING):
        state = await mode.invoke(agent, GO)
    (message,) = tool_messages(state)
    assert message.status == "error"
    assert state["messages"][-1].type == "ai", "the model answered, after the tool had failed"
    assert [line for line in aloud(caplog) if "asks for a credential" in line]
    assert kit.outcomes() == ["failed"]


async def test_an_unclassified_tool_runs_and_counts_as_the_worst(
    kit: Kit, shop: Shop, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    guard = observing(kit)
    (tool,) = guard.wrap(shop.tool("mystery"))
    with guard.task("test", subject="alice", mandate=EVERYTHING, writes=1) as task:
        assert await mode.invoke(tool, {"order": "7"}) == "done 7"
        state = kit.store.task(task.id)
        assert state is not None
        assert (state.writes, state.untrusted, state.sensitivity) == (1, True, Sensitivity.RESTRICTED)
        with pytest.raises(Denied, match="budget"):
            await mode.invoke(tool, {"order": "8"})
    assert [record.get("observed") for record in records(kit)] == [True, None]
    assert kit.decisions() == ["unknown_tool", "budget"]
    assert len(aloud(caplog)) == 1
    assert shop.calls == [("7", "none")]


async def test_a_person_is_not_asked_and_no_question_is_left_behind(kit: Kit, shop: Shop, mode: Mode) -> None:
    kit.rule.answer = lambda _request: ASK
    asked: list[AccessRequest] = []

    def approve(request: AccessRequest) -> bool:
        asked.append(request)
        return True

    guard = observing(kit, approver=approve)
    (tool,) = guard.wrap(shop.tool("refund", **WRITE))
    assert await observed(guard, tool, mode) == "done 7"
    assert (asked, kit.broker.issued) == ([], [])
    assert kit.decisions() == ["approval_unavailable"]


async def test_an_agent_goes_on_as_if_it_were_not_watched(kit: Kit, shop: Shop, mode: Mode) -> None:
    kit.rule.deny("refund")
    guard = observing(kit)
    tools = [shop.tool("refund", **WRITE), shop.tool("mystery")]
    model = scripted(tool_call("refund", order="7"), tool_call("mystery", "c2", order="8"))
    agent = create_agent(model, tools, middleware=[guard.middleware()])
    with guard.task("test", subject="alice", mandate=EVERYTHING):
        said = tool_messages(await mode.invoke(agent, GO))
    assert [message.content for message in said] == ["done 7", "done 8"]
    assert kit.decisions() == ["policy", "unknown_tool"]


async def test_what_an_observed_call_has_read_is_known_to_the_next(kit: Kit, shop: Shop, mode: Mode) -> None:
    kit.rule.answer = lambda _request: DENY
    guard = observing(kit)
    page, refund = guard.wrap([shop.tool("page", path="read", untrusted=True), shop.tool("refund", **WRITE)])
    with guard.task("test", subject="alice", mandate=EVERYTHING, words="see 7"):
        await mode.invoke(page, {"order": "7"})
        await mode.invoke(refund, {"order": "EVIL"})
    assert [request.provenance["order"].untrusted for request in kit.rule.asked] == [False, True]


# --- nothing is given that rules do not give


@pytest.mark.promise("observe-blocks-nothing")
async def test_only_what_is_permitted_is_minted_for(kit: Kit, shop: Shop, mode: Mode) -> None:
    kit.rule.deny("refund")
    guard = observing(kit)
    read, refund = guard.wrap([shop.tool("look", **FACTS), shop.tool("refund", **WRITE)])
    with guard.task("test", subject="alice", mandate=EVERYTHING):
        for tool in (refund, read, refund):
            await mode.invoke(tool, {"order": "7"})
    assert shop.calls == [("7", "none"), ("7", "test-secret-1"), ("7", "none")]
    assert [grant.tool for grant in kit.broker.issued] == ["look"]
    assert kit.broker.live == ()
    permitted = [record for record in records(kit) if record["effect"] == "permit"]
    assert [record["tool"] for record in permitted] == ["look"]
    assert all("observed" not in record for record in permitted)


@pytest.mark.promise("observe-blocks-nothing")
async def test_an_observed_call_inside_a_permitted_one_does_not_reach_its_credential(
    kit: Kit, shop: Shop
) -> None:
    kit.rule.deny("refund")
    guard, thief = observing(kit), Shop()
    outer, inner = guard.wrap([shop.tool("look", **FACTS), thief.tool("refund", **WRITE)])
    shop.inner = lambda: inner.invoke({"order": "9"})
    await observed(guard, outer, Mode("sync"))
    assert shop.calls == [("7", "test-secret-1")]
    assert thief.calls == [("9", "none")]


async def test_rights_that_are_missing_or_unknown_give_no_credential(
    kit: Kit, shop: Shop, mode: Mode
) -> None:
    class Broken:
        inline = True

        def scopes(self, _subject: str, _resource: str) -> frozenset[str]:
            raise OSError("the directory is down")

    for entitlements in ({"bob": {"orders": ["x"]}}, Broken()):
        guard = observing(kit, entitlements=entitlements)
        (tool,) = guard.wrap(shop.tool("refund", scopes=["x"], **WRITE))
        await observed(guard, tool, mode)
    assert shop.calls == [("7", "none")] * 2
    assert kit.broker.issued == []
    assert kit.decisions() == ["no_rights"] * 2


async def test_without_a_broker_it_runs_without_credential(kit: Kit, shop: Shop, mode: Mode) -> None:
    guard = observing(kit, brokers={})
    (tool,) = guard.wrap(shop.tool("refund", **WRITE))
    await observed(guard, tool, mode)
    assert shop.calls == [("7", "none")]
    assert kit.decisions() == ["no_credential"]


# --- what stays denied


@pytest.mark.promise("observe-blocks-nothing")
async def test_a_call_of_no_task_or_of_one_that_is_over_stays_denied(
    kit: Kit, shop: Shop, mode: Mode
) -> None:
    guard = observing(kit)
    (tool,) = guard.wrap(shop.tool("look", **FACTS))
    with pytest.raises(Denied, match="no task"):
        await mode.invoke(tool, {"order": "7"})
    with guard.task("test", subject="alice", mandate=EVERYTHING) as task:
        task.revoke("enough")
        with pytest.raises(Denied, match="over"):
            await mode.invoke(tool, {"order": "7"})
    assert (shop.calls, kit.decisions()) == ([], ["no_task", "task_ended"])


@pytest.mark.parametrize("answer", [PERMIT, DENY])
async def test_a_call_beyond_the_budget_stays_denied(
    kit: Kit, shop: Shop, mode: Mode, answer: Decision
) -> None:
    kit.rule.answer = lambda _request: answer
    guard = observing(kit)
    (tool,) = guard.wrap(shop.tool("look", **FACTS))
    with guard.task("test", subject="alice", mandate=EVERYTHING, calls=1):
        await mode.invoke(tool, {"order": "7"})
        with pytest.raises(Denied, match="budget"):
            await mode.invoke(tool, {"order": "8"})
    assert [order for order, _ in shop.calls] == ["7"]


class Failing(MemoryStore):
    """A store of which one operation fails, from when it is said."""

    failing = ""

    def _stand(self, operation: str) -> None:
        if operation == self.failing:
            raise StoreError("the store is down")

    def task(self, task_id: str) -> TaskState | None:
        self._stand("task")
        return super().task(task_id)

    def labels(self, family: str, digests: Collection[str]) -> tuple[Label, ...]:
        self._stand("labels")
        return super().labels(family, digests)

    def approval_for(self, call_key: str) -> Approval | None:
        self._stand("approval_for")
        return super().approval_for(call_key)

    def rejection(self, family: str, tool: str, shown_digest: str) -> Approval | None:
        self._stand("rejection")
        return super().rejection(family, tool, shown_digest)

    def begin_call(self, call: Call, credential: LiveCredential | None) -> None:
        self._stand("begin_call")
        super().begin_call(call, credential)


@pytest.mark.exhaustive
@pytest.mark.promise("observe-blocks-nothing")
@pytest.mark.parametrize("operation", ["task", "labels", "approval_for", "rejection", "begin_call"])
@pytest.mark.parametrize("answer", [PERMIT, DENY])
async def test_with_a_failing_store_a_call_stays_denied(
    kit: Kit, shop: Shop, mode: Mode, operation: str, answer: Decision
) -> None:
    kit.rule.answer = lambda _request: answer
    store = Failing()
    guard = observing(kit, store=store)
    look, page = guard.wrap([shop.tool("look", **FACTS), shop.tool("page", path="read", untrusted=True)])
    in_a_graph = {"configurable": {"thread_id": "t", "__pregel_scratchpad": None}}
    with guard.task("test", subject="alice", mandate=EVERYTHING) as task:
        await mode.invoke(page, {"order": "6"})
        store.save_approval(pending_approval(task_id=task.id))  # a person may have rejected something
        store.failing = operation
        with pytest.raises(Denied):
            await mode.invoke(look, {"order": "7"}, in_a_graph)
        store.failing = ""
    assert [order for order, _ in shop.calls] == ["6"]
    assert kit.decisions("look") == ["store_error"]


@pytest.mark.promise("observe-blocks-nothing")
@pytest.mark.parametrize("answer", [PERMIT, DENY])
async def test_what_cannot_be_recorded_does_not_run(
    kit: Kit, shop: Shop, mode: Mode, answer: Decision
) -> None:
    kit.rule.answer = lambda _request: answer
    guard = observing(kit)
    (tool,) = guard.wrap(shop.tool("look", **FACTS))
    with guard.task("test", subject="alice", mandate=EVERYTHING):
        kit.audit.error = AuditError("the disk is full")
        with pytest.raises(Denied, match="recorded"):
            await mode.invoke(tool, {"order": "7"})
        kit.audit.error = None
    assert (shop.calls, kit.broker.issued) == ([], [])


async def test_arguments_that_do_not_fit_stay_denied(kit: Kit, shop: Shop, mode: Mode) -> None:
    guard = observing(kit)
    (tool,) = guard.wrap(shop.tool("look", **FACTS))
    with (
        guard.task("test", subject="alice", mandate=EVERYTHING),
        pytest.raises(Exception, match="validation"),
    ):
        await mode.invoke(tool, {"order": ["7"]})
    assert (shop.calls, kit.decisions()) == ([], ["invalid_arguments"])


async def test_a_guard_that_enforces_still_denies(
    kit: Kit, shop: Shop, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    kit.rule.answer = lambda _request: DENY
    guard = kit.another()
    (tool,) = guard.wrap(shop.tool("refund", **WRITE))
    with pytest.raises(Denied):
        await observed(guard, tool, mode)
    assert (shop.calls, aloud(caplog)) == ([], [])
    assert all("observed" not in record for record in records(kit))


# --- it is said


@pytest.mark.promise("observe-blocks-nothing")
def test_a_guard_says_at_its_start_that_it_blocks_nothing(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    kit.another()
    assert "OBSERVE" not in caplog.text
    observing(kit)
    assert [r.levelno for r in caplog.records if "OBSERVE MODE" in r.getMessage()] == [logging.WARNING]


async def test_a_metric_tells_an_observed_call_from_a_permitted_one(kit: Kit, shop: Shop, mode: Mode) -> None:
    kit.rule.answer = lambda _request: DENY
    reader = InMemoryMetricReader()
    guard = observing(kit, meter_provider=MeterProvider([reader]))
    (tool,) = guard.wrap(shop.tool("refund", **WRITE))
    await observed(guard, tool, mode)
    data = reader.get_metrics_data()
    assert data is not None
    points = [
        dict(point.attributes or {})
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "agentguard.calls"
        for point in metric.data.data_points
    ]
    assert [point["effect"] for point in points] == ["deny"]


CONFIG = """
[policy]
mode = "observe"
[store]
kind = "memory"
[audit]
requests = true
[resources.orders]
[tools.refund]
path = "write"
resource = "orders"
"""


async def test_a_file_makes_a_guard_observe(
    tmp_path: Path, shop: Shop, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "agentguard.toml"
    file.write_text(CONFIG)
    guard = Guard.from_file(file)
    assert "OBSERVE MODE" in caplog.text
    (tool,) = guard.wrap(shop.tool("refund"))
    assert await observed(guard, tool, mode) == "done 7"
    assert shop.calls == [("7", "none")]
    told = [r for r in guard.enforcement.ports.audit.records() if r["event"] == "decision"]
    assert [(r["observed"], r["request"]["arguments"]) for r in told] == [(True, {"order": "7"})]
    guard.close()
    file.write_text(CONFIG.replace("observe", "enforce"))
    enforcing = Guard.from_file(file)
    (tool,) = enforcing.wrap(shop.tool("refund"))
    with pytest.raises(Denied):
        await observed(enforcing, tool, mode)
    enforcing.close()


async def test_a_timeline_shows_that_it_ran_all_the_same(kit: Kit, shop: Shop, mode: Mode) -> None:
    kit.rule.answer = lambda _request: DENY
    guard = observing(kit)
    (tool,) = guard.wrap(shop.tool("refund", **WRITE))
    with guard.task("Refund", subject="alice", mandate={"tools": "*"}) as task:
        await mode.invoke(tool, {"order": "4711"})
    assert "denied, yet done: observed" in repr(task.timeline())
