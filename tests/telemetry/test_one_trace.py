"""One trace from the agent to the resource server, and what a client may not do to it."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from langchain_core.tools import tool
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.trace import format_trace_id, get_current_span

import agentguard
from agentguard import ToolPath
from agentguard.catalog import Catalog
from agentguard.errors import Denied
from agentguard.outbound.trace_context import remote_trace
from agentguard.resource.asgi import Protected
from agentguard.telemetry.spans import SCHEMA_URL
from agentguard.testing import CapturedSpans, captured_spans
from tests.conftest import Kit, Mode, classified
from tests.resource.test_asgi import APP, ISSUERS, ORIGIN, RESOURCE, RULES, asking, reading, verifier

ALL: Any = {"tools": "*"}
FACTS: Any = {"path": "read", "resource": "orders", "scopes": ["orders:read"]}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def protected(captured: CapturedSpans) -> Protected:
    return Protected(APP, verifier(), RULES, tracer_provider=captured.tracer_provider)


async def test_one_trace_runs_from_the_call_to_the_resource_server(kit: Kit) -> None:
    with captured_spans() as captured:
        app = protected(captured)

        @tool
        async def get_order(order_id: str) -> str:
            """Read an order."""
            transport, auth = httpx.ASGITransport(app=app), agentguard.auth("orders")
            async with httpx.AsyncClient(transport=transport, auth=auth, base_url=ORIGIN) as client:
                return (await client.get(f"/orders/{order_id}")).text

        guard = kit.another(
            tracer_provider=captured.tracer_provider,
            catalog=Catalog(resources=[RESOURCE]),
            brokers={(None, path): issuer for path, issuer in ISSUERS.items()},
        )
        guarded = guard.wrap(classified(get_order, **FACTS))[0]
        async with guard.task("t", subject="user:4", mandate=ALL):
            assert "4711" in await guarded.ainvoke({"order_id": "4711"})
        spans = {span.name: span for span in captured.finished()}
    call, served = spans["execute_tool get_order"], spans["agentguard.resource"]
    assert call.context is not None
    assert served.parent is not None
    assert (served.parent.trace_id, served.parent.span_id) == (call.context.trace_id, call.context.span_id)


async def test_the_synchronous_client_brings_the_trace_too_and_keeps_one_that_is_there(
    kit: Kit, mode: Mode
) -> None:
    asked: list[httpx.Request] = []
    given: dict[str, str] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(httpx.Request(request.method, request.url, headers=request.headers))
        return httpx.Response(200)

    @tool
    def look(order: str) -> str:
        """Look."""
        auth, transport = agentguard.auth("orders"), httpx.MockTransport(answer)
        with httpx.Client(auth=auth, transport=transport) as client:
            response = client.get("https://orders.example/x", headers=given)
        assert ("traceparent" in response.request.headers) is bool(given)
        return f"{get_current_span().get_span_context().span_id:016x}"

    with captured_spans() as captured:
        guarded = kit.another(tracer_provider=captured.tracer_provider).wrap(classified(look))[0]
        with kit.guard.task("t", subject="alice", mandate=ALL).active():
            span = await mode.invoke(guarded, {"order": "1"})
            given["traceparent"] = PARENT
            await mode.invoke(guarded, {"order": "1"})
    assert asked[0].headers["traceparent"].split("-")[2] == span
    assert asked[1].headers["traceparent"] == PARENT


async def test_without_a_trace_nothing_is_sent(kit: Kit, mode: Mode) -> None:
    asked: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers)
        return httpx.Response(200)

    @tool
    def look(order: str) -> str:
        """Look."""
        transport = httpx.MockTransport(answer)
        with httpx.Client(auth=agentguard.auth("orders"), transport=transport) as client:
            return client.get("https://orders.example/x").text

    with kit.guard.task("t", subject="alice", mandate=ALL).active():
        await mode.invoke(kit.wrap(look), {"order": "1"})
    assert "traceparent" not in asked[0]


async def test_a_refused_request_is_an_error_in_the_span_of_its_trace() -> None:
    with captured_spans() as captured:
        answer = await asking(protected(captured))("GET", "/orders/4711", headers={"traceparent": PARENT})
        assert answer.status_code == 401
        await asking(protected(captured))("GET", "/orders/4711", reading())
        refused, served = captured.finished()
    assert refused.parent is not None
    assert format_trace_id(refused.parent.trace_id) == TRACE
    assert refused.attributes == {"error.type": "unauthorized"}
    assert served.attributes == {}


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "00-zz-1-01")],
        [("traceparent", PARENT), ("Traceparent", PARENT)],
        [("traceparent", f"00-{'0' * 32}-00f067aa0ba902b7-01")],
        [("traceparent", "x" * 100_000)],
        [("tracestate", "a=b")],
    ],
)
def test_a_malformed_or_doubled_trace_is_none(headers: list[tuple[str, str]]) -> None:
    assert remote_trace(headers) is None


async def test_the_duration_of_a_call_is_measured_by_tool_and_error(kit: Kit, mode: Mode) -> None:
    @tool
    def look(order: str) -> str:
        """Look something up."""
        time.sleep(0.02)
        return "x"

    reader = InMemoryMetricReader()
    with captured_spans() as captured:
        guard = kit.another(meter_provider=MeterProvider([reader]), tracer_provider=captured.tracer_provider)
        guarded = guard.wrap(classified(look))[0]
        with guard.task("t", subject="alice", mandate=ALL).active():
            await mode.invoke(guarded, {"order": "1"})
            kit.rule.deny("look")
            with pytest.raises(Denied):
                await mode.invoke(guarded, {"order": "1"})
        [first, _] = captured.finished()
    data: Any = reader.get_metrics_data()
    [scope] = data.resource_metrics[0].scope_metrics
    [metric] = [one for one in scope.metrics if one.name == "gen_ai.execute_tool.duration"]
    points: list[HistogramDataPoint] = list(metric.data.data_points)
    common = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "look"}
    assert [dict(point.attributes or {}) for point in points] == [common, {**common, "error.type": "policy"}]
    assert 0.02 <= points[0].sum < 5
    assert (scope.scope.name, scope.scope.schema_url, metric.unit) == ("agentguard", SCHEMA_URL, "s")
    assert scope.scope.version
    assert first.instrumentation_scope is not None
    assert first.instrumentation_scope.schema_url == SCHEMA_URL
    assert (first.attributes or {})["gen_ai.tool.description"] == "Look something up."


async def test_a_name_that_a_model_chose_is_in_no_metric(kit: Kit) -> None:
    from langchain.agents import create_agent

    from tests.conftest import GO, scripted, tool_call

    reader = InMemoryMetricReader()
    guard = kit.another(meter_provider=MeterProvider([reader]))

    @tool
    def look(order: str) -> str:
        """Look."""
        return "x"

    agent = create_agent(scripted(tool_call("made_up")), [look], middleware=[guard.middleware()])
    async with guard.task("t", subject="alice", mandate=ALL):
        await agent.ainvoke(GO)
    assert "made_up" not in str(reader.get_metrics_data())
    assert ToolPath.READ
