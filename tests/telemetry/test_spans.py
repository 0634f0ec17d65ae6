"""One span a call with its stages beneath it, and nothing in it that was not asked for."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool, ToolException, tool
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import StatusCode, get_current_span
from pydantic import ValidationError

from agentguard import Guard, Obligation, ToolPath
from agentguard.approvals import CallbackApprover
from agentguard.errors import Denied
from agentguard.testing import CapturedSpans, ScriptedChatModel, captured_spans
from tests.conftest import ASK, DENY, PERMIT, Kit, Mode, classified, tool_call

STAGES = {"agentguard.decide", "agentguard.issue", "agentguard.execute", "agentguard.revoke"}
VALUE = "a-value-of-an-argument"


@pytest.fixture
def captured() -> Iterator[CapturedSpans]:
    with captured_spans() as spans:
        yield spans


def guarded(kit: Kit, captured: CapturedSpans, **changes: Any) -> tuple[Guard, BaseTool]:
    @tool
    def look_up(text: str) -> str:
        """Look something up."""
        if text == "fail":
            raise ToolException(f"failed at {VALUE}")
        return f"{get_current_span().get_span_context().span_id:x}"

    guard = kit.another(tracer_provider=captured.tracer_provider, **{"trace_stages": True, **changes})
    return guard, guard.wrap(classified(look_up))[0]


def roots(captured: CapturedSpans) -> list[ReadableSpan]:
    return [span for span in captured.finished() if span.name == "execute_tool look_up"]


def beneath(captured: CapturedSpans, root: ReadableSpan) -> dict[str, ReadableSpan]:
    assert root.context is not None
    parent = root.context.span_id
    return {s.name: s for s in captured.finished() if s.parent is not None and s.parent.span_id == parent}


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_call_is_one_span_with_its_stages_beneath_it(
    kit: Kit, captured: CapturedSpans, mode: Mode
) -> None:
    guard, look_up = guarded(kit, captured)
    with guard.task("test", subject="alice", mandate={"tools": "*"}) as task:
        message = await mode.invoke(look_up, tool_call("look_up", "call-7", text=VALUE))
    (root,) = roots(captured)
    stages = beneath(captured, root)
    assert stages.keys() == STAGES
    assert len(captured.finished()) == 5
    execute = stages["agentguard.execute"].context
    assert execute is not None
    assert message.content == f"{execute.span_id:x}"  # the tool's own spans are beneath its execution
    attributes = facts(root)
    (grant,) = kit.broker.issued
    assert (
        attributes.items()
        >= {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "look_up",
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": "call-7",
            "agentguard.task.id": task.id,
            "agentguard.path": "read",
            "agentguard.effect": "permit",
            "agentguard.policy.ids": ("allow",),
            "agentguard.credential.id": grant.id,
            "agentguard.outcome": "done",
        }.items()
    )
    durations = {name: value for name, value in attributes.items() if name.endswith(".duration")}
    assert durations.keys() == {f"{stage}.duration" for stage in STAGES}
    assert all(0 <= seconds < 5 for seconds in durations.values())
    assert "error.type" not in attributes
    assert root.status.status_code is StatusCode.UNSET


async def test_stages_follow_one_another(kit: Kit, captured: CapturedSpans, mode: Mode) -> None:
    guard, look_up = guarded(kit, captured)
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(look_up, {"text": "x"})
    stages = beneath(captured, roots(captured)[0])
    order = [stages[f"agentguard.{name}"] for name in ("decide", "issue", "execute", "revoke")]
    for before, after in pairwise(order):
        assert before.end_time is not None
        assert after.start_time is not None
        assert before.end_time <= after.start_time


async def test_parallel_calls_keep_their_stages_apart(kit: Kit, captured: CapturedSpans, mode: Mode) -> None:
    guard, look_up = guarded(kit, captured)
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        if mode.asynchronous:
            await asyncio.gather(*(look_up.ainvoke({"text": str(n)}) for n in range(8)))
        else:
            with ThreadPoolExecutor(8) as pool:
                contexts = [copy_context() for _ in range(8)]
                list(pool.map(lambda c: c.run(look_up.invoke, {"text": "x"}), contexts))
    assert len(roots(captured)) == 8
    assert len({span.context.trace_id for span in roots(captured) if span.context}) == 8
    for root in roots(captured):
        stages = beneath(captured, root)
        assert stages.keys() == STAGES
        assert {s.context.trace_id for s in stages.values() if s.context} == {root.context.trace_id}
    assert not get_current_span().get_span_context().is_valid


async def test_a_call_is_beneath_the_span_around_it(kit: Kit, captured: CapturedSpans, mode: Mode) -> None:
    guard, look_up = guarded(kit, captured)
    tracer = captured.tracer_provider.get_tracer("application")
    with (
        guard.task("test", subject="alice", mandate={"tools": "*"}),
        tracer.start_as_current_span("around") as around,
    ):
        await mode.invoke(look_up, {"text": "x"})
        assert get_current_span() is around
    (root,) = roots(captured)
    assert root.parent == around.get_span_context()


async def test_a_denial_is_an_error_with_its_code(kit: Kit, captured: CapturedSpans, mode: Mode) -> None:
    kit.rule.answer = lambda _request: DENY
    guard, look_up = guarded(kit, captured)
    with guard.task("test", subject="alice", mandate={"tools": "*"}), pytest.raises(Denied):
        await mode.invoke(look_up, {"text": VALUE})
    (root,) = roots(captured)
    assert beneath(captured, root).keys() == {"agentguard.decide"}
    assert root.status.status_code is StatusCode.ERROR
    assert (
        facts(root).items()
        >= {
            "error.type": "policy",
            "agentguard.code": "policy",
            "agentguard.effect": "deny",
            "agentguard.policy.ids": ("secret-rule",),
        }.items()
    )


@pytest.mark.promise("spans-without-values")
async def test_a_failed_tool_is_an_error_that_says_nothing_of_it(
    kit: Kit, captured: CapturedSpans, mode: Mode
) -> None:
    guard, look_up = guarded(kit, captured)
    with guard.task("test", subject="alice", mandate={"tools": "*"}), pytest.raises(ToolException):
        await mode.invoke(look_up, {"text": "fail"})
    (root,) = roots(captured)
    assert facts(root)["error.type"] == "failed"
    assert root.status.description is None
    assert beneath(captured, root).keys() == STAGES
    assert not [event for span in captured.finished() for event in span.events]
    assert VALUE not in "".join(span.to_json() for span in captured.finished())


@pytest.mark.promise("spans-without-values")
@pytest.mark.parametrize("opted_in", [False, True])
async def test_values_of_arguments_are_there_only_when_opted_in(
    kit: Kit, captured: CapturedSpans, mode: Mode, opted_in: bool
) -> None:
    guard, look_up = guarded(kit, captured, trace_arguments=opted_in)
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(look_up, tool_call("look_up", text=VALUE))
    (root,) = roots(captured)
    assert facts(root).get("gen_ai.tool.call.arguments") == (f'{{"text":"{VALUE}"}}' if opted_in else None)
    assert (VALUE in "".join(span.to_json() for span in captured.finished())) is opted_in


async def test_calls_are_counted_by_path_effect_and_code(
    kit: Kit, captured: CapturedSpans, mode: Mode
) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    guard, look_up = guarded(kit, captured, meter_provider=provider)
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(look_up, {"text": "x"})
        await mode.invoke(look_up, {"text": "y"})
        kit.rule.deny("look_up")
        with pytest.raises(Denied):
            await mode.invoke(look_up, {"text": "z"})
    data: Any = reader.get_metrics_data()
    provider.shutdown()
    metrics = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    metric = metrics["agentguard.calls"]
    counted = Counter({tuple(sorted(p.attributes.items())): p.value for p in metric.data.data_points})
    read = ToolPath.READ.value
    assert counted == {
        (("code", "done"), ("effect", "permit"), ("path", read)): 2,
        (("code", "policy"), ("effect", "deny"), ("path", read)): 1,
    }


async def test_an_unsampled_call_runs_all_the_same(kit: Kit, mode: Mode) -> None:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    look_up = kit.another(tracer_provider=TracerProvider(sampler=ALWAYS_OFF)).wrap(classified(echo()))[0]
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}):
        assert await mode.invoke(look_up, {"text": "x"}) == "x"
    assert kit.outcomes() == ["done"]


class FailingProcessor(SpanProcessor):
    """Fails at one moment of the spans of one name."""

    def __init__(self, name: str, moment: str) -> None:
        self._name, self._moment = name, moment

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._fail("start", span.name)

    def on_end(self, span: Any) -> None:
        self._fail("end", span.name)

    def _fail(self, moment: str, name: str) -> None:
        if (self._name, self._moment) == (name, moment):
            raise OSError("the queue is full")


class FailingMeter(NoOpMeterProvider):
    def get_meter(self, *_args: Any, **_kwargs: Any) -> Any:
        return self

    def create_counter(self, *_args: Any, **_kwargs: Any) -> Any:
        return self

    create_histogram = create_counter

    def record(self, *_args: Any, **_kwargs: Any) -> None:
        raise OSError("the meter is broken")

    def add(self, *_args: Any, **_kwargs: Any) -> None:
        raise OSError("the meter is broken")


@pytest.mark.promise("telemetry-failure-harmless")
@pytest.mark.parametrize("moment", ["start", "end"])
@pytest.mark.parametrize("name", ["execute_tool look_up", "agentguard.approve", *sorted(STAGES)])
async def test_a_tracer_that_fails_changes_nothing_of_a_call(
    name: str, moment: str, kit: Kit, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    provider = TracerProvider()
    provider.add_span_processor(FailingProcessor(name, moment))
    guard = kit.another(tracer_provider=provider, trace_stages=True, approver=lambda _request: True)
    kit.rule.answer = lambda request: ASK if request.approval is None else PERMIT
    (look_up,) = guard.wrap(classified(echo()))
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        assert await mode.invoke(look_up, {"text": "x"}) == "x"
    assert (kit.decisions(), kit.outcomes()) == (["permit"], ["done"])
    assert (len(kit.broker.issued), kit.broker.live) == (1, ())
    assert "telemetry failed: OSError" in caplog.text


@pytest.mark.promise("telemetry-failure-harmless")
async def test_a_meter_that_fails_changes_nothing_of_a_call(kit: Kit, mode: Mode) -> None:
    guard = kit.another(meter_provider=FailingMeter(), approver=lambda _request: True)
    (look_up,) = guard.wrap(classified(echo()))
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        kit.rule.answer = lambda request: ASK if request.approval is None else PERMIT
        await mode.invoke(look_up, {"text": "x"})
        kit.rule.deny("look_up")
        with pytest.raises(Denied):
            await mode.invoke(look_up, {"text": "x"})
    assert (kit.decisions(), kit.outcomes()) == (["permit", "policy"], ["done"])
    assert kit.broker.live == ()


def echo() -> BaseTool:
    @tool
    def look_up(text: str) -> str:
        """Look something up."""
        return text

    return look_up


async def test_without_an_sdk_the_guard_works_and_traces_nothing(kit: Kit, task: Any, mode: Mode) -> None:
    look_up = kit.wrap(echo())
    assert await mode.invoke(look_up, {"text": "x"}) == "x"
    assert kit.decisions() == ["permit"]
    assert next(iter(kit.audit.records()))["trace"] is None


WITHOUT_SDK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.sdk"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from tests.conftest import Kit, classified
from langchain_core.tools import tool

@tool
def echo(text: str) -> str:
    \"\"\"Echo.\"\"\"
    return text

kit = Kit()
with kit.guard.task("test", subject="alice", mandate={"tools": "*"}):
    assert kit.wrap(echo).invoke({"text": "x"}) == "x"
assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")]
"""


