"""W3C Trace Context: the trace of a call goes with its requests, and a server goes on with it.

Baggage does not travel: it may hold what is nobody else's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    TracerProvider,
    get_current_span,
    get_tracer,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["continued", "current_trace", "note_refusal", "remote_trace"]

SCOPE = "agentguard.resource"

_propagator = TraceContextTextMapPropagator()


def current_trace() -> dict[str, str]:
    """Return `traceparent`, and `tracestate` if there is any, of the current span. Without one, nothing."""
    carrier = dict[str, str]()
    _propagator.inject(carrier)
    return carrier


def remote_trace(headers: Iterable[tuple[str, str]]) -> Context | None:
    """Return the context that a request brings, or None: it brings none, a malformed one, or two.

    None also where a span is current already, such as that of a server's instrumentation, which has read it.
    """
    if get_current_span().get_span_context().is_valid:
        return None
    carrier = dict[str, str]()
    for name, value in headers:
        if (name := name.lower()) in _propagator.fields:
            if name in carrier:
                return None
            carrier[name] = value
    context = _propagator.extract(carrier, Context())
    return context if get_current_span(context).get_span_context().is_valid else None


@contextmanager
def continued(headers: Iterable[tuple[str, str]], provider: TracerProvider | None = None) -> Iterator[Span]:
    """Go on with the trace of a request in the block, in which a span ``agentguard.resource`` is current.

    Where a span is current already, that span is its parent. Nobody has to believe a trace that a client
    sends: it says where a request comes from, and allows nothing.
    """
    context = remote_trace(headers)
    token = None if context is None else attach(context)
    try:
        tracer = get_tracer(SCOPE, tracer_provider=provider)
        kind = SpanKind.INTERNAL if context is None else SpanKind.SERVER
        with tracer.start_as_current_span(
            SCOPE, kind=kind, record_exception=False, set_status_on_exception=False
        ) as span:
            yield span
    finally:
        if token is not None:
            detach(token)


def note_refusal(span: Span, code: str) -> None:
    """Note in a span that the request was refused, and by which code."""
    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR))
