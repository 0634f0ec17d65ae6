"""`guard.callbacks()`: the tripwire behind the gates.

A callback cannot change arguments or answer the model, and a tool that is called around langchain
(`tool.func(...)`) never reaches it. What it does: a tool that starts without a permit is stopped and
recorded, so that a forgotten wrapper is noticed at its first call.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler

from agentguard.concurrency.drive import drive
from agentguard.enforcement.call import Invocation
from agentguard.enforcement.flow import Enforcement
from agentguard.errors import DenialCode, Denied
from agentguard.langchain.seal import running_call

__all__ = ["Tripwire"]


class Tripwire(BaseCallbackHandler):
    """Raises Denied when a tool starts that no gate has let through.

    Synchronous, raising and inline, which is the only combination of langchain's that also stops a
    sync tool under `ainvoke`. The raise ends the agent's run.
    """

    raise_error = True
    run_inline = True

    def __init__(self, enforcement: Enforcement) -> None:
        self._enforcement = enforcement

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Stop a tool that starts without a permit."""
        name = str((serialized or {}).get("name") or kwargs.get("name") or "unknown")
        call = running_call.get()
        if call is not None and call.permit.invocation.tool == name and not call.permit.entered:
            return
        spec = self._enforcement.ports.catalog.tool(name)
        call_id = kwargs.get("tool_call_id")
        stopped = Invocation(tool=name, spec=spec, arguments=None, call_id=call_id)
        denied = Denied.of(DenialCode.UNGUARDED, f"{name} started without a permit")
        drive(self._enforcement.sync.refuse(stopped, denied))
        raise denied