@pytest.mark.process
def test_the_guard_needs_no_sdk_to_be_there() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_SDK], check=True)


async def test_questions_to_a_person_are_counted(kit: Kit, captured: CapturedSpans, mode: Mode) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    approver = CallbackApprover(lambda request: request.arguments.values["text"] == "yes", approver="bob")
    guard, look_up = guarded(kit, captured, meter_provider=provider, approver=approver)
    asks = replace(PERMIT, obligations=(Obligation(kind="approve"),))
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(look_up, {"text": "free"})
        kit.rule.answer = lambda request: PERMIT if request.approval else asks
        await mode.invoke(look_up, {"text": "yes"})
        with pytest.raises(Denied):
            await mode.invoke(look_up, {"text": "no"})
    data: Any = reader.get_metrics_data()
    provider.shutdown()
    metrics = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    (point,) = metrics["agentguard.questions"].data.data_points
    assert (point.value, dict(point.attributes)) == (2, {"tool": "look_up", "path": "read"})


async def test_a_guard_makes_no_spans_for_stages_unless_told_to_and_times_them_all_the_same(
    kit: Kit, captured: CapturedSpans, mode: Mode
) -> None:
    guard, look_up = guarded(kit, captured, trace_stages=False)
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(look_up, {"text": "x"})
    (root,) = roots(captured)
    assert beneath(captured, root) == {}
    durations = {name for name in facts(root) if name.endswith(".duration")}
    assert durations == {f"{stage}.duration" for stage in STAGES}


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from texts(item)


