"""``[pdps.NAME]``: policy decision points (PDPs) that are other services. ``policy.pdps`` names them."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from agentguard.config.tables import Name, Table
from agentguard.errors import ConfigurationError
from agentguard.files import require_trusted
from agentguard.ports import Policy

__all__ = ["AuthZenSettings", "OpaSettings", "PdpSettings"]


_Url = Annotated[str, Field(pattern=r"^https?://[^/?#@\s\\]+(/[^?#@\s\\]*)?$")]


class _PdpSettings(Table):
    url: _Url = Field(description='https, or http on loopback, as in url = "https://pdp.example/tenant"')
    version: Name = Field(description='the version of its rules, as in version = "2026-11"')
    timeout: Annotated[float, Field(gt=0, le=60)] = Field(
        default=1.0, description="seconds, as in timeout = 1.0"
    )
    limit: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=16, description="requests about one subject at the same time, as in limit = 16"
    )
    token: Name | None = Field(
        default=None, description='a source of a bearer token, as in token = "file:/run/secrets/pdp"'
    )
    ca: Name | None = Field(
        default=None, description='a file of trusted certificates, as in ca = "pdp-ca.pem"'
    )
    certificate: Name | None = Field(
        default=None, description='the guard\'s own certificate for mutual TLS, as in certificate = "me.pem"'
    )
    key: Name | None = Field(default=None, description='the key of the certificate, as in key = "me.key"')

    def options(self, file_of: Callable[[str], Path]) -> dict[str, Any]:
        """Return what all kinds of PDP are made with. *file_of* returns the path of a named file.

        Raises:
            ConfigurationError: The token's source or a file cannot be used.
        """
        options: dict[str, Any] = {
            "version": self.version,
            "timeout": self.timeout,
            "limit": self.limit,
            "verify": self._tls(file_of),
        }
        if self.token is not None:
            from agentguard.credentials.sources import source  # needs an extra for some kinds

            options["token"] = source(self.token)
        return options

    def _tls(self, file_of: Callable[[str], Path]) -> ssl.SSLContext | bool:
        if self.ca is None and self.certificate is None and self.key is None:
            return True
        if self.certificate is None and self.key is not None:
            raise ConfigurationError("key is there without certificate", hint="name both files")
        self._require_trusted(file_of)
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else file_of(self.ca))
            if self.certificate is not None:
                key = None if self.key is None else file_of(self.key)
                context.load_cert_chain(file_of(self.certificate), key, password=_no_password)
        except (OSError, ValueError) as error:  # an error of ssl is an OSError
            raise ConfigurationError(
                f"ca, certificate or key cannot be used ({type(error).__name__})",
                hint="name PEM files; the key has no password",
            ) from None
        return context

    def _require_trusted(self, file_of: Callable[[str], Path]) -> None:
        for name in (self.ca, self.certificate, self.key):
            if name is not None and (file := file_of(name)).exists():
                require_trusted(file, file.stat())


class AuthZenSettings(_PdpSettings):
    """``kind = "authzen"``: a PDP with the AuthZEN Authorization API 1.0."""

    kind: Literal["authzen"]
    origins: tuple[Name, ...] = Field(
        default=(),
        description="where its endpoints may be, beside the url's own scheme, host and port,"
        ' as in origins = ["https://eval.pdp.example"]',
    )

    def policy(self, file_of: Callable[[str], Path]) -> Policy:
        """Return the policy that asks this PDP. *file_of* returns the path of a named file."""
        from agentguard.policies.authzen import AuthZen  # needs an extra

        return AuthZen(self.url, origins=self.origins, **self.options(file_of))


class OpaSettings(_PdpSettings):
    """``kind = "opa"``: Open Policy Agent, with its data API."""

    kind: Literal["opa"]
    path: Name = Field(
        default="agentguard/decision", description='a document, as in path = "agentguard/decision"'
    )

    def policy(self, file_of: Callable[[str], Path]) -> Policy:
        """Return the policy that asks this PDP. *file_of* returns the path of a named file."""
        from agentguard.policies.opa import Opa  # needs an extra

        return Opa(self.url, path=self.path, **self.options(file_of))


def _no_password() -> str:
    raise ValueError  # else ssl would ask for it at the terminal


PdpSettings = Annotated[AuthZenSettings | OpaSettings, Field(discriminator="kind")]
