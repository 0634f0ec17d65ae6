"""The broker for resources that know only a long-lived key.

The guard attaches the key and never hands it out. It reads the key from its source when a call first
needs it. While a permitted call runs, it attaches the key to requests to the resource's own origins.
This is not zero standing privilege: the key stays valid after the call, and others who have the key
can use it. `LegacySecret.legacy` tells this to policies, spans and records.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import httpx

from agentguard.concurrency.abandonable import AbandonableThreads
from agentguard.concurrency.drive import Operation, abandonable_pair, drive
from agentguard.concurrency.fork import ProcessLock, in_child
from agentguard.concurrency.single_flight import Share, SingleFlight
from agentguard.credentials.revoked import RevokedHandles
from agentguard.credentials.sources.base import SecretSource
from agentguard.errors import (
    ConfigurationError,
    CredentialUnavailable,
    DestinationRefused,
    IssueError,
    RevocationUnknown,
)
from agentguard.model import Credential, Grant, Secret, ToolPath
from agentguard.outbound.destinations import origin_of
from agentguard.ports import BrokerTraits

__all__ = ["LegacySecret"]

_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_FIELD_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


class LegacySecret:
    """A `Broker` that attaches one long-lived key, as *scheme* followed by the key, in the header *header*.

    Its `Credential` does not hand out the key. `reveal` returns a stand-in that opens nothing. `headers`
    refuses when the call is over, and for a URL outside the resource's origins. The key is read again
    *refresh* seconds after it was read; if the source then fails, there is no credential. *timeout* is in
    seconds, and holds also where the source hangs. Revoking ends the use by this process; the key itself
    stays valid.

    `anomalies` counts uses that no honest call makes: ``late`` (after the call), ``destination`` (for
    another origin) and ``path`` (for a path that the broker does not serve). *on_anomaly* is called
    with each.

    Raises:
        ConfigurationError: The header cannot stand in a request, or there is no path.
    """

    traits = BrokerTraits(legacy=True)

    def __init__(
        self,
        source: SecretSource,
        *,
        paths: Iterable[ToolPath],
        header: str = "Authorization",
        scheme: str = "Bearer ",
        refresh: float = 300.0,
        timeout: float = 5.0,
        on_anomaly: Callable[[str], None] = lambda _kind: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.paths = frozenset(paths)
        if not self.paths or not _FIELD_NAME.fullmatch(header) or not _FIELD_VALUE.fullmatch(f"{scheme}x"):
            raise ConfigurationError(
                "a legacy key needs a path, and a header that can be sent",
                hint='such as paths = ["read"], header = "X-Api-Key", scheme = ""',
            )
        self._source, self._header, self._scheme = source, header, scheme
        self._refresh, self._clock, self.on_anomaly = refresh, clock, on_anomaly
        self._read = abandonable_pair(source, "read", AbandonableThreads(source.name, probes=True), timeout)
        self._share = SingleFlight(timeout=timeout).share
        self._cache: tuple[Secret, float] | None = None
        self._live: dict[str, _Attachment] = {}
        self._revoked = RevokedHandles()
        self._anomalies: Counter[str] = Counter()
        self._lock = ProcessLock()
        in_child(self._end_all)

    @property
    def anomalies(self) -> Mapping[str, int]:
        """How often this process has counted each kind."""
        with self._lock:
            return dict(self._anomalies)

    def issue(self, grant: Grant) -> Credential:
        """Return a credential for this call. The key is read if it is unknown or no longer fresh.

        Raises:
            IssueError: The grant is for another path, or the source gave no key that can be sent.
        """
        return drive(self._issue(grant, self._read.sync, self._share.sync))

    async def aissue(self, grant: Grant) -> Credential:
        """Do the same as `issue`, without blocking the event loop."""
        return await self._issue(grant, self._read.async_, self._share.async_)

    def check(self) -> None:
        """Read the key from its source, and forget it.

        Raises:
            IssueError: The source gave no key that can be sent.
        """
        drive(self._fetch(self._read.sync))

    def revoke(self, handle: str, expires_at: float) -> None:
        """End the use of the credential with this handle in this process.

        Raises:
            RevocationUnknown: It has not expired, and another process uses it.
        """
        with self._lock:
            attachment = self._live.pop(handle, None)
        if attachment is not None:
            attachment.end()
            self._revoked.add(handle)
        elif handle not in self._revoked and self._clock() < expires_at:
            raise RevocationUnknown(f"{self._source.name}: another process uses the key by this handle")

    async def arevoke(self, handle: str, expires_at: float) -> None:
        """Do the same as `revoke`, which waits for nothing."""
        self.revoke(handle, expires_at)

    def anomaly(self, kind: str, refusal: Exception) -> NoReturn:
        """Count an anomaly, call `on_anomaly`, and raise *refusal* even if that call fails."""
        with self._lock:
            self._anomalies[kind] += 1
        try:
            self.on_anomaly(kind)
        finally:
            raise refusal from None

    def _end_all(self) -> None:
        # the calls of the parent have no credential in a child
        for attachment in self._live.values():
            attachment.end()
        self._live = {}

    async def _issue(self, grant: Grant, read: Operation, share: Share) -> Credential:
        if grant.path not in self.paths:
            self.anomaly("path", IssueError(f"{self._source.name} does not serve the {grant.path} path"))
        self._revoked.add(grant.id)  # nothing is attached yet
        key = await self._key(read, share)
        now = self._clock()
        attachment = _Attachment(self, key, grant, grant.ends_at(now))
        with self._lock:
            self._live = {handle: live for handle, live in self._live.items() if live.expires_at > now}
            self._live[grant.id] = attachment
            self._revoked.discard(grant.id)
        return Credential(
            f"stand-in for {grant.id}",
            id=grant.id,
            expires_at=attachment.expires_at,
            headers=attachment,
            secrets=[key.reveal()],
            legacy=True,
        )

    async def _key(self, read: Operation, share: Share) -> Secret:
        entry = self._cache
        if entry is None or self._clock() >= entry[1]:
            entry = await share("key", lambda: self._fetch(read))
        return entry[0]

    async def _fetch(self, read: Operation) -> tuple[Secret, float]:
        name, now = self._source.name, self._clock()
        try:
            key: Any = await read()
        except IssueError:
            raise
        except Exception as error:  # noqa: BLE001  anyone may write a source, and its message may hold the secret
            raise IssueError(f"{name}: no key ({type(error).__name__})") from None
        if not isinstance(key, Secret) or not _FIELD_VALUE.fullmatch(key.reveal()):
            # an HTTP library would refuse the value with a message that shows it
            raise IssueError(f"{name}: the secret is empty, or cannot stand in a header")
        self._cache = key, now + self._refresh
        return self._cache

    def present(self, key: Secret) -> dict[str, str]:
        """Return the header that carries *key*."""
        return {self._header: f"{self._scheme}{key.reveal()}"}

    def now(self) -> float:
        """Return the broker's time, in seconds since the epoch."""
        return self._clock()

    def __repr__(self) -> str:
        return f"<LegacySecret {self._source.name}>"


