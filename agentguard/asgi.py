"""What the ASGI applications and the middleware of this package have in common (ASGI 3.0)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from agentguard.errors import VerificationError

__all__ = ["Message", "Receive", "Scope", "Send", "answer_lifespan", "receive_body"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def receive_body(receive: Receive, limit: int) -> bytes:
    """Return the body of a request, of at most *limit* bytes. The caller bounds the time.

    Raises:
        VerificationError: 413, the body is too large; or 400, the client has gone.
    """
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise VerificationError("invalid_request", "the body ended too early", status=400)
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            raise VerificationError("invalid_request", "the body is too large", status=413)
    return bytes(body)


async def answer_lifespan(receive: Receive, send: Send) -> None:
    """Tell the server that there is nothing to start and nothing to shut down."""
    phase = ""
    while phase != "lifespan.shutdown":
        phase = (await receive())["type"]
        await send({"type": f"{phase}.complete"})
