"""Ask the authorization server whether a token still lives (RFC 7662)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx

from agentguard._drive import drive, lift
from agentguard.errors import VerificationError
from agentguard.jose import strict_json

__all__ = ["Introspection"]

Send = Callable[..., Awaitable[httpx.Response]]


class Introspection:
    """A source of revocations for a `Verifier`, beside or in place of a shared store.

    Every request is asked anew: nothing is cached. *client* carries the time-out, and *auth*
    authenticates this resource server. An `httpx.Client` serves both paths (in a thread on an event
    loop), an `httpx.AsyncClient` the asynchronous one.
    """

    def __init__(
        self,
        url: str,
        client: httpx.Client | httpx.AsyncClient,
        *,
        auth: httpx.Auth | tuple[str, str] | None = None,
    ) -> None:
        self._url, self._client, self._auth = url, client, auth

    def active(self, token: str) -> bool:
        """Return whether the server calls the token active.

        Raises:
            VerificationError: 503, whenever the answer is anything but a clear yes or no.
        """
        if isinstance(self._client, httpx.AsyncClient):
            raise TypeError("this Introspection has an AsyncClient only: call averify")
        return drive(self._active(lift(self._client.post), token))

    async def aactive(self, token: str) -> bool:
        """As `active`, without blocking the event loop."""
        if isinstance(self._client, httpx.AsyncClient):
            return await self._active(self._client.post, token)
        return await asyncio.to_thread(self.active, token)

    async def _active(self, post: Send, token: str) -> bool:
        form = {"token": token, "token_type_hint": "access_token"}
        auth = httpx.USE_CLIENT_DEFAULT if self._auth is None else self._auth
        try:
            response = await post(self._url, data=form, auth=auth, follow_redirects=False)
            answer = strict_json(response.content) if response.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            answer = None
        active = answer.get("active") if isinstance(answer, dict) else None
        if not isinstance(active, bool):
            raise VerificationError(
                "temporarily_unavailable", "the token's state could not be learnt", status=503
            )
        return active
