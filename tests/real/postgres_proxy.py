"""A proxy before PostgreSQL that counts round trips, loses answers, cuts connections and holds them still.

It reads the messages of the protocol (https://www.postgresql.org/docs/current/protocol-message-formats.html),
so it knows where a request and an answer end. It speaks no TLS.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal, Self

__all__ = ["PostgresProxy"]

Loss = Literal["answer", "end of the answer"]


class PostgresProxy:
    """Listens on `port` of 127.0.0.1, and speaks to a server's port there.

    Without *reads*, it hands on what comes, which is faster, and can only cut.
    """

    def __init__(self, server: int, *, reads: bool = True) -> None:
        self._server, self._reads = server, reads
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.round_trips = 0
        self.opened = 0
        self._loss: Loss | None = None
        self._flows = threading.Event()
        self._flows.set()
        self._lock, self._pairs = threading.Lock(), list[tuple[socket.socket, socket.socket]]()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        self._flows.set()
        self.cut()

    def lose(self, part: Loss) -> None:
        """Let the server do the next request, and cut the connection before this part of its answer."""
        self._loss = part

    def cut(self) -> None:
        """Cut all connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _close(*pair)

    @contextmanager
    def standstill(self) -> Iterator[None]:
        """Take what comes, and hand nothing on."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listening.accept()[0]
                self.opened += 1
                try:
                    server = socket.create_connection(("127.0.0.1", self._server))
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._pairs.append((client, server))
                directions = (self._requests, self._answers) if self._reads else (_hand_on, _hand_back)
                for direction in directions:
                    threading.Thread(target=direction, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            server.sendall(_startup(client))
            while message := _message(client):
                self._flows.wait()
                if message[:1] in b"SQ":  # Sync, Query: what the client waits for now
                    self.round_trips += 1
                server.sendall(message)
        _close(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while message := _message(server):
                self._flows.wait()
                is_end = message[:1] == b"Z"  # ReadyForQuery: the transaction is over
                if self._loss == "answer" or (self._loss and is_end):
                    if is_end:
                        self._loss = None
                        break
                    continue
                client.sendall(message)
        _close(client, server)


def _hand_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65_536):
            target.sendall(part)
    _close(source, target)


def _hand_back(client: socket.socket, server: socket.socket) -> None:
    _hand_on(server, client)


def _startup(source: socket.socket) -> bytes:
    head = _exactly(source, 4)
    return head + _exactly(source, struct.unpack("!I", head)[0] - 4) if head else b""


def _message(source: socket.socket) -> bytes:
    head = _exactly(source, 5)
    return head + _exactly(source, struct.unpack("!I", head[1:])[0] - 4) if head else b""


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = source.recv(size - len(data))
        if not part:
            return b""
        data += part
    return data


def _close(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
