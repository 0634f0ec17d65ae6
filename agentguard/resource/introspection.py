"""Ask the authorization server whether a token is still active (RFC 7662)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from hashlib import sha256
from typing import Any

import httpx

from agentguard.concurrency.abandonable import AbandonableThreads, NoThread
from agentguard.concurrency.deadline import seconds_left
from agentguard.concurrency.drive import drive, lift
from agentguard.concurrency.party import current_party, for_party
from agentguard.errors import VerificationError
from agentguard.jose import Json, strict_json
from agentguard.text import label

__all__ = ["Introspection"]

Send = Callable[..., Awaitable[httpx.Response]]

log = logging.getLogger("agentguard")


class Introspection:
    """Tells a `Verifier` whether a token was revoked, and what an opaque token says.

    It asks the server for each request; nothing is cached. *client* has the time-outs of each
    read and write, and the whole exchange takes at most *timeout* seconds. This resource server
    authenticates with *auth*, or with *proof*: a function that returns more form members and headers for
    each request, such as a client assertion (RFC 7523) of ``PrivateKeyJwt(…).prove(issuer)``. An
    `httpx.Client` works for sync and async calls (for async ones, in a thread). An `httpx.AsyncClient`
    works only for async calls. With *opaque*, the verifier also accepts tokens that are not JWTs: what this
    server says of one is then all that is known of it. The first answer that is no clear yes or no is logged
    as a warning, with the URL and the status; later ones are not. No redirect is followed.
    """

    def __init__(
        self,
        url: str,
        client: httpx.Client | httpx.AsyncClient,
        *,
        auth: httpx.Auth | tuple[str, str] | None = None,
        proof: Callable[[], tuple[Mapping[str, str], Mapping[str, str]]] = lambda: ({}, {}),
        opaque: bool = False,
        timeout: float = 4.0,
    ) -> None:
        self.opaque, self._timeout = opaque, timeout
        self._threads = AbandonableThreads("the introspection of tokens")
        self._url, self._client, self._auth, self._proof = url, client, auth, proof
        self._has_warned = False

    def claims(self, token: str) -> Mapping[str, Json] | None:
        """Return what the server says about the token, or None if the token is not active.

        Raises:
            VerificationError: 503. The server did not answer with a clear yes or no.
        """
        if isinstance(self._client, httpx.AsyncClient):
            raise TypeError("this Introspection has an AsyncClient; call averify, or give it an httpx.Client")
        post = self._client.post

        def bounded(*args: Any, **options: Any) -> httpx.Response:
            call = partial(post, *args, **options)
            return self._threads.run(seconds_left(self._timeout), call, party=current_party())

        with for_party(_party(token)):
            return drive(self._claims(lift(bounded), token))

    async def aclaims(self, token: str) -> Mapping[str, Json] | None:
        """Do as `claims`, without blocking the event loop."""
        post: Send = self._client.post if isinstance(self._client, httpx.AsyncClient) else self._in_thread
        try:
            with for_party(_party(token)):
                async with asyncio.timeout(self._timeout):
                    return await self._claims(post, token)
        except TimeoutError:
            raise self._unclear("TimeoutError") from None

    async def _in_thread(self, *args: Any, **options: Any) -> Any:
        assert isinstance(self._client, httpx.Client)  # noqa: S101  the caller has checked it
        post = partial(self._client.post, *args, **options)
        return await self._threads.arun(self._timeout, post, party=current_party())

    async def _claims(self, post: Send, token: str) -> Mapping[str, Json] | None:
        members, headers = self._proof()
        form = {"token": token, "token_type_hint": "access_token", **members}
        auth = httpx.USE_CLIENT_DEFAULT if self._auth is None else self._auth
        try:
            response = await post(self._url, data=form, headers=headers, auth=auth, follow_redirects=False)
        except (httpx.HTTPError, ValueError, TimeoutError, NoThread) as error:
            raise self._unclear(type(error).__name__) from None
        answer = _read(response)
        active = answer.get("active")
        if not isinstance(active, bool):
            raise self._unclear(str(response.status_code))
        return answer if active else None

    def _unclear(self, outcome: str) -> VerificationError:
        """Log the first unclear answer, and return the error. *outcome* is a status, or an error's class."""
        if not self._has_warned:
            self._has_warned = True
            url = httpx.URL(self._url).copy_with(userinfo=b"", query=None)
            log.warning(
                "introspection at %s answered %s: no clear yes or no", label(url, 200), label(outcome)
            )
        return VerificationError(
            "temporarily_unavailable", "the issuer did not say whether the token is active", status=503
        )


def _read(response: httpx.Response) -> Mapping[str, Json]:
    try:
        answer = strict_json(response.content) if response.status_code == 200 else None
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {}


def _party(token: str) -> str:
    """Name whom a token is asked about for: one at which the server stalls takes no places of others."""
    return sha256(token.encode(errors="surrogatepass")).hexdigest()