@pytest.mark.promise("spans-encodable")
@pytest.mark.parametrize("name", ["half\ud800", "look_up\udfff", "x" * 1_000_000, "a\nb\x1b[2K"])
async def test_a_tool_name_that_a_model_made_up_loses_no_span(
    kit: Kit, captured: CapturedSpans, task: Any, mode: Mode, name: str
) -> None:
    guard, look_up = guarded(kit, captured)
    agent: Any = create_agent(
        ScriptedChatModel(script=[[(name, {})], "done"]), [look_up], middleware=[guard.middleware()]
    )
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(agent, {"messages": [("user", "go")]})
    (span,) = [span for span in captured.finished() if span.name.startswith("execute_tool")]
    recorded = [span.name, *texts([*(span.attributes or {}).values()])]
    assert all(text.isprintable() and len(text.encode()) <= 300 for text in recorded)
    assert kit.decisions() == ["unknown_tool"]
    (record,) = [record for record in kit.audit.records() if record["event"] == "decision"]
    assert len(json.dumps(record)) < 3_000


@pytest.mark.promise("spans-encodable")
async def test_ids_of_rules_and_calls_are_bounded_in_a_span(
    kit: Kit, captured: CapturedSpans, task: Any, mode: Mode
) -> None:
    ids = tuple(f"{number}\ud800{'x' * 10_000}" for number in range(1_000))
    kit.rule.answer = lambda _request: replace(PERMIT, policy_ids=ids)
    guard, look_up = guarded(kit, captured, trace_arguments=True)
    call = {"type": "tool_call", "name": "look_up", "id": "c\ud800" * 10_000, "args": {"text": "y" * 100_000}}
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(look_up, call)
    (span,) = roots(captured)
    recorded = list(texts([*(span.attributes or {}).values()]))
    assert all(text.isprintable() for text in recorded)
    assert sum(len(text.encode()) for text in recorded) < 30_000
    assert (span.attributes or {})["agentguard.policy.ids"]


