"""The broker that exchanges tokens of the user and the agent for a token for one call (RFC 8693).

The new token names both: the user as subject (`sub`) and the agent as actor (`act`). It is for one
resource (RFC 8707) and one exact call (RFC 9396), and is bound to a key of this process (RFC 9449).
"""

from __future__ import annotations

from typing import ClassVar, Unpack

from agentguard.concurrency.drive import Operation, operation_pair
from agentguard.credentials.oauth.request import TokenRequest, request_of, user_of
from agentguard.credentials.oauth.server import AuthorizationServer
from agentguard.credentials.oauth.token_broker import BrokerOptions, TokenBroker
from agentguard.model import Grant
from agentguard.ports import IdentitySource

__all__ = ["TokenExchange"]


class TokenExchange(TokenBroker):
    """A `TokenBroker` that exchanges the user's token at *server*.

    The grant's subject token proves the user. If it is a JWT and is not the task's subject's, nothing is
    sent. *identity* proves the agent. An agent that acts for itself has no user, and its tokens have no
    `act`. *options* are those of `TokenBroker`.
    """

    kind: ClassVar[str] = "token_exchange"

    def __init__(
        self, server: AuthorizationServer, *, identity: IdentitySource, **options: Unpack[BrokerOptions]
    ) -> None:
        super().__init__(server, **options)
        self._token = operation_pair(identity, "token")

    async def _request(self, grant: Grant) -> TokenRequest:
        return await self._exchange(grant, self._token.sync)

    async def _arequest(self, grant: Grant) -> TokenRequest:
        return await self._exchange(grant, self._token.async_)

    async def _exchange(self, grant: Grant, prove: Operation) -> TokenRequest:
        profile = self._profile
        user = user_of(grant, profile, self.issuer)
        is_client = user is None and profile.client_credentials
        agent = None if is_client else await prove(self.issuer)
        return request_of(
            grant, user, agent, profile=profile, issuer=self.issuer, thumbprint=self._thumbprint
        )
