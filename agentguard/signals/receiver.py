"""The receiving side of RFC 8935: an ASGI application to which signals are pushed."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from agentguard.concurrency.drive import operation_pair
from agentguard.errors import VerificationError
from agentguard.ports import Store
from agentguard.signals.events import SessionRevoked
from agentguard.signals.sources import Source, Sources, refusal

__all__ = ["Receiver"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_CONTENT_TYPE = b"application/secevent+jwt"
_LIMIT = 16 * 1024  # bytes, as of any token
log = logging.getLogger("agentguard")


class Receiver:
    """Answers 202 to a signal when *revoke* has recorded what it says, and not before.

    An answer of 400 has a body as RFC 8935 section 2.3 says. While the store or *revoke* fails it is
    503, so that the signal is sent again; one that comes again is acknowledged again and has no
    further effect. *revoke* raises VerificationError (a code of RFC 8935 section 2.4, 400) for what
    can never be done here. It should be idempotent: a signal is noted as done after it is done.

    An event of another type is acknowledged without effect: a code of RFC 8935 is for what cannot be
    read or believed, and 400 to a sender's verification event would end its stream.

    *audience* is this receiver's, *max_age* how long ago a signal may have been issued: long, since
    a sender tries again while this is down, and a refused signal would leave a session alive. What
    was done is remembered as long in *store*. *timeout* holds for the body, the store, and *revoke*,
    each; all are seconds.

    Raises:
        ConfigurationError: A source's key is unusable, or two sources share one.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        *,
        audience: str,
        store: Store,
        revoke: Callable[[SessionRevoked], Awaitable[None]],
        max_age: float = 86_400.0,
        leeway: float = 60.0,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sources = Sources(sources, audience=audience, max_age=max_age, leeway=leeway)
        self._revoke, self._timeout, self._clock = revoke, timeout, clock
        self._keep = max_age + 2 * leeway
        self._known = operation_pair(store, "known", timeout=timeout).async_
        self._remember = operation_pair(store, "remember", timeout=timeout, shielded=True).async_

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._accept(scope, receive)
        except VerificationError as error:
            log.warning("signal not accepted: %s", error)
            body = json.dumps({"err": error.error, "description": error.description}).encode()
            await _answer(send, error.status, body)
        else:
            await _answer(send, 202, b"")

    async def _accept(self, scope: Scope, receive: Receive) -> None:
        if scope["method"] != "POST":
            raise refusal("invalid_request", "a signal is a POST", status=405)
        if [value.lower() for value in _values(scope, b"content-type")] != [_CONTENT_TYPE]:
            raise refusal("invalid_request", "the content type is not application/secevent+jwt")
        authorization = _values(scope, b"authorization") or [b""]
        admitting = self._sources.admitting(authorization[0]) if len(authorization) == 1 else []
        if not admitting:
            raise refusal("authentication_failed", "the transmitter is not known")
        body = await self._body(receive)
        source, event = self._sources.verify(body, self._clock())
        if source not in admitting:
            raise refusal("access_denied", "the transmitter may not send for this issuer")
        if event is None:
            log.info("signal of another type of %s acknowledged without effect", source.issuer)
        else:
            await self._heed(event)

    async def _body(self, receive: Receive) -> str:
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self._timeout):
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise refusal("invalid_request", "the body ended too early")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > _LIMIT:
                        raise refusal("invalid_request", "the body is too large", status=413)
        except TimeoutError:
            raise refusal("invalid_request", "the body took too long", status=408) from None
        return body.decode("latin-1")  # what is not ASCII is refused with whatever else no token holds

    async def _heed(self, event: SessionRevoked) -> None:
        key = f"signal:{event.issuer}#{event.id}"
        try:
            if await self._known(key) is True:
                return
            async with asyncio.timeout(self._timeout):
                await self._revoke(event)
            # after and not before: a signal that was noted and not heeded would be lost
            await self._remember(key, self._clock() + self._keep)
        except VerificationError:
            raise
        except Exception as error:  # noqa: BLE001  whatever fails: what is not known to be done is not acknowledged
            log.error("a signal of %s could not be heeded: %s", event.issuer, type(error).__name__)
            raise refusal(
                "temporarily_unavailable", "it could not be recorded; send it again", status=503
            ) from None


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for each, value in scope["headers"] if each == name]


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    if body:
        headers += [(b"content-type", b"application/json"), (b"content-language", b"en")]
    if status == 405:
        headers.append((b"allow", b"POST"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    ended = ""
    while ended != "lifespan.shutdown":
        ended = (await receive())["type"]
        await send({"type": f"{ended}.complete"})
