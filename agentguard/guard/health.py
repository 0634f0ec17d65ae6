"""The methods of a guard that say whether it can be used, and an ASGI application that answers with that."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict
from typing import Any

from agentguard.concurrency.single_flight import SingleFlight
from agentguard.enforcement.health import Health, HealthChecks

__all__ = ["HealthMethods", "Healthz"]

KEPT = 1.0  # seconds for which an answer is given again, so that who asks often loads no issuer
Message = MutableMapping[str, Any]


class Healthz:
    """An ASGI application: 200 if the guard can be used, else 503, as JSON.

    The body says which kinds of part have failed, and no name, host or secret. With *details* it says all
    that `Guard.health` finds, for a port that operators alone can reach.
    """

    def __init__(self, checks: HealthChecks, *, details: bool = False) -> None:
        self._checks, self._details = checks, details
        self._flight = SingleFlight()
        self._last: tuple[float, Health] | None = None

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Serve one connection, at any path."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["method"] not in {"GET", "HEAD"}:
            await _answer(send, 405, {"status": "method not allowed"}, body=True)
        else:
            health = await self._health()
            await _answer(send, 200 if health else 503, self._shown(health), body=scope["method"] == "GET")

    async def _health(self) -> Health:
        if self._last is None or time.monotonic() - self._last[0] >= KEPT:
            health = await self._flight.share.async_("health", self._checks.acheck)
            self._last = time.monotonic(), health
        return self._last[1]

    def _shown(self, health: Health) -> dict[str, Any]:
        status = "ok" if health else "closing" if health.closing else "unavailable"
        if not self._details:
            return {"status": status, "failed": sorted({check.kind for check in health.problems})}
        return {
            "status": status,
            "checks": [{**asdict(check), "ok": bool(check)} for check in health.checks],
            "outbox": asdict(health.outbox),
            "breakers": [breaker._asdict() for breaker in health.breakers],
        }


async def _lifespan(
    receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def _answer(
    send: Callable[[Message], Awaitable[None]], status: int, content: dict[str, Any], *, body: bool
) -> None:
    text = json.dumps(content).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(text)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text if body else b""})


class HealthMethods:
    """A part of `Guard`."""

    _health: HealthChecks

    def health(self) -> Health:
        """Look whether this guard can be used now: ``assert guard.health()``.

        The store is read and written, the log is looked at, and each issuer, PDP and receiver of signals is
        asked whether it answers, side by side and for at most 2 seconds. Nothing is minted, and no record is
        written. It never raises. A service that answers may refuse a call all the same.
        """
        return self._health.check()

    async def ahealth(self) -> Health:
        """Do as `health`, on an event loop."""
        return await self._health.acheck()

    def healthz(self, *, details: bool = False) -> Healthz:
        """Return an ASGI application that answers with the health.

        Mount it: ``app.mount("/healthz", guard.healthz())``.

        It answers 200 or 503, and asks no service more than once a second, however often it is asked. Use it
        as a probe of readiness. As a probe of liveness it would have a process restarted because an issuer is
        down. Names and problems are in the answer with *details* alone.
        """
        return Healthz(self._health, details=details)
