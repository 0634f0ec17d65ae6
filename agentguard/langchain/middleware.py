"""`guard.middleware()` for `create_agent`: denials that the agent sees, sync and async.

List it last, so that it is innermost: a middleware behind it that changes arguments makes the call
fail. It does not guard provider-side tools or structured output, which never reach a tool node; see
`guard.coverage`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from copy import deepcopy
from inspect import signature
from operator import attrgetter
from typing import Any

from langchain.agents.middleware import AgentMiddleware, TracePolicy, omit_payload
from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.types import Command

from agentguard.concurrency.drive import drive, lift
from agentguard.enforcement.call import Invocation
from agentguard.enforcement.flow import Enforcement, Flow
from agentguard.enforcement.guarded_call import GuardedCall
from agentguard.errors import ConfigurationError, DenialCode, Denied
from agentguard.langchain.gate import PrejudgedCall, ToolInput, prejudged_call
from agentguard.langchain.messages import refusal
from agentguard.langchain.registry import GateRegistry
from agentguard.langchain.results import ToolDenied
from agentguard.langchain.runs import run_of
from agentguard.langchain.schema import ArgumentSchema
from agentguard.langchain.seal import with_signature
from agentguard.langchain.tools import GuardedTool
from agentguard.model.quick import is_flat
from agentguard.text import label

__all__ = ["GuardMiddleware"]

Result = ToolMessage | Command[Any]
_SYNC, _ASYNC = attrgetter("sync"), attrgetter("async_")


class GuardMiddleware(AgentMiddleware):
    """Judges each tool call of an agent, and answers a denied one with an error ToolMessage.

    The parameters of its hooks are named `request` and `handler`, and its trace policy leaves their
    payload out, so that langchain's own tracing of middleware records no runtime context.
    """

    trace_policy = TracePolicy(process_inputs=omit_payload)

    def __init__(self, enforcement: Enforcement, gates: GateRegistry) -> None:
        super().__init__()
        self._enforcement, self._gates = enforcement, gates
        # langsmith asks for the signature of a hook each time that it is called
        for name in ("wrap_tool_call", "awrap_tool_call"):
            hook = getattr(self, name)
            setattr(self, name, with_signature(hook, signature(hook), {}))

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Result]
    ) -> Result:
        """Judge the call; `handler` runs only with a permit."""
        return drive(self.__call_tool(_SYNC, request, lift(handler)))

    def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Result]]
    ) -> Coroutine[Any, Any, Result]:
        """Do as `wrap_tool_call`, on an event loop.

        This returns a coroutine, but is no coroutine function: langsmith hands the begin and the end of a
        coroutine function to another thread, also where tracing is off. So langsmith's run of this hook
        ends at once, and the tool's own run shows the call.
        """
        return self.__call_tool(_ASYNC, request, handler)

    async def __call_tool(
        self,
        flow_of: Callable[[Enforcement], Flow],
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[Result]],
    ) -> Result:
        call = request.tool_call
        name, call_id = call["name"], call.get("id")
        config = getattr(request.runtime, "config", None)
        # the arguments of all tools are known before one is judged: a limit may be for another tool's
        self._gates.look_at(getattr(request.runtime, "tools", ()))
        try:
            guarded = self.__guarded(request.tool, name, call_id)
        except Denied as denied:
            task = run_of(config).task  # none if it is forged: the call is denied anyway
            unknown = Invocation(
                tool=label(name), spec=None, arguments=None, call_id=call_id, named_task=task
            )
            await flow_of(self._enforcement).refuse(unknown, denied)
            return refusal(denied, name, call_id)
        raw, problem = _copy(call["args"], guarded.gate.schema)
        state = getattr(request.runtime, "state", request.state)  # of the two, a tool node injects this one
        invocation = guarded.gate.invocation(ToolInput(raw, {}, call_id, config, problem, state))
        try:
            # a tool that another guard has wrapped is judged by that guard
            async with GuardedCall(flow_of(guarded.gate.enforcement), invocation) as permit:
                token = prejudged_call.set(PrejudgedCall(guarded.gate, permit, raw))
                try:
                    result = await handler(request.override(tool=guarded))
                finally:
                    prejudged_call.reset(token)
                if not permit.entered:
                    raise Denied.of(DenialCode.NOT_EXECUTED, "something else answered in place of the tool")
                return result
        except (Denied, ToolDenied) as error:
            return refusal(error.denied if isinstance(error, ToolDenied) else error, name, call_id)

    def __guarded(self, tool: BaseTool | None, name: str, call_id: str | None) -> GuardedTool:
        if call_id is None:
            raise Denied.of(DenialCode.NO_CALL_ID, "a call without id cannot be answered or approved")
        if tool is None:
            raise Denied.of(DenialCode.UNKNOWN_TOOL, f"the agent has no tool {label(name)}")
        try:
            return self._gates.at_first_sight(tool)
        except ConfigurationError as error:
            raise Denied.of(DenialCode.UNKNOWN_TOOL, error.problem) from None
        except Exception as error:  # noqa: BLE001  a tool that cannot be guarded does not run, whatever the cause
            reason = f"{name} cannot be guarded: {type(error).__name__}"
            raise Denied.of(DenialCode.UNKNOWN_TOOL, reason) from None


def _copy(arguments: Any, schema: ArgumentSchema) -> tuple[Any, Denied | None]:
    """Copy the arguments that say something, so that a change in place by an inner middleware is noticed.

    Arguments that cannot be copied, as those that are nested too deep, are denied.
    """
    try:
        # of a flat one nothing but itself can be changed, and it is copied below
        copies = arguments if type(arguments) is dict and is_flat(arguments) else deepcopy(arguments)
        return {n: value for n, value in copies.items() if not schema.says_nothing(n, value)}, None
    except Exception as error:  # noqa: BLE001  a model's arguments may be any object, and must not end the run
        reason = f"the arguments cannot be copied: {type(error).__name__}"
        return arguments, Denied.of(DenialCode.INVALID_ARGUMENTS, reason)
