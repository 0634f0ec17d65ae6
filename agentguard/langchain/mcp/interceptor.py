"""`guard.mcp_interceptor()` for langchain-mcp-adapters: each MCP call is judged, with its own credential.

    MultiServerMCPClient(servers, tool_interceptors=[..., guard.mcp_interceptor()])

List it last: an interceptor behind it could change the call after it was judged, so there is none.
Where the tool is wrapped, or the agent has the middleware, theirs is the decision and this carries the
credential; alone, this is the gate. Then the arguments are judged by the catalog's schema, never by
what the server says of its tool today, and a tool without one is denied.

What it does not do: `initialize` and `tools/list` of `get_tools` come before any call and have no
credential of ours; nor have MCP resources and prompts, which pass no interceptor. What a server asks in
a call (sampling, elicitation) is answered by the application.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tools import StructuredTool
from langchain_mcp_adapters.interceptors import MCPToolCallRequest, MCPToolCallResult
from mcp.types import CallToolResult, TextContent

from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.flow import Enforcement
from agentguard.errors import DenialCode, Denied
from agentguard.langchain.canonical import frozen
from agentguard.langchain.mcp.session import Way
from agentguard.langchain.messages import configurable, refusal
from agentguard.langchain.schema import ArgumentSchema, ValidatedArguments, schema_error
from agentguard.langchain.seal import RunningCall, ToolDenied, enter, running
from agentguard.langchain.tools import OnDeny
from agentguard.lease import current
from agentguard.model import Resource, ToolSpec
from agentguard.tasks.task import CONFIG_KEY

__all__ = ["McpInterceptor"]

Handler = Callable[[MCPToolCallRequest], Awaitable[MCPToolCallResult]]


class _Asked(NamedTuple):
    """A call, with what an injector is proved to have told of the run around it."""

    request: MCPToolCallRequest
    handler: Handler
    name: str
    spec: ToolSpec | None
    runtime: Any

    @property
    def call_id(self) -> str | None:
        found = getattr(self.runtime, "tool_call_id", None)
        return found if isinstance(found, str) else None


class _Ready(NamedTuple):
    """What a permitted call needs: its way, and the arguments that were judged."""

    way: Way
    resource: Resource | None
    shape: ArgumentSchema
    judged: ValidatedArguments

    async def run(self, permit: Permit, asked: _Asked) -> MCPToolCallResult:
        async def body(**values: Any) -> MCPToolCallResult:
            return await self.way.call(asked.request.override(args=values), self.resource)

        token = running.set(RunningCall(permit, self.judged, self.shape))
        try:
            values = self.judged.values
            result: MCPToolCallResult = await enter(self.shape, asked.name, body, (), values, {})
            return result
        finally:
            running.reset(token)


class McpInterceptor:
    """A `ToolCallInterceptor` that lets nothing through without a decision.

    The name that policies go by is ``{server}_{tool}`` if the catalog knows that, and else the tool's
    own, which is then one server's alone. A denied call of an agent is answered with an error
    ToolMessage, and a call of the application's own raises Denied; *on_deny* sets one of them for
    both, and a message without a call to answer is an MCP result with ``isError``.

    Denied too is a call that needs a credential where none would arrive: in a session that was opened
    before the call, over stdio or WebSocket, at an origin that is not the resource's.
    """

    def __init__(self, enforcement: Enforcement, on_deny: OnDeny | None = None) -> None:
        self._enforcement, self._on_deny = enforcement, on_deny
        self._shapes: dict[str, tuple[ToolSpec, ArgumentSchema]] = {}
        self._servers: dict[str, str] = {}

    async def __call__(self, request: MCPToolCallRequest, handler: Handler) -> MCPToolCallResult:
        """Judge the call, unless a gate around it has, and make it with its own credential."""
        found = _around(request)
        if found is not None:
            return await self._within(found, request, handler)
        asked = self._asked(request, handler)
        try:
            return await self._judged(asked)
        except ToolDenied as inner:
            return self._denied(inner.denied, asked)
        except Denied as denied:
            return self._denied(denied, asked)

    # --- behind a gate

    async def _within(
        self, found: RunningCall, request: MCPToolCallRequest, handler: Handler
    ) -> MCPToolCallResult:
        permit = found.permit
        try:
            if frozen(request.args).digest != found.judged.arguments.digest:
                raise Denied.of(DenialCode.ARGUMENTS_CHANGED, "the arguments are not those that were judged")
            resource = None if permit.grant is None else permit.grant.resource
            way = Way.of(handler, resource)
        except Denied as denied:
            await self._enforcement.refuse(permit.invocation, denied, self._enforcement.async_)
            raise
        return await way.call(request, resource)

    # --- alone

    def _asked(self, request: MCPToolCallRequest, handler: Handler) -> _Asked:
        catalog = self._enforcement.catalog
        name = next((n for n in _names(request) if catalog.tool(n) is not None), request.name)
        # by its name, so that langgraph need not be there; no JSON of a model has this class
        proved = type(request.runtime).__name__ == "ToolRuntime"
        return _Asked(request, handler, name, catalog.tool(name), request.runtime if proved else None)

    async def _judged(self, asked: _Asked) -> MCPToolCallResult:
        ready: _Ready | None = None
        problem: Denied | None = None
        try:
            ready = self._ready(asked)
        except Denied as denied:
            problem = denied

        async def execute(permit: Permit) -> MCPToolCallResult:
            assert ready is not None  # noqa: S101  without it the flow had refused
            return await ready.run(permit, asked)

        judged = None if ready is None else ready.judged
        invocation = _invocation(asked, judged, problem)
        return await self._enforcement.run(invocation, execute, self._enforcement.async_)

    def _ready(self, asked: _Asked) -> _Ready | None:
        if asked.spec is None:
            return None
        self._require(asked)
        resource = self._enforcement.catalog.resource(asked.spec.resource)
        shape = self._shape(asked.spec)
        return _Ready(Way.of(asked.handler, resource), resource, shape, _judge(shape, asked.request.args))

    def _require(self, asked: _Asked) -> None:
        request = asked.request
        if request.runtime is not None and asked.runtime is None:
            raise Denied.of(DenialCode.FORGED_ARGUMENT, "runtime may not come from the model")
        if asked.runtime is not None and asked.call_id is None:
            raise Denied.of(DenialCode.NO_CALL_ID, "a model's call without id")
        server = self._servers.setdefault(asked.name, request.server_name)
        if server != request.server_name:
            raise Denied.of(
                DenialCode.UNKNOWN_TOOL,
                f"{asked.name} is a tool of {server}, and not of {request.server_name}: use tool_name_prefix",
            )

    def _shape(self, spec: ToolSpec) -> ArgumentSchema:
        known = self._shapes.get(spec.name)
        if known is None or known[0] is not spec:
            if spec.schema is None:
                reason = f"the catalog gives no schema for {spec.name}: add [tools.{spec.name}.args]"
                raise Denied.of(DenialCode.UNKNOWN_TOOL, reason)
            form = StructuredTool(
                name=spec.name,
                description=spec.description,
                # an argument that the server has added since is nothing that a policy knows
                args_schema={"additionalProperties": False, **spec.schema},
                coroutine=_schema_only,
            )
            known = self._shapes[spec.name] = spec, ArgumentSchema(form)
        return known[1]

    def _denied(self, denied: Denied, asked: _Asked) -> MCPToolCallResult:
        otherwise: OnDeny = "raise" if asked.call_id is None else "message"
        if (self._on_deny or otherwise) == "raise":
            raise denied
        if asked.call_id is not None:
            return refusal(denied, asked.name, asked.call_id)
        text = TextContent(type="text", text=f"Denied: {denied.advice}")
        return CallToolResult(content=[text], isError=True)

    def __repr__(self) -> str:
        return "<McpInterceptor>"


def _names(request: MCPToolCallRequest) -> tuple[str, str]:
    """Name the tool as langchain may know it: with the server's name before its own, or without."""
    return f"{request.server_name}_{request.name}", request.name


