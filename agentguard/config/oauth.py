"""From settings to the brokers of OAuth 2.0 authorization servers. The extra ``issuers`` is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx

from agentguard.config.adapter_settings import (
    IdentityAssertionSettings,
    TokenBrokerSettings,
    TokenExchangeSettings,
)
from agentguard.config.tls import tls_context
from agentguard.credentials.local_issuer import load_key
from agentguard.errors import ConfigurationError
from agentguard.model import Resource, ToolPath
from agentguard.outbound.destinations import origin_of
from agentguard.ports import Broker

if TYPE_CHECKING:  # it imports this module, and an extra is needed
    from agentguard.config.adapters import AdapterFactory
    from agentguard.credentials.oauth import ClientAuth, IssuerProfile
    from agentguard.credentials.oauth.token_broker import BrokerOptions

__all__ = ["discovering", "identity_assertion_brokers", "token_exchange_brokers"]


def token_exchange_brokers(
    settings: TokenExchangeSettings, factory: AdapterFactory
) -> dict[ToolPath, Broker]:
    """Return a broker for each path, since two paths must not share the key that their tokens are bound to.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    from agentguard.credentials.oauth import AuthorizationServer, TokenExchange

    client, profile = _client(settings, factory), _exchange_profile(settings)
    verify = tls_context(factory.file_of, ca=settings.ca)
    return {
        path: TokenExchange(
            AuthorizationServer(settings.issuer, client, verify=verify, grant_url=settings.grant_url),
            identity=factory.identity,
            **_options(settings, factory, path, profile),
        )
        for path in map(ToolPath, settings.paths)
    }


def identity_assertion_brokers(
    settings: IdentityAssertionSettings, factory: AdapterFactory
) -> dict[ToolPath, Broker]:
    """Return a broker for each path.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    from agentguard.credentials.oauth import (
        AuthorizationServer,
        IdentityAssertion,
        IdentityProvider,
        PrivateKeyJwt,
    )

    verify = tls_context(factory.file_of, ca=settings.ca)
    profile = replace(_profile(settings), actor_client=settings.client_id)

    def server(issuer: str, client: str, key: str) -> AuthorizationServer:
        auth = PrivateKeyJwt(client, load_key(factory.file_of(key)), clock=factory.clock)
        return AuthorizationServer(issuer, auth, verify=verify, grant_url=settings.grant_url)

    return {
        path: IdentityAssertion(
            server(settings.issuer, settings.client_id, settings.client_key),
            idp=IdentityProvider(
                server(settings.idp, settings.idp_client_id, settings.idp_client_key), settings.linked
            ),
            **_options(settings, factory, path, profile),
        )
        for path in map(ToolPath, settings.paths)
    }


def discovering(broker: Broker, url: str, resource: Resource, clock: Callable[[], float]) -> Broker:
    """Return a broker that mints only where the MCP server at *url* names the broker's issuer (RFC 9728).

    Raises:
        ConfigurationError: The broker is of another kind, or *url* is at no origin of the resource.
    """
    from agentguard.credentials.oauth import DiscoveringBroker, TokenBroker

    if not isinstance(broker, TokenBroker):
        raise ConfigurationError(
            "discover needs a broker of an authorization server",
            hint='use a broker of kind "token_exchange" or "identity_assertion"',
        )
    if origin_of(httpx.URL(url)) not in {origin_of(httpx.URL(origin)) for origin in resource.origins}:
        raise ConfigurationError(
            "discover is at no origin of the resource", hint="add its origin to origins, or correct it"
        )
    return DiscoveringBroker(broker, url, clock=clock)


def _options(
    settings: TokenBrokerSettings, factory: AdapterFactory, path: ToolPath, profile: IssuerProfile
) -> BrokerOptions:
    """Return the options of the broker of one path."""
    from agentguard.credentials.sealing import SealingKey

    return {
        "paths": [path],
        "store": factory.store,
        "seal": None if settings.seal is None else SealingKey.from_file(factory.file_of(settings.seal)),
        "reuse": [path] if path.value in settings.reuse else [],
        "profile": profile,
        "clock": factory.clock,
    }


def _profile(settings: TokenBrokerSettings) -> IssuerProfile:
    from agentguard.credentials.oauth import IssuerProfile

    return IssuerProfile(
        resource_uris=settings.resource_uris,
        subject=settings.subject,
        bearer=settings.bearer,
        details=settings.details,
        details_scope=settings.details_scope,
        introspect=settings.introspect,
    )


def _exchange_profile(settings: TokenExchangeSettings) -> IssuerProfile:
    from agentguard.credentials.oauth.profile import TOKEN_TYPE

    return replace(
        _profile(settings),
        agent_subject=settings.agent_subject,
        subject_token_type=f"{TOKEN_TYPE}{settings.subject_token_type}",
        actor_client=settings.client_id if settings.actor == "client" else None,
        client_credentials=settings.agent_grant == "client_credentials",
    )


def _client(settings: TokenExchangeSettings, factory: AdapterFactory) -> ClientAuth:
    from agentguard.credentials.oauth import PrivateKeyJwt, SpiffeJwt

    if settings.client_auth == "spiffe":
        return SpiffeJwt(settings.client_id, factory.identity)
    if settings.client_key is None:
        raise ConfigurationError("client_key is missing", hint='as in client_key = "client.pem"')
    key = load_key(factory.file_of(settings.client_key))
    return PrivateKeyJwt(settings.client_id, key, clock=factory.clock)
