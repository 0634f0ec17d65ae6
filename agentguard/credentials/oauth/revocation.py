"""Revocation of a token: at its issuer (RFC 7009), and in the store that resource servers read."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agentguard.concurrency.drive import Operation
from agentguard.credentials.oauth.server import AuthorizationServer, Form, ServerOperations
from agentguard.credentials.oauth.tokens import LiveToken, LiveTokens
from agentguard.errors import AgentGuardError, IssueError, RevocationUnknown
from agentguard.jose import revocation_key
from agentguard.model import Secret

__all__ = ["TokenRevoker"]

log = logging.getLogger("agentguard")


class TokenRevoker:
    """Revokes the tokens of one authorization server; *leeway* and *outlives* are in seconds.

    *outlives* is how long an unknown token may live beyond the end of its grant.

    A JWT is written to the store first (`remember`), because resource servers accept a JWT without
    asking its issuer. If the issuer says that it does not revoke JWTs (``unsupported_token_type``),
    the revoker no longer asks it.
    """

    def __init__(
        self,
        server: AuthorizationServer,
        tokens: LiveTokens,
        *,
        leeway: float,
        outlives: float,
        clock: Callable[[], float],
    ) -> None:
        self._server, self._tokens, self._leeway, self._clock = server, tokens, leeway, clock
        self._outlives = outlives
        self._jwts_in_store_only = False

    async def revoke(
        self, handle: str, expires_at: float, operations: ServerOperations, remember: Operation
    ) -> None:
        """Revoke the token of *handle*. Nothing is sent for an unknown handle or an expired token.

        Raises:
            RevocationUnknown: The handle is unknown in this process.
            IssueError: The token is not known to be revoked.
            IdentityError: The client cannot authenticate itself.
        """
        token = self._tokens.find(handle)
        if token is None:
            # the issuer's own lifetime may be longer than the grant's, by which the token is on record
            if expires_at + self._outlives > self._clock() and handle not in self._tokens.revoked:
                raise RevocationUnknown(f"{self._server.issuer}: a handle is unknown here")
        elif token.expires_at + self._leeway <= self._clock():
            self._tokens.remove(handle)
        else:
            await self._revoke(handle, token, operations, remember)

    async def discard(
        self, handle: str, token: LiveToken, operations: ServerOperations, remember: Operation
    ) -> None:
        """Revoke a token that the broker refuses. If that fails, the token stays known to `revoke`."""
        try:
            await self._revoke(handle, token, operations, remember)
        except AgentGuardError as error:
            log.error("a token that was refused is not known to be revoked: %s", error)

    async def _revoke(
        self, handle: str, token: LiveToken, operations: ServerOperations, remember: Operation
    ) -> None:
        if token.jti is not None:
            await self._write_to_store(token.jti, token.expires_at, remember)
        if token.token is not None and not (self._jwts_in_store_only and token.jti is not None):
            await self._revoke_at_issuer(operations, token.token, in_store=token.jti is not None)
        self._tokens.remove(handle)

    async def _write_to_store(self, jti: str, expires_at: float, remember: Operation) -> None:
        try:
            await remember(revocation_key(self._server.issuer, jti), expires_at + self._leeway)
        except Exception as error:  # whatever a store raises: the token is not known to be revoked
            raise IssueError(f"{jti} is not known to be revoked: the store did not answer") from error

    async def _revoke_at_issuer(self, operations: ServerOperations, token: Secret, *, in_store: bool) -> None:
        metadata = await self._server.metadata(operations)
        if metadata.revocation is None:
            if in_store:
                return
            raise self._server.issue_error("it has no revocation_endpoint")
        form: Form = {"token": token, "token_type_hint": "access_token"}
        answer = await self._server.post(operations, metadata.revocation, form, repeatable=True)
        code = self._server.error_code(answer)
        if in_store and (answer.status, code) == (400, "unsupported_token_type"):
            self._jwts_in_store_only = True
        elif answer.status != 200:
            raise self._server.issue_error(f"answered {answer.status} {code}")
