"""The state of guards as metrics: the outbox, live credentials and breakers."""

from __future__ import annotations

import gc
import weakref
from typing import Any

from langchain_core.tools import tool
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from agentguard import Guard, ToolPath
from agentguard.errors import IssueError, StoreError
from tests.conftest import Kit, classified
from tests.guard.test_health import Issuer


def gauges(reader: InMemoryMetricReader) -> dict[tuple[str, Any], float]:
    """Return each gauge of ours, with the service that it is about."""
    data = reader.get_metrics_data()
    return {
        (metric.name, (point.attributes or {}).get("service")): point.value
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
        if isinstance(point, NumberDataPoint)
        and metric.name.split(".")[1] in {"outbox", "credentials", "breaker"}
    }


@tool
def look(order: str) -> str:
    """Look."""
    return "it is on its way"


def test_the_outbox_live_credentials_and_breakers_are_measured_when_a_reader_asks(kit: Kit) -> None:
    reader, issuer = InMemoryMetricReader(), Issuer()
    provider = MeterProvider([reader])
    guard = kit.another(
        meter_provider=provider, brokers=dict.fromkeys([(None, path) for path in ToolPath], issuer)
    )
    service = issuer._http.name
    none = {
        ("agentguard.outbox.depth", None): 0,
        ("agentguard.outbox.age", None): 0.0,
        ("agentguard.credentials.live", None): 0,
        ("agentguard.breaker.open", service): 0,
    }
    assert gauges(reader) == none
    assert issuer.asked == []  # to measure asks nobody
    issuer.revoke_error, issuer.status = IssueError("down"), None
    guard.enforcement.on_unrevoked = lambda: None
    with guard.task("t", subject="alice", mandate={"tools": "*"}).active():
        guard.wrap(classified(look.model_copy()))[0].invoke({"order": "1"})
    guard.health()
    guard.health()
    measured = gauges(reader)
    assert measured["agentguard.outbox.depth", None] == 1
    assert measured["agentguard.credentials.live", None] == 1
    assert measured["agentguard.breaker.open", service] == 1


def test_several_guards_are_measured_together_and_none_is_kept_alive(kit: Kit) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    guards: list[Guard] = [kit.another(meter_provider=provider) for _ in range(3)]
    references = [weakref.ref(guard) for guard in guards]
    assert gauges(reader)["agentguard.outbox.depth", None] == 0
    guards.clear()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert ("agentguard.outbox.depth", None) not in gauges(reader)


def test_a_store_that_fails_ends_no_reader(kit: Kit) -> None:
    class Store(type(kit.store)):  # type: ignore[misc]  # one that fails
        def live(self, task_id: str | None = None) -> Any:
            raise StoreError("gone")

    reader = InMemoryMetricReader()
    guard = kit.another(meter_provider=MeterProvider([reader]), store=Store())
    assert ("agentguard.outbox.depth", None) not in gauges(reader)
    assert guard.enforcement
