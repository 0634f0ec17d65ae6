"""Protect an ASGI application: a middleware that refuses routes without a rule, and a dependency.

`Protected` is for every ASGI application; `require` is for Starlette and FastAPI. Both need the extra
``server``. The URL that a proof must name is *origin* plus the path of the request. The Host header is not
used for it, since anyone can set it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from opentelemetry.trace import Span, TracerProvider
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute

from agentguard.errors import ConfigurationError, VerificationError
from agentguard.jose import Json
from agentguard.model import ToolPath
from agentguard.outbound.trace_context import continued, note_refusal
from agentguard.resource.claims import Claims
from agentguard.resource.headers import challenge
from agentguard.resource.reading import (
    Presented,
    Receive,
    buffer_body,
    path_has_one_reading,
    present,
    read_body,
    require_one_method,
    unexpected_form,
)
from agentguard.resource.routing import (
    Finder,
    Scope,
    find_endpoint,
    find_only_endpoint,
    make_finder,
    make_routes,
    normalize_route,
)
from agentguard.resource.verifier import Verifier
from agentguard.text import label

__all__ = ["Presented", "Protected", "Rule", "require"]

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("agentguard")


@dataclass(frozen=True, slots=True)
class Rule:
    """The credential that one endpoint requires.

    `route` is the path of the endpoint as the application declares it, with the names of its parameters and
    their converters: ``/orders/{order_id}/refund``, ``/files/{name:path}``. In a mounted application it
    begins with the path of the mount; below a host of Starlette it begins with the host's name. A rule opens
    no other endpoint: the rule of ``/orders/{order_id}`` does not open ``/orders/export`` if the application
    has an endpoint of that path.

    `arguments` computes the tool's arguments from the request. They are compared with the token's digest,
    so a credential for one order is refused for another. Without `arguments` nothing is compared. It must
    give each argument as the endpoint reads it: what it leaves out, the endpoint must not read.
    """

    method: str
    route: str
    path: ToolPath
    scope: str | None = None
    tool: str | None = None
    arguments: Callable[[Presented], Mapping[str, Json]] | None = None


class Protected:
    """ASGI middleware: passes a request on if its endpoint has a rule and its credential fits the rule.

    It refuses an endpoint without a rule (403), a request that can be read in two ways, and every WebSocket.
    The verified `Claims` are in ``scope["state"]["agentguard"]`` (``request.state.agentguard``). *origin* is
    the origin that clients use, ``https://host[:port]``; it may be left out if the resource has exactly one.
    The body is read only if the rule computes arguments, after the credential was verified, up to *max_body*
    bytes and for *body_timeout* seconds. It must be JSON and say so. The application can read it again.

    The application's own routes tell which endpoint serves a request. *routes* gives them if *app* does not
    show them: if a middleware of an unknown kind stands before it, pass ``routes=application.routes``.
    ``routes=()`` says that the application has no endpoint beside those of the rules; a path that
    two rules match is then closed. So is a path and method of two endpoints, if a class of routes of the
    application's own chooses between them. A middleware inside *app* that changes the method, the path or
    the body of a request must stand around `Protected` and not inside it.

    A request's trace (W3C Trace Context) goes on here, in a span ``agentguard.resource``, which is current
    in the application.

    Raises:
        ConfigurationError: The routes cannot be seen, two rules are for one endpoint, or the resource does
            not have exactly one origin.
    """

    def __init__(
        self,
        app: App,
        verifier: Verifier,
        rules: Iterable[Rule],
        *,
        origin: str | None = None,
        max_body: int = 1 << 20,
        body_timeout: float = 10.0,
        routes: Sequence[BaseRoute] | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._tracer_provider = tracer_provider
        self._app, self._verifier, self._rules = app, verifier, _by_endpoint(rules)
        self._origin, self._max_body, self._body_timeout = _origin(verifier, origin), max_body, body_timeout
        self._endpoint = _make_finder(app, routes, self._rules)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        with continued(_headers(scope), self._tracer_provider) as span:
            await self._verified(scope, receive, send, span)

    async def _verified(self, scope: Scope, receive: Receive, send: Send, span: Span) -> None:
        rule, params = self._rule(scope)
        try:
            if rule is None:
                raise VerificationError("insufficient_scope", "no rule allows this route", status=403)
            require_one_method(scope)
            claims = await self._verifier.averify(
                scope["method"],
                _url(self._origin, scope),
                _headers(scope),
                path=rule.path,
                scope=rule.scope,
                tool=rule.tool,
            )
            if rule.arguments is not None:
                body, receive = await buffer_body(receive, self._max_body, self._body_timeout)
                claims.require(arguments=_arguments(rule.arguments, scope, params, body))
        except VerificationError as error:
            note_refusal(span, error.error or "unauthorized")
            await _refuse(
                send, error, _challenge(self._verifier, error, None if rule is None else rule.scope)
            )
            return
        state = {**scope.get("state", {}), "agentguard": claims}
        await self._app({**scope, "state": state}, receive, send)

    def _rule(self, scope: Scope) -> tuple[Rule | None, Mapping[str, Any]]:
        endpoint = self._endpoint(scope) if path_has_one_reading(scope) else None
        if endpoint is None:
            return None, {}
        rule = self._rules.get((scope["method"], normalize_route(endpoint.route)))
        if rule is None:
            log.info("no rule allows a request's method of the endpoint %s", endpoint.route)
        return rule, endpoint.params


def require(
    verifier: Verifier,
    *,
    path: ToolPath,
    scope: str | None = None,
    tool: str | None = None,
    arguments: Callable[[Presented], Mapping[str, Json]] | None = None,
    origin: str | None = None,
    max_body: int = 1 << 20,
    body_timeout: float = 10.0,
) -> Callable[[Request], Awaitable[Claims]]:
    """Return a dependency that returns the verified `Claims`: ``Depends(require(verifier, ...))``.

    In plain Starlette, await it with the request. *origin* and *arguments* are as in `Protected` and
    `Rule`. It protects only the endpoints that use it; `Protected` protects every route. A larger body than
    *max_body* bytes is refused after it was read. FastAPI reads the body before any dependency runs, so
    *body_timeout* does not bound that; `Protected` bounds both.
    """
    base = _origin(verifier, origin)

    async def dependency(request: Request) -> Claims:
        with continued(request.headers.items()) as span:
            try:
                return await verified(request)
            except VerificationError as error:
                note_refusal(span, error.error or "unauthorized")
                raise HTTPException(
                    error.status, str(error), headers=_challenge(verifier, error, scope)
                ) from None

    async def verified(request: Request) -> Claims:
        _require_one_reading(request)
        claims = await verifier.averify(
            request.method,
            _url(base, request.scope),
            request.headers.items(),
            path=path,
            scope=scope,
            tool=tool,
        )
        if arguments is not None:
            body = await read_body(request, max_body, body_timeout)
            claims.require(arguments=_arguments(arguments, request.scope, request.path_params, body))
        return claims

    return dependency


def _require_one_reading(request: Request) -> None:
    if not path_has_one_reading(request.scope):
        raise VerificationError("invalid_request", "the path can be read in more than one way", status=400)
    require_one_method(request.scope)


def _by_endpoint(rules: Iterable[Rule]) -> dict[tuple[str, str], Rule]:
    table: dict[tuple[str, str], Rule] = {}
    for rule in rules:
        if table.setdefault((rule.method, normalize_route(rule.route)), rule) is not rule:
            raise ConfigurationError(
                f"two rules are for {rule.method} {rule.route}", hint="write one rule for each endpoint"
            )
    return table


def _make_finder(app: App, routes: Sequence[BaseRoute] | None, rules: Iterable[tuple[str, str]]) -> Finder:
    if routes is None:
        return make_finder(app)
    if routes:
        return lambda scope: find_endpoint(routes, scope)
    own_routes = make_routes(rules)
    # a list that was empty may have been filled since
    return lambda scope: find_endpoint(routes, scope) if routes else find_only_endpoint(own_routes, scope)


def _origin(verifier: Verifier, origin: str | None) -> str:
    origins = verifier.resource.origins if origin is None else (origin,)
    if len(origins) != 1:
        raise ConfigurationError(
            f"the resource {verifier.resource.name} does not have exactly one origin",
            hint='pass origin="https://host", the origin that its clients use',
        )
    return origins[0].rstrip("/")


def _url(origin: str, scope: Scope) -> str:
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    return origin + str(raw.partition(b"?")[0].decode("latin-1"))


def _headers(scope: Scope) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]


def _arguments(
    compute: Callable[[Presented], Mapping[str, Json]], scope: Scope, params: Mapping[str, Any], body: bytes
) -> Mapping[str, Json]:
    presented = present(scope, params, body)
    try:
        return compute(presented)
    except Exception as error:  # whatever the application's function raises, the call is not verified
        log.warning("the arguments function of an endpoint raised %s", label(type(error).__name__))
        raise unexpected_form() from error


def _challenge(verifier: Verifier, error: VerificationError, scope: str | None) -> dict[str, str]:
    nonce = verifier.nonces.current() if verifier.nonces and error.error == "use_dpop_nonce" else None
    return challenge(error, scope=scope, nonce=nonce)


async def _refuse(send: Send, error: VerificationError, headers: Mapping[str, str]) -> None:
    content = {"error": error.error or "unauthorized", "error_description": error.description}
    fields = {"content-type": "application/json", "cache-control": "no-store", **headers}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})