class _Attachment:
    """Attaches the key for one call. After the call it no longer holds the key."""

    __slots__ = ("__key", "_broker", "_origins", "_tool", "expires_at")

    def __init__(self, broker: LegacySecret, key: Secret, grant: Grant, expires_at: float) -> None:
        self._broker, self._tool, self.expires_at = broker, grant.tool, expires_at
        self._origins = {origin_of(httpx.URL(origin)) for origin in grant.resource.origins}
        self.__key: Secret | None = key

    def __call__(self, method: str, url: str, nonce: str | None) -> Mapping[str, str]:
        key = self.__key
        if key is None:
            self._broker.anomaly("late", CredentialUnavailable(f"the call of {self._tool} is over"))
        if self._broker.now() >= self.expires_at:
            raise CredentialUnavailable(f"the call of {self._tool} took longer than its credential lives")
        if origin_of(httpx.URL(url)) not in self._origins:
            # `agentguard.auth` has refused already: this is for code that calls the attachment directly
            self._broker.anomaly(
                "destination", DestinationRefused(f"{self._tool}: the URL is no origin of its resource")
            )
        return self._broker.present(key)

    def end(self) -> None:
        self.__key = None

    def __repr__(self) -> str:
        return "<attachment redacted>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("an attachment cannot be pickled or copied")
