"""An endpoint of one service as the source of a fact."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from agentguard.concurrency.drive import drive
from agentguard.errors import ConfigurationError, CredentialUnavailable, FactError
from agentguard.jose import strict_json
from agentguard.lease import Lease, current
from agentguard.model import AccessRequest, Json
from agentguard.outbound.client import Answer, Limits, Outbound
from agentguard.outbound.destinations import is_confidential_url, origin_of

__all__ = ["HttpFact"]

_HOLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_OK, _UNAUTHORIZED, _ABSENT = 200, 401, frozenset({404, 410})
_DOTS = frozenset({"", ".", ".."})
_NONCE = "dpop-nonce"
Ask = Callable[..., Awaitable[Answer]]


class HttpFact:
    """Reads the JSON object at *url*, a template with a hole for each of *names*, the parts of the key.

    ``https://orders.example/orders/{order_id}``: each value is one encoded part of the path or of the query,
    whatever characters it holds. The scheme, the host and the port have no holes, and no redirect is
    followed. Where the fact has a `credential`, the request carries it, to the origins of its resource only.
    404 and 410 say that there is no record. *timeout* in seconds and *size* in bytes bound the answer.

    Raises:
        ConfigurationError: The url is neither https nor of loopback, or its holes are others than *names*.
    """

    def __init__(
        self,
        url: str,
        names: Iterable[str],
        *,
        timeout: float = 1.0,
        size: int = 65_536,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
        async_transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url, self._names = url, tuple(names)
        parts = urlsplit(url)
        holes = _HOLE.findall(url)
        if not is_confidential_url(url) or "@" in parts.netloc or parts.fragment:
            raise ConfigurationError("the url of a fact is neither https nor of loopback", hint="use https")
        if sorted(holes) != sorted(self._names) or _HOLE.search(parts.netloc):
            raise ConfigurationError(
                f"the holes of a fact's url are not its key: {', '.join(self._names) or 'nothing'}",
                hint="as in https://orders.example/orders/{order_id}",
            )
        self._origin = origin_of(httpx.URL(f"{parts.scheme}://{parts.netloc}"))
        self._http = Outbound(
            "fact",
            f"{parts.scheme}://{parts.netloc}",
            error=FactError,
            limits=Limits(timeout=timeout, size=size, attempts=2),
            verify=verify,
            transport=transport,
            async_transport=async_transport,
        )

    def close(self) -> None:
        """Close the synchronous connections; asynchronous ones end with their event loop."""
        self._http.close()

    def read(self, request: AccessRequest, key: tuple[Json, ...]) -> Any:
        """Return the record at the endpoint, or None.

        Raises:
            FactError: There is no answer that counts.
        """
        return drive(self._read(self._http.ask.sync, request, key))

    async def aread(self, request: AccessRequest, key: tuple[Json, ...]) -> Any:
        """Do as `read`, on an event loop."""
        return await self._read(self._http.ask.async_, request, key)

    async def _read(self, ask: Ask, request: AccessRequest, key: tuple[Json, ...]) -> Any:
        url, lease, party = self._filled(key), current(), request.identity.subject
        answer = await ask("GET", url, party=party, repeatable=True, headers=self._headers(lease, url))
        nonce = answer.headers.get(_NONCE)
        if answer.status == _UNAUTHORIZED and nonce is not None:
            headers = self._headers(lease, url, nonce)
            answer = await ask("GET", url, party=party, repeatable=True, headers=headers)
        return _record(answer)

    def _filled(self, key: tuple[Json, ...]) -> str:
        values = dict(zip(self._names, map(_part, key), strict=True))
        return _HOLE.sub(lambda hole: values[hole[1]], self._url)

    def _headers(self, lease: Lease | None, url: str, nonce: str | None = None) -> Mapping[str, str]:
        """Return the headers of the credential that the guard has given this fact, or none."""
        headers = {"Accept": "application/json"}
        if lease is None or lease.resource is None:
            return headers
        if self._origin not in {origin_of(httpx.URL(origin)) for origin in lease.resource.origins}:
            raise FactError(f"its url is at none of the origins of {lease.resource.name}")
        try:
            return {**headers, **lease.transport_headers("GET", url, nonce)}
        except CredentialUnavailable:
            pass
        raise FactError("its credential is over")


def _part(value: Json) -> str:
    """Return a value as one encoded part of a URL."""
    text = value if isinstance(value, str) else "" if isinstance(value, bool) else str(value)
    if not isinstance(value, str | int | float) or text in _DOTS:
        raise FactError("a part of the key can be no part of a URL")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        pass
    raise FactError("a part of the key can be no part of a URL")


def _record(answer: Answer) -> Any:
    if answer.status in _ABSENT:
        return None
    if answer.status != _OK:
        raise FactError(f"its service answered {answer.status}")
    if answer.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise FactError("the content type of its answer is not application/json")
    try:
        return strict_json(answer.content)
    except ValueError:
        pass
    raise FactError("its answer is not JSON")
