"""An agent that pays back, several times at once: run by tests in processes of its own.

``python -m tests.enforcement.refunding_agent KIND PLACE NUMBER AMOUNT`` prints how many refunds were done.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from langchain_core.tools import StructuredTool

import agentguard
from agentguard import Guard
from agentguard.catalog import Catalog
from agentguard.identity.local import LocalIdentity
from agentguard.policies.cedar import CedarPolicy
from agentguard.testing import RecordingAudit
from tests.conftest import tool_call

POLICY = """
@id("refunds") permit (principal, action == Action::"refund_order", resource)
when { context.done_by_user.day.refund_order.sum_with_this.amount.lessThanOrEqual(decimal("100.0")) };
"""


def store_at(kind: str, place: str) -> Any:
    """Open the store of a kind at a path or URL."""
    if kind == "sqlite":
        from agentguard.stores.sqlite import SqliteStore

        return SqliteStore(place, busy_timeout=30.0)
    if kind == "postgres":
        from agentguard.stores.postgres import PostgresStore

        return PostgresStore(place, schema="refunds", durability="lossy", timeout=30.0)
    from agentguard.stores.redis import RedisStore

    return RedisStore(place, prefix="refunds", durability="lossy", timeout=30.0)


def refunds(store: Any, number: int, amount: float) -> int:
    """Make that many refunds at once for one user, and return how many of them were done."""
    paid: list[float] = []

    def refund_order(order_id: str, amount: float) -> str:
        """Pay money back."""
        paid.append(amount)
        return "done"

    tool = StructuredTool.from_function(refund_order)
    counted = {"sum": ["amount"], "per": ["order_id"], "user": {"day": 86400}}
    tool.metadata = {"agentguard": agentguard.classified(path="write", counted=counted)}
    guard = Guard(
        catalog=Catalog(),
        policy=CedarPolicy.from_text(POLICY),
        identity=LocalIdentity("agent://desk"),
        brokers={},
        store=store,
        audit=RecordingAudit(),
    )
    (wrapped,) = guard.wrap([tool])
    with guard.task("Refund", subject="ada", mandate={"tools": "*"}), ThreadPoolExecutor(number) as pool:
        calls = [tool_call(tool.name, f"{n}", order_id=f"{n}", amount=amount) for n in range(number)]
        contexts = [copy_context() for _ in calls]  # in which the task is active
        list(pool.map(lambda one, context: context.run(wrapped.invoke, one), calls, contexts))
    return len(paid)


def main() -> None:
    """Run as the module's docstring says."""
    _, kind, place, number, amount = sys.argv
    store = store_at(kind, place)
    sys.stdout.write(f"{refunds(store, int(number), float(amount))}\n")
    store.close()


if __name__ == "__main__":
    main()
