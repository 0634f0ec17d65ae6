"""The end of a token: where its issuer can end it, and where resources look (RFC 7009)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agentguard.concurrency.drive import Operation
from agentguard.credentials.oauth.server import AuthorizationServer, Form, Line
from agentguard.credentials.oauth.tokens import Living, LivingTokens
from agentguard.errors import AgentGuardError, IssueError
from agentguard.jose import revocation_key
from agentguard.model import Secret

__all__ = ["Revocation"]

log = logging.getLogger("agentguard")


class Revocation:
    """Ends the tokens of one server; *leeway* is in seconds.

    A JWT is noted in the store first (`remember`), since resources judge it without its issuer. An
    issuer that does not revoke JWTs (``unsupported_token_type``) is not asked a second time.
    """

    def __init__(
        self, server: AuthorizationServer, living: LivingTokens, *, leeway: float, clock: Callable[[], float]
    ) -> None:
        self._server, self._living, self._leeway, self._clock = server, living, leeway, clock
        self._notes_only = False

    async def revoke(self, handle: str, line: Line, remember: Operation) -> None:
        """End what the handle is for. What is unknown here or has ended by itself is not sent.

        Raises:
            IssueError: It is not known to be revoked.
            IdentityError: The client cannot prove itself.
        """
        living = self._living.find(handle)
        if living is None:
            log.info("%s: nothing is revoked, for a handle is unknown here", self._server.issuer)
        elif living.ends + self._leeway <= self._clock():
            self._living.drop(handle)
        else:
            await self._end(handle, living, line, remember)

    async def discard(self, handle: str, living: Living, line: Line, remember: Operation) -> None:
        """End a token that will not be used; if that fails it is kept, for `revoke`."""
        try:
            await self._end(handle, living, line, remember)
        except AgentGuardError as error:
            log.error("a token that was refused is not known to be revoked: %s", error)

    async def _end(self, handle: str, living: Living, line: Line, remember: Operation) -> None:
        if living.jti is not None:
            await self._note(living.jti, living.ends, remember)
        if living.token is not None and not (self._notes_only and living.jti is not None):
            await self._end_there(line, living.token, noted=living.jti is not None)
        self._living.drop(handle)

    async def _note(self, jti: str, ends: float, remember: Operation) -> None:
        try:
            await remember(revocation_key(self._server.issuer, jti), ends + self._leeway)
        except Exception as error:  # whatever a store raises: it is not known to be revoked
            raise IssueError(f"{jti} is not known to be revoked: the store did not answer") from error

    async def _end_there(self, line: Line, token: Secret, *, noted: bool) -> None:
        metadata = await self._server.metadata(line)
        if metadata.revocation is None:
            if noted:
                return
            raise self._server.failed("it has no revocation_endpoint")
        form: Form = {"token": token, "token_type_hint": "access_token"}
        answer = await self._server.post(line, metadata.revocation, form, repeatable=True)
        error = self._server.error(answer)
        if noted and (answer.status, error) == (400, "unsupported_token_type"):
            self._notes_only = True
        elif answer.status != 200:
            raise self._server.failed(f"answered {answer.status} {error}")
