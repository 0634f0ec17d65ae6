"""Servers on loopback that misbehave on the level of bytes, where no library would."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from threading import Event, Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

Respond = Callable[["Connection"], None]


class Connection:
    """One accepted connection, for a function that answers as it likes."""

    def __init__(self, stream: socket.socket, ended: Event, requests: list[bytes]) -> None:
        self.stream, self.ended, self.requests = stream, ended, requests

    def request(self) -> bytes:
        """Read one request; what is left unread would be answered with a reset."""
        received, length = b"", 0
        while len(received) < length or b"\r\n\r\n" not in received:
            more = self.stream.recv(65536)
            if not more:
                break
            received += more
            if match := re.search(rb"content-length: (\d+)", received, re.IGNORECASE):
                length = received.index(b"\r\n\r\n") + 4 + int(match[1]) if b"\r\n\r\n" in received else 0
        self.requests.append(received)
        return received

    def send(self, data: bytes) -> None:
        self.stream.sendall(data)

    def hold(self, seconds: float | None = None) -> bool:
        """Wait; returns whether the server is to end."""
        return self.ended.wait(seconds)


def trickle_header(connection: Connection) -> None:
    """Answer with a header that never ends."""
    connection.request()
    connection.send(b"HTTP/1.1 200 OK\r\nX-A: ")
    while not connection.hold(0.02):
        connection.send(b"a")


def trickle_body(connection: Connection) -> None:
    """Answer with a body that takes half an hour."""
    connection.request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not connection.hold(0.02):
        connection.send(b" ")


def interim_answers(connection: Connection) -> None:
    """Give interim answers for ever."""
    connection.request()
    while not connection.hold(0.005):
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")


def response(status: str, body: bytes = b"", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


class Server:
    """Where it listens, and what it was sent."""

    def __init__(self, port: int, requests: list[bytes], scheme: str) -> None:
        self.port, self.requests = port, requests
        self.url = f"{scheme}://127.0.0.1:{port}"


def listener() -> socket.socket:
    """Return a listening socket on a free port.

    It names its protocol: asyncio sends without delay (TCP_NODELAY) only on sockets that do, and else an
    answer of two writes waits 40 ms for the acknowledgement of the first.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


@contextmanager
def serving(respond: Respond, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serve each connection in a thread by *respond*."""
    ended, threads, requests = Event(), list[Thread](), list[bytes]()

    def answer(stream: socket.socket) -> None:
        # whoever misbehaves is often left by the other side
        with suppress(OSError), stream:
            wrapped = stream if tls is None else tls.wrap_socket(stream, server_side=True)
            with wrapped:
                respond(Connection(wrapped, ended, requests))

    def accept(listener: socket.socket) -> None:
        while not ended.is_set():
            with suppress(TimeoutError):
                stream, _ = listener.accept()
                stream.settimeout(10)
                threads.append(Thread(target=answer, args=(stream,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        accepting = Thread(target=accept, args=(listener,))
        accepting.start()
        try:
            yield Server(listener.getsockname()[1], requests, "http" if tls is None else "https")
        finally:
            ended.set()
            for thread in (accepting, *threads):
                thread.join()


def certificate(directory: Path, *, expires: timedelta) -> Path:
    """Write a key and a self-signed certificate for 127.0.0.1 that ends in *expires* from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + expires)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = directory / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + builder.public_bytes(Encoding.PEM))
    return file
