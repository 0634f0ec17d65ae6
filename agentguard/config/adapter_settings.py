"""Settings of identity sources, brokers and transmitters.

``[identity]`` and ``[brokers.NAME]`` have a `kind`. A resource names one broker for all paths, or one
for each path. The file holds no secret; it names the file or the source that holds it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from agentguard.config.tables import Name, Origin, PathName, Scope, Table, list_field

__all__ = [
    "AwsSettings",
    "BrokerSettings",
    "FileIdentitySettings",
    "GitHubIdentitySettings",
    "GitHubSettings",
    "IdentityAssertionSettings",
    "IdentitySettings",
    "LocalIdentitySettings",
    "OpenBaoSettings",
    "SecretSettings",
    "SignalSettings",
    "SourceSettings",
    "SpiffeIdentitySettings",
    "TokenExchangeSettings",
]

_PATHS = 'some of "read", "write" and "escalation", as in paths = ["read"]'
_CA = 'a file of the certificates to trust in place of the public ones, as in ca = "company-ca.pem"'
_REUSE = 'where a credential may serve a whole task, as in reuse = ["read"]'


class LocalIdentitySettings(Table):
    """``kind = "local"``: the name in ``[agent] id``, which no platform attests."""

    kind: Literal["local"] = "local"
    key: Name | None = Field(default=None, description='a private key, as in key = ".agentguard/agent.pem"')


class FileIdentitySettings(Table):
    """``kind = "file"``: a token file that the platform writes and replaces."""

    kind: Literal["file"]
    path: Name = Field(description='a file, as in path = "/var/run/secrets/tokens/agent"')
    audience: Name | None = Field(default=None, description="the audience that the token must have")


class SpiffeIdentitySettings(Table):
    """``kind = "spiffe"``: the SPIFFE Workload API."""

    kind: Literal["spiffe"]
    socket: Name | None = Field(default=None, description='as in socket = "unix:///run/spire/agent.sock"')
    id: Name | None = Field(default=None, description="the SPIFFE ID to use, if the workload has several")


class GitHubIdentitySettings(Table):
    """``kind = "github_actions"``: the job's own OIDC token."""

    kind: Literal["github_actions"]


IdentitySettings = Annotated[
    LocalIdentitySettings | FileIdentitySettings | SpiffeIdentitySettings | GitHubIdentitySettings,
    Field(discriminator="kind"),
]


class TokenBrokerSettings(Table):
    """What brokers of authorization servers have in common; "the issuer" is who issues the token."""

    paths: tuple[PathName, ...] = list_field(_PATHS, default=("read", "write", "escalation"))
    ca: Name | None = Field(default=None, description=_CA)
    resource_uris: dict[Name, Name] = Field(
        default_factory=dict, description='a URI for each audience, as in { "orders/read" = "https://…" }'
    )
    subject: Name | None = Field(
        default=None,
        description="a task's subject by a claim of the user's token that users cannot change,"
        ' as in subject = "user:{preferred_username}"; by default it is the `sub`',
    )
    seal: Name | None = Field(
        default=None, description='a key file for handles, as in seal = ".agentguard/seal"'
    )
    bearer: bool = Field(default=False, description="true if the issuer does not support DPoP")
    details: bool = Field(
        default=True,
        description="false if the issuer does not know our authorization details: its tokens are then good"
        " for every call with their scopes",
    )
    details_scope: Name | None = Field(
        default=None,
        description="a parameterized scope that carries the details instead,"
        ' as in details_scope = "agentguard_call"',
    )
    introspect: bool = Field(default=True, description="false to trust opaque tokens without introspection")
    grant_url: Name | None = Field(
        default=None,
        description="the page where users give what the issuer misses of them, such as a consent,"
        ' as in grant_url = "https://login.example/account"; by default the one that the issuer names',
    )
    reuse: tuple[PathName, ...] = list_field(_REUSE)


