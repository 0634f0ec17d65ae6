"""Brokers, and the way a tool uses what they mint.

issuer (the embedded one), dpop (proof of possession), ambient (`auth`, an `httpx.Auth`).
"""

from __future__ import annotations

from agentguard.credentials.httpx_auth import ResourceAuth, auth
from agentguard.credentials.local_issuer import LocalIssuer, jwks, load_key
from agentguard.credentials.presentation import ProofKey

__all__ = ["LocalIssuer", "ProofKey", "ResourceAuth", "auth", "jwks", "load_key"]
