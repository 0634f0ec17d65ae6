"""What policy decision points (PDPs) beyond this process share: the question, its limits, and the answer."""

from __future__ import annotations

import asyncio
import logging
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

import httpx

from agentguard.concurrency.drive import Operation, drive, lift
from agentguard.concurrency.fork import ProcessLock
from agentguard.concurrency.places import Places
from agentguard.concurrency.running import Owner
from agentguard.concurrency.single_flight import Share, SingleFlight
from agentguard.errors import AgentGuardError, ConfigurationError
from agentguard.jose import strict_json
from agentguard.model import AccessRequest, Decision, Obligation
from agentguard.model.arguments import Json
from agentguard.outbound.client import Answer, Limits, Outbound
from agentguard.outbound.destinations import is_confidential_url
from agentguard.outbound.services import AsksServices
from agentguard.policies._bearer import BearerToken, TokenSource

__all__ = [
    "TEXT",
    "Remote",
    "RemoteOperations",
    "content",
    "of_a_deny",
    "read_obligations",
]

log = logging.getLogger("agentguard")
TEXT = 500
"""How many characters of a PDP's own words are kept."""

_OK, _UNAUTHORIZED, _SIZE = 200, 401, 65_536  # two statuses, and bytes


class RemoteOperations(NamedTuple):
    """What `Remote` asks of others, on the synchronous or the asynchronous path."""

    ask: Operation
    share: Share
    asynchronous: bool


