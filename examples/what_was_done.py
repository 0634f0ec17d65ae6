"""Rules about what was done before: a sum for the task, once per order, after a check, and a user's day."""

from agentguard import Guard
from agentguard.catalog import Catalog
from agentguard.identity import LocalIdentity
from agentguard.policies.cedar import CedarPolicy
from agentguard.stores.memory import MemoryStore
from agentguard.testing import RecordingAudit

POLICY = """
@id("verification") permit (principal, action == Action::"verify_identity", resource);

@id("refunds") permit (principal, action == Action::"refund_order", resource)
when { context.task.done.verify_identity.count > 0 };

@id("at-most-100-in-a-task") @advice("A task refunds at most 100. Ask for less.")
forbid (principal, action == Action::"refund_order", resource)
unless { context.task.done.refund_order.sum_with_this.amount.lessThanOrEqual(decimal("100.0")) };

@id("once-per-order") @advice("This order was refunded before.")
forbid (principal, action == Action::"refund_order", resource)
when { context.task.done.refund_order.per.order_id.count > 0 };

@id("at-most-3-a-day") @advice("No more refunds for this user today.")
forbid (principal, action == Action::"refund_order", resource)
when { context.done_by_user.day.refund_order.count >= 3 };
"""
ports = {"catalog": Catalog(), "policy": CedarPolicy.from_text(POLICY), "store": MemoryStore()}
guard = Guard(**ports, identity=LocalIdentity("agent://desk"), brokers={}, audit=RecordingAudit())


@guard.tool(path="read", counted=True)
def verify_identity(name: str) -> str:
    """Verify who the user is."""
    return f"{name} is verified"


@guard.tool(path="write", counted={"sum": ["amount"], "per": ["order_id"], "user": {"day": 86400}})
def refund_order(order_id: str, amount: float) -> str:
    """Pay money back."""
    return f"refunded {amount:g} for {order_id}"


def refund(order_id: str, amount: float) -> None:
    """Make a call as an agent does, and print the answer."""
    args = {"order_id": order_id, "amount": amount}
    print(refund_order.invoke({"type": "tool_call", "id": "1", "name": "refund_order", "args": args}).text)


FIRST = [("1001", 60), ("1001", 10), ("1002", 60), ("1002", 40)]  # the same order again, and 120 in one task
for refunds in FIRST, [("1003", 1), ("1004", 1)]:
    with guard.task("Help Ada", subject="user://ada", mandate={"tools": "*"}):
        refund("1000", 1)  # nobody is verified yet
        verify_identity.invoke({"name": "Ada"})
        for order, amount in refunds:
            refund(order, amount)
guard.close()
