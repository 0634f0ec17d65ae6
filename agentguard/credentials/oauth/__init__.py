"""Tokens of an OAuth 2.0 authorization server: RFC 8693 token exchange, and RFC 7009 revocation."""

from agentguard.credentials.oauth.client_auth import ClientAuth, ClientSecretBasic, PrivateKeyJwt, SpiffeJwt
from agentguard.credentials.oauth.token_exchange import JWT, TokenExchange

__all__ = ["JWT", "ClientAuth", "ClientSecretBasic", "PrivateKeyJwt", "SpiffeJwt", "TokenExchange"]
