"""How a client authenticates itself to an authorization server: with a key, an identity or a secret.

Each class has `prove(issuer)`; one that waits for other services has `aprove` too. `prove` returns a
function. The caller calls that function for each attempt to send a request, so that no assertion is
sent twice.
"""

from __future__ import annotations

import secrets
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol
from urllib.parse import quote_plus

from agentguard.concurrency.drive import Operation, drive, operation_pair
from agentguard.jose import Signer, b64url
from agentguard.model import Secret
from agentguard.ports import IdentitySource

__all__ = ["ClientAuth", "ClientSecretBasic", "PrivateKeyJwt", "Proof", "SpiffeJwt"]

_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:"


class Proof(NamedTuple):
    """What authenticates one request: fields for its form, and headers."""

    form: Mapping[str, str]
    headers: Mapping[str, str]


class ClientAuth(Protocol):
    """Authenticates a client. Avoid client secrets: they are long-lived."""

    def prove(self, issuer: str) -> Callable[[], Proof]:
        """Return a function that makes a new proof for each request to *issuer*.

        Raises:
            IdentityError: The client has nothing to prove its identity with.
        """


class PrivateKeyJwt:
    """Authenticates with a signed assertion (RFC 7523 section 2.2).

    The assertion's only audience is the issuer, and its `typ` says what it is for
    (draft-ietf-oauth-rfc7523bis). So a server cannot use it at another server. It is valid for
    *lifetime* seconds.
    """

    inline = True

    def __init__(
        self,
        client_id: str,
        signer: Signer,
        *,
        lifetime: float = 60.0,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._client_id, self._signer = client_id, signer
        self._lifetime, self._clock, self._entropy = lifetime, clock, entropy
        self._head = signer.head(typ="client-authentication+jwt", kid=signer.kid)

    def prove(self, issuer: str) -> Callable[[], Proof]:
        """Return a function that signs a new assertion for each request."""

        def sign() -> Proof:
            now = int(self._clock())
            claims = {
                "iss": self._client_id,
                "sub": self._client_id,
                "aud": issuer,
                "iat": now,
                "exp": now + int(self._lifetime),
                "jti": b64url(self._entropy(16)),
            }
            return _assertion_proof(self._client_id, "jwt-bearer", self._signer.sign(self._head, claims))

        return sign


class SpiffeJwt:
    """Authenticates with the workload's JWT-SVID (draft-ietf-oauth-spiffe-client-auth-02 section 4.1).

    *identity* gives a JWT-SVID whose audience is the issuer. The client stores no secret.
    """

    def __init__(self, client_id: str, identity: IdentitySource) -> None:
        self._client_id = client_id
        self._token = operation_pair(identity, "token")

    def prove(self, issuer: str) -> Callable[[], Proof]:
        """Get a JWT-SVID from the platform.

        Raises:
            IdentityError: The platform gave no JWT-SVID.
        """
        return drive(self._prove(self._token.sync, issuer))

    async def aprove(self, issuer: str) -> Callable[[], Proof]:
        """Do the same as `prove`, without blocking the event loop."""
        return await self._prove(self._token.async_, issuer)

    async def _prove(self, token: Operation, issuer: str) -> Callable[[], Proof]:
        svid: Secret = await token(issuer)
        return lambda: _assertion_proof(self._client_id, "jwt-spiffe", svid.reveal())


class ClientSecretBasic:
    """Authenticates with a client secret (RFC 6749 section 2.3.1). Avoid it: a secret is long-lived."""

    inline = True

    def __init__(self, client_id: str, secret: Secret) -> None:
        self._client_id, self._secret = client_id, secret

    def prove(self, issuer: str) -> Callable[[], Proof]:
        """Return a function that makes the Authorization header."""
        return self._header

    def _header(self) -> Proof:
        pair = f"{quote_plus(self._client_id)}:{quote_plus(self._secret.reveal())}"
        return Proof({}, {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"})


def _assertion_proof(client_id: str, kind: str, assertion: str) -> Proof:
    form = {
        "client_id": client_id,
        "client_assertion_type": _ASSERTION + kind,
        "client_assertion": assertion,
    }
    return Proof(form, {})