class Remote(AsksServices, ABC):
    """Asks a PDP at *url*, with limits of number, time and size. Raises *error* for an unclear answer.

    *limit* is for the questions about one subject that are open at the same time. So questions that hang,
    because of their arguments or because they are many, hold no question about another subject.

    A subclass writes `_decide` once for both paths. A ValueError raised in it says that an answer does not
    count.

    Raises:
        ConfigurationError: The url is neither https nor of loopback, or has more than a place in it.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        error: type[AgentGuardError],
        version: str,
        timeout: float,
        limit: int,
        verify: ssl.SSLContext | bool,
        transport: httpx.BaseTransport | None,
        async_transport: httpx.AsyncBaseTransport | None,
        token: TokenSource | None = None,
    ) -> None:
        self._url, self._timeout, self._limit, self._error = url.rstrip("/"), timeout, limit, error
        if not is_confidential_url(self._url):
            raise ConfigurationError("the PDP's url is neither https nor of loopback", hint="use https")
        if set("@?#") & set(self._url):  # the url is shown as the version, which must hold no password
            raise ConfigurationError("the PDP's url has a user, a query or a fragment", hint="leave it out")
        self.version = f"{self._url} {version}"
        self._http = Outbound(
            name,
            self._url,
            error=error,
            limits=Limits(timeout=timeout, size=_SIZE),
            verify=verify,
            transport=transport,
            async_transport=async_transport,
        )
        ask, share = self._http.ask, SingleFlight(timeout=timeout).share
        self._bearer = None if token is None else BearerToken(token, timeout)
        self._sync = RemoteOperations(ask.sync, share.sync, asynchronous=False)
        self._async = RemoteOperations(ask.async_, share.async_, asynchronous=True)
        # the places of a subject are known as long as somebody holds or awaits one of them
        self._places: WeakValueDictionary[str, Places] = WeakValueDictionary()
        self._lock = ProcessLock()
        # a semaphore belongs to the event loop that waits for it
        self._loops: WeakKeyDictionary[
            asyncio.AbstractEventLoop, WeakValueDictionary[str, asyncio.Semaphore]
        ] = WeakKeyDictionary()

    def close(self) -> None:
        """Close the synchronous connections; asynchronous ones end with their event loop."""
        self._http.close()
        if self._bearer is not None:
            self._bearer.close()

    def decide(self, request: AccessRequest) -> Decision:
        """Answer the request.

        Raises:
            AgentGuardError: The PDP gave no answer that counts.
        """
        with self._lock:
            places = self._places.get(request.identity.subject) or Places(self._limit)
            self._places[request.identity.subject] = places
        owner = Owner()
        enter = lift(partial(places.acquire, owner, self._timeout))
        return drive(self._limited(request, self._sync, enter, partial(places.release, owner)))

    async def adecide(self, request: AccessRequest) -> Decision:
        """Answer the request.

        Raises:
            AgentGuardError: The PDP gave no answer that counts.
        """
        subjects = self._loops.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
        places = subjects.setdefault(request.identity.subject, asyncio.Semaphore(self._limit))

        async def enter() -> bool:
            try:
                async with asyncio.timeout(self._timeout):
                    return await places.acquire()
            except TimeoutError:
                return False

        return await self._limited(request, self._async, enter, places.release)

    async def _limited(
        self,
        request: AccessRequest,
        operations: RemoteOperations,
        enter: Operation,
        leave: Callable[[], None],
    ) -> Decision:
        if not await enter():
            raise self._error(f"{self._http.name}: too many questions at once")
        ask = partial(self._ask_as, operations, request.identity.subject)
        try:
            return await self._decide(request, operations._replace(ask=ask))
        except (ValueError, TimeoutError) as error:
            reason = str(error) if type(error) is ValueError else type(error).__name__
        finally:
            leave()
        # outside of the handler, so that the error has no context, which would hold the answer
        raise self._error(f"{self._http.name}: {reason}")

    async def _ask_as(
        self, operations: RemoteOperations, party: str, method: str, url: str, **options: Any
    ) -> Answer:
        """Ask with the bearer token, and once more with a token that is read anew if the PDP refuses it."""
        bearer = self._bearer
        if bearer is None:
            plain: Answer = await operations.ask(method, url, party=party, **options)
            return plain
        headers = options.pop("headers", {})
        for again in (False, True):
            fields = {**headers, **await bearer.header(operations, again)}
            answer: Answer = await operations.ask(method, url, party=party, headers=fields, **options)
            if answer.status != _UNAUTHORIZED:
                break
        return answer

    @abstractmethod
    async def _decide(self, request: AccessRequest, operations: RemoteOperations) -> Decision: ...


# --- the answer


def content(answer: Answer) -> dict[str, Json]:
    """Return the JSON object in a PDP's answer.

    Raises:
        ValueError: The answer has another status, another content type, or no JSON object.
    """
    if answer.status != _OK:
        raise ValueError(f"answered {answer.status}")
    if answer.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ValueError("the answer's content type is not application/json")
    body = strict_json(answer.content)
    if not isinstance(body, dict):
        raise ValueError("the answer is no JSON object")
    return _encodable(body) if b"\\u" in answer.content else body


def _encodable(value: Any) -> Any:
    """Return JSON without the half characters that an escape can write: what it says goes to the model too.

    Raises:
        ValueError: It is nested too deeply.
    """
    try:
        if isinstance(value, str):
            return value.encode("utf-8", "replace").decode()
        if isinstance(value, list):
            return [_encodable(item) for item in value]
        if isinstance(value, dict):
            return {_encodable(key): _encodable(item) for key, item in value.items()}
    except RecursionError:
        raise ValueError("the answer is nested too deeply") from None
    return value


def read_obligations(items: Json) -> list[Obligation]:
    """Return the obligations in a list of ``{"type": ..., "properties": {...}}``.

    Raises:
        ValueError: The value is anything else.
    """
    if not isinstance(items, list):
        raise ValueError("the obligations are not a list")
    return [_obligation(item) for item in items]


def of_a_deny(items: Json) -> list[Obligation]:
    """Return those obligations of a deny that can be read; the others keep it from nothing."""
    obligations = []
    for item in items if isinstance(items, list) else ():
        try:
            obligations.append(_obligation(item))
        except ValueError:
            log.warning("an obligation of a deny is not executed: it cannot be read")
    return obligations


def _obligation(item: Json) -> Obligation:
    kind = item.get("type") if isinstance(item, dict) else None
    if not isinstance(kind, str) or not isinstance(item.get("properties", {}), dict):
        raise ValueError("an obligation has no type, or its properties are no object")
    return Obligation(kind=kind, parameters=item.get("properties", {}))