class TokenExchangeSettings(TokenBrokerSettings):
    """``kind = "token_exchange"``: an authorization server (RFC 8693)."""

    kind: Literal["token_exchange"]
    issuer: Origin | Name = Field(description='the issuer\'s URL, as in issuer = "https://login.example"')
    client_id: Name = Field(description="the client's id at the issuer")
    client_auth: Literal["private_key_jwt", "spiffe"] = Field(
        default="private_key_jwt", description='"private_key_jwt", with client_key, or "spiffe"'
    )
    client_key: Name | None = Field(
        default=None, description='a private key, as in client_key = "client.pem"'
    )
    subject_token_type: Literal["jwt", "access_token", "id_token"] = Field(
        default="jwt", description='of the users\' tokens: "jwt", "access_token" (Keycloak) or "id_token"'
    )
    agent_subject: Name | None = Field(
        default=None, description="the `sub` of the agent's own tokens, if it is not the agent's id"
    )
    actor: Literal["act", "client"] = Field(
        default="act",
        description='"client" if the issuer writes no `act`: the agent is known by its client_id alone, so a'
        " token does not show whether a user or the agent acts, nor an earlier agent",
    )
    agent_grant: Literal["token_exchange", "client_credentials"] = Field(
        default="token_exchange", description="how an agent without a user gets a token"
    )


class IdentityAssertionSettings(TokenBrokerSettings):
    """``kind = "identity_assertion"``: another company's authorization server, by one's own (ID-JAG)."""

    kind: Literal["identity_assertion"]
    idp: Name = Field(description='the company\'s identity provider, as in idp = "https://login.example"')
    idp_client_id: Name = Field(description="the client's id at the identity provider")
    idp_client_key: Name = Field(description='its private key there, as in idp_client_key = "client.pem"')
    issuer: Name = Field(description='the other side\'s server, as in issuer = "https://login.saas.example"')
    client_id: Name = Field(description="the client's id at the other side")
    client_key: Name = Field(description='its private key there, as in client_key = "saas.pem"')
    linked: bool = Field(
        default=False,
        description="true if the other side has accounts of its own, linked with the company's: the guard"
        " then cannot tell whose account a token is for",
    )


class OpenBaoSettings(Table):
    """``kind = "openbao"``: dynamic credentials of OpenBao or HashiCorp Vault."""

    kind: Literal["openbao"]
    address: Name = Field(description='its URL, as in address = "https://bao.example:8200"')
    audience: Name = Field(description="the audience that its login roles require")
    mount: Name = Field(default="jwt", description='where JWT login is mounted, as in mount = "jwt"')
    namespace: Name | None = Field(default=None, description="its namespace, if it has several")
    roles: dict[PathName, Name] = Field(
        description='a login role for each path, as in { read = "reports-read" }'
    )
    creds: dict[PathName, Name] = Field(
        description='the API path of each path\'s credentials, as in { read = "database/creds/reader" }'
    )
    revoker: Name | None = Field(default=None, description="a login role that may revoke by accessor")
    ca: Name | None = Field(default=None, description=_CA)
    server: dict[Name, str] = Field(
        default_factory=dict, description='the database, as in { host = "db", port = "5432" }'
    )
    wrap: bool = Field(default=False, description="true for response wrapping")
    reuse: tuple[PathName, ...] = list_field(_REUSE)


class StatementSettings(Table):
    """One statement of what a scope allows at AWS."""

    actions: list[Name] = Field(description='as in actions = ["s3:GetObject"]')
    resources: list[Name] = Field(description='ARNs, as in resources = ["arn:aws:s3:::reports/*"]')
    conditions: dict[Name, dict[Name, Any]] = Field(
        default_factory=dict, description="a condition block of IAM"
    )


