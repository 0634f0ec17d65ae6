"""The sending side of RFC 8935: pushes a signal to one receiver, until it is known to have arrived."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from hashlib import sha256
from urllib.parse import urlsplit

from agentguard.concurrency.drive import Operation, drive
from agentguard.errors import ConfigurationError, IssueError
from agentguard.jose import Json, Signer, b64url
from agentguard.model import Secret
from agentguard.outbound.client import Answer, Outbound
from agentguard.outbound.destinations import is_confidential_url
from agentguard.signals.events import Named, SessionRevoked

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


class Transmitter:
    """Tells one receiver, *audience* at *url*, that a session is over.

    It has the revoking half of a `Broker`: a session is what is live at the receiver until that has
    been told. So a guard's outbox carries a signal as it carries a credential, and tries again,
    across a crash, until `revoke` returns. The handle is `SessionRevoked.handle`; the same handle
    makes a SET of the same `jti`, so that one that arrives twice has one effect.

    *issuer* is whose tasks end: the one whose tokens the receiver's verifier believes. *signer* may
    be replaced by another whose public key the receiver has had before (see `jwks`).
    *authorization* is the whole header by which the receiver knows the sender. After *leeway*
    seconds beyond the end of all that it could revoke, a signal is no longer sent.

    Raises:
        ConfigurationError: The URL is neither https nor on this machine.
    """

    def __init__(
        self,
        url: str,
        *,
        audience: str,
        issuer: str,
        signer: Signer,
        authorization: Secret | None = None,
        leeway: float = 60.0,
        clock: Callable[[], float] = time.time,
        http: Outbound | None = None,
    ) -> None:
        parts = urlsplit(url)
        if not is_confidential_url(url):
            raise ConfigurationError(f"signals for {audience} would be sent unprotected", hint="use https")
        self.audience, self.issuer = audience, issuer
        self._url, self._signer, self._authorization = url, signer, authorization
        self._leeway, self._clock = leeway, clock
        self._head = signer.head(typ="secevent+jwt", kid=signer.kid)
        self._http = http or Outbound(f"signals/{audience}", f"{parts.scheme}://{parts.netloc}")

    def sign(self, event: SessionRevoked) -> str:
        """Return the SET for this receiver; issued when the event happened, however late it is sent."""
        claims: dict[str, Json] = {
            "iss": self.issuer,
            "jti": b64url(sha256(f"{self.audience}\n{event.handle()}".encode()).digest()),
            "iat": int(event.at),
            "aud": self.audience,
            **event.claims(),
        }
        return self._signer.sign(self._head, claims)

    def notice(self, subject: str, cause: str, at: float) -> str:
        """Return the beginning of a handle: a task's end, to be completed by the task's id."""
        return SessionRevoked(at=at, user=Named(self.issuer, subject), reason=cause).handle()

    def revoke(self, handle: str, expires_at: float) -> None:
        """Push the signal; returns when it was acknowledged, or has nothing left to revoke.

        Raises:
            IssueError: It is not known to have arrived, was refused, or *handle* is none.
        """
        drive(self._push(self._http.ask.sync, handle, expires_at))

    async def arevoke(self, handle: str, expires_at: float) -> None:
        """As `revoke`, without blocking the event loop."""
        await self._push(self._http.ask.async_, handle, expires_at)

    async def _push(self, ask: Operation, handle: str, expires_at: float) -> None:
        if self._clock() >= expires_at + self._leeway:
            log.warning(
                "signals/%s: a signal was given up: all that it could revoke has expired", self.audience
            )
            return
        try:
            token = self.sign(SessionRevoked.of(handle))
        except (ValueError, TypeError):
            raise IssueError(f"signals/{self.audience}: the handle is not a signal's") from None
        headers = {"Content-Type": "application/secevent+jwt", "Accept": "application/json"}
        if self._authorization is not None:
            headers["Authorization"] = self._authorization.reveal()
        answer = await ask("POST", self._url, content=token, headers=headers, repeatable=True)
        if answer.status != 202:  # RFC 8935 section 2.2; a 200 is by someone who does not speak it
            raise IssueError(f"signals/{self.audience}: answered {answer.status}{_code(answer)}")

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __repr__(self) -> str:
        return f"<Transmitter {self.issuer} to {self.audience}>"


def jwks(*signers: Signer) -> dict[str, Json]:
    """Return the JWK Set for receivers: the key in use, and those before and after it."""
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
