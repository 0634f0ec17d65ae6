"""HTTP requests to one service, with limits of time and size.

Each broker and each identity source has its own `Outbound`. It repeats a request that certainly had
no effect, with jitter (tenacity). It stops asking a service that keeps failing (circuitbreaker). Its
requests carry secrets: so it follows no redirect, uses no proxy and no netrc of the environment, and
stores no cookie. Its errors name the service and the cause, and nothing that was sent.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.stop import stop_base
from tenacity.wait import wait_random_exponential

from agentguard.concurrency.deadline import seconds_left, within
from agentguard.concurrency.drive import Operation, OperationPair, lift
from agentguard.concurrency.party import current_party
from agentguard.errors import AgentGuardError, IssueError
from agentguard.outbound.breakers import Breakers, BreakerState, Cause
from agentguard.outbound.connections import Connections
from agentguard.outbound.failures import Failure, RepeatableFailure, cause_of, is_untrusted, seconds_in

__all__ = ["Answer", "Limits", "Outbound"]


_TOO_MANY = 429
_SERVER_ERROR = 500
_PROBE = "agentguard:probe"  # the party for whom the service is asked whether it answers
_JITTER = wait_random_exponential(multiplier=0.1, max=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the requests to one service.

    All attempts of a request together take at most *timeout* seconds. An answer has at most *size* bytes, and
    a request's body at most *body* bytes; a longer one is not sent. After *threshold* failed requests in a
    row nothing is sent for *cooldown* seconds.
    """

    timeout: float = 4.5
    attempts: int = 3
    size: int = 1_048_576
    body: int = 1_048_576
    threshold: int = 5
    cooldown: float = 10.0


