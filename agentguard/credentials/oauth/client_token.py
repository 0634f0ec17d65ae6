"""A token that the guard itself has at an authorization server, such as for a policy decision point."""

from __future__ import annotations

from agentguard.concurrency.drive import drive
from agentguard.credentials.oauth.response import InvalidResponse, token_in
from agentguard.credentials.oauth.server import AuthorizationServer, ServerOperations
from agentguard.jose import number_claim
from agentguard.model import Secret

__all__ = ["ClientCredentials"]

_SHORTEST, _LONGEST = 1.0, 300.0  # seconds


class ClientCredentials:
    """Gets a bearer token for the client itself (RFC 6749 section 4.4), with *scope* if the server needs one.

    It is a source of the token with which the guard authenticates itself at a PDP. `refresh` says after how
    many seconds the newest token is to be replaced: a fifth of its lifetime before its end, and after 300
    seconds at the latest.
    """

    def __init__(self, server: AuthorizationServer, scope: str | None = None) -> None:
        self._server, self._scope = server, scope
        self.refresh = _LONGEST

    def close(self) -> None:
        """Close the server's connections."""
        self._server.close()

    def read(self) -> Secret:
        """Get a new token.

        Raises:
            IssueError: The server gave no bearer token.
            IdentityError: The client cannot authenticate itself.
        """
        return drive(self._read(self._server.sync))

    async def _read(self, operations: ServerOperations) -> Secret:
        metadata = await self._server.metadata(operations)
        form = {"grant_type": "client_credentials", **({} if self._scope is None else {"scope": self._scope})}
        body = self._server.body(await self._server.post(operations, metadata.token, form))
        try:
            token = token_in(body)
        except InvalidResponse as invalid:
            raise self._server.issue_error(str(invalid)) from None
        if str(body.get("token_type")).lower() != "bearer":
            raise self._server.issue_error("the token's type is not Bearer")
        lifetime = number_claim(body, "expires_in")
        self.refresh = _LONGEST if lifetime is None else min(_LONGEST, max(_SHORTEST, 0.8 * lifetime))
        return token