class AwsSettings(Table):
    """``kind = "aws"``: a role for each path, by the workload's own identity."""

    kind: Literal["aws"]
    region: Name = Field(description='as in region = "eu-central-1"')
    roles: dict[PathName, Name] = Field(description="the ARN of a role for each path")
    revoker: Name = Field(description="the ARN of the role that may deny a session")
    statements: dict[Scope, list[StatementSettings]] = Field(
        description='what a scope means, as in { "s3:read" = [{ actions = ["s3:GetObject"], … }] }'
    )
    endpoint: Name | None = Field(default=None, description="a URL in place of AWS's endpoints")


class GitHubSettings(Table):
    """``kind = "github"``: an App's installation tokens."""

    kind: Literal["github"]
    client_id: Name = Field(description="the App's client id")
    installation: int = Field(description="the installation's number")
    key: Name = Field(description='the App\'s private key, as in key = "app.pem"')
    permissions: dict[PathName, dict[Name, Name]] = Field(
        description='what each path may have, as in { read = { contents = "read" } }'
    )
    repositories: dict[Name, list[Name]] = Field(
        description='the repositories of each resource, as in { code = ["website"] }'
    )
    seal: Name = Field(description='a key file for handles, as in seal = ".agentguard/seal"')


class SecretSettings(Table):
    """``kind = "secret"``: a long-lived key, attached to requests and never handed out."""

    kind: Literal["secret"]
    source: Name = Field(description='where it is, as in source = "keyring:api/agent"')
    paths: tuple[PathName, ...] = list_field(_PATHS)
    header: Name = Field(default="Authorization", description='as in header = "X-Api-Key"')
    scheme: str = Field(default="Bearer ", description="what stands before the key in the header")
    refresh: float = Field(default=300.0, gt=0, description="seconds after which it is read again")
    settings: dict[Name, str] = Field(
        default_factory=dict, description='how to reach the vault, as in { region = "eu-central-1" }'
    )
    address: Name | None = Field(default=None, description="OpenBao's URL, for an openbao: source")
    role: Name | None = Field(default=None, description="OpenBao's login role, for an openbao: source")
    audience: Name | None = Field(default=None, description="OpenBao's audience, for an openbao: source")
    ca: Name | None = Field(default=None, description=f"for an openbao: source, {_CA}")


class SignalSettings(Table):
    """``[signals.NAME]``: a receiver that is told when a task ends (CAEP ``session-revoked``)."""

    url: Name = Field(description='the receiver\'s URL, as in url = "https://orders.example/signals"')
    ca: Name | None = Field(default=None, description=_CA)
    audience: Name = Field(description='the receiver\'s name, as in audience = "https://orders.example"')
    key: Name = Field(description='the key that signs, as in key = ".agentguard/signals.pem"')
    algorithm: Literal["ES256", "EdDSA", "RS256"] = Field(
        default="ES256", description='of a new key: "ES256", "EdDSA", or "RS256" as CAEP demands'
    )
    authorization: Name | None = Field(
        default=None, description='a source of the whole header, as in authorization = "env:SIGNALS"'
    )


class SourceSettings(Table):
    """``[sources.NAME]``: who may end tasks by signals, and of whom it may speak (see `signals.Source`)."""

    issuer: Name = Field(description='the `iss` of its signals, as in issuer = "https://login.example"')
    keys: Name = Field(
        description='a file with its JWK Set, as in keys = "login.jwks.json", or an https URL: its jwks_uri'
    )
    ca: Name | None = Field(default=None, description=_CA)
    speaks_for: tuple[Name, ...] = list_field(
        'further issuers, as in speaks_for = ["https://agentguard.local"], whose users it may end'
    )
    subjects: dict[Name, Name] = Field(
        default_factory=dict,
        description='a task\'s subject by issuer, as in { "https://login.example" = "user:{sub}" }',
    )
    authorization: Name | None = Field(
        default=None, description='a source of the whole header, as in authorization = "env:SIGNALS"'
    )


BrokerSettings = Annotated[
    TokenExchangeSettings
    | IdentityAssertionSettings
    | OpenBaoSettings
    | AwsSettings
    | GitHubSettings
    | SecretSettings,
    Field(discriminator="kind"),
]
