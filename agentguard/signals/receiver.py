"""The receiving side of RFC 8935: an ASGI application that accepts pushed signals."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from agentguard.asgi import Receive, Scope, Send, answer_lifespan, receive_body
from agentguard.concurrency.drive import operation_pair
from agentguard.errors import VerificationError
from agentguard.ports import Store
from agentguard.signals.events import SessionRevoked
from agentguard.signals.sources import Source, Sources, refusal
from agentguard.text import label

__all__ = ["Receiver"]


_CONTENT_TYPE = b"application/secevent+jwt"
_STREAM_EVENTS = frozenset(
    f"https://schemas.openid.net/secevent/ssf/event-type/{name}"
    for name in ("verification", "stream-updated")
)  # SSF 1.0 section 8.1.4 and 8.1.5: about the stream, and never about a session
_LIMIT = 16 * 1024  # bytes, the same limit as for any token
_LONGEST = 300.0  # seconds for which *revoke* may go on after its sender was answered 503
log = logging.getLogger("agentguard")


class Receiver:
    """An ASGI application that calls *revoke* for each signal, and then answers 202.

    It answers 400, with a body as in RFC 8935 section 2.3, to a signal that cannot be read or is not
    trusted. It answers 503 while the store or *revoke* fails, so that the sender sends the signal again.
    A signal that comes again after it was processed is acknowledged and has no further effect. An event
    of another type is acknowledged without effect; 400 to a sender's verification event would end its
    stream. Unless it is about the stream itself, the log has a warning.

    *revoke* raises VerificationError (400, with a code of RFC 8935 section 2.4) for a signal that it can
    never apply. It should be idempotent: the signal is recorded as processed only after *revoke* returns.

    *audience* names this receiver. *max_age* is how long ago a signal may have been issued. It is long,
    since a sender tries again while this receiver is down, and a refused signal would leave a session
    alive. *store* remembers processed signals for the same time. *timeout* applies to reading the body,
    to each store operation, and to *revoke*. All times are seconds. A *revoke* that takes longer goes on for
    at most 300 seconds after the answer 503. The same signal that comes again meanwhile waits for it.

    Raises:
        ConfigurationError: A source's key is unusable, or two sources have the same key id.
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
        self._work: dict[str, asyncio.Future[None]] = {}  # by the key of the signal that is being processed
        self._memory = max_age + 2 * leeway  # seconds for which a processed signal is remembered
        self._known = operation_pair(store, "known", timeout=timeout).async_
        self._remember = operation_pair(store, "remember", timeout=timeout, shielded=True).async_

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
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
            raise refusal("invalid_request", "signals are sent with POST", status=405)
        if [_media_type(value) for value in _values(scope, b"content-type")] != [_CONTENT_TYPE]:
            raise refusal("invalid_request", "the content type is not application/secevent+jwt")
        authorization = _values(scope, b"authorization") or [b""]
        senders = self._sources.authorized(authorization[0]) if len(authorization) == 1 else []
        if not senders:
            raise refusal("authentication_failed", "the transmitter is not known")
        body = await self._body(receive)
        source, event = await self._sources.verify(body, self._clock())
        if source not in senders:
            raise refusal("access_denied", "the transmitter may not send for this issuer")
        if isinstance(event, SessionRevoked):
            await self._process(event)
        else:
            level = logging.INFO if event in _STREAM_EVENTS else logging.WARNING
            log.log(
                level,
                "a signal of %s was acknowledged and ended nothing: events of type %s have no effect here",
                source.issuer,
                label(event),
            )

    async def _body(self, receive: Receive) -> str:
        try:
            async with asyncio.timeout(self._timeout):
                body = await receive_body(receive, _LIMIT)
        except TimeoutError:
            raise refusal("invalid_request", "the body took too long", status=408) from None
        return body.decode("latin-1")  # never fails; the verification of the token refuses non-ASCII text

    async def _process(self, event: SessionRevoked) -> None:
        # the length keeps two issuers apart of which one begins as the other does
        key = f"signal:{len(event.issuer)}:{event.issuer}#{event.id}"
        try:
            if await self._known(key) is True:
                return
            work = self._work.get(key)
            if work is None or work.get_loop() is not asyncio.get_running_loop():
                work = self._work[key] = asyncio.ensure_future(self._apply(key, event))
                work.add_done_callback(partial(self._forget_work, key))
            # not cancelled when the time is over: a user of many tasks could otherwise never be logged out
            if not (await asyncio.wait([work], timeout=self._timeout))[0]:
                raise TimeoutError
            work.result()
        except VerificationError:
            raise
        except Exception as error:  # noqa: BLE001  whatever fails, a signal is acknowledged only if it is done
            log.error("a signal of %s could not be processed: %s", event.issuer, type(error).__name__)
            raise refusal(
                "temporarily_unavailable", "the signal could not be processed; send it again", status=503
            ) from None

    async def _apply(self, key: str, event: SessionRevoked) -> None:
        async with asyncio.timeout(max(_LONGEST, self._timeout)):
            await self._revoke(event)
        # recorded after revoke: if revoke failed, a signal recorded before it would be lost
        await self._remember(key, self._clock() + self._memory)

    def _forget_work(self, key: str, work: asyncio.Future[None]) -> None:
        if self._work.get(key) is work:
            del self._work[key]
        if not work.cancelled():
            work.exception()  # retrieved here, so that the loop does not log it where nobody waits any more


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for field, value in scope["headers"] if field == name]


def _media_type(value: bytes) -> bytes:
    """Return a content type without its parameters (RFC 9110 section 8.3.1); a token needs none."""
    return value.partition(b";")[0].strip().lower()


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    if body:
        headers += [(b"content-type", b"application/json"), (b"content-language", b"en")]
    if status == 405:
        headers.append((b"allow", b"POST"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
