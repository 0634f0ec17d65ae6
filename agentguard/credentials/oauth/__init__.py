"""The broker for OAuth 2.0 authorization servers: RFC 8693 token exchange.

token_broker    what both brokers share: asks for a token, checks it, and keeps what is needed to revoke it
token_exchange  the broker that exchanges the user's token (RFC 8693)
identity_assertion
                the broker for another company's server, by an assertion of the user's identity (ID-JAG)
client_auth     how the broker authenticates itself to the server
client_token    a token that the guard has for itself, such as for a PDP
profile         what a server supports, and how it names things
resource_metadata
                whether an MCP server names the broker's issuer (RFC 9728)
server          where the server's endpoints are (RFC 8414), and requests to them
request         the request for the token of one call
response        whether a token is the one that the broker asked for
tokens          the tokens that are issued and not yet revoked
revocation      the revocation of a token (RFC 7009)
"""

from agentguard.credentials.oauth.client_auth import ClientAuth, ClientSecretBasic, PrivateKeyJwt, SpiffeJwt
from agentguard.credentials.oauth.client_token import ClientCredentials
from agentguard.credentials.oauth.identity_assertion import IdentityAssertion, IdentityProvider
from agentguard.credentials.oauth.profile import JWT, IssuerProfile
from agentguard.credentials.oauth.resource_metadata import DiscoveringBroker
from agentguard.credentials.oauth.server import AuthorizationServer
from agentguard.credentials.oauth.token_broker import TokenBroker
from agentguard.credentials.oauth.token_exchange import TokenExchange

__all__ = [
    "JWT",
    "AuthorizationServer",
    "ClientAuth",
    "ClientCredentials",
    "ClientSecretBasic",
    "DiscoveringBroker",
    "IdentityAssertion",
    "IdentityProvider",
    "IssuerProfile",
    "PrivateKeyJwt",
    "SpiffeJwt",
    "TokenBroker",
    "TokenExchange",
]
