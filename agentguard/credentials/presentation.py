"""How a token is presented in a request: as a bearer token, or with a proof of possession (RFC 9449)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

from agentguard.jose import Algorithm, Json, Signer, b64url, token_hash
from agentguard.model import DeferredSecret
from agentguard.outbound.destinations import without_query

__all__ = ["Bearer", "Presentation", "ProofKey"]


class ProofKey:
    """A key pair that is generated in this process and never leaves it.

    The private key cannot be exported. After a restart there is a new key, and tokens that are bound
    to the old key are useless. *entropy(n)* gives n random bytes for each proof's `jti`.
    """

    __slots__ = ("__signer", "_clock", "_entropy", "_head", "public_jwk", "thumbprint")

    def __init__(
        self,
        algorithm: Algorithm = "ES256",
        *,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.__signer = Signer.generate(algorithm)
        self._clock, self._entropy = clock, entropy
        self.public_jwk: Mapping[str, str] = self.__signer.public_jwk
        self.thumbprint = self.__signer.kid
        self._head = self.__signer.head(typ="dpop+jwt", jwk=self.public_jwk)

    def proof(
        self,
        method: str,
        url: str,
        *,
        access_token: str | None = None,
        ath: str | None = None,
        nonce: str | None = None,
    ) -> str:
        """Sign a proof for one request (RFC 9449 section 4.2).

        `htu` is *url* as it is sent, without query and fragment: a server may compare it character by
        character. Give *access_token*, or its hash as *ath*.

        Raises:
            ValueError: *url* is not an absolute http(s) URL, or it names a user.
        """
        claims: dict[str, Json] = {
            "jti": b64url(self._entropy(16)),
            "htm": method,
            "htu": without_query(url),
            "iat": int(self._clock()),
        }
        if access_token is not None:
            ath = token_hash(access_token)
        if ath is not None:
            claims["ath"] = ath
        if nonce is not None:
            claims["nonce"] = nonce
        return self.__signer.sign(self._head, claims)

    def __repr__(self) -> str:
        return f"<ProofKey {self.thumbprint}>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a proof key cannot be pickled or copied")


class Presentation:
    """Presents one token, with a new proof for each request. Its stack frames hold no token."""

    __slots__ = ("__proofs", "__token")

    def __init__(self, token: str | DeferredSecret, proofs: ProofKey) -> None:
        self.__token, self.__proofs = token, proofs

    def __call__(self, method: str, url: str, nonce: str | None) -> Mapping[str, str]:
        """Return the headers of one request (RFC 9449 section 7.1)."""
        proof = self.__proofs.proof(method, url, ath=token_hash(self.__text()), nonce=nonce)
        return {"Authorization": f"DPoP {self.__text()}", "DPoP": proof}

    def __text(self) -> str:
        return self.__token if isinstance(self.__token, str) else self.__token.reveal()

    def __repr__(self) -> str:
        return "<presentation redacted>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a presentation cannot be pickled or copied")


class Bearer:
    """Presents one token without a proof. Its stack frames hold no token."""

    __slots__ = ("__token",)

    def __init__(self, token: str) -> None:
        self.__token = token

    def __call__(self, _method: str, _url: str, _nonce: str | None) -> Mapping[str, str]:
        """Return the header, which is the same for each request (RFC 6750 section 2.1)."""
        return {"Authorization": f"Bearer {self.__token}"}

    def __repr__(self) -> str:
        return "<bearer redacted>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a bearer token cannot be pickled or copied")
