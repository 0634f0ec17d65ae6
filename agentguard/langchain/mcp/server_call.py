"""The call that a gated MCP tool makes at its own server: once, while the tool runs, to no other place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from copy import deepcopy
from typing import Any

from langchain_mcp_adapters.interceptors import MCPToolCallRequest, MCPToolCallResult

from agentguard.enforcement.flow import Enforcement
from agentguard.errors import DenialCode, Denied
from agentguard.langchain.argument_errors import schema_error
from agentguard.langchain.mcp.session import Way, endpoint
from agentguard.langchain.seal import RunningCall, running_call
from agentguard.lease import current

__all__ = ["call_around", "call_server", "copy_request"]

Handler = Callable[[MCPToolCallRequest], Awaitable[MCPToolCallResult]]


def call_around(request: MCPToolCallRequest, handler: Handler) -> RunningCall | None:
    """Return the call of the tool that makes this very call at its server; the tool may have ended.

    It returns None, so that the call is judged by itself, where the request or *handler* names another
    tool, server, connection or session than those that the tool was sealed with.
    """
    call = running_call.get()
    if call is None or call.target is None or current() is not call.permit.lease:
        return None
    target = call.target
    if (request.name, request.server_name) != (target.tool, target.server):
        return None
    place = endpoint(handler)
    # without a place there is an interceptor behind, for which `call_server` denies the call
    if place is not None and not (place[0] is target.connection and place[1] is target.session):
        return None
    return call


async def call_server(
    enforcement: Enforcement, around: RunningCall, request: MCPToolCallRequest, handler: Handler
) -> MCPToolCallResult:
    """Make the call at the server for which *around* was permitted; record why, if it may not be made.

    The call is cancelled when the tool ends before it, as a tool does that leaves it to a background task.

    Raises:
        Denied: The permit has carried a call, the tool has ended, the arguments were changed, or a credential
            would not arrive.
    """
    try:
        running = _begin(around, request, handler)
    except Denied as denied:
        await enforcement.async_.refuse(around.permit.invocation, denied)
        raise
    try:
        return await running
    except asyncio.CancelledError:
        if not running.cancelled() or _is_cancelled():
            raise
    late = Denied.of(DenialCode.GRANT_USED, "the call was over before its server had answered")
    await enforcement.async_.refuse(around.permit.invocation, late)
    raise late


def copy_request(request: MCPToolCallRequest) -> MCPToolCallRequest:
    """Return a copy that an interceptor cannot change while its call is under way.

    Raises:
        Denied: The arguments cannot be copied.
    """
    try:
        return request.override(args=deepcopy(request.args))
    except Exception as error:  # noqa: BLE001  arguments may be any object, and must not end the run
        raise schema_error(error) from None


def _begin(
    around: RunningCall, request: MCPToolCallRequest, handler: Handler
) -> asyncio.Task[MCPToolCallResult]:
    request, permit = copy_request(request), around.permit
    judged = permit.invocation.arguments
    if judged is None or around.schema.canonicalize(request.args, judged.raw).digest != judged.digest:
        raise Denied.of(DenialCode.ARGUMENTS_CHANGED, "the arguments are not those that were judged")
    resource = None if permit.grant is None else permit.grant.resource
    way = Way.of(handler, resource)
    running = asyncio.create_task(way.call(request, resource))
    try:
        permit.enter_server(_stop(running))
    except Denied:
        running.cancel()  # it has not begun
        raise
    return running


def _stop(running: asyncio.Task[Any]) -> Callable[[], None]:
    """Return a function that cancels *running*, and that any thread may call."""
    loop = running.get_loop()

    def stop() -> None:
        if running.done() or loop.is_closed():
            return
        if asyncio._get_running_loop() is loop:
            running.cancel()
        else:
            loop.call_soon_threadsafe(running.cancel)

    return stop


def _is_cancelled() -> bool:
    """Return whether the asyncio task that runs here was cancelled, and not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
