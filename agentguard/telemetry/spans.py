"""Names of spans, attributes and metrics, and the one place that makes them.

One span a call, `execute_tool {name}`, with the GenAI attributes, and the histogram
`gen_ai.execute_tool.duration` (open-telemetry/semantic-conventions-genai, status Development). Our own are in
the namespace `agentguard.*`, since nothing is standard yet for authorization. The seconds of each stage
(decide, approve, issue, execute, revoke) are attributes of that span. A guard that is told so (`stages`) also
makes a child span for each of them (`agentguard.decide`, ...), which costs a call a tenth of its time. Never
a secret, and no argument value unless opted in. Each text is printable and bounded, also where a model or a
decision point chose it. No metric has an attribute that a model chose. A tracer or a meter that fails is
logged, and changes nothing of the call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextvars import Token
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Any, Self

from opentelemetry.context import Context, attach, detach
from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import (
    INVALID_SPAN,
    Span,
    Status,
    StatusCode,
    TracerProvider,
    get_tracer,
    set_span_in_context,
)

from agentguard.model import Arguments
from agentguard.telemetry.gauges import StateSource, observe
from agentguard.text import LABEL, label

__all__ = ["CallSpan", "Stage", "Telemetry"]

log = logging.getLogger("agentguard")
SCOPE = "agentguard"
OPERATION, TOOL, TOOL_CALL, TOOL_TYPE = (
    "gen_ai.operation.name",
    "gen_ai.tool.name",
    "gen_ai.tool.call.id",
    "gen_ai.tool.type",
)
ARGUMENTS, DESCRIPTION = "gen_ai.tool.call.arguments", "gen_ai.tool.description"
ERROR = "error.type"
LONGEST_ARGUMENTS = 16_384
"""The most characters of a call's arguments in a span that may hold them."""
LONGEST_DESCRIPTION = 1024
"""The most characters of a tool's description in a span."""
BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Boundaries in seconds, as the GenAI conventions have them for the durations of operations."""
SCHEMA_URL = "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"
"""What the repository of the GenAI conventions declares in its model/manifest.yaml."""
MOST_ITEMS = 32
"""The most items of a list in an attribute, such as the ids of rules."""
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
        stages: bool = False,
    ) -> None:
        self.tracer = get_tracer(SCOPE, _version(), tracer_provider, SCHEMA_URL)
        meter = get_meter(SCOPE, _version(), meter_provider, SCHEMA_URL)
        self._durations = meter.create_histogram(
            "gen_ai.execute_tool.duration",
            unit="s",
            description="Duration of a tool's execution, from its interception to its record.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self._calls = meter.create_counter(
            "agentguard.calls", unit="{call}", description="Tool calls by path, effect and code."
        )
        self._questions = meter.create_counter(
            "agentguard.questions",
            unit="{question}",
            description="Calls for which a person was asked, by tool and path: what users pay.",
        )
        self._anomalies = meter.create_counter(
            "agentguard.anomalies",
            unit="{anomaly}",
            description="Uses of a credential that no honest call makes, by kind, resource and legacy.",
        )
        self._unrevoked = meter.create_counter(
            "agentguard.unrevoked",
            unit="{credential}",
            description="Credentials not known to be revoked, which end by themselves, by broker.",
        )
        self._arguments, self.stages = arguments, stages
        self._meter, self._provider = meter, meter_provider

    def observe(self, source: StateSource) -> None:
        """Have the state of a guard measured, as long as it lives."""
        _quietly(observe, source, self._meter, self._provider)

    def untraced(self) -> CallSpan:
        """Return a span that is recorded nowhere, for a question that is no call."""
        return CallSpan(INVALID_SPAN, self)

    def call(
        self, tool: str, call_id: str | None, arguments: Arguments | None, description: str = ""
    ) -> CallSpan:
        """Open the span of one call; an exception that passes is no event, for it may hold anything."""
        tool = label(tool)
        attributes: dict[str, Any] = {OPERATION: "execute_tool", TOOL: tool, TOOL_TYPE: "function"}
        if call_id is not None:
            attributes[TOOL_CALL] = label(call_id)
        if description:
            attributes[DESCRIPTION] = _description(description)
        if self._arguments and arguments is not None:
            attributes[ARGUMENTS] = label(arguments.canonical.decode(), LONGEST_ARGUMENTS)
        return CallSpan(self.span(f"execute_tool {tool}", attributes), self, tool)

    def span(self, name: str, attributes: Mapping[str, Any] | None = None) -> Span:
        """Start a span; one that cannot be started records nothing."""
        try:
            return self.tracer.start_span(name, attributes=attributes)
        except Exception as error:  # noqa: BLE001  what looks at a call must not end it
            _failed(error)
            return INVALID_SPAN

    def anomaly(self, kind: str, resource: str, *, legacy: bool) -> None:
        """Count one anomaly."""
        attributes = {"kind": kind, "resource": label(resource), "legacy": legacy}
        _quietly(self._anomalies.add, 1, attributes)

    def revocation_unknown(self, broker: str) -> None:
        """Count one credential that is not known to be revoked and ends by itself."""
        _quietly(self._unrevoked.add, 1, {"broker": label(broker)})

    def question(self, tool: str, path: str) -> None:
        """Count one question to a person."""
        _quietly(self._questions.add, 1, {"tool": label(tool), "path": path})

    def duration(self, seconds: float, attributes: Mapping[str, str]) -> None:
        """Note how long one call took."""
        _quietly(self._durations.record, seconds, attributes)

    def count(self, attributes: Mapping[str, str]) -> None:
        """Count one call."""
        _quietly(self._calls.add, 1, attributes)


class CallSpan:
    """The span of one call, current inside its block, and the times of its stages in seconds.

    OpenTelemetry's own context managers are generators, and each call would pay for ten of them.
    """

    __slots__ = ("_facts", "_measured", "_span", "_started", "_telemetry", "_token", "_tool")
    _token: Token[Context]
    _started: float

    def __init__(self, span: Span, telemetry: Telemetry, tool: str = "") -> None:
        self._span, self._telemetry, self._tool = span, telemetry, tool
        self._measured: dict[str, str] | None = None
        self._facts: dict[str, Any] = {}

    def stage(self, name: str) -> Stage:
        """Return a context manager that times one stage."""
        if self._telemetry.stages:
            return _StageSpan(name, self._facts, self._telemetry)
        return Stage(name, self._facts)

    def describe(self, **facts: Any) -> None:
        """Note `agentguard.*` attributes, which are set when the call ends; None is left out."""
        noted = self._facts
        for name, value in facts.items():
            if type(value) is str and len(value) <= LABEL and value.isprintable():  # as `label` leaves it
                noted[_attribute(name)] = value
            elif value is not None:
                noted[_attribute(name)] = _bounded(value)

    def asked(self, tool: str, path: str) -> None:
        """Note that a person is asked about this call."""
        self._telemetry.question(tool, path)

    def ended(self, path: str, effect: str, code: str) -> None:
        """Note how the call ended; a *code* other than ``done`` or ``suspended`` is an error."""
        self._facts[f"{SCOPE}.outcome"] = code
        if code not in {"done", "suspended"}:
            self._facts[ERROR] = code
            self._span.set_status(Status(StatusCode.ERROR))
        self._telemetry.count({"path": path, "effect": effect, "code": code})
        self._measured = {OPERATION: "execute_tool"}
        if path != "unknown":  # or a model may have chosen the name
            self._measured[TOOL] = self._tool
        if ERROR in self._facts:
            self._measured[ERROR] = code

    @property
    def trace_id(self) -> str | None:
        """The trace id in hexadecimal, or None when nothing is traced."""
        context = self._span.get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else None

    def __enter__(self) -> Self:
        self._token, self._started = attach(set_span_in_context(self._span)), perf_counter()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._measured is not None:
            self._telemetry.duration(perf_counter() - self._started, self._measured)
        if self._span.is_recording():
            self._span.set_attributes(self._facts)
        detach(self._token)
        _quietly(self._span.end)


class Stage:
    """One stage of a call: its seconds become an attribute of the call's span."""

    __slots__ = ("_facts", "_name", "_started")
    _started: float

    def __init__(self, name: str, facts: dict[str, Any]) -> None:
        self._name, self._facts = name, facts

    def __enter__(self) -> None:
        self._started = perf_counter()

    def __exit__(self, *_error: object) -> None:
        self._facts[STAGES[self._name][1]] = perf_counter() - self._started


