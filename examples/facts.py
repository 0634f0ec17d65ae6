"""Rules look at the record that a call is about: whose order it is, its status, what was paid and when."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from agentguard import Guard
from agentguard.catalog import Catalog
from agentguard.identity import LocalIdentity
from agentguard.policies.cedar import CedarPolicy
from agentguard.stores.memory import MemoryStore
from agentguard.testing import RecordingAudit

POLICY = """
@id("own-recent-orders") permit (principal, action == Action::"refund_order", resource)
when { resource.owner == context.subject && resource.status == "delivered"
  && context.args.amount.lessThanOrEqual(resource.total)
  && context.now.durationSince(resource.delivered) <= duration("30d") };
"""


@dataclass
class Order:
    owner: str
    status: str
    total: Decimal
    delivered: datetime


NOW = datetime.now(UTC)
ORDERS = {
    "4711": Order("user://alice", "delivered", Decimal("40.00"), NOW),
    "4712": Order("user://alice", "cancelled", Decimal("25.50"), NOW),
    "4713": Order("user://bob", "delivered", Decimal("99.99"), NOW),
}
guard = Guard(
    catalog=Catalog(),
    policy=CedarPolicy.from_text(POLICY),
    identity=LocalIdentity("agent://support"),
    brokers={},
    store=MemoryStore(),
    audit=RecordingAudit(),  # in production: JsonLinesAudit(path)
)


@guard.fact(tools=["refund_order"], key="order_id", resource=True)  # it is what the tool acts on
def order(order_id: str) -> Order:
    return ORDERS[order_id]  # in production: a query. No record is a denial


@guard.tool(path="write")
def refund_order(order_id: str, amount: float) -> str:
    """Refund an order."""
    return f"refunded {amount} for {order_id}"


with guard.task("Refunds", subject="user://alice", mandate={"tools": ["refund_order"]}):
    for order_id, amount in (("4711", 40.0), ("4711", 40.01), ("4712", 1.0), ("4713", 1.0), ("4714", 1.0)):
        print(order_id, amount, "->", refund_order.run({"order_id": order_id, "amount": amount}))
guard.close()
