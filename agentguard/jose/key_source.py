"""A JWK Set (RFC 7517 section 5) that is read when it is needed, and again when it may have changed."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from agentguard.concurrency.deadline import seconds_left, within
from agentguard.concurrency.drive import Operation, OperationPair, drive, lift
from agentguard.concurrency.fork import ProcessLock, in_child
from agentguard.concurrency.owned_lock import Owner, owner_here
from agentguard.concurrency.running import is_running
from agentguard.errors import AgentGuardError, ConfigurationError, VerificationError
from agentguard.files import read_trusted
from agentguard.jose.encoding import Json, strict_json
from agentguard.outbound.destinations import is_confidential_url
from agentguard.text import label

__all__ = ["FILE_REFRESH", "KeySource", "Refresh"]

log = logging.getLogger("agentguard")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """When a set is read again, and for how long it is used; all in seconds but *size*, which is in bytes.

    A set is read again when it is older than *age*, or when a token names a key that it lacks; but never
    sooner than *pause* after the last time, whether that succeeded or not. While it cannot be read, its last
    keys are valid until they are older than *grace*. One reading takes at most *timeout*.
    """

    age: float = 300.0
    pause: float = 10.0
    grace: float = 3600.0
    timeout: float = 3.0
    size: int = 262_144


FILE_REFRESH = Refresh(age=10.0)
_URL_REFRESH = Refresh()


class _Entry(NamedTuple):
    keys: Mapping[str, Json]
    read_at: float


class _Flight:
    """A reading for all who wait, which *beginner* begins, and a thread carries out."""

    def __init__(self, fly: Callable[[_Flight], None], beginner: Owner) -> None:
        self.landed = Future[None]()
        # as running: a waiter that is cancelled must not cancel what the others wait for
        self.landed.set_running_or_notify_cancel()
        # in a thread of its own: so a thread can wait for it that runs the event loop of others who wait
        self.thread = Thread(target=fly, args=(self,), name="agentguard-keys", daemon=True)
        self._beginner = beginner

    def is_over(self) -> bool:
        """Return whether it will never land: Ctrl-C has ended its beginner, or something its thread."""
        return not self.thread.is_alive() and (
            self.thread.ident is not None or not is_running(*self._beginner)
        )


class KeySource:
    """The JWK Set of *issuer* at *location*: a file, the URL of the set, or the URL of a discovery document.

    A discovery document (RFC 8414, OpenID Connect Discovery 1.0) must name *issuer*; its `jwks_uri` is
    followed. URLs are https, or http on loopback. A redirect is not followed. Others must not be able to
    write the file. Nothing is read before the first use. All callers, sync and async, wait for one reading.
    By *refresh* a set at a URL is read again after 300 seconds and a file after 10; a key that is not in it
    any more is not used any more. *verify* holds the certificates to trust.

    `load.sync` and `load.async_` are coroutine functions: they return the set, or with *stale*, a set that
    they have returned, a newer one if it can be read now. They raise VerificationError (503) if there is
    none.

    A URL needs the extra ``issuers``.

    Raises:
        ConfigurationError: *location* is a URL that is not https, or the extra is missing.
    """

    def __init__(
        self,
        location: str | Path,
        issuer: str,
        *,
        refresh: Refresh | None = None,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.location, self.issuer = location, issuer
        self._is_url = isinstance(location, str) and "://" in location
        if self._is_url:
            _require_fetchable(str(location))
        self._refresh = refresh or (_URL_REFRESH if self._is_url else FILE_REFRESH)
        self._verify, self._transport, self._clock = verify, transport, clock
        self._entry: _Entry | None = None
        self._begun, self._failing = float("-inf"), False
        self._begin()
        in_child(self._begin)
        self.load = OperationPair(partial(self._load, lift(self._wait)), partial(self._load, self._await))

    def _begin(self) -> None:
        # a child waits for no reading of its parent
        self._lock = ProcessLock()
        self._flight: _Flight | None = None

    async def _load(self, wait: Operation, stale: Mapping[str, Json] | None = None) -> Mapping[str, Json]:
        entry, now = self._entry, self._clock()
        if entry is not None and entry.keys is not stale and now < entry.read_at + self._refresh.age:
            return entry.keys
        failing = self._failing  # then nobody waits for what can be done with the last keys
        flight = self._take_off(now)
        if flight is not None and (entry is None or entry.keys is stale or not failing):
            await wait(flight)
        entry = self._entry
        if entry is None or self._clock() >= entry.read_at + self._refresh.grace:
            raise VerificationError("temporarily_unavailable", "the issuer's keys cannot be read", status=503)
        return entry.keys

    def _wait(self, flight: _Flight) -> None:
        try:
            flight.landed.result(seconds_left(self._refresh.timeout) + 0.5)
        except TimeoutError:
            self._failing = True

    async def _await(self, flight: _Flight) -> None:
        try:
            async with asyncio.timeout(self._refresh.timeout + 0.5):
                await asyncio.wrap_future(flight.landed)
        except TimeoutError:
            self._failing = True

    def _take_off(self, now: float) -> _Flight | None:
        """Return the reading that is under way or begins now; None if the last one was too short ago."""
        with self._lock:
            under_way = self._flight
            if under_way is not None and not under_way.is_over():
                return under_way
            if now < self._begun + self._refresh.pause:
                return None
            flight = self._flight = _Flight(self._fly, owner_here())
            self._begun = now
        try:
            flight.thread.start()
        except RuntimeError as error:  # there is no further thread
            self._land(flight, None, error)
        return flight

    def _fly(self, flight: _Flight) -> None:
        try:
            with within(self._refresh.timeout):
                keys = self._read_url() if self._is_url else self._read_file()
        except BaseException as error:  # noqa: BLE001  whatever fails, the callers who wait are let go
            self._land(flight, None, error)
        else:
            self._land(flight, keys, None)

    def _land(self, flight: _Flight, keys: Mapping[str, Json] | None, error: BaseException | None) -> None:
        with self._lock:
            self._failing = keys is None
            if keys is not None:
                self._entry = _Entry(keys, self._clock())
            if self._flight is flight:
                self._flight = None
        if keys is None:
            reason = str(error) if isinstance(error, AgentGuardError | ValueError) else type(error).__name__
            log.warning("the keys of %s cannot be read: %s", label(self.issuer), label(reason))
        flight.landed.set_result(None)

    def _read_file(self) -> Mapping[str, Json]:
        file = Path(self.location)
        if file.stat().st_size > self._refresh.size:
            raise ValueError("the file is too long")
        return _key_set(strict_json(read_trusted(file).encode()))

    def _read_url(self) -> Mapping[str, Json]:
        url = str(self.location)
        document = self._fetch(url)
        if not isinstance(document, dict) or "jwks_uri" not in document:
            return _key_set(document)
        if document.get("issuer") != self.issuer:  # RFC 8414 section 3.3
            raise ValueError("the discovery document is of another issuer")
        next_url = document["jwks_uri"]
        # a document on the network must not lead to a service of this machine
        schemes = urlsplit(url).scheme, urlsplit(next_url).scheme if isinstance(next_url, str) else ""
        if not is_confidential_url(next_url) or schemes == ("https", "http"):
            raise ValueError("the jwks_uri is not https")
        return _key_set(self._fetch(next_url))

    def _fetch(self, url: str) -> Json:
        from agentguard.outbound.client import Limits, Outbound  # an extra

        timeout = seconds_left(self._refresh.timeout)
        limits = Limits(timeout=timeout, attempts=1, size=self._refresh.size)
        # made for each reading: between two of them it would hold an idle connection
        http = Outbound(
            f"the keys at {_origin(url)}",
            _origin(url),
            error=AgentGuardError,
            limits=limits,
            verify=self._verify,
            transport=self._transport,
        )
        try:
            answer = drive(_get(http.ask.sync, url))
        finally:
            http.close()
        if answer.status != 200:
            raise ValueError(f"it answered {answer.status}")
        return strict_json(answer.content)

    def __repr__(self) -> str:
        return f"<KeySource {self.location}>"


async def _get(ask: Operation, url: str) -> Any:
    return await ask("GET", url, headers={"Accept": "application/json, application/jwk-set+json"})


def _key_set(document: Json) -> Mapping[str, Json]:
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("it is no JWK Set")
    return document


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _require_fetchable(url: str) -> None:
    if not is_confidential_url(url) or "@" in urlsplit(url).netloc:
        raise ConfigurationError(
            f"keys are not fetched from {label(url)}", hint="use an https URL without a user in it"
        )
    try:
        import agentguard.outbound.client  # noqa: F401  whether its extra is there
    except ImportError as error:
        raise ConfigurationError(
            f"the library {error.name} is missing", hint="pip install 'agentguard[issuers]'"
        ) from None
