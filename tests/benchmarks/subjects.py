"""What is measured: one tool and one agent, bare and guarded, and the parts that no guard can do without.

Guarded means all of it, each call: a Cedar decision, an ES256 token for this call, spans of the
OpenTelemetry SDK (batch processor, in-memory exporter), two chained audit records in a file, and the
revocation; with the store in SQLite, which is the default, or in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import Context, copy_context
from functools import partial
from pathlib import Path
from typing import Any

from cedarpy import Entities, PolicySet, is_authorized
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, tool
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer

from agentguard import Guard, Resource, ToolPath
from agentguard.audit.jsonl import JsonLinesAudit
from agentguard.catalog import Catalog
from agentguard.credentials.local_issuer import LocalIssuer
from agentguard.enforcement.flow import Brokers
from agentguard.identity.local import LocalIdentity
from agentguard.jose import Signer
from agentguard.policies.cedar import CedarPolicy
from agentguard.ports import Store
from agentguard.stores.memory import MemoryStore
from agentguard.stores.sqlite import SqliteStore
from tests.conftest import scripted, tool_call

__all__ = ["Subject", "floor", "in_turn", "promised", "subjects"]

Subject = Callable[[], object]
POLICIES = """
@id("reads") permit (principal, action in Action::"read", resource);
@id("small-refunds") permit (principal, action == Action::"refund_order", resource == Resource::"payments")
when { context.args.amount <= 100 && context.task.purpose like "Refund*" };
@id("large-refunds") @lifetime("30")
permit (principal, action == Action::"refund_order", resource)
when { context.args.amount <= 1000 && context has approval };
@id("deletion") permit (principal, action in Action::"escalation", resource) when { context has approval };
@id("no-untrusted-writes") @advice("Ask the user first.")
forbid (principal, action in Action::"write", resource)
when { context.provenance.untrusted } unless { context has approval };
@id("few-writes") forbid (principal, action in Action::"write", resource)
when { context.task.writes > 1000000000 };
"""
ARGUMENTS: dict[str, Any] = {"order_id": "4711", "amount": 40, "reason": "arrived broken"}
RESOURCES = [Resource(name=name, origins=(f"https://{name}.example",)) for name in ("orders", "payments")]
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
CONTEXT = {
    "args": ARGUMENTS,
    "task": {
        "id": "y" * 22,
        "purpose": "Refund order 4711",
        "history": ["refund_order"],
        "calls": 1,
        "writes": 1,
    },
    "provenance": {"untrusted": False},
    "subject": "alice",
    "environment": {},
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


def tools() -> list[BaseTool]:
    """Make the tools of a small shop; the second one is called."""

    def classified(function: Callable[..., Any], **facts: Any) -> BaseTool:
        made = tool(function)
        made.metadata = {"agentguard": facts}
        return made

    def get_order(order_id: str) -> str:
        """Read an order."""
        return order_id

    def refund_order(order_id: str, amount: int, reason: str = "") -> str:
        """Refund an order."""
        return f"{order_id}: {amount} for {reason}"

    def delete_account(customer: str) -> str:
        """Delete an account."""
        return customer

    return [
        classified(get_order, path="read", resource="orders", untrusted=True),
        classified(refund_order, path="write", resource="payments", scopes=["refunds:write"]),
        classified(delete_account, path="escalation", resource="orders"),
    ]


@contextmanager
def subjects(directory: Path, exporter: InMemorySpanExporter) -> Iterator[dict[str, Subject]]:
    """Yield each subject by its name: ``tool`` and ``agent``, bare and with either store."""
    with ExitStack() as stack:
        made = _calls("bare", None, copy_context())
        stores: dict[str, Store] = {"sqlite": SqliteStore(directory / "store.db"), "memory": MemoryStore()}
        for name, store in stores.items():
            guard = _guard(directory / f"{name}.jsonl", store, _provider(exporter, stack))
            stack.callback(guard.close)
            task = guard.task("Refund order 4711", subject="alice", mandate={"tools": "*"}, ttl=36_000)
            context = copy_context()
            context.run(task.__enter__)
            made |= _calls(name, guard, context)
        yield made


def _calls(name: str, guard: Guard | None, context: Context) -> dict[str, Subject]:
    single, several = tools(), tools()
    called = (single if guard is None else guard.wrap(single))[1]
    agent = create_agent(
        scripted(tool_call("refund_order", **ARGUMENTS)),
        several,
        middleware=[] if guard is None else [guard.middleware()],
    )
    question: Any = {"messages": [("user", "Please refund order 4711")]}
    return {
        f"tool {name}": partial(context.run, called.invoke, ARGUMENTS),
        f"agent {name}": partial(context.run, agent.invoke, question),
    }


def _guard(audit: Path, store: Store, provider: TracerProvider) -> Guard:
    issuers: Brokers = {
        (None, path): LocalIssuer(path, issuer="https://guard.example", store=store) for path in ToolPath
    }
    return Guard(
        catalog=Catalog(resources=RESOURCES),
        policy=CedarPolicy.from_text(POLICIES),
        identity=LocalIdentity("agent://shop"),
        brokers=issuers,
        store=store,
        audit=JsonLinesAudit(audit),
        tracer_provider=provider,
    )


def _provider(exporter: InMemorySpanExporter, stack: ExitStack) -> TracerProvider:
    made = TracerProvider()
    made.add_span_processor(BatchSpanProcessor(exporter))
    stack.callback(made.shutdown)
    return made


@contextmanager
def floor(directory: Path, exporter: InMemorySpanExporter) -> Iterator[dict[str, Subject]]:
    """Yield what each guarded call needs at least, each part by itself and prepared in advance."""
    with ExitStack() as stack:
        tracer = _provider(exporter, stack).get_tracer("floor")
        audit = JsonLinesAudit(directory / "floor.jsonl")
        stack.callback(audit.close)
        signer = Signer.generate()
        yield {
            "Cedar evaluation": _evaluation(),
            "ES256 token": partial(signer.sign, signer.head(typ="at+jwt", kid=signer.kid), CLAIMS),
            "one span": partial(_span, tracer),
            "one chained append": partial(audit.append, RECORD),
        }


def promised(parts: Mapping[str, Subject]) -> list[Subject]:
    """Return what is promised for each call beyond the floor: four child spans and the second record."""
    return [*[parts["one span"]] * 4, parts["one chained append"]]


def in_turn(*several: Subject) -> Subject:
    """Make one subject of several: in turn each finds the caches cold, as it does in a guarded call."""

    def called() -> None:
        for subject in several:
            subject()

    return called


def _evaluation() -> Subject:
    policies = PolicySet.from_str(POLICIES)
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


def _span(tracer: Tracer) -> None:
    with tracer.start_as_current_span("execute_tool refund_order", attributes=ATTRIBUTES):
        pass
