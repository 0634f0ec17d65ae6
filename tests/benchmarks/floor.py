"""The floor: what each guarded call needs at least, with no code of a guard around it.

Hot is each part alone, again and again, when the processor's caches and the interpreter's inline caches
hold nothing else. In place is the same parts one after another in the body of a tool, where each finds
the caches as the others and langchain have left them, as in a guarded call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cedarpy import Entities, PolicySet, is_authorized
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer, set_span_in_context

from agentguard.audit.jsonl import JsonLinesAudit
from agentguard.jose import Signer
from tests.benchmarks.shop import ARGUMENTS, REFUND_POLICIES
from tests.benchmarks.stages import span_provider

__all__ = ["Part", "floor", "in_turn"]

CLAIMS = {
    "iss": "https://guard.example",
    "sub": "alice",
    "act": {"sub": "agent://shop"},
    "client_id": "agent://shop",
    "aud": "payments/write",
    "scope": "refunds:write",
    "iat": 1_800_000_000,
    "exp": 1_800_000_060,
    "jti": "x" * 22,
    "txn": "y" * 22,
    "cnf": {"jkt": "z" * 43},
    "authorization_details": [{"type": "agentguard_tool_call", "tool": "refund_order", "digest": "d" * 43}],
}
# no more than the policies about the tool look at, and no more policies than those: a guard can know both
CONTEXT = {
    "args": {"amount": ARGUMENTS["amount"]},
    "task": {"purpose": "Refund order 4711", "writes": 1},
    "provenance": {"untrusted": False},
}
ATTRIBUTES = {
    "gen_ai.operation.name": "execute_tool",
    "gen_ai.tool.name": "refund_order",
    "agentguard.effect": "permit",
    "agentguard.policy.ids": ("small-refunds",),
}
RECORD = {
    "event": "decision",
    "task": "y" * 22,
    "actor": "agent://shop",
    "subject": "alice",
    "tool": "refund_order",
    "path": "write",
    "digest": "d" * 43,
    "effect": "permit",
    "policies": ["small-refunds"],
    "credential": "x" * 22,
}


class Part(NamedTuple):
    """One part of the floor, prepared in advance, and how often a guarded call needs it.

    `least` is how often it needs it at least, when a guard makes one span for a call.
    """

    call: Callable[[], object]
    times: int
    least: int


@contextmanager
def floor(
    directory: Path, exporter: InMemorySpanExporter, spans: int, tokens: int
) -> Iterator[dict[str, Part]]:
    """Yield the parts; *spans* and *tokens* are how many of each the guard makes for a call."""
    audit = JsonLinesAudit(directory / "floor.jsonl")
    signer = Signer.generate()
    head = signer.head(typ="at+jwt", kid=signer.kid)
    try:
        with span_provider(exporter) as provider:
            tracer = provider.get_tracer("floor")
            yield {
                "Cedar evaluation": Part(_evaluation(), 1, 1),
                "one chained append": Part(partial(audit.append, RECORD), 2, 2),
                "ES256 token": Part(partial(signer.sign, head, CLAIMS), tokens, tokens),
                "the span of the call": Part(partial(_span, tracer, ATTRIBUTES), 1, 1),
                "a child span": Part(partial(_span, tracer, None), spans - 1, 0),
            }
    finally:
        audit.close()


def in_turn(parts: Mapping[str, Part]) -> Callable[[], None]:
    """Make one function of all parts, each as often as a guarded call needs it."""
    calls = [part.call for part in parts.values() for _ in range(part.times)]

    def run() -> None:
        for call in calls:
            call()

    return run


def _evaluation() -> Callable[[], object]:
    policies = PolicySet.from_str(REFUND_POLICIES)
    parents = [{"type": "Action", "id": "write"}]
    action = {"uid": {"type": "Action", "id": "refund_order"}, "attrs": {}, "parents": parents}
    question: dict[str, Any] = {
        # as structures: text would have to be parsed, and cost a third more
        "principal": {"type": "Agent", "id": "agent://shop"},
        "action": {"type": "Action", "id": "refund_order"},
        "resource": {"type": "Resource", "id": "payments"},
        "context": json.dumps(CONTEXT),
    }
    return partial(is_authorized, question, policies, Entities.from_json_str(json.dumps([action])))


def _span(tracer: Tracer, attributes: Mapping[str, Any] | None) -> None:
    # not start_as_current_span: it is a generator, and a guard can do without
    span = tracer.start_span("execute_tool refund_order", attributes=attributes)
    token = attach(set_span_in_context(span))
    detach(token)
    span.end()
