"""Brokers, and the way a tool uses what they mint.

issuer (the embedded one), dpop (proof of possession), ambient (`auth`, an `httpx.Auth`).
"""

from __future__ import annotations

from agentguard.credentials.ambient import ResourceAuth, auth
from agentguard.credentials.dpop import ProofKey
from agentguard.credentials.issuer import LocalIssuer, jwks, load_key

__all__ = ["LocalIssuer", "ProofKey", "ResourceAuth", "auth", "jwks", "load_key"]
