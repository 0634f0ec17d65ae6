"""`guard.mcp_interceptor()` for langchain-mcp-adapters: each MCP call is judged, with its own credential.

    MultiServerMCPClient(servers, tool_interceptors=[..., guard.mcp_interceptor()])

List it last: an interceptor behind it could change the call after it was judged, so there is none.
Where the tool is wrapped, or the agent has the middleware, theirs is the decision and this carries the
credential: once, while the tool runs, and to the connection or session, the server and the tool that the
wrapped tool was made for. What else a running tool calls is judged as a call of its own. An interceptor that
repeats a call at the server is denied the second time: repeat the call of the guarded tool instead. A
decorator around the adapter's function has to be made with `functools.wraps`, or what it calls is denied as
another tool of the same name.

Alone, this is the gate. Then the arguments are judged by the catalog's schema, never by what the server
says of its tool today, and a tool without one is denied. It sees no definition of a tool, so it compares none
with agentguard.lock: a wrapped tool and the middleware do.

What it does not do: `initialize` and `tools/list` of `get_tools` come before any call and have no
credential of ours; nor have MCP resources and prompts, which pass no interceptor. What a server asks in
a call (sampling, elicitation) is answered by the application, and is cleared of the credential before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from langchain_core.tools import StructuredTool
from langchain_mcp_adapters.interceptors import MCPToolCallRequest, MCPToolCallResult
from mcp.types import CallToolResult, TextContent

from agentguard.concurrency.abandonable import AbandonableThreads
from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.flow import Enforcement
from agentguard.enforcement.guarded_call import GuardedCall
from agentguard.errors import DenialCode, Denied
from agentguard.langchain.argument_errors import schema_error
from agentguard.langchain.identification import McpTarget
from agentguard.langchain.mcp.names import catalog_name, misbound
from agentguard.langchain.mcp.server_call import call_around, call_server, copy_request
from agentguard.langchain.mcp.session import Way, endpoint
from agentguard.langchain.messages import refusal
from agentguard.langchain.results import ToolDenied
from agentguard.langchain.runs import run_of
from agentguard.langchain.schema import ArgumentSchema, ValidatedArguments
from agentguard.langchain.seal import RunningCall, enter, running_call
from agentguard.langchain.tools import OnDeny
from agentguard.model import Resource, ToolSpec

__all__ = ["McpInterceptor"]

Handler = Callable[[MCPToolCallRequest], Awaitable[MCPToolCallResult]]


class _McpCall(NamedTuple):
    """A call, with what an injector is proved to have told of the run around it."""

    request: MCPToolCallRequest
    handler: Handler
    name: str
    spec: ToolSpec | None
    runtime: Any

    @property
    def call_id(self) -> str | None:
        call_id = getattr(self.runtime, "tool_call_id", None)
        return call_id if isinstance(call_id, str) else None


class _Ready(NamedTuple):
    """What a permitted call needs: its way to the server, its arguments, and threads for its result."""

    way: Way
    resource: Resource | None
    schema: ArgumentSchema
    validated: ValidatedArguments
    threads: AbandonableThreads

    async def run(self, permit: Permit, call: _McpCall) -> MCPToolCallResult:
        async def body(**values: Any) -> MCPToolCallResult:
            return await self.way.call(call.request.override(args=values), self.resource)

        token = running_call.set(RunningCall(permit, self.schema, self.threads, delivers=True))
        try:
            values = self.validated.values
            result: MCPToolCallResult = await enter(self.schema, call.name, body, (), values, {})
            return result
        finally:
            running_call.reset(token)


class McpInterceptor:
    """A `ToolCallInterceptor` that lets nothing through without a decision.

    The name that policies go by is ``{server}_{tool}`` or the tool's own. `names` says which of them is
    bound to the server; a name that is bound to another server, or to none, is denied. A denied call of an
    agent is answered with an error ToolMessage, and a call of the application's own raises Denied; *on_deny*
    sets one of them for both, and a message without a call to answer is an MCP result with ``isError``.

    Denied too is a call that needs a credential where none would arrive: in a session that was opened
    before the call, over stdio or WebSocket, at an origin that is not the resource's.
    """

    def __init__(self, enforcement: Enforcement, on_deny: OnDeny | None = None) -> None:
        self._enforcement, self._on_deny = enforcement, on_deny
        self._schemas: dict[str, tuple[ToolSpec, ArgumentSchema]] = {}

    async def __call__(self, request: MCPToolCallRequest, handler: Handler) -> MCPToolCallResult:
        """Judge the call, unless a gate around it has, and make it with its own credential."""
        around = call_around(request, handler)
        if around is not None:
            return await call_server(self._enforcement, around, request, handler)
        call = self._read(request, handler)
        try:
            return await self._call(call)
        except ToolDenied as inner:
            return self._denied(inner.denied, call)
        except Denied as denied:
            return self._denied(denied, call)

    def _read(self, request: MCPToolCallRequest, handler: Handler) -> _McpCall:
        catalog = self._enforcement.ports.catalog
        name = catalog_name(catalog, _target(request, handler))
        # by its name, so that langgraph need not be there; no JSON of a model has this class
        proved = type(request.runtime).__name__ == "ToolRuntime"
        runtime = request.runtime if proved else None
        # a copy: an interceptor before this one could change the name while the call is judged
        return _McpCall(request.override(), handler, name, catalog.tool(name), runtime)

    async def _call(self, call: _McpCall) -> MCPToolCallResult:
        ready: _Ready | None = None
        problem: Denied | None = None
        try:
            ready = self._ready(call)
        except Denied as denied:
            problem = denied
        except Exception as error:  # noqa: BLE001  such as a schema that does not compile: it is recorded
            problem = schema_error(error)
        invocation = _invocation(call, None if ready is None else ready.validated, problem)
        async with GuardedCall(self._enforcement.async_, invocation) as permit:
            assert ready is not None  # noqa: S101  without it the flow has refused
            return await ready.run(permit, call)

    def _ready(self, call: _McpCall) -> _Ready | None:
        if call.spec is None:
            return None
        self._require(call)
        resource = self._enforcement.ports.catalog.resource(call.spec.resource)
        schema = self._schema(call.spec)
        validated = _validate(schema, copy_request(call.request).args)
        way = Way.of(call.handler, resource)
        return _Ready(way, resource, schema, validated, self._enforcement.results)

    def _require(self, call: _McpCall) -> None:
        request = call.request
        if request.runtime is not None and call.runtime is None:
            raise Denied.of(DenialCode.FORGED_ARGUMENT, "runtime may not come from the model")
        if call.runtime is not None and call.call_id is None:
            raise Denied.of(DenialCode.NO_CALL_ID, "a model's call without id")
        catalog, target = self._enforcement.ports.catalog, _target(request, call.handler)
        if (reason := misbound(catalog, call.name, target)) is not None:
            raise Denied.of(DenialCode.UNKNOWN_TOOL, reason)

    def _schema(self, spec: ToolSpec) -> ArgumentSchema:
        entry = self._schemas.get(spec.name)
        if entry is None or entry[0] is not spec:
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
            schema = ArgumentSchema(form, self._enforcement.options.limits)
            schema.require(self._enforcement.ports.catalog.declared_schema(spec.name))
            entry = self._schemas[spec.name] = spec, schema
        return entry[1]

    def _denied(self, denied: Denied, call: _McpCall) -> MCPToolCallResult:
        otherwise: OnDeny = "raise" if call.call_id is None else "message"
        if (self._on_deny or otherwise) == "raise":
            raise denied
        if call.call_id is not None:
            return refusal(denied, call.name, call.call_id)
        text = TextContent(type="text", text=f"Denied: {denied.advice}")
        return CallToolResult(content=[text], isError=True)

    def __repr__(self) -> str:
        return "<McpInterceptor>"


def _target(request: MCPToolCallRequest, handler: Handler) -> McpTarget:
    """Return where a call goes that no gate has judged."""
    return McpTarget(request.name, request.server_name, *(endpoint(handler) or (None, None)))


def _validate(schema: ArgumentSchema, args: dict[str, Any]) -> ValidatedArguments:
    try:
        return schema.validate(args)
    except Denied:
        raise
    except Exception as error:  # noqa: BLE001  whatever a schema makes of it, the arguments do not fit
        raise schema_error(error, schema.schema) from None


def _invocation(call: _McpCall, validated: ValidatedArguments | None, problem: Denied | None) -> Invocation:
    run = run_of(getattr(call.runtime, "config", None))
    return Invocation(
        tool=call.name,
        spec=call.spec,
        arguments=None if validated is None else validated.arguments,
        values={} if validated is None else validated.values,
        problem=run.problem or problem,
        call_id=call.call_id,
        thread_id=run.step.thread,
        place=run.step.place,
        named_task=run.task,
    )


async def _schema_only(**_arguments: Any) -> None:
    raise PermissionError("this stands for a schema, and does nothing")