def _around(request: MCPToolCallRequest) -> RunningCall | None:
    """Return the permit of a gate that this very call has passed."""
    found = running.get()
    if found is None or found.permit.invocation.tool not in _names(request):
        return None
    return found if found.permit.entered and current() is found.permit.lease else None


def _judge(shape: ArgumentSchema, args: dict[str, Any]) -> ValidatedArguments:
    try:
        return shape.judge(args)
    except Denied:
        raise
    except Exception as error:  # noqa: BLE001  whatever a schema makes of it, the arguments do not fit
        raise schema_error(error) from None


def _invocation(asked: _Asked, judged: ValidatedArguments | None, problem: Denied | None) -> Invocation:
    config = getattr(asked.runtime, "config", None)
    names = {**configurable(var_child_runnable_config.get()), **configurable(config)}
    thread, task = names.get("thread_id"), names.get(CONFIG_KEY)
    return Invocation(
        tool=asked.name,
        spec=asked.spec,
        arguments=None if judged is None else judged.arguments,
        problem=problem,
        call_id=asked.call_id,
        thread_id=None if thread is None else str(thread),
        named_task=task if isinstance(task, str) else None,
    )


async def _schema_only(**_arguments: Any) -> None:
    raise PermissionError("this stands for a schema, and does nothing")
