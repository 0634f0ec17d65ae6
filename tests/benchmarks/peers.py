"""Other middleware around the same agent, for comparison in the same run.

None of these issues a credential, keeps an audit log or ends a task: they say what langchain itself takes
for one more middleware. A package of the field that decides by a policy is added where it is installed;
agentguard depends on none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain.agents.middleware import AgentMiddleware, HumanInTheLoopMiddleware, ToolCallLimitMiddleware

__all__ = ["PassThrough", "peers"]

Middleware = Any  # AgentMiddleware has three type parameters, and each peer fills them with its own


class PassThrough(AgentMiddleware):
    """Only calls the tool: what langchain and langsmith take for a hook around tool calls."""

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(request)

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        return await handler(request)


def peers() -> dict[str, Middleware]:
    """Return one middleware of each peer, all of which let the measured tool run."""
    found: dict[str, Middleware] = {
        "PassThrough": PassThrough(),
        "HumanInTheLoop": HumanInTheLoopMiddleware(interrupt_on={"delete_account": True}),
        "ToolCallLimit": ToolCallLimitMiddleware(run_limit=1_000),
    }
    for name, make in FIELD.items():
        try:
            found[name] = make()
        except ImportError:
            continue
    return found


FIELD: dict[str, Callable[[], Middleware]] = {}
