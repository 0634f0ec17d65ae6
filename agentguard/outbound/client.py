"""HTTP to one service beyond this process: bounded in time and size, and never patient for long.

An `Outbound` belongs to whoever speaks the service's protocol (a broker, an identity source). It
retries what certainly had no effect, with jitter (tenacity), and leaves a service alone that keeps
failing (circuitbreaker). It follows no redirect, and no proxy or netrc of the environment is used,
for its requests carry secrets; no cookie is kept. Its errors name the service and the cause, never
what was sent.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import httpx
from circuitbreaker import CircuitBreaker
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
)
from tenacity.wait import wait_random_exponential

from agentguard.concurrency.drive import Operation, OperationPair, lift
from agentguard.errors import AgentGuardError, IssueError

__all__ = ["Answer", "Outbound"]


_NOT_DONE = frozenset({429, 503})  # the service says that it did nothing
_FAILURE = 500
_JITTER = wait_random_exponential(multiplier=0.1, max=1.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered; `headers` has lower-case names. `repr` shows no body, which may be secret."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """Return the body's JSON.

        Raises:
            ValueError: It is none.
        """
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            pass
        # raised anew, since the error of `json` carries all that it could not read
        raise ValueError("the answer is not JSON")

    def __repr__(self) -> str:
        return f"<Answer {self.status}, {len(self.content)} bytes>"


class _Failed(Exception):
    """An attempt without an answer, or with one that says nothing was done."""

    def __init__(self, reason: str, *, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class _Again(_Failed):
    """One that may be repeated."""


class Outbound:
    """Sends to the service *name* at *base_url*; failures are raised as *error*.

    `ask.sync` and `ask.async_` are coroutine functions of (method, url, *, repeatable, and
    httpx's `content`, `data`, `json`, `headers`), which return an `Answer` of whatever status: only
    429 and 503 are retried, and a connection that could not be made; with *repeatable*, whatever
    failed. All attempts together take at most *timeout* seconds; on the synchronous path twice that
    when an answer stops midway, and longer for headers that trickle, each byte of which may take
    that long. Answers above *limit* bytes are refused, and those that are compressed, which may hide
    their size. After *threshold* failures in a row nothing is sent for *cooldown* seconds.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        error: type[AgentGuardError] = IssueError,
        timeout: float = 4.5,
        attempts: int = 3,
        threshold: int = 5,
        cooldown: float = 10.0,
        limit: int = 1_048_576,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
        async_transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name, self.base_url = name, base_url.rstrip("/")
        self._error, self._timeout, self._limit = error, timeout, limit
        self._stop = stop_after_attempt(attempts) | stop_before_delay(timeout)
        self._breaker = CircuitBreaker(threshold, cooldown, _Failed, name)
        self._options: dict[str, Any] = {
            "base_url": self.base_url,
            "verify": verify,
            "trust_env": False,
            "follow_redirects": False,
            "headers": {"Accept-Encoding": "identity"},
            # a cookie would be a credential that one call leaves to another
            "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=())),
        }
        self._transport, self._async_transport = transport, async_transport
        self._client: httpx.Client | None = None
        self._lock = Lock()
        # a connection belongs to the event loop that it was made on
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[httpx.AsyncClient]] = (
            WeakKeyDictionary()
        )
        self._open: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()
        blocking = self._asked(lift(self._send), lift(time.sleep))
        self.ask = OperationPair(blocking, self._asked(self._asend, asyncio.sleep))

    def close(self) -> None:
        """Close the synchronous connections; asynchronous ones end with their event loop."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    # --- the one logic

    def _asked(self, send: Operation, sleep: Callable[[float], Awaitable[None]]) -> Operation:
        async def ask(method: str, url: str, *, repeatable: bool = False, **options: Any) -> Answer:
            ends = time.monotonic() + self._timeout
            try:
                async for attempt in AsyncRetrying(
                    sleep=sleep,
                    stop=self._stop,
                    wait=_wait,
                    retry=retry_if_exception_type(_Again),
                    reraise=True,
                ):
                    with attempt:
                        return await self._attempt(send, ends, repeatable, method, url, options)
            except _Failed as failed:
                reason = str(failed)
            # outside of the handler, so that the error has no context, which would hold the request
            raise self._error(f"{self.name}: {reason}")

        return ask

    async def _attempt(
        self, send: Operation, ends: float, repeatable: bool, method: str, url: str, options: dict[str, Any]
    ) -> Answer:
        if self._breaker.opened:
            raise _Failed(f"left alone for {self._breaker.open_remaining} s after failing repeatedly")
        failed: _Failed | None
        try:
            answer: Answer = await send(ends, method, url, options)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            failed = (_Failed if _mistrusted(error) else _Again)(f"no connection ({_cause(error)})")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            failed = (_Again if repeatable else _Failed)(f"no answer ({_cause(error)})")
        else:
            failed = _judged(answer, repeatable)
            if failed is None:
                self._breaker.reset()
                return answer
        # not by `with` around all of this: a cancellation would close the circuit, and the breaker keeps
        # the last failure, whose frames hold the request
        self._breaker.__exit__(_Failed, _Failed("counted"), None)
        raise failed

    # --- its input and output

    def _send(self, ends: float, method: str, url: str, options: dict[str, Any]) -> Answer:
        with self._lock:
            if self._client is None:
                self._client = httpx.Client(transport=self._transport, **self._options)
            client = self._client
        with client.stream(method, url, timeout=_left(ends), **options) as response:
            content = self._begun(response)
            for chunk in response.iter_bytes():
                content += chunk
                self._bounded(content, ends)
            return Answer(response.status_code, dict(response.headers), bytes(content))

    async def _asend(self, ends: float, method: str, url: str, options: dict[str, Any]) -> Answer:
        client = await self._here()
        async with asyncio.timeout(_left(ends)):
            async with client.stream(method, url, timeout=_left(ends), **options) as response:
                content = self._begun(response)
                async for chunk in response.aiter_bytes():
                    content += chunk
                    self._bounded(content, ends)
                return Answer(response.status_code, dict(response.headers), bytes(content))

    def _begun(self, response: httpx.Response) -> bytearray:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ValueError("the answer is compressed, which was not asked for")
        return bytearray()

    def _bounded(self, content: bytearray, ends: float) -> None:
        if len(content) > self._limit:
            raise ValueError("the answer is too long")
        _left(ends)

    async def _here(self) -> httpx.AsyncClient:
        """Return the client of this event loop, which is closed when the loop shuts down."""
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            kept = self._kept()
            self._open[loop] = await anext(kept)
            self._clients[loop] = kept
        return self._open[loop]

    async def _kept(self) -> AsyncGenerator[httpx.AsyncClient]:
        # event loops close the asynchronous generators that are left; they close nothing else
        async with httpx.AsyncClient(transport=self._async_transport, **self._options) as client:
            yield client

    def __repr__(self) -> str:
        return f"<Outbound {self.name}>"


def _judged(answer: Answer, repeatable: bool) -> _Failed | None:
    reason = f"answered {answer.status}"
    if answer.status in _NOT_DONE:
        return _Again(reason, after=_seconds(answer.headers.get("retry-after")))
    if answer.status >= _FAILURE:
        return (_Again if repeatable else _Failed)(reason)
    return None


def _wait(state: RetryCallState) -> float:
    failed = None if state.outcome is None else state.outcome.exception()
    after = failed.after if isinstance(failed, _Failed) else None
    return max(_JITTER(state), after or 0.0)


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError("too late")
    return left


def _mistrusted(error: BaseException | None) -> bool:
    """Whether the service could not prove who it is: it will not be able to a moment later."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _cause(error: BaseException) -> str:
    return "its certificate is not trusted" if _mistrusted(error) else type(error).__name__


def _seconds(text: str | None) -> float | None:
    """Read Retry-After (RFC 9110 section 10.2.3); a date is not waited for."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
