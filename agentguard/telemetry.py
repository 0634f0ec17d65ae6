"""Names of spans, attributes and metrics, and the one place that makes them.

One span a call, `execute_tool {name}`, with the GenAI attributes (OpenTelemetry semantic
conventions 1.41.0, status Development) and our own in the namespace `agentguard.*`, since nothing
is standard yet for authorization. Children: `agentguard.decide`, `.issue`, `.execute`, `.revoke`.
Never a secret, and no argument value unless opted in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider, get_tracer

from agentguard.model import Arguments

__all__ = ["CallSpan", "Telemetry"]

SCOPE = "agentguard"
OPERATION, TOOL, TOOL_CALL, TOOL_TYPE = (
    "gen_ai.operation.name",
    "gen_ai.tool.name",
    "gen_ai.tool.call.id",
    "gen_ai.tool.type",
)
ARGUMENTS = "gen_ai.tool.call.arguments"
ERROR = "error.type"
STAGES = {
    stage: (f"{SCOPE}.{stage}", f"{SCOPE}.{stage}.duration")
    for stage in ("decide", "approve", "issue", "execute", "revoke")
}


class Telemetry:
    """Makes the spans and metrics of a guard; does not configure any exporter."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        arguments: bool = False,
    ) -> None:
        self._tracer = get_tracer(SCOPE, tracer_provider=tracer_provider)
        meter = get_meter(SCOPE, meter_provider=meter_provider)
        self._calls = meter.create_counter(
            "agentguard.calls", unit="{call}", description="Tool calls by path, effect and code."
        )
        self._arguments = arguments

    @contextmanager
    def call(self, tool: str, call_id: str | None, arguments: Arguments | None) -> Iterator[CallSpan]:
        """Open the span of one call; a control-flow exception of the framework is no error."""
        attributes: dict[str, Any] = {OPERATION: "execute_tool", TOOL: tool, TOOL_TYPE: "function"}
        if call_id is not None:
            attributes[TOOL_CALL] = call_id
        if self._arguments and arguments is not None:
            attributes[ARGUMENTS] = arguments.canonical.decode()
        with self._tracer.start_as_current_span(
            f"execute_tool {tool}",
            kind=SpanKind.INTERNAL,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield CallSpan(span, self)

    @contextmanager
    def stage(self, name: str) -> Iterator[Span]:
        """Open the child span of one stage."""
        with self._tracer.start_as_current_span(
            STAGES[name][0], record_exception=False, set_status_on_exception=False
        ) as span:
            yield span

    def count(self, attributes: Mapping[str, str]) -> None:
        """Count one call."""
        self._calls.add(1, attributes)


class CallSpan:
    """The span of one call, and the times of its stages in seconds."""

    __slots__ = ("_telemetry", "span")

    def __init__(self, span: Span, telemetry: Telemetry) -> None:
        self.span, self._telemetry = span, telemetry

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage, as a child span and as an attribute of the call."""
        started = perf_counter()
        with self._telemetry.stage(name):
            try:
                yield
            finally:
                self.span.set_attribute(STAGES[name][1], perf_counter() - started)

    def describe(self, **facts: Any) -> None:
        """Set `agentguard.*` attributes; None is left out."""
        self.span.set_attributes(
            {f"{SCOPE}.{name}": value for name, value in facts.items() if value is not None}
        )

    def ended(self, path: str, effect: str, code: str) -> None:
        """Note how the call ended; a *code* other than ``done`` or ``suspended`` is an error."""
        self.span.set_attribute(f"{SCOPE}.outcome", code)
        if code not in {"done", "suspended"}:
            self.span.set_attribute(ERROR, code)
            self.span.set_status(Status(StatusCode.ERROR))
        self._telemetry.count({"path": path, "effect": effect, "code": code})

    @property
    def trace_id(self) -> str | None:
        """The trace id in hexadecimal, or None when nothing is traced."""
        context = self.span.get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else None
