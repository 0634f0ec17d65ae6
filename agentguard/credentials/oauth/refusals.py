"""The error answers of an authorization server: the codes that are told, and what they ask of the user."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from agentguard.jose import Json
from agentguard.outbound.destinations import htu, is_page_for_users

__all__ = ["LOGIN_REQUIRED", "error_code", "grant_page", "missing_grant"]

_ERRORS = frozenset(
    {
        "access_denied",
        "invalid_authorization_details",
        "invalid_client",
        "invalid_dpop_proof",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "invalid_target",
        "unauthorized_client",
        "unsupported_grant_type",
        "unsupported_token_type",
        "use_dpop_nonce",
    }
)
"""The codes of RFC 6749 sections 4.1.2.1 and 5.2, 7009, 8693, 8707, 9396 and 9449.

Messages repeat no other code, but those of `_OF_USER`.
"""

LOGIN_REQUIRED, _CONSENT_REQUIRED, _INTERACTION_REQUIRED = (
    "login_required",
    "consent_required",
    "interaction_required",
)
_OF_USER = frozenset(
    {
        "account_selection_required",
        "insufficient_scope",
        "insufficient_user_authentication",
        LOGIN_REQUIRED,
        _CONSENT_REQUIRED,
        _INTERACTION_REQUIRED,
    }
)
"""The codes of OpenID Connect Core 1.0 section 3.1.2.6, RFC 6750 section 3.1 and RFC 9470 section 3."""

_GENERAL = frozenset({"invalid_client", "invalid_grant", "invalid_request", "invalid_scope"})
"""Codes behind which servers without the codes above hide the same: only the description says it."""

_IS_MISSING = r"\b(missing|needs?|needed|no|not|required?|requires|without)\b"
_CONSENT, _LOGIN, _INTERACTION = (
    re.compile(rf"(?=.*{_IS_MISSING}).*\b({words})\b", re.IGNORECASE | re.DOTALL)
    for words in ("consents?|consented", "log ?in|re-?authentication", "user interaction|interaction")
)
_LONGEST = 2048


def error_code(body: Mapping[str, Json]) -> str | None:
    """Return the error code of an answer, if an RFC or OpenID Connect defines it."""
    code = body.get("error")
    return code if isinstance(code, str) and code in _ERRORS | _OF_USER else None


def missing_grant(body: Mapping[str, Json]) -> str | None:
    """Return one word for what the server asks of the user, or None if the error is another one.

    Servers that refuse an exchange with a general code say it in words: Keycloak 26.7 answers
    ``invalid_scope``, "Missing consents for Token Exchange in client ...", and Entra ID ``invalid_grant``,
    "AADSTS65001: The user or administrator has not consented to use the application".
    """
    code, words = error_code(body), body.get("error_description")
    if code in _OF_USER:
        return code
    if code not in _GENERAL or not isinstance(words, str):
        return None
    described = (
        (_CONSENT, _CONSENT_REQUIRED),
        (_LOGIN, LOGIN_REQUIRED),
        (_INTERACTION, _INTERACTION_REQUIRED),
    )
    return next((word for pattern, word in described if pattern.match(words[:_LONGEST])), None)


def grant_page(body: Mapping[str, Json], issuer: str) -> str | None:
    """Return the page that an error answer names (`error_uri`, RFC 6749 section 5.2), or None.

    It must be at the issuer's own origin, and have neither query nor fragment: these may hold what was sent.
    """
    url = body.get("error_uri")
    if not isinstance(url, str) or "?" in url or "#" in url or not is_page_for_users(url):
        return None
    parts = urlsplit(issuer)
    return url if htu(url).startswith(htu(f"{parts.scheme}://{parts.netloc}")) else None