class _StageSpan(Stage):
    """A stage that has a span of its own, too."""

    __slots__ = ("_span", "_telemetry", "_token")
    _span: Span
    _token: Token[Context]

    def __init__(self, name: str, facts: dict[str, Any], telemetry: Telemetry) -> None:
        super().__init__(name, facts)
        self._telemetry = telemetry

    def __enter__(self) -> None:
        super().__enter__()
        self._span = self._telemetry.span(STAGES[self._name][0])
        self._token = attach(set_span_in_context(self._span))

    def __exit__(self, *_error: object) -> None:
        super().__exit__()
        detach(self._token)
        _quietly(self._span.end)


@cache
def _attribute(name: str) -> str:
    """Return the name of an attribute of our own; the names of facts stand in the code."""
    return f"{SCOPE}.{name}"


@lru_cache(1024)
def _description(text: str) -> str:
    return label(text, LONGEST_DESCRIPTION)


@cache
def _version() -> str:
    try:
        return version("agentguard")
    except PackageNotFoundError:  # it runs from its source
        return "unknown"


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        return label(value)
    if isinstance(value, tuple | list):
        return [_bounded(item) for item in value[:MOST_ITEMS]]
    return value


def _quietly(function: Callable[..., object], *args: object) -> None:
    try:
        function(*args)
    except Exception as error:  # noqa: BLE001  what looks at a call must not end it
        _failed(error)


def _failed(error: Exception) -> None:
    log.warning("telemetry failed: %s", type(error).__name__)
