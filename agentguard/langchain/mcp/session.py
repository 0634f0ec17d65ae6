"""How an MCP call travels: a session of its own, in which every request is authenticated anew.

The adapter's per-call headers are one value for all requests of a session: `initialize`, its
notification, the GET stream, the call itself, the `tools/list` by which results are checked, the DELETE.
A proof of possession (RFC 9449) is for one of these alone. And where the session was opened beforehand,
or is no HTTP, the adapter takes such headers and sends them nowhere, in silence. So the adapter's own
last function is asked which way it would go, and for a call with a credential the session is opened
here, with `agentguard.auth` in its client: it goes to the resource's origins only, crosses no redirect,
and answers a demand for a nonce.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import httpx
from langchain_mcp_adapters.interceptors import MCPToolCallRequest, MCPToolCallResult
from langchain_mcp_adapters.sessions import Connection, create_session
from mcp.shared.context import RequestContext
from mcp.shared.session import RequestResponder

from agentguard.credentials.httpx_auth import auth
from agentguard.errors import DenialCode, Denied
from agentguard.langchain.mcp.http_client import HEADERS, NO_AUTH, CallBounds, client_factory
from agentguard.langchain.mcp.trace import describe_call
from agentguard.lease import current, secrets_of
from agentguard.model import Resource
from agentguard.redaction import redact

__all__ = ["Way", "endpoint"]

Handler = Callable[[MCPToolCallRequest], Awaitable[MCPToolCallResult]]

_HTTP = frozenset({"http", "streamable_http", "streamable-http", "sse"})


@dataclass(frozen=True, slots=True)
class Way:
    """What the adapter would do with a call: over which connection, or in which session."""

    handler: Handler
    connection: Mapping[str, Any]
    callbacks: Any
    session: Any = None  # that is open already, and that the tool was loaded in

    @classmethod
    def of(cls, handler: Handler, resource: Resource | None) -> Way:
        """Look at the adapter's own last function.

        Raises:
            Denied: It is not the last, or a credential for *resource* would not arrive.
        """
        if not _is_last(handler):
            reason = "an interceptor behind the guard's could change the call: list the guard's last"
            raise Denied.of(DenialCode.ARGUMENTS_CHANGED, reason)
        closure = inspect.getclosurevars(handler).nonlocals
        if resource is not None and (obstacle := _obstacle(closure, resource)):
            raise Denied.of(DenialCode.NO_CREDENTIAL, obstacle)
        connection = closure.get("connection") or {}
        return cls(handler, connection, closure.get("mcp_callbacks"), closure.get("session"))

    async def call(self, request: MCPToolCallRequest, resource: Resource | None) -> MCPToolCallResult:
        """Make the call, in a session of its own unless the application has opened one.

        Without a resource it carries no credential.
        """
        if self.session is not None or not self.connection:
            if self.session is not None:
                _trust_no_schema(self.session, request.name)
            return await self.handler(request)
        bounds = CallBounds()
        with bounds.around():
            return await self._call_in_own_session(request, self._own(request, resource, bounds))

    async def _call_in_own_session(
        self, request: MCPToolCallRequest, connection: Connection
    ) -> MCPToolCallResult:
        failure: Exception | None = None
        callbacks = _discreet(self.callbacks)
        try:
            async with create_session(connection, mcp_callbacks=callbacks) as session:
                version = str((await session.initialize()).protocolVersion)
                try:
                    _trust_no_schema(session, request.name)
                    return await session.call_tool(
                        request.name,
                        request.args,
                        progress_callback=callbacks.progress_callback,
                        meta=describe_call(version, self.connection, session),
                    )
                except Exception as error:  # noqa: BLE001  raised below: inside, the session may swallow it
                    failure = error
        except ExceptionGroup as group:
            failure = _single(group)
        assert failure is not None  # noqa: S101  a session that ended well has returned
        raise failure

    def _own(self, request: MCPToolCallRequest, resource: Resource | None, bounds: CallBounds) -> Connection:
        """Return the connection for this call alone; the application's stays as it is."""
        # the adapter writes its callbacks into these arguments
        connection: dict[str, Any] = {
            **self.connection,
            "session_kwargs": _discreet_arguments(self.connection.get("session_kwargs") or {}),
        }
        if connection.get("transport") not in _HTTP:
            return cast(Connection, connection)
        headers = {**(self.connection.get("headers") or {}), **(request.headers or {})}
        connection["headers"] = {n: v for n, v in headers.items() if n.lower() in HEADERS}
        connection["auth"] = NO_AUTH if resource is None else auth(resource.name)
        factory = self.connection.get("httpx_client_factory")
        connection["httpx_client_factory"] = client_factory(factory, bounds)
        return cast(Connection, connection)


