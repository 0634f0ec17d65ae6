"""The agent's side of token introspection (RFC 7662): resource servers ask whether a token is active."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import parse_qsl

from jwt import PyJWK

from agentguard.asgi import Receive, Scope, Send, answer_lifespan, receive_body
from agentguard.concurrency.drive import operation_pair
from agentguard.credentials.callers import Caller, Callers
from agentguard.credentials.local_issuer import LocalIssuer, jwks
from agentguard.errors import VerificationError
from agentguard.jose import Json, decode, number_claim, revocation_key, text_claim
from agentguard.model import TaskState, TaskStatus
from agentguard.ports import Store
from agentguard.text import label

__all__ = ["IntrospectionEndpoint"]


_FORM = b"application/x-www-form-urlencoded"
_LIMIT = 64 * 1024  # bytes of a body: a token and an assertion of 16 KiB each, in percent-encoding
_FIELDS = 16
_TYP = frozenset({"at+jwt"})
_MEMBERS = (
    "iss",
    "sub",
    "aud",
    "client_id",
    "scope",
    "iat",
    "exp",
    "jti",
    "txn",
    "cnf",
    "act",
    "authorization_details",
)
log = logging.getLogger("agentguard")


class IntrospectionEndpoint:
    """An ASGI application that answers RFC 7662 requests about the tokens of the embedded issuer.

    It answers ``{"active": false}`` for a token that it did not sign, that has expired or was revoked, whose
    task is over, or that is for no resource of the *caller*. It reads the store for each request, so a
    revocation counts at once; nothing is cached, and no answer may be. It answers 401 to others than the
    callers, 429 to a caller that asks more than *rate* times a second (of each process), and 503 if the store
    does not answer: a verifier then refuses the request.

    A ``GET`` of a path that ends with ``/jwks.json`` is answered with the public keys, which are no secret.

    It does not remember DPoP proofs, for which RFC 7662 has no request: a verifier does that by its own
    store. An assertion of a caller is accepted once. *timeout* is in seconds, for reading the body and for
    each operation of the store.

    Raises:
        ConfigurationError: A key of a caller is unusable.
    """

    def __init__(
        self,
        issuers: Iterable[LocalIssuer],
        callers: Iterable[Caller],
        *,
        store: Store,
        rate: float = 500.0,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuers = tuple(issuers)
        self._known = operation_pair(store, "known", timeout=timeout).async_
        self._task = operation_pair(store, "task", timeout=timeout).async_
        remember = operation_pair(store, "remember", timeout=timeout).async_
        names = frozenset(issuer.issuer for issuer in self._issuers)
        self._callers = Callers(callers, audiences=names, remember=remember, rate=rate, clock=clock)
        self._timeout, self._clock = timeout, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["method"] == "GET" and scope["path"].endswith("/jwks.json"):
            await _answer(send, 200, jwks(*self._issuers), cache="public, max-age=60")
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._introspect(scope, receive)
        except VerificationError as error:
            log.info("introspection refused: %s", error)
            content = {"error": error.error, "error_description": error.description}
            await _answer(send, error.status, content)
        except Exception as error:  # noqa: BLE001  whatever the store raises, the state of the token is unknown
            log.error("introspection failed: %s", label(type(error).__name__))
            await _answer(send, 503, {"error": "temporarily_unavailable"})
        else:
            await _answer(send, 200, answer)

    async def _introspect(self, scope: Scope, receive: Receive) -> Mapping[str, Json]:
        if scope["method"] != "POST":
            raise _invalid("tokens are introspected with POST", status=405)
        types = [value.partition(b";")[0].strip().lower() for value in _values(scope, b"content-type")]
        if types != [_FORM]:
            raise _invalid("the body is no form", status=415)
        form = _form(await self._body(receive))
        caller = await self._callers.authenticate(_values(scope, b"authorization"), form)
        if not form.get("token"):
            raise _invalid("there is no token")
        claims = await self._active_claims(form["token"], caller)
        if claims is None:
            return {"active": False}
        members = {name: claims[name] for name in _MEMBERS if name in claims}
        return {"active": True, "token_type": "DPoP", **members}

    async def _active_claims(self, token: str, caller: Caller) -> Mapping[str, Json] | None:
        """Return the claims of a token that is valid for the caller now, and None of any other."""
        signers: list[LocalIssuer] = []

        def key(header: Mapping[str, Json]) -> PyJWK:
            kid = text_claim(header, "kid") or ""
            for issuer in self._issuers:
                if (jwk := issuer.verification_key(kid)) is not None:
                    signers.append(issuer)
                    return jwk
            raise VerificationError("invalid_token", "the key is not known")

        try:
            claims = decode(token, key, typ=_TYP).claims
        except VerificationError:
            return None
        issuer, jti, task_id = signers[0], text_claim(claims, "jti"), text_claim(claims, "txn")
        expires = number_claim(claims, "exp")
        if claims.get("iss") != issuer.issuer or None in (jti, task_id, expires):
            return None
        if claims.get("aud") not in caller.audiences(issuer.path) or self._clock() >= float(expires or 0):
            return None
        if await self._known(revocation_key(issuer.issuer, str(jti))):
            return None
        task = await self._task(task_id)
        is_active = isinstance(task, TaskState) and task.status is TaskStatus.ACTIVE
        return claims if is_active else None

    async def _body(self, receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                body = await receive_body(receive, _LIMIT)
        except TimeoutError:
            raise _invalid("the body took too long", status=408) from None
        return body


def _form(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=_FIELDS,
        )
    except ValueError:
        raise _invalid("the form cannot be read") from None
    form = dict(pairs)
    if len(form) != len(pairs):  # RFC 6749 section 3.2: no parameter may be included twice
        raise _invalid("a parameter occurs twice")
    return form


def _invalid(description: str, *, status: int = 400) -> VerificationError:
    return VerificationError("invalid_request", description, status=status)


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for field, value in scope["headers"] if field.lower() == name]


async def _answer(send: Send, status: int, content: Json, *, cache: str = "no-store") -> None:
    body = json.dumps(content).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", cache.encode()),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 405:
        headers.append((b"allow", b"POST"))
    if status in (429, 503):
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
