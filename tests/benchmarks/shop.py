"""The tools of a small shop, the policies about them, and what the measured tool is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool

from agentguard import Resource, classified

__all__ = ["ARGUMENTS", "ASKING", "DENYING", "POLICIES", "REFUND_POLICIES", "RESOURCES", "Shop"]

REFUND_POLICIES = """
@id("small-refunds") permit (principal, action == Action::"refund_order", resource == Resource::"payments")
when { context.args.amount <= 100 && context.task.purpose like "Refund*" };
@id("large-refunds") @lifetime("30")
permit (principal, action == Action::"refund_order", resource)
when { context.args.amount <= 1000 && context has approval };
@id("no-untrusted-writes") @advice("Ask the user first.")
forbid (principal, action in Action::"write", resource)
when { context.provenance.untrusted } unless { context has approval };
@id("few-writes") forbid (principal, action in Action::"write", resource)
when { context.task.writes > 1000000000 };
"""
OTHER_POLICIES = """
@id("reads") permit (principal, action in Action::"read", resource);
@id("deletion") permit (principal, action in Action::"escalation", resource) when { context has approval };
"""
POLICIES = REFUND_POLICIES + OTHER_POLICIES
# a rule about the time makes each call a new question: without it, the answer to an equal one is known
ASKING = (
    POLICIES
    + """
@id("not-before") forbid (principal, action, resource) when { context.now < datetime("2020-01-01") };
"""
)
DENYING = POLICIES + '\n@id("no-refunds") forbid (principal, action == Action::"refund_order", resource);'
ARGUMENTS: dict[str, Any] = {"order_id": "4711", "amount": 40, "reason": "arrived broken"}
RESOURCES = [Resource(name=name, origins=(f"https://{name}.example",)) for name in ("orders", "payments")]


def _nothing() -> None:
    """Do nothing."""


class Shop:
    """Three tools, all plain functions or all `async def`; `refund` is the one that is measured.

    `runs` grows by one each time that the body of `refund` runs. *inside* is called in that body.
    """

    def __init__(self, *, is_async: bool, inside: Callable[[], object] = _nothing) -> None:
        self.runs: list[None] = []
        self.is_async = is_async
        functions = self._async_functions(inside) if is_async else self._functions(inside)
        facts: list[dict[str, Any]] = [
            {"path": "read", "resource": "orders", "untrusted": True},
            {"path": "write", "resource": "payments", "scopes": ["refunds:write"]},
            {"path": "escalation", "resource": "orders"},
        ]
        self.tools = [
            _tool(function, is_async, classification)
            for function, classification in zip(functions, facts, strict=True)
        ]

    @property
    def refund(self) -> BaseTool:
        """The tool that is measured, as the application made it."""
        return self.tools[1]

    def _functions(self, inside: Callable[[], object]) -> list[Callable[..., Any]]:
        def get_order(order_id: str) -> str:
            """Read an order."""
            return order_id

        def refund_order(order_id: str, amount: int, reason: str = "") -> str:
            """Refund an order."""
            inside()
            self.runs.append(None)
            return f"{order_id}: {amount} for {reason}"

        def delete_account(customer: str) -> str:
            """Delete an account."""
            return customer

        return [get_order, refund_order, delete_account]

    def _async_functions(self, inside: Callable[[], object]) -> list[Callable[..., Any]]:
        async def get_order(order_id: str) -> str:
            """Read an order."""
            return order_id

        async def refund_order(order_id: str, amount: int, reason: str = "") -> str:
            """Refund an order."""
            inside()
            self.runs.append(None)
            return f"{order_id}: {amount} for {reason}"

        async def delete_account(customer: str) -> str:
            """Delete an account."""
            return customer

        return [get_order, refund_order, delete_account]


def _tool(function: Callable[..., Any], is_async: bool, classification: dict[str, Any]) -> BaseTool:
    ways: dict[str, Any] = {"coroutine": function} if is_async else {"func": function}
    return StructuredTool.from_function(**ways, metadata={"agentguard": classified(**classification)})