def endpoint(handler: Handler) -> tuple[object, object] | None:
    """Return the connection and the session that *handler* would use; None if it does not show them."""
    adapted = inspect.getclosurevars(handler).nonlocals if _is_last(handler) else {}
    if not {"connection", "session"} <= adapted.keys():
        return None
    return adapted["connection"], adapted["session"]


def _is_last(handler: Handler) -> bool:
    """Whether it is the adapter's own last function, with no interceptor behind it."""
    return (handler.__module__, handler.__name__) == ("langchain_mcp_adapters.tools", "execute_tool")


def _obstacle(closure: Mapping[str, Any], resource: Resource) -> str | None:
    """Say why a credential would not arrive."""
    if not {"session", "connection", "mcp_callbacks"} <= closure.keys():
        return "this version of langchain-mcp-adapters does not show whether a header would arrive"
    if closure["session"] is not None:
        return "the session was opened before the call, and takes no credential: load the tools without one"
    connection = closure["connection"] or {}
    if (transport := connection.get("transport")) not in _HTTP:
        return f"a server over {transport} takes no credential for a call"
    url, origins = httpx.URL(connection["url"]), map(httpx.URL, resource.origins)
    if (url.scheme, url.host, url.port) not in {(o.scheme, o.host, o.port) for o in origins}:
        return f"{url.scheme}://{url.netloc.decode()} is no origin of {resource.name}"
    return None


def _discreet(callbacks: Any) -> Any:
    """Let the application's callbacks see what the server sends without the secret, if it sends that."""
    present = {f.name: getattr(callbacks, f.name) for f in fields(callbacks)}
    return replace(callbacks, **{name: _clean(call) for name, call in present.items() if call is not None})


def _discreet_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Do as `_discreet`, for what a connection gives to its sessions, such as a callback for sampling."""
    return {name: _clean(value) if callable(value) else value for name, value in arguments.items()}


def _clean(callback: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    lease = current()
    secrets = () if lease is None else secrets_of(lease)

    async def cleaned(*arguments: Any) -> Any:
        return await callback(*(_cleared(argument, secrets) for argument in arguments))

    return cleaned


def _cleared(argument: Any, secrets: tuple[str, ...]) -> Any:
    """Clear what a server sent. The session in which it came stays as it is: a copy could answer nothing."""
    if isinstance(argument, RequestContext):
        return replace(argument, meta=redact(argument.meta, secrets))
    if not isinstance(argument, RequestResponder):
        return redact(argument, secrets)
    responder = copy(argument)
    responder.request = redact(argument.request, secrets)
    responder.request_meta = redact(argument.request_meta, secrets)
    return responder


def _trust_no_schema(session: Any, tool: str) -> None:
    """Have a session validate no result by the server's own schema.

    The patterns in it run in Python's engine, without limit, on the event loop and while a credential lives.
    """
    session._tool_output_schemas[tool] = None


def _single(group: ExceptionGroup[Exception]) -> Exception:
    """Return the one failure that a task group has wrapped, or the group."""
    error: Exception = group
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
