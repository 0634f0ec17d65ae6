"""``[pdps.NAME]``: policy decision points (PDPs) that are other services. ``policy.pdps`` names them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agentguard.config.tables import Name, Origin, Table
from agentguard.ports import Policy

__all__ = ["AuthZenSettings", "OpaSettings", "PdpSettings"]


class _PdpSettings(Table):
    url: Origin = Field(description='https, or http on loopback, as in url = "https://pdp.example"')
    version: Name = Field(description='the version of its rules, as in version = "2026-11"')
    timeout: Annotated[float, Field(gt=0, le=60)] = Field(
        default=1.0, description="seconds, as in timeout = 1.0"
    )
    limit: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=16, description="requests at the same time, as in limit = 16"
    )


class AuthZenSettings(_PdpSettings):
    """``kind = "authzen"``: a PDP with the AuthZEN Authorization API 1.0."""

    kind: Literal["authzen"]

    def policy(self) -> Policy:
        """Return the policy that asks this PDP."""
        from agentguard.policies.authzen import AuthZen  # needs an extra

        return AuthZen(self.url, version=self.version, timeout=self.timeout, limit=self.limit)


class OpaSettings(_PdpSettings):
    """``kind = "opa"``: Open Policy Agent, with its data API."""

    kind: Literal["opa"]
    path: Name = Field(
        default="agentguard/decision", description='a document, as in path = "agentguard/decision"'
    )

    def policy(self) -> Policy:
        """Return the policy that asks this PDP."""
        from agentguard.policies.opa import Opa  # needs an extra

        return Opa(self.url, version=self.version, path=self.path, timeout=self.timeout, limit=self.limit)


PdpSettings = Annotated[AuthZenSettings | OpaSettings, Field(discriminator="kind")]
