"""The sending side of RFC 8935: pushes signals to one receiver."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from hashlib import sha256
from urllib.parse import urlsplit

from agentguard.concurrency.drive import Operation, drive
from agentguard.errors import ConfigurationError, IssueError
from agentguard.jose import Json, RsaSigner, Signer, b64url
from agentguard.model import Secret
from agentguard.outbound.client import Answer, Outbound
from agentguard.outbound.destinations import is_confidential_url
from agentguard.outbound.services import AsksServices
from agentguard.signals.events import IssuedId, SessionRevoked

__all__ = ["Transmitter", "jwks"]

_CODES = frozenset(
    {
        "invalid_request",
        "invalid_key",
        "invalid_issuer",
        "invalid_audience",
        "authentication_failed",
        "access_denied",
    }
)
log = logging.getLogger("agentguard")


class Transmitter(AsksServices):
    """Tells one receiver, *audience* at *url*, that a session is revoked.

    It has the method `revoke` of a `Broker`. So a guard's outbox treats an unsent signal like an unrevoked
    credential: it tries again, also after a crash, until `revoke` returns. The handle is
    `SessionRevoked.handle`. The same handle always makes a SET with the same `jti`, so a signal that
    arrives twice has one effect.

    *issuer* is the issuer whose tasks end and whose tokens the receiver's verifier accepts. *signer* may be
    replaced by one whose public key the receiver already has (see `jwks`). A receiver that follows the CAEP
    Interoperability Profile knows RS256 alone, for which there is `jose.RsaSigner`. *authorization* is the
    whole header by which the receiver recognizes the sender. A signal is given up *leeway* seconds after
    everything that it could revoke has expired.

    Raises:
        ConfigurationError: The URL is neither https nor on this machine.
    """

    def __init__(
        self,
        url: str,
        *,
        audience: str,
        issuer: str,
        signer: Signer | RsaSigner,
        authorization: Secret | None = None,
        leeway: float = 60.0,
        clock: Callable[[], float] = time.time,
        verify: ssl.SSLContext | bool = True,
        http: Outbound | None = None,
    ) -> None:
        parts = urlsplit(url)
        if not is_confidential_url(url):
            raise ConfigurationError(f"signals for {audience} would be sent without TLS", hint="use https")
        self.audience, self.issuer = audience, issuer
        self._url, self._signer, self._authorization = url, signer, authorization
        self._leeway, self._clock = leeway, clock
        self._head = signer.head(typ="secevent+jwt", kid=signer.kid)
        base = f"{parts.scheme}://{parts.netloc}"
        self._http = http or Outbound(f"signals/{audience}", base, verify=verify)

    def sign(self, event: SessionRevoked) -> str:
        """Return the SET for this receiver. Its `iat` is the time of the event, also if it is sent late."""
        claims: dict[str, Json] = {
            "iss": self.issuer,
            "jti": b64url(sha256(f"{self.audience}\n{event.handle()}".encode()).digest()),
            "iat": int(event.at),
            "aud": self.audience,
            **event.claims(),
        }
        return self._signer.sign(self._head, claims)

    def notice(self, subject: str, cause: str, at: float) -> str:
        """Return the handle of a task's end without the task's id, which the caller appends."""
        return SessionRevoked(at=at, user=IssuedId(self.issuer, subject), reason=cause).handle()

    def revoke(self, handle: str, expires_at: float) -> None:
        """Push the signal; return when it was acknowledged, or when it has nothing left to revoke.

        Raises:
            IssueError: The signal was refused, it is not known whether it arrived, or *handle* is malformed.
        """
        drive(self._push(self._http.ask.sync, handle, expires_at))

    async def arevoke(self, handle: str, expires_at: float) -> None:
        """Do as `revoke`, without blocking the event loop."""
        await self._push(self._http.ask.async_, handle, expires_at)

    async def _push(self, ask: Operation, handle: str, expires_at: float) -> None:
        if self._clock() >= expires_at + self._leeway:
            log.warning(
                "signals/%s: a signal was given up; everything that it could revoke has expired",
                self.audience,
            )
            return
        try:
            token = self.sign(SessionRevoked.of(handle))
        except (ValueError, TypeError):
            raise IssueError(f"signals/{self.audience}: the handle is not that of a signal") from None
        headers = {"Content-Type": "application/secevent+jwt", "Accept": "application/json"}
        if self._authorization is not None:
            headers["Authorization"] = self._authorization.reveal()
        answer = await ask("POST", self._url, content=token, headers=headers, repeatable=True)
        if answer.status != 202:  # RFC 8935 section 2.2; a server that answers 200 does not implement it
            raise IssueError(f"signals/{self.audience}: answered {answer.status}{_code(answer)}")

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __repr__(self) -> str:
        return f"<Transmitter {self.issuer} to {self.audience}>"


def jwks(*signers: Signer | RsaSigner) -> dict[str, Json]:
    """Return the JWK Set for receivers; give the signer in use, and the ones before and after it."""
    return {
        "keys": [
            {**signer.public_jwk, "kid": signer.kid, "alg": signer.algorithm, "use": "sig"}
            for signer in signers
        ]
    }


def _code(answer: Answer) -> str:
    try:
        body = answer.json()
    except ValueError:
        return ""
    code = body.get("err") if isinstance(body, dict) else None
    return f" {code}" if isinstance(code, str) and code in _CODES else ""
