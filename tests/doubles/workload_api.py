"""A double of a SPIFFE agent: the Workload API on a unix socket, which does what a test tells it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Condition, Event
from typing import Any

import grpc  # type: ignore[import-untyped]  # it has no types of its own
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

# private: the messages are those of the standard, and the package is the only one that has them in Python
from spiffe._proto import workload_pb2 as messages
from spiffe._proto import workload_pb2_grpc as stubs

from agentguard.jose import Signer

AGENT = "spiffe://td.example/agent"
KEY = Signer.generate()


class WorkloadApi(stubs.SpiffeWorkloadAPIServicer):
    """Answers with `spiffe_id`, or PermissionDenied when that is None; `change` alone tells the streams."""

    def __init__(self) -> None:
        self.spiffe_id: str | None = AGENT
        self.lifetime, self.x509_lifetime = 60.0, 3600.0
        self.claims: dict[str, Any] = {}
        self.fetched: list[str] = []
        self.silent = Event()
        self._changed, self._version = Condition(), 0

    def change(self, **values: Any) -> None:
        with self._changed:
            vars(self).update(values)
            self._version += 1
            self._changed.notify_all()

    def FetchJWTSVID(self, request: Any, context: Any) -> Any:
        self._admit(context)
        if request.spiffe_id not in ("", self.spiffe_id):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        self.fetched.append(",".join(request.audience))
        now = time.time()
        claims: dict[str, Any] = {"sub": self.spiffe_id, "aud": list(request.audience), "iat": now}
        claims |= {"exp": now + self.lifetime, "n": len(self.fetched), **self.claims}
        token = KEY.sign(KEY.head(typ="JWT", kid=KEY.kid), claims)
        return messages.JWTSVIDResponse(svids=[messages.JWTSVID(spiffe_id=claims["sub"], svid=token)])

    def FetchX509SVID(self, request: Any, context: Any) -> Iterator[Any]:
        while context.is_active():
            self._admit(context)
            version = self._version
            yield messages.X509SVIDResponse(svids=[svid(str(self.spiffe_id), self.x509_lifetime)])
            with self._changed:
                while context.is_active() and self._version == version:
                    self._changed.wait(0.05)

    def _admit(self, context: Any) -> None:
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        while self.silent.is_set() and context.is_active():
            time.sleep(0.02)
        if self.spiffe_id is None:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")


def svid(spiffe_id: str, lifetime: float) -> Any:
    key = ec.generate_private_key(ec.SECP256R1())
    now, name = datetime.now(UTC), x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "double")])
    other_usages = (
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
    )
    usage = dict.fromkeys((*other_usages, "crl_sign", "encipher_only", "decipher_only"), False)
    who = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(seconds=lifetime))
        .add_extension(who, critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return messages.X509SVID(
        spiffe_id=spiffe_id, x509_svid=certificate, x509_svid_key=private, bundle=certificate
    )


@contextmanager
def serving(api: WorkloadApi, socket: Path) -> Iterator[str]:
    """Serve *api*; gives the address. At the end the agent is gone, with all its streams."""
    workers = futures.ThreadPoolExecutor(16)
    server = grpc.server(workers)
    stubs.add_SpiffeWorkloadAPIServicer_to_server(api, server)  # type: ignore[no-untyped-call]  # generated
    address = f"unix://{socket}"
    server.add_insecure_port(address)
    server.start()
    try:
        yield address
    finally:
        server.stop(None).wait()
        workers.shutdown()
