"""The resource server's side: believes nothing that it has not verified itself.

verifier (the order of things), claims (what a token says), proof (RFC 9449), introspection (RFC
7662), and asgi (the middleware and a Starlette or FastAPI dependency; it needs the extra ``server``
and is therefore not imported here).
"""

from __future__ import annotations

from agentguard.resource.claims import Claims
from agentguard.resource.introspection import Introspection
from agentguard.resource.proof import Nonces
from agentguard.resource.verifier import Verifier, challenge

__all__ = ["Claims", "Introspection", "Nonces", "Verifier", "challenge"]
