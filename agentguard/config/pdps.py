"""``[pdps.NAME]``: policy decision points (PDPs) that are other services. ``policy.pdps`` names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from agentguard.config.tables import Name, Table
from agentguard.config.tls import tls_context
from agentguard.errors import ConfigurationError
from agentguard.ports import Policy

if TYPE_CHECKING:  # it needs an extra
    from agentguard.policies._bearer import TokenSource

__all__ = ["AuthZenSettings", "OpaSettings", "PdpSettings"]


_Url = Annotated[str, Field(pattern=r"^https?://[^/?#@\s\\]+(/[^?#@\s\\]*)?$")]


class ClientSettings(Table):
    """How the guard gets a token for itself at an authorization server (client credentials)."""

    issuer: Name = Field(description='the server\'s URL, as in issuer = "https://login.example"')
    client_id: Name = Field(description="the client's id at the server")
    client_key: Name = Field(description='a private key, as in client_key = "client.pem"')
    scope: Name | None = Field(default=None, description='as in scope = "pdp"')
    ca: Name | None = Field(
        default=None, description='a file of trusted certificates, as in ca = "company-ca.pem"'
    )

    def token_source(self, file_of: Callable[[str], Path]) -> TokenSource:
        """Return the source of the token. *file_of* returns the path of a named file."""
        from agentguard.credentials.local_issuer import load_key
        from agentguard.credentials.oauth import AuthorizationServer, ClientCredentials, PrivateKeyJwt

        client = PrivateKeyJwt(self.client_id, load_key(file_of(self.client_key)))
        verify = tls_context(file_of, ca=self.ca)
        return ClientCredentials(AuthorizationServer(self.issuer, client, verify=verify), self.scope)


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
    client: ClientSettings | None = Field(
        default=None,
        description='in place of token, as in client = { issuer = "https://login.example",'
        ' client_id = "guard", client_key = "guard.pem" }',
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
            "verify": tls_context(file_of, ca=self.ca, certificate=self.certificate, key=self.key),
        }
        if self.client is not None:
            if self.token is not None:
                raise ConfigurationError("there are token and client", hint="leave out one of them")
            options["token"] = self.client.token_source(file_of)
        elif self.token is not None:
            from agentguard.credentials.sources import source  # needs an extra for some kinds

            options["token"] = source(self.token)
        return options


class AuthZenSettings(_PdpSettings):
    """``kind = "authzen"``: a PDP with the AuthZEN Authorization API 1.0."""

    kind: Literal["authzen"]
    origins: tuple[Name, ...] = Field(
        default=(),
        description="where its endpoints may be, beside the url's own scheme, host and port,"
        ' as in origins = ["https://eval.pdp.example"]',
    )
    subject_type: Name = Field(
        default="identity", description='the type of its users, as in subject_type = "user"'
    )
    subject: Name = Field(
        default="{id}",
        description='our name of a user, with its id of them in it, as in subject = "user:{id}"; it is asked'
        " about no other subject",
    )

    def policy(self, file_of: Callable[[str], Path]) -> Policy:
        """Return the policy that asks this PDP. *file_of* returns the path of a named file."""
        from agentguard.policies.authzen import AuthZen, PdpUsers  # needs an extra

        return AuthZen(
            self.url,
            origins=self.origins,
            users=PdpUsers(self.subject_type, self.subject),
            **self.options(file_of),
        )


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


PdpSettings = Annotated[AuthZenSettings | OpaSettings, Field(discriminator="kind")]
