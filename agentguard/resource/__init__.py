"""For the resource server: verify that a request's credential is valid and is for exactly this call.

    verifier         `Verifier`: checks one request, in order
    keys             the issuer's keys that are trusted, and the path of each; `jose.key_source` reads them
                     from a file or a URL
    claims           what a token says, and the check of the call
    proof            DPoP proofs and nonces (RFC 9449)
    headers          the token and the proof in a request's headers, and the headers of a refusal
    introspection    asks the authorization server whether a token is still active (RFC 7662)
    asgi             a middleware, and a Starlette or FastAPI dependency. It needs the extra ``server``, so
                     this package does not import it, nor what it is made of:
    routing          finds the endpoint that serves a request
    reading          reads a request as the application will, or refuses it

This package does not issue tokens, and does not decide which scope, tool or
arguments an endpoint requires: the application passes these.
"""

from __future__ import annotations

from agentguard.jose.key_source import KeySource, Refresh
from agentguard.resource.claims import Claims, Issuer
from agentguard.resource.headers import challenge
from agentguard.resource.introspection import Introspection
from agentguard.resource.proof import Nonces
from agentguard.resource.verifier import Limits, Verifier

__all__ = [
    "Claims",
    "Introspection",
    "Issuer",
    "KeySource",
    "Limits",
    "Nonces",
    "Refresh",
    "Verifier",
    "challenge",
]