_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. `headers` has lower-case names. `repr` does not show the body, which may be secret."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """Return the body's JSON value.

        Raises:
            ValueError: The body is not JSON.
        """
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            pass
        # a new error, since the error of `json` holds the whole body
        raise ValueError("the answer is not JSON")

    def __repr__(self) -> str:
        return f"<Answer {self.status}, {len(self.content)} bytes>"


class Outbound:
    """Sends requests to the service *name* at *base_url*, and raises *error* when a request fails.

    `ask.sync` and `ask.async_` are coroutine functions of (method, url, *, repeatable, and httpx's
    `content`, `data`, `json`, `headers`). They return an `Answer` of any status below 500 but 429. A
    request is repeated if no connection was made, or if the status is 429; with *repeatable*, after every
    failure. So a request that mints is repeated only where it certainly had no effect.

    *party* says for whom the request is, such as a user; by default it is whom the guard mints a credential
    for. Requests of a party that get no answer do not keep
    requests of others from being sent. An answer of any status counts as no failure of the service.

    Both paths keep the time limit whatever the service sends, and however slowly. A compressed answer is
    refused, since it could hide its size.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        error: type[AgentGuardError] = IssueError,
        limits: Limits = _LIMITS,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
        async_transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name, self.base_url = name, base_url.rstrip("/")
        self._error, self._limits = error, limits
        self._breakers = Breakers(name, limits.threshold, limits.cooldown)
        options: dict[str, Any] = {
            "base_url": self.base_url,
            "verify": verify,
            "trust_env": False,
            "follow_redirects": False,
            "headers": {"Accept-Encoding": "identity"},
            # a cookie would be a credential that one call passes to the next
            "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=())),
        }
        # not a method: what is open must not hold this object
        check = partial(_check_body, limits.body)
        self._connections = Connections(options, check, transport, async_transport)
        blocking = self._asking(lift(self._send), lift(time.sleep))
        self.ask = OperationPair(blocking, self._asking(self._asend, asyncio.sleep))

    def close(self) -> None:
        """Close the synchronous connections now, and the asynchronous ones soon, each on its event loop."""
        self._connections.close()

    @property
    def breaker(self) -> BreakerState:
        """Whether anything is sent to the service now."""
        return self._breakers.state()

    async def probe(self, ask: Operation) -> None:
        """Ask whether the service answers at all, by a request that has no effect, once.

        Raises:
            AgentGuardError: It did not answer, or with a status of 429, or of 500 or more.
        """
        await ask("GET", "/", party=_PROBE)

    # --- one implementation for both paths

    def _asking(self, send: Operation, sleep: Callable[[float], Awaitable[None]]) -> Operation:
        async def ask(
            method: str, url: str, *, repeatable: bool = False, party: str | None = None, **options: Any
        ) -> Answer:
            party = current_party() if party is None else party
            deadline = time.monotonic() + seconds_left(self._limits.timeout)
            try:
                async for attempt in AsyncRetrying(
                    sleep=sleep,
                    stop=stop_after_attempt(self._limits.attempts) | _StopBefore(deadline),
                    wait=_wait,
                    retry=retry_if_exception_type(RepeatableFailure),
                    reraise=True,
                ):
                    with attempt:
                        self._check_open(party)
                        answer = await self._attempt(send, deadline, repeatable, method, url, options)
                        self._breakers.succeed(party)  # with any status: the connection has not failed
                        if (failure := _failure(answer, repeatable)) is not None:
                            raise failure
                        return answer
            except Failure as failure:
                reason = str(failure)
                # once for all attempts, and by hand: a cancellation neither opens nor closes the circuit
                self._breakers.fail(party, failure.cause)
            # outside the handler, so that the error has no context: that would hold the request
            raise self._error(f"{self.name}: {reason}")

        return ask

    async def _attempt(
        self,
        send: Operation,
        deadline: float,
        repeatable: bool,
        method: str,
        url: str,
        options: dict[str, Any],
    ) -> Answer:
        has_time = deadline - time.monotonic() >= self._limits.timeout / 2
        try:
            answer: Answer = await send(deadline, method, url, options)
            return answer
        except httpx.PoolTimeout as error:  # nothing was sent
            failure: Failure = RepeatableFailure(f"no connection ({cause_of(error)})")
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            kind = Failure if is_untrusted(error) else RepeatableFailure
            # what came before, for this party, may have left too little time to connect
            is_late = isinstance(error, httpx.ConnectTimeout) and not has_time
            cause = Cause.PARTY if is_late else Cause.SERVICE
            failure = kind(f"no connection ({cause_of(error)})", cause=cause)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            kind = RepeatableFailure if repeatable else Failure
            failure = kind(f"no answer ({cause_of(error)})", cause=Cause.PARTY)
        raise failure

    def _check_open(self, party: str) -> None:
        if seconds := self._breakers.seconds_open(party):
            raise Failure(f"not asked for {seconds} s, after repeated failures")

    # --- input and output

    def _send(self, deadline: float, method: str, url: str, options: dict[str, Any]) -> Answer:
        timeout = _remaining(deadline)
        with (
            within(timeout),
            self._connections.client().stream(method, url, timeout=timeout, **options) as response,
        ):
            content = self._start_content(response)
            for chunk in response.iter_bytes():
                content += chunk
                self._check_limits(content, deadline)
            return Answer(response.status_code, dict(response.headers), bytes(content))

    async def _asend(self, deadline: float, method: str, url: str, options: dict[str, Any]) -> Answer:
        client = await self._connections.loop_client()
        async with asyncio.timeout(_remaining(deadline)):
            async with client.stream(method, url, timeout=_remaining(deadline), **options) as response:
                content = self._start_content(response)
                async for chunk in response.aiter_bytes():
                    content += chunk
                    self._check_limits(content, deadline)
                return Answer(response.status_code, dict(response.headers), bytes(content))

    def _start_content(self, response: httpx.Response) -> bytearray:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ValueError("the answer is compressed, although we refuse that")
        return bytearray()

    def _check_limits(self, content: bytearray, deadline: float) -> None:
        if len(content) > self._limits.size:
            raise ValueError("the answer is too long")
        _remaining(deadline)

    def __repr__(self) -> str:
        return f"<Outbound {self.name}>"


def _check_body(size: int, request: httpx.Request) -> None:
    if int(request.headers.get("content-length", 0)) > size:
        raise Failure(f"not asked: the request has more than {size} bytes")


def _failure(answer: Answer, repeatable: bool) -> Failure | None:
    """Return what an answer of 429, or of 500 and above, means for the request; None for other answers.

    429 says that the service has refused the request before it did anything (RFC 6585 section 4). 503 does
    not say so (RFC 9110 section 15.6.4): a proxy also answers 503 when the service behind it has minted.
    """
    status, after = answer.status, seconds_in(answer.headers.get("retry-after"))
    if status != _TOO_MANY and status < _SERVER_ERROR:
        return None
    kind = RepeatableFailure if repeatable or status == _TOO_MANY else Failure
    return kind(f"answered {status}", after=after)


def _wait(state: RetryCallState) -> float:
    error = None if state.outcome is None else state.outcome.exception()
    after = error.after if isinstance(error, Failure) else None
    return max(_JITTER(state), after or 0.0)


class _StopBefore(stop_base):
    """A rule by which no attempt begins at the deadline or later."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __call__(self, retry_state: RetryCallState) -> bool:
        return time.monotonic() + retry_state.upcoming_sleep >= self._deadline


def _remaining(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("too late")
    return seconds
