"""A shop's tools without a guard and with one, each with a check that the calls were made.

Guarded means all of it, each call: a Cedar decision, an ES256 token for this call, spans of the
OpenTelemetry SDK (batch processor, in-memory exporter), two chained audit records in a file, and the
revocation; with the store in SQLite, which is the default, or in memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from pathlib import Path
from tempfile import mkdtemp

from langchain_core.tools import BaseTool
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentguard import Guard, ToolPath
from agentguard.audit.jsonl import JsonLinesAudit
from agentguard.catalog import Catalog
from agentguard.credentials.local_issuer import LocalIssuer
from agentguard.enforcement.routing import Brokers
from agentguard.identity.local import LocalIdentity
from agentguard.policies.cedar import CedarPolicy
from agentguard.ports import Store
from agentguard.stores.memory import MemoryStore
from agentguard.stores.sqlite import SqliteStore
from tests.benchmarks.shop import POLICIES, RESOURCES, Shop

__all__ = ["Bare", "CallsNotMade", "Guarded", "Stage", "guarded", "span_provider"]


class CallsNotMade(AssertionError):
    """The calls that were timed are not calls that were permitted and ran: their time says nothing."""


class Bare:
    """A shop's tools without a guard."""

    def __init__(self, shop: Shop) -> None:
        self.shop, self.context = shop, copy_context()

    def tools(self) -> Sequence[BaseTool]:
        """Return the tools as they are called in this stage."""
        return self.shop.tools

    def verify(self, calls: int) -> None:
        """Check that the tool's body has run *calls* times since the last check.

        Raises:
            CallsNotMade: It has not.
        """
        runs = len(self.shop.runs)
        self.shop.runs.clear()
        if runs != calls:
            raise CallsNotMade(f"of {calls} calls, {runs} have run the body of the tool")


class Guarded(Bare):
    """A shop's tools and a guard; `context` is one in which a task of this guard is active."""

    def __init__(self, guard: Guard, shop: Shop, store: Store, audit: Path, provider: TracerProvider) -> None:
        super().__init__(shop)
        self.guard, self._store, self._audit, self._provider = guard, store, audit, provider
        self._wrapped = guard.wrap(shop.tools)
        self.task = guard.task("Refund order 4711", subject="alice", mandate={"tools": "*"}, ttl=36_000)
        self.context.run(self.task.__enter__)
        self._read = audit.stat().st_size
        self._counted = self._calls()

    def tools(self) -> Sequence[BaseTool]:
        return self._wrapped

    def verify(self, calls: int) -> None:
        """Check that *calls* calls were permitted, ran and ended since the last check, and nothing else.

        The tool's body, the audit log and the store each have to say so.

        Raises:
            CallsNotMade: One of them says otherwise.
        """
        records, counted = self._records(), self._calls()
        counted, self._counted = counted - self._counted, counted
        super().verify(calls)
        if records != Counter({("decision", "permit"): calls, ("outcome", "done"): calls}):
            raise CallsNotMade(f"of {calls} calls, the audit log says {dict(records)}")
        if counted != calls:
            raise CallsNotMade(f"of {calls} calls, the store has counted {counted}")
        if alive := len(self._store.live(self.task.id)):
            raise CallsNotMade(f"{alive} credentials of {calls} calls are not revoked")

    def flush(self) -> None:
        """Hand all spans that have ended to the exporter."""
        self._provider.force_flush()

    def _records(self) -> Counter[tuple[str, str]]:
        """Count what the audit log says since the last check: the end of the file is read, and no more."""
        with self._audit.open("rb") as file:
            file.seek(self._read)
            records = [json.loads(line) for line in file]
            self._read = file.tell()
        return Counter((r["event"], str(r.get("outcome") or r.get("effect"))) for r in records)

    def _calls(self) -> int:
        state = self._store.task(self.task.id)
        return 0 if state is None else state.calls


Stage = Bare | Guarded


@contextmanager
def guarded(
    directory: Path, store: str, shop: Shop, exporter: InMemorySpanExporter, *, policies: str = POLICIES
) -> Iterator[Guarded]:
    """Yield *shop* with a guard of its own, whose *store* is ``sqlite`` or ``memory``.

    The store and the audit log are in a new folder in *directory*.
    """
    folder = Path(mkdtemp(dir=directory))
    guard_store: Store = SqliteStore(folder / "store.db") if store == "sqlite" else MemoryStore()
    audit = folder / "audit.jsonl"
    issuers: Brokers = {
        (None, path): LocalIssuer(path, issuer="https://guard.example", store=guard_store)
        for path in ToolPath
    }
    with ExitStack() as stack:
        provider = stack.enter_context(span_provider(exporter))
        guard = Guard(
            catalog=Catalog(resources=RESOURCES),
            policy=CedarPolicy.from_text(policies),
            identity=LocalIdentity("agent://shop"),
            brokers=issuers,
            store=guard_store,
            audit=JsonLinesAudit(audit),
            tracer_provider=provider,
        )
        stack.callback(guard.close)
        yield Guarded(guard, shop, guard_store, audit, provider)


@contextmanager
def span_provider(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    """Yield a provider that hands spans to *exporter* in batches, as in production."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield provider
    finally:
        provider.shutdown()
