"""Connections that keep the deadline of `within`, whatever the peer sends, and however slowly.

The time-outs of httpx are for each read and each write. A peer that sends one byte, or one 1xx answer, before
each of them has passed would hold a thread for ever. On the asynchronous path the event loop ends the whole
exchange. There the look-up of a name alone needs care: the event loop's own look-up waits for a thread of
asyncio's default executor, which everybody shares.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Generator, Hashable, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from math import inf
from typing import Any, TypeVar

import httpcore
import httpx

from agentguard.concurrency.abandonable import AbandonableThreads, NoThread
from agentguard.concurrency.deadline import seconds_left
from agentguard.concurrency.drive import drive
from agentguard.concurrency.single_flight import Share, SingleFlight

__all__ = ["AsyncDeadlineTransport", "DeadlineTransport"]

P = TypeVar("P")
LONGEST = 60.0  # seconds of a connection that has no time-out


def _seconds(timeout: float | None, error: type[Exception]) -> float | None:
    seconds = seconds_left(inf if timeout is None else timeout, of_sequence=False)
    if seconds <= 0:
        raise error("too late")
    return None if seconds == inf else seconds


def _pool(kind: Callable[..., P], context: ssl.SSLContext, limits: httpx.Limits, backend: object) -> P:
    """Make a pool of connections. httpx has no argument for httpcore's public `network_backend`."""
    return kind(
        ssl_context=context,
        max_connections=limits.max_connections,
        max_keepalive_connections=limits.max_keepalive_connections,
        keepalive_expiry=limits.keepalive_expiry,
        network_backend=backend,
    )


class DeadlineTransport(httpx.HTTPTransport):
    """httpx's own transport, over connections that keep the deadline of `within`."""

    def __init__(
        self, verify: ssl.SSLContext | bool, limits: httpx.Limits, resolver: AbandonableThreads
    ) -> None:
        context = httpx.create_ssl_context(verify=verify, trust_env=False)
        super().__init__(verify=context, limits=limits, trust_env=False)
        self._pool = _pool(httpcore.ConnectionPool, context, limits, _Backend(resolver))


class AsyncDeadlineTransport(httpx.AsyncHTTPTransport):
    """The same for the asynchronous path, with names looked up in threads of *resolver*."""

    def __init__(
        self, verify: ssl.SSLContext | bool, limits: httpx.Limits, resolver: AbandonableThreads
    ) -> None:
        context = httpx.create_ssl_context(verify=verify, trust_env=False)
        super().__init__(verify=context, limits=limits, trust_env=False)
        self._pool = _pool(httpcore.AsyncConnectionPool, context, limits, _AsyncBackend(resolver))


class _Backend(httpcore.NetworkBackend):
    def __init__(self, resolver: AbandonableThreads) -> None:
        self._backend = httpcore.SyncBackend()
        self._resolver, self._share = resolver, SingleFlight(timeout=LONGEST).share.sync

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        # one address after the other: the time-out of `socket.create_connection` is for each of them
        end = time.monotonic() + _connecting(timeout)
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address, seconds in _shares(self._addresses(host, port, end), end):
            try:
                return _Stream(
                    self._backend.connect_tcp(address, port, seconds, local_address, socket_options)
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def _addresses(self, host: str, port: int, end: float) -> list[str]:
        if _is_address(host):
            return [host]

        async def look_up() -> list[str]:
            return self._resolver.run(end - time.monotonic(), _resolve, host, port, party=host)

        with _translated():
            return drive(_shared(self._share, (host, port), look_up, end))


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, resolver: AbandonableThreads) -> None:
        self._backend = httpcore.AnyIOBackend()
        self._resolver, self._share = resolver, SingleFlight(timeout=LONGEST).share.async_

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the form is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        end = time.monotonic() + _connecting(timeout)
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address, seconds in _shares(await self._addresses(host, port, end), end):
            try:
                return await self._backend.connect_tcp(address, port, seconds, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _addresses(self, host: str, port: int, end: float) -> list[str]:
        if _is_address(host):
            return [host]

        async def look_up() -> list[str]:
            return await self._resolver.arun(end - time.monotonic(), _resolve, host, port, party=host)

        with _translated():
            return await _shared(self._share, (host, port), look_up, end)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _shared(
    share: Share, key: Hashable, look_up: Callable[[], Awaitable[list[str]]], end: float
) -> list[str]:
    """Look a name up once for all who need it now; who has more time than the one who asks asks again."""
    while True:
        try:
            addresses: list[str] = await share(key, look_up)
            return addresses
        except TimeoutError:
            if time.monotonic() >= end:
                raise


def _connecting(timeout: float | None) -> float:
    """Return how many seconds a connection may take. The resolver's own time-outs may be longer."""
    seconds = _seconds(timeout, httpcore.ConnectTimeout)
    return LONGEST if seconds is None else seconds


def _shares(addresses: list[str], end: float) -> Generator[tuple[str, float]]:
    """Give each address its share of the time until *end*: a dead one leaves enough for the others."""
    for number, address in enumerate(addresses):
        seconds = (end - time.monotonic()) / (len(addresses) - number)
        if seconds <= 0:
            raise httpcore.ConnectTimeout("too late")
        yield address, seconds


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what a look-up of a name raises as an error of httpcore."""
    try:
        yield
    except TimeoutError as error:
        raise httpcore.ConnectTimeout("the look-up of the name took too long") from error
    except NoThread as error:  # nothing was sent, and it says nothing of the service
        raise httpcore.PoolTimeout(str(error)) from error
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(str(error)) from error


def _resolve(host: str, port: int) -> list[str]:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _seconds(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # the time-out of httpcore's own writing is for each piece that the peer takes
        connection: socket.socket = self._stream.get_extra_info("socket")
        view = memoryview(buffer)
        try:
            while view:
                connection.settimeout(_seconds(timeout, httpcore.WriteTimeout))
                view = view[connection.send(view) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        try:
            # OpenSSL takes the time-out for the whole handshake
            seconds = _seconds(timeout, httpcore.ConnectTimeout)
            return _Stream(self._stream.start_tls(ssl_context, server_hostname, seconds))
        except httpcore.ConnectTimeout:
            self.close()
            raise

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
