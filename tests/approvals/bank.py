"""An agent that pays and asks a person before, for the tests of approvals."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from agentguard import AccessRequest, Decision, Guard
from tests.conftest import ASK, PERMIT, Kit, Mode, classified, scripted

THREAD: Any = {"configurable": {"thread_id": "1"}}


def asks_a_person(request: AccessRequest) -> Decision:
    return PERMIT if request.approval else ASK


class Bank:
    """An agent with one tool, which pays. *calls* are what its model calls, turn by turn."""

    def __init__(
        self, kit: Kit, mode: Mode, by: str, *calls: Any, guard: Guard | None = None, saver: Any = None
    ) -> None:
        self.paid = list[tuple[str, int]]()
        self.kit, self.mode, self.guard = kit, mode, guard or kit.guard
        kit.rule.answer = asks_a_person
        pay = payment(self.paid)
        tools, middleware = [pay], [self.guard.middleware()]
        if by == "wrap":
            tools, middleware = list(self.guard.wrap([pay])), []
        model = scripted(*calls)
        for step in range(len(calls)):  # each call is a turn: the model says "done" after it
            model.script.insert(2 * step + 1, "done") if step + 1 < len(calls) else None
        self.agent: Any = create_agent(
            model, tools, middleware=middleware, checkpointer=saver or InMemorySaver()
        )

    async def go(self, message: Any) -> Any:
        """Run the agent in its one thread."""
        return await self.mode.invoke(self.agent, message, THREAD)

    async def asked(self, message: Any) -> Any:
        """Run the agent, and return the one interrupt's value."""
        (interrupt,) = (await self.go(message))["__interrupt__"]
        return interrupt.value

    async def answer(self, question: Any, *, approved: bool) -> Any:
        """Give carol's answer, and resume the agent with it."""
        value = await self.mode.call(
            self.guard, "answer", question, approved=approved, approver="user:carol", reason="so"
        )
        return await self.go(Command(resume=value))


def payment(paid: list[tuple[str, int]]) -> BaseTool:
    """Return a classified tool that pays."""

    @tool
    def pay(to: str, amount: int) -> str:
        """Pay."""
        paid.append((to, amount))
        return f"paid {to}"

    return classified(pay, path="write")
