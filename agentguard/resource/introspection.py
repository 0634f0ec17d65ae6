"""Ask the authorization server whether a token is still active (RFC 7662)."""

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
    """Tells a `Verifier` whether a token was revoked, and what an opaque token says.

    It asks the server for each request; nothing is cached. *client* has the time-out. This resource server
    authenticates with *auth*, or with *proof*: a function that returns more form members and headers for
    each request, such as a client assertion (RFC 7523) of ``PrivateKeyJwt(…).prove(issuer)``. An
    `httpx.Client` works for sync and async calls (for async ones, in a thread). An `httpx.AsyncClient`
    works only for async calls. With *opaque*, the verifier also accepts tokens that are not JWTs: what this
    server says of one is then all that is known of it.
    """

    def __init__(
        self,
        url: str,
        client: httpx.Client | httpx.AsyncClient,
        *,
        auth: httpx.Auth | tuple[str, str] | None = None,
        proof: Callable[[], tuple[Mapping[str, str], Mapping[str, str]]] = lambda: ({}, {}),
        opaque: bool = False,
    ) -> None:
        self.opaque = opaque
        self._url, self._client, self._auth, self._proof = url, client, auth, proof

    def claims(self, token: str) -> Mapping[str, Json] | None:
        """Return what the server says about the token, or None if the token is not active.

        Raises:
            VerificationError: 503. The server did not answer with a clear yes or no.
        """
        if isinstance(self._client, httpx.AsyncClient):
            raise TypeError("this Introspection has an AsyncClient; call averify, or give it an httpx.Client")
        return drive(self._claims(lift(self._client.post), token))

    async def aclaims(self, token: str) -> Mapping[str, Json] | None:
        """Do as `claims`, without blocking the event loop."""
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
                "temporarily_unavailable", "the issuer did not say whether the token is active", status=503
            )
        return answer if active else None
