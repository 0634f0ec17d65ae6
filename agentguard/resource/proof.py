"""DPoP: verify that a request comes from the holder of the token's key (RFC 9449 section 4.3)."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Mapping

from agentguard.errors import VerificationError
from agentguard.jose import Json, b64url, decode, htu, number_claim, text_claim, thumbprint, token_hash

__all__ = ["Nonces", "verify_proof"]

_TYP = frozenset({"dpop+jwt"})


class Nonces:
    """Nonces that a server makes and recognizes without storing them (RFC 9449 section 9).

    A nonce is valid for *lifetime* to twice *lifetime* seconds. All servers of one origin need the same
    *secret*.
    """

    def __init__(
        self,
        secret: bytes | None = None,
        *,
        lifetime: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.__secret = secret or secrets.token_bytes(32)
        self._lifetime, self._clock = lifetime, clock

    def current(self) -> str:
        """Return the current nonce."""
        return self._nonce(0)

    def accepts(self, nonce: object) -> bool:
        """Return whether *nonce* is the current nonce or the one before."""
        if not isinstance(nonce, str) or not nonce.isascii():
            return False
        return any(hmac.compare_digest(nonce, self._nonce(age)) for age in (0, 1))

    def _nonce(self, age: int) -> str:
        moment = int(self._clock() // self._lifetime) - age
        return b64url(hmac.digest(self.__secret, str(moment).encode(), "sha256"))


def verify_proof(
    proof: str,
    *,
    method: str,
    url: str,
    token: str,
    bound_to: str,
    now: float,
    lifetime: float,
    leeway: float,
    nonces: Nonces | None,
) -> str:
    """Verify a proof, except for a replay, and return its `jti`. *lifetime* and *leeway* are seconds.

    RFC 9449 defines neither `exp` nor `nbf` in a proof. A proof that has one is accepted only within it
    (RFC 7519 sections 4.1.4 and 4.1.5), since its client has said so; *lifetime* holds all the same.

    Raises:
        VerificationError: invalid_dpop_proof or use_dpop_nonce.
    """
    header, claims, _ = decode(proof, None, typ=_TYP, error="invalid_dpop_proof")
    if not hmac.compare_digest(thumbprint(header["jwk"]), bound_to):
        raise _invalid("the proof was signed with another key than the token's")
    jti = text_claim(claims, "jti")
    if jti is None or claims.get("htm") != method or not _is_for(claims, url):
        raise _invalid("the proof is for another method or URL")
    issued = number_claim(claims, "iat")
    if issued is None or not now - lifetime - leeway <= issued <= now + leeway:
        raise _invalid("the proof was made too long ago, or in the future")
    if not _is_within(claims, now, leeway):
        raise _invalid("the proof has ended, or is not valid yet")
    if claims.get("ath") != token_hash(token):
        raise _invalid("the proof is for another token")
    if nonces is not None and not nonces.accepts(claims.get("nonce")):
        raise VerificationError("use_dpop_nonce", "the proof needs a nonce of this server")
    return jti


def _invalid(description: str) -> VerificationError:
    return VerificationError("invalid_dpop_proof", description)


def _is_within(claims: Mapping[str, Json], now: float, leeway: float) -> bool:
    expires = number_claim(claims, "exp") if "exp" in claims else now
    begins = number_claim(claims, "nbf") if "nbf" in claims else now
    return expires is not None and begins is not None and begins - leeway <= now < expires + leeway


def _is_for(claims: Mapping[str, Json], url: str) -> bool:
    claimed = text_claim(claims, "htu", limit=8192)
    try:
        return claimed is not None and htu(claimed) == url
    except ValueError:
        return False
