"""The headers of a request, in which token and proof stand, and of a refusal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from agentguard.errors import VerificationError
from agentguard.jose import ALGORITHM_NAMES, htu
from agentguard.resource.claims import invalid

__all__ = ["Headers", "absolute_url", "challenge", "token_and_proof"]

Headers = Mapping[str, str] | Iterable[tuple[str, str]]

_UNQUOTABLE = re.compile(r"[^ !#-\[\]-~]")  # RFC 6750 section 3: not allowed in error_description


def token_and_proof(headers: Headers) -> tuple[str, str]:
    """Return the token and the DPoP proof of a request.

    Raises:
        VerificationError: One of them is missing, stands there twice, or is of another scheme.
    """
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    authorizations = [value for name, value in pairs if name.lower() == "authorization"]
    proofs = [value for name, value in pairs if name.lower() == "dpop"]
    if len(authorizations) > 1:
        raise VerificationError("invalid_request", "more than one Authorization header", status=400)
    scheme, _, token = (authorizations or [""])[0].partition(" ")
    if (
        scheme.lower() == "bearer"
    ):  # RFC 9449 section 7.2: a bound token must not be accepted as a bearer token
        raise invalid("the token is bound to a key; use the DPoP scheme")
    if scheme.lower() != "dpop":
        raise VerificationError("", "no credential was presented")
    if len(proofs) != 1:
        raise VerificationError("invalid_dpop_proof", "there must be exactly one DPoP header")
    return token, proofs[0]


def absolute_url(url: str) -> str:
    """Return the URL as a proof names it.

    Raises:
        VerificationError: A proof cannot name it.
    """
    try:
        return htu(url)
    except ValueError:
        raise VerificationError(
            "invalid_request", "the URL of the request is not in the form that a proof can name", status=400
        ) from None


def challenge(
    error: VerificationError, *, scope: str | None = None, nonce: str | None = None
) -> dict[str, str]:
    """Return the response headers of a refusal (RFC 6750 section 3, RFC 9449 sections 7.1 and 9)."""
    if error.status >= 500:
        return {}
    fields = {"error": error.error, "error_description": error.description} if error.error else {}
    if scope is not None and error.error == "insufficient_scope":
        fields["scope"] = scope
    fields["algs"] = " ".join(ALGORITHM_NAMES)
    quoted = ", ".join(f'{name}="{_UNQUOTABLE.sub("?", value)}"' for name, value in fields.items())
    headers = {"WWW-Authenticate": f"DPoP {quoted}"}
    return headers if nonce is None else {**headers, "DPoP-Nonce": nonce}
