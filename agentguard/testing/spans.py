"""Keep the spans of a test in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.trace import TracerProvider

from agentguard.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["CapturedSpans", "captured_spans"]


class CapturedSpans(NamedTuple):
    """A tracer provider to pass to a guard, and a function that returns the finished spans."""

    tracer_provider: TracerProvider
    finished: Callable[[], tuple[ReadableSpan, ...]]


@contextmanager
def captured_spans() -> Iterator[CapturedSpans]:
    """Keep the spans of a new provider in memory; the global provider is not changed.

    Raises:
        ConfigurationError: opentelemetry-sdk is not installed.
    """
    try:
        from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    except ImportError as error:
        raise ConfigurationError(
            "captured_spans needs the OpenTelemetry SDK", hint="pip install opentelemetry-sdk"
        ) from error
    exporter, provider = InMemorySpanExporter(), SdkTracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    try:
        yield CapturedSpans(provider, exporter.get_finished_spans)
    finally:
        provider.shutdown()