@pytest.mark.promise("spans-encodable")
@pytest.mark.parametrize("call_id", [5, 1.5, True, {"a": "\ud800"}, ["x"] * 10_000])
async def test_a_call_whose_id_is_no_text_is_recorded_all_the_same(
    kit: Kit, captured: CapturedSpans, mode: Mode, call_id: Any
) -> None:
    guard, look_up = guarded(kit, captured)
    call = {"type": "tool_call", "name": "look_up", "id": call_id, "args": {"text": "y"}}
    with guard.task("test", subject="alice", mandate={"tools": "*"}), suppress(ValidationError):
        await mode.invoke(look_up, call)  # langchain has no message for the answer to such an id
    assert kit.decisions() == ["permit"]
    (span,) = roots(captured)
    assert all(text.isprintable() and len(text) <= 300 for text in texts([*(span.attributes or {}).values()]))


@pytest.mark.promise("spans-encodable")
@pytest.mark.parametrize("name", ["a\nb\x1b[2K", "\u202eevil", "x" * 300_000])
async def test_no_name_of_a_tool_or_a_resource_loses_a_metric(
    kit: Kit, captured: CapturedSpans, mode: Mode, name: str
) -> None:
    """A server names its tools, and the question about a call is counted by the name of its tool."""
    kit.rule.answer = lambda request: PERMIT if request.approval else ASK
    reader = InMemoryMetricReader()
    guard = kit.another(
        tracer_provider=captured.tracer_provider,
        meter_provider=MeterProvider([reader]),
        approver=lambda _request: True,
    )
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    served = StructuredTool.from_function(lambda text: text, name=name, description="d", args_schema=schema)
    (served_tool,) = guard.wrap(classified(served))
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(served_tool, {"text": "y"})
    guard.enforcement.telemetry.anomaly("origin", f"{name}\ud800", legacy=False)
    guard.enforcement.telemetry.revocation_unknown(f"{name}\ud800")
    data = reader.get_metrics_data()
    assert data is not None
    metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
    points = {m.name: [dict(point.attributes or {}) for point in m.data.data_points] for m in metrics}
    assert set(points) >= {"agentguard.questions", "agentguard.anomalies", "agentguard.unrevoked"}
    for text in texts(
        [value for entries in points.values() for entry in entries for value in entry.values()]
    ):
        assert text.isprintable()
        assert len(text) <= 200
