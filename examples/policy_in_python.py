"""A policy as a plain function: True, False, or a Decision that says more."""

from pathlib import Path

from agentguard import AccessRequest, Decision, Denied, Effect, Guard, Obligation, ToolPath
from agentguard.policies.function import FunctionPolicy


def house_rules(request: AccessRequest) -> bool | Decision:
    """Permit reading; refunds up to 100 euros, and up to 1000 if a person approves."""
    if request.tool.path is ToolPath.READ:
        return True
    if request.tool.name != "refund_order":
        return False
    amount = request.arguments.values["amount"]
    if amount > 1000:
        return Decision(
            effect=Effect.DENY,
            policy_ids=("limit",),
            reason=f"{request.identity.subject} asked for more than 1000",
            advice="Refunds end at 1000 euros. Tell the user.",
        )
    # when a person has approved this exact call, the guard asks again, and the request has the approval
    needs_person = amount > 100 and request.approval is None
    obligations = (Obligation(kind="approve"),) if needs_person else ()
    return Decision(effect=Effect.PERMIT, policy_ids=("refunds",), obligations=obligations)


def ask_person(request: AccessRequest) -> bool:
    """Stand for a dialog, a chat message, a pager."""
    print("person:  ", request.tool.name, request.arguments.values, "-> yes")
    return True


def refund_order(order_id: str, amount: int) -> str:
    """Pay back an amount in euros."""
    return f"refunded EUR {amount} for order {order_id}"


guard = Guard.from_file(
    Path(__file__).with_name("agentguard.toml"),
    policy=FunctionPolicy(house_rules),  # a late, failing or malformed answer denies
    approver=ask_person,
)
(refund,) = guard.wrap(refund_order)

with guard.task("Refund order 4711", subject="user://alice", mandate={"tools": ["refund_order"]}) as task:
    for amount in (40, 400, 4000):
        try:
            print("tool:    ", refund.invoke({"order_id": "4711", "amount": amount}))
        except Denied as denied:
            print("denied:  ", denied)

print(f"\n{task.timeline()}")
guard.close()
