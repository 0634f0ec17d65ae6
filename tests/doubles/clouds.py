"""One local HTTPS server that stands for three clouds: the shape of their answers, and nothing else.

It shows that the vendors' libraries are called as they want to be and that their answers are read. It
does not show that a cloud accepts what it is sent.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

AZURE = "vault-1.vault.azure.net"
HOSTS = (AZURE, "login.microsoftonline.com", "secretmanager.googleapis.com", "oauth2.googleapis.com")
HOSTS_AND_AWS = (*HOSTS, "aws.test")


class Cloud:
    """What the server holds, by the id that a cloud's client asks for, and what it was asked."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        self.stalls: str | None = None  # the host that does not answer until it is `released`
        self.released = Event()

    def answer(self, host: str, method: str, path: str, body: bytes, authorized: bool) -> tuple[int, Any]:
        self.asked.append((host, path))
        if host == self.stalls:
            self.released.wait(30)
        path = path.partition("?")[0]
        if host in ("login.microsoftonline.com", "oauth2.googleapis.com"):
            return self._login(path)
        if not authorized:
            return 401, {}
        if host == "secretmanager.googleapis.com":
            return self._gcp(path)
        return self._azure(path) if host == AZURE else self._aws(json.loads(body)["SecretId"])

    def _login(self, path: str) -> tuple[int, Any]:
        base = "https://login.microsoftonline.com"
        if path.endswith("/openid-configuration"):
            ends = {"token_endpoint": f"{base}/t/oauth2/v2.0/token", "authorization_endpoint": f"{base}/a"}
            return 200, {**ends, "issuer": f"{base}/t/v2.0"}
        if path == "/common/discovery/instance":
            return 200, {"tenant_discovery_endpoint": f"{base}/t/v2.0/.well-known/openid-configuration"}
        return 200, {"access_token": "login-token", "expires_in": 3600, "token_type": "Bearer"}

    def _gcp(self, path: str) -> tuple[int, Any]:
        name = path.removeprefix("/v1/").removesuffix(":access")
        if (value := self.secrets.get(name)) is None:
            return 404, {"error": {"code": 404, "status": "NOT_FOUND", "message": "the secrets-list"}}
        return 200, {"name": name, "payload": {"data": base64.b64encode(value.encode()).decode()}}

    def _azure(self, path: str) -> tuple[int, Any]:
        name = path.removeprefix("/secrets/").strip("/")
        if (value := self.secrets.get(name)) is None:
            return 404, {"error": {"code": "SecretNotFound", "message": "the secrets-list"}}
        return 200, {
            "value": value,
            "id": f"https://{AZURE}/secrets/{name.partition('/')[0]}/1",
            "attributes": {},
        }

    def _aws(self, name: str) -> tuple[int, Any]:
        if (value := self.secrets.get(name)) is None:
            return 400, {"__type": "ResourceNotFoundException", "message": "the secrets-list"}
        return 200, {"ARN": name, "Name": name, "VersionId": "1", "SecretString": value}


@contextmanager
def running(cloud: Cloud, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve *cloud* in the place of its hosts; gives the endpoint for AWS."""
    pem, key = _certificate()
    (directory / "ca.pem").write_bytes(pem)
    (directory / "server.pem").write_bytes(pem + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _answering(cloud))
    server.daemon_threads = False
    server.socket = context.wrap_socket(server.socket, server_side=True)
    port, find = server.server_address[1], socket.getaddrinfo

    def resolve(host: Any, requested: Any, *args: Any, **kwargs: Any) -> Any:
        if host in HOSTS_AND_AWS:
            return find("127.0.0.1", port, *args, **kwargs)
        return find(host, requested, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for variable in ("REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"):
        monkeypatch.setenv(variable, str(directory / "ca.pem"))
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield "https://aws.test"
    finally:
        cloud.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def service_account() -> str:
    """Return a Google service account's key file."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    uri = "https://oauth2.googleapis.com/token"
    names = {"type": "service_account", "client_email": "a@example.test", "token_uri": uri}
    return json.dumps({**names, "private_key": pem, "private_key_id": "1", "project_id": "p"})


def _answering(cloud: Cloud) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        challenge: ClassVar[str] = (
            'Bearer authorization="https://login.microsoftonline.com/t", resource="https://vault.azure.net"'
        )

        def do_GET(self) -> None:
            self._reply()

        def do_POST(self) -> None:
            self._reply()

        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            host, is_signed = self.headers["Host"].partition(":")[0], bool(self.headers.get("Authorization"))
            status, answer = cloud.answer(host, self.command, self.path, body, is_signed)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status == 401:
                self.send_header("WWW-Authenticate", self.challenge)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    return Handler


def _certificate() -> tuple[bytes, bytes]:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "clouds")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(host) for host in HOSTS_AND_AWS]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([*names, x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), pem
