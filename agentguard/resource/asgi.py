"""Protect an ASGI application: a middleware that refuses routes without a rule, and a dependency.

`Protected` works with any ASGI application; `require` is for Starlette and FastAPI. Both need the extra
``server``. The URL that a proof must name is *origin* plus the path of the request. The Host header is not
used, since anyone can set it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote

from starlette.exceptions import HTTPException
from starlette.requests import Request

from agentguard.errors import ConfigurationError, VerificationError
from agentguard.jose import Json, strict_json
from agentguard.model import ToolPath
from agentguard.resource.claims import Claims
from agentguard.resource.verifier import Verifier, challenge

__all__ = ["Presented", "Protected", "Rule", "require"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Presented(NamedTuple):
    """The request as *arguments* functions see it: path parameters, query (each name once), JSON body."""

    params: Mapping[str, str]
    query: Mapping[str, str]
    body: Json


@dataclass(frozen=True, slots=True)
class Rule:
    """The credential that one route requires.

    `route` is a template such as ``/orders/{order_id}/refund``; a parameter is one segment of the path.
    `arguments` computes the tool's arguments from the request. They are compared with the token's digest,
    so a credential for one order is refused for another. Without `arguments` nothing is compared.
    """

    method: str
    route: str
    path: ToolPath
    scope: str | None = None
    tool: str | None = None
    arguments: Callable[[Presented], Mapping[str, Json]] | None = None
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = _PARAMETER.split(self.route)  # literal, name, literal, name, ...
        pattern = "".join(f"(?P<{part}>[^/]+)" if i % 2 else re.escape(part) for i, part in enumerate(parts))
        object.__setattr__(self, "_pattern", re.compile(pattern))

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """Return the path parameters, or None if this rule is for another route."""
        match = self._pattern.fullmatch(path) if method == self.method else None
        return None if match is None else match.groupdict()


class Protected:
    """ASGI middleware: passes a request on if a rule matches it and its credential fits the rule.

    It refuses a route without a rule (403) and every WebSocket. The verified `Claims` are in
    ``scope["state"]["agentguard"]`` (``request.state.agentguard``). *origin* is the origin that clients
    use, ``https://host[:port]``; it may be left out if the resource has exactly one. The body is read only
    if the rule computes arguments, after the credential was verified, and up to *max_body* bytes. The
    application can read it again.
    """

    def __init__(
        self,
        app: App,
        verifier: Verifier,
        rules: Iterable[Rule],
        *,
        origin: str | None = None,
        max_body: int = 1 << 20,
    ) -> None:
        self._app, self._verifier, self._rules = app, verifier, tuple(rules)
        self._origin, self._max_body = _origin(verifier, origin), max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        rule, params = self._rule(scope)
        try:
            if rule is None:
                raise VerificationError("insufficient_scope", "no rule allows this route", status=403)
            claims = await self._verifier.averify(
                scope["method"],
                _url(self._origin, scope),
                _headers(scope),
                path=rule.path,
                scope=rule.scope,
                tool=rule.tool,
            )
            if rule.arguments is not None:
                body, receive = await _buffered(receive, self._max_body)
                claims.require(arguments=_arguments(rule.arguments, scope, params, body))
        except VerificationError as error:
            await _refuse(
                send, error, _challenge(self._verifier, error, None if rule is None else rule.scope)
            )
            return
        state = {**scope.get("state", {}), "agentguard": claims}
        await self._app({**scope, "state": state}, receive, send)

    def _rule(self, scope: Scope) -> tuple[Rule | None, Mapping[str, str]]:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        for rule in self._rules:
            params = rule.match(scope["method"], path)
            if params is not None:
                return rule, params
        return None, {}


def require(
    verifier: Verifier,
    *,
    path: ToolPath,
    scope: str | None = None,
    tool: str | None = None,
    arguments: Callable[[Presented], Mapping[str, Json]] | None = None,
    origin: str | None = None,
) -> Callable[[Request], Awaitable[Claims]]:
    """Return a dependency that returns the verified `Claims`: ``Depends(require(verifier, ...))``.

    In plain Starlette, await it with the request. *origin* and *arguments* are as in `Protected` and
    `Rule`. It protects only the endpoints that use it; `Protected` protects every route.
    """
    base = _origin(verifier, origin)

    async def dependency(request: Request) -> Claims:
        try:
            claims = await verifier.averify(
                request.method,
                _url(base, request.scope),
                request.headers.items(),
                path=path,
                scope=scope,
                tool=tool,
            )
            if arguments is not None:
                body = await request.body()
                claims.require(arguments=_arguments(arguments, request.scope, request.path_params, body))
        except VerificationError as error:
            raise HTTPException(
                error.status, str(error), headers=_challenge(verifier, error, scope)
            ) from None
        return claims

    return dependency


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
    compute: Callable[[Presented], Mapping[str, Json]], scope: Scope, params: Mapping[str, str], body: bytes
) -> Mapping[str, Json]:
    try:
        text = scope["query_string"].decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
        query = dict(pairs)
        if len(query) != len(pairs):
            raise ValueError("a name occurs twice")
        return compute(Presented(params, query, strict_json(body) if body else None))
    except Exception as error:  # whatever the application's function raises, the call is not verified
        raise VerificationError(
            "invalid_request", "the request does not have the expected form", status=400
        ) from error


async def _buffered(receive: Receive, limit: int) -> tuple[bytes, Receive]:
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise VerificationError("invalid_request", "the body ended too early", status=400)
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            raise VerificationError("invalid_request", "the body is too large", status=413)
    replay: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def again() -> Message:
        return replay.pop() if replay else await receive()

    return bytes(body), again


def _challenge(verifier: Verifier, error: VerificationError, scope: str | None) -> dict[str, str]:
    nonce = verifier.nonces.current() if verifier.nonces and error.error == "use_dpop_nonce" else None
    return challenge(error, scope=scope, nonce=nonce)


async def _refuse(send: Send, error: VerificationError, headers: Mapping[str, str]) -> None:
    content = {"error": error.error or "unauthorized", "error_description": error.description}
    fields = {"content-type": "application/json", "cache-control": "no-store", **headers}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})
