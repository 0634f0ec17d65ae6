"""Ask the authorization server whether a token still lives (RFC 7662)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import httpx

from agentguard.concurrency.drive import drive, lift
from agentguard.errors import VerificationError
from agentguard.jose import Json, strict_json

__all__ = ["Introspection"]

Send = Callable[..., Awaitable[httpx.Response]]


class Introspection:
    """A source of revocations for a `Verifier`, and of all that it knows of an opaque token.

    Every request is asked anew: nothing is cached. *client* carries the time-out. This resource
    server authenticates by *auth*, or by *proof*, which makes further members of the form and headers
    for each request, such as a client assertion (RFC 7523): ``PrivateKeyJwt(…).prove(issuer)``. An
    `httpx.Client` serves both paths (in a thread on an event loop), an `httpx.AsyncClient` the
    asynchronous one.
    """

    def __init__(
        self,
        url: str,
        client: httpx.Client | httpx.AsyncClient,
        *,
        auth: httpx.Auth | tuple[str, str] | None = None,
        proof: Callable[[], tuple[Mapping[str, str], Mapping[str, str]]] = lambda: ({}, {}),
    ) -> None:
        self._url, self._client, self._auth, self._proof = url, client, auth, proof

    def claims(self, token: str) -> Mapping[str, Json] | None:
        """Return what the server says of an active token, or None.

        Raises:
            VerificationError: 503, whenever the answer is anything but a clear yes or no.
        """
        if isinstance(self._client, httpx.AsyncClient):
            raise TypeError("this Introspection has an AsyncClient only: call averify")
        return drive(self._claims(lift(self._client.post), token))

    async def aclaims(self, token: str) -> Mapping[str, Json] | None:
        """As `claims`, without blocking the event loop."""
        if isinstance(self._client, httpx.AsyncClient):
            return await self._claims(self._client.post, token)
        return await asyncio.to_thread(self.claims, token)

    async def _claims(self, post: Send, token: str) -> Mapping[str, Json] | None:
        members, headers = self._proof()
        form = {"token": token, "token_type_hint": "access_token", **members}
        auth = httpx.USE_CLIENT_DEFAULT if self._auth is None else self._auth
        try:
            response = await post(self._url, data=form, headers=headers, auth=auth, follow_redirects=False)
            answer = strict_json(response.content) if response.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            answer = None
        active = answer.get("active") if isinstance(answer, dict) else None
        if not isinstance(active, bool) or not isinstance(answer, dict):
            raise VerificationError(
                "temporarily_unavailable", "the token's state could not be learnt", status=503
            )
        return answer if active else None
