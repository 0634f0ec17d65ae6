"""Other middleware around the same agent, for comparison in the same run.

None of these issues a credential. `PassThrough` decides nothing: it costs what langchain and langsmith take
for one hook around tool calls. A package of the field that decides by a policy is measured where it is
installed; agentguard and its tests require none.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from langchain.agents.middleware import AgentMiddleware, HumanInTheLoopMiddleware, ToolCallLimitMiddleware

__all__ = ["Middleware", "PassThrough", "peers"]

Middleware = Any  # AgentMiddleware has three type parameters, and each peer fills them with its own


class PassThrough(AgentMiddleware):
    """Only calls the tool: what langchain and langsmith take for a hook around tool calls."""

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(request)

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        return await handler(request)


def peers(directory: Path) -> dict[str, Middleware]:
    """Return one middleware of each peer, all of which let the measured tool run.

    A peer that keeps files keeps them in *directory*. A package that cannot be imported is left out.
    """
    middleware: dict[str, Middleware] = {
        "PassThrough": PassThrough(),
        "HumanInTheLoop": HumanInTheLoopMiddleware(interrupt_on={"delete_account": True}),
        "ToolCallLimit": ToolCallLimitMiddleware(run_limit=1_000),
    }
    for name, make in FIELD.items():
        with suppress(ImportError):
            middleware[name] = make(directory)
    return middleware


def _ctrlrun(directory: Path) -> Middleware:
    """Make the middleware of ctrlrun-langchain 1.0: a rule in YAML, and receipts of calls in SQLite."""
    ctrlrun, langchain = import_module("ctrlrun"), import_module("ctrlrun_langchain")
    directory.mkdir(exist_ok=True)
    control = ctrlrun.Control(
        ctrlrun.Policy.from_yaml(CTRLRUN_POLICY),
        ctrlrun.SQLiteStateStore(directory / "ctrlrun.db"),
        identity=ctrlrun.StaticIdentityProvider(agent="agent://shop"),
    )
    return langchain.CTRLRunMiddleware(control)


CTRLRUN_POLICY = """
schema: ctrlrun.policy/v2
actions:
  refund_order:
    rules:
      - when: { amount_lte: 100 }
        decision: allow
      - decision: deny
"""
FIELD: dict[str, Callable[[Path], Middleware]] = {"CTRLRun": _ctrlrun}
