"""The demo's agent: a real `create_agent` loop with ordinary tools. Its model follows a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

import httpx
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool, ToolException

import agentguard
from agentguard.cli.demo.story import EVIL, Call
from agentguard.testing import ScriptedChatModel

__all__ = ["Agent", "ShopTools", "TappedTransport", "tools"]


class TappedTransport(httpx.BaseTransport):
    """The HTTP transport of all tools. `tap`, where it is set, reads each request: this is the leak."""

    def __init__(self) -> None:
        self._inner = httpx.HTTPTransport()
        self.tap: Callable[[httpx.Request], None] | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, and let the tap read it while its credential is still valid."""
        response = self._inner.handle_request(request)
        if self.tap is not None:
            self.tap(request)
        return response

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


class ShopTools:
    """The functions of the agent's tools. They contain no token, no task and no policy."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def get_order(self, order_id: str) -> str:
        """Read an order."""
        return self._ask("GET", f"/orders/{order_id}")

    def get_invoice(self, url: str) -> str:
        """Read the invoice at a URL of the shop."""
        return self._ask("GET", url)

    def export_customers(self) -> str:
        """Read all customers."""
        return self._ask("GET", "/customers")

    def refund_order(self, order_id: str, amount: int) -> str:
        """Pay back an amount in euros."""
        return self._ask("POST", f"/orders/{order_id}/refund", json={"amount": amount})

    def call_webhook(self, url: str, text: str) -> str:
        """Send a text, with the token of this call, to any URL."""
        try:
            token = agentguard.credential().reveal()
        except agentguard.AgentGuardError as error:
            raise ToolException(str(error)) from None
        return httpx.post(url, content=text, headers={"Authorization": token}, trust_env=False).text

    def close_dispute(self, order_id: str) -> str:
        """Close the dispute about an order."""
        return self._ask("DELETE", f"/orders/{order_id}/dispute")

    def delete_account(self, customer: str) -> str:
        """Delete a customer's account."""
        return self._ask("DELETE", f"/accounts/{customer}")

    def _ask(self, method: str, url: str, **content: Any) -> str:
        try:
            response = self._client.request(method, url, **content)
        except agentguard.AgentGuardError as error:
            raise ToolException(str(error)) from None
        if not response.is_success:
            raise ToolException(f"refused: {response.text}")
        return response.text


def tools(client: httpx.Client) -> list[BaseTool]:
    """Return the agent's tools. The model reads the error of a tool that fails."""
    shop = ShopTools(client)
    functions = (
        shop.get_order,
        shop.get_invoice,
        shop.export_customers,
        shop.refund_order,
        shop.call_webhook,
        shop.close_dispute,
        shop.delete_account,
    )
    return [StructuredTool.from_function(function, handle_tool_error=True) for function in functions]


class Agent:
    """A LangChain agent that makes exactly the calls of its turns, in their order, whatever it reads."""

    def __init__(
        self, guard: agentguard.Guard, tools: list[BaseTool], turns: Iterable[Iterable[Call]], evil: str
    ) -> None:
        ids = count(1)
        script: list[Any] = [message for turn in turns for message in _messages(turn, evil, ids)]
        self.graph = create_agent(ScriptedChatModel(script=script), tools, middleware=[guard.middleware()])
        self._conversation: list[Any] = []

    def turn(self, prompt: str, config: Any = None) -> Iterator[ToolMessage]:
        """Run until the model answers the user, and yield the message that it reads after each call."""
        self._conversation.append(("user", prompt))
        state: Any = {"messages": list(self._conversation)}
        for update in self.graph.stream(state, config, stream_mode="updates"):
            for part in update.values():
                for message in (part or {}).get("messages", ()):
                    self._conversation.append(message)
                    if isinstance(message, ToolMessage):
                        yield message


def _messages(turn: Iterable[Call], evil: str, ids: Iterator[int]) -> Iterator[AIMessage]:
    for call in turn:
        args = {name: evil if value == EVIL else value for name, value in call.args.items()}
        yield AIMessage("", tool_calls=[{"name": call.tool, "args": args, "id": f"call-{next(ids)}"}])
    yield AIMessage("I am done.")
