"""A real Jaeger shows one trace, from the agent over its calls to the API."""

from __future__ import annotations

import runpy
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.real.conftest import needed
from tests.servers.server import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Span:
    """One span as Jaeger shows it."""

    id: str
    name: str
    service: str
    parent: str
    tags: Mapping[str, object]


def spans_of(trace: dict[str, Any]) -> list[Span]:
    services = {key: process["serviceName"] for key, process in trace["processes"].items()}
    return [
        Span(
            id=span["spanID"],
            name=span["operationName"],
            service=services[span["processID"]],
            parent="".join(one["spanID"] for one in span["references"] if one["refType"] == "CHILD_OF"),
            tags={tag["key"]: tag["value"] for tag in span["tags"]},
        )
        for span in trace["spans"]
    ]


def test_jaeger_shows_one_trace_from_the_agent_to_the_api_and_why_a_call_was_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = needed("AGENTGUARD_TEST_JAEGER")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", needed("AGENTGUARD_TEST_JAEGER_OTLP"))
    port = free_port()
    copy: Path = shutil.copytree(
        EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns(".*", "__pycache__")
    )
    for file in (copy / "tracing.py", copy / "agentguard.toml"):
        file.write_text(file.read_text("utf-8").replace(":8000", f":{port}"), "utf-8")
    runpy.run_path(f"{copy}/tracing.py", run_name="__main__")
    [trace] = _traces(url)
    spans = spans_of(trace)
    [root] = [span for span in spans if not span.parent]
    calls = {str(span.tags["agentguard.effect"]): span for span in spans if span.parent == root.id}
    [served] = [span for span in spans if span.service == "orders-api"]
    assert (root.service, root.name) == ("support-agent", "invoke_agent support")
    assert {span.name for span in calls.values()} == {"execute_tool get_order"}
    assert (served.name, served.parent) == ("agentguard.resource", calls["permit"].id)
    assert len(spans) == 4
    permit, denial = calls["permit"].tags, calls["deny"].tags
    assert (permit["agentguard.outcome"], permit["agentguard.policy.ids"]) == ("done", '["read-orders"]')
    assert (denial["error.type"], denial["agentguard.outcome"]) == ("mandate", "mandate")


def _traces(url: str) -> list[dict[str, Any]]:
    """Return the traces of the agent, once Jaeger has them."""
    ends = time.monotonic() + 10
    while True:
        answer = httpx.get(f"{url}/api/traces", params={"service": "support-agent"}, trust_env=False)
        traces: list[dict[str, Any]] = answer.json()["data"] or []
        if traces and "orders-api" in str(traces):
            return traces
        assert time.monotonic() < ends, answer.text
        time.sleep(0.1)
