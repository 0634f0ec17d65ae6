"""The resource's side for ASGI: a middleware that is closed by default, and a dependency.

`Protected` needs nothing but ASGI; `require` is for Starlette and FastAPI (extra ``server``). The
URL that a proof must name is *origin* plus the request's path: the Host header, which anyone can
set, is not believed.
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
    """What a request says of itself: path parameters, query (each name once), JSON body or None."""

    params: Mapping[str, str]
    query: Mapping[str, str]
    body: Json


@dataclass(frozen=True, slots=True)
class Rule:
    """What one route asks of a credential.

    `route` is a template such as ``/orders/{order_id}/refund``; a parameter is one segment.
    `arguments` computes the tool's arguments from the request, so that a credential for one order
    is refused for another; without it the digest is not compared.
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
        found = self._pattern.fullmatch(path) if method == self.method else None
        return None if found is None else found.groupdict()


class Protected:
    """ASGI middleware: lets a request through when a rule is for it and its credential fits.

    A route without a rule is refused (403), and so is a WebSocket. The verified `Claims` are
    ``scope["state"]["agentguard"]`` (``request.state.agentguard``). *origin* is how clients know
    this server, ``https://host[:port]``; it may be left out if the resource has exactly one. A body
    is read only where a rule computes arguments, after the credential was verified, up to
    *max_body* bytes, and is given to the application again.
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
                raise VerificationError("insufficient_scope", "no rule is for this route", status=403)
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
    """Return a dependency that gives the verified `Claims`: ``Depends(require(verifier, ...))``.

    In plain Starlette, await it with the request. *origin* and *arguments* are as in `Protected`
    and `Rule`. It guards the endpoints that name it, and no other: `Protected` is closed by default.
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
    known = verifier.resource.origins if origin is None else (origin,)
    if len(known) != 1:
        raise ConfigurationError(
            f"the origin of {verifier.resource.name} is not clear",
            hint='give origin="https://host", as its clients know it',
        )
    return known[0].rstrip("/")


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
    except Exception as error:  # whatever the application's function raises, the call is not proven
        raise VerificationError(
            "invalid_request", "the request has not the expected form", status=400
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
