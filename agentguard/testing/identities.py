"""What an identity source promises, as a suite that pytest collects when subclassed."""
# ruff: noqa: S101, D102  a contract asserts, and its names are sentences

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

from agentguard.errors import IdentityError
from agentguard.jose import strict_json, unb64url
from agentguard.model import Secret
from agentguard.testing.both import Contract, Face, both, refused

__all__ = ["IdentityContract"]


class IdentityContract(Contract):
    """Holds an identity source to `ports.IdentitySource`. Override `make` and `broken`.

    `audience` is one that it can prove itself to. Override `claims` where tokens are no JWTs.
    """

    audience = "https://one.example"

    def make(self) -> Any:
        """Return a new source."""
        raise NotImplementedError

    def broken(self) -> Any:
        """Return a new source that can have no token."""
        raise NotImplementedError

    def claims(self, token: str) -> dict[str, Any]:
        """Return at least `sub` and `aud` of a token."""
        claims: dict[str, Any] = strict_json(unb64url(token.split(".")[1]))
        return claims

    def adapter(self) -> Any:
        return self.make()

    @both
    async def test_the_actor_is_a_name_at_once_and_stays_the_same(self, identity: Face) -> None:
        actor = identity.port.actor()
        assert isinstance(actor, str)
        assert actor.strip()
        assert actor.isprintable()
        await identity.token(self.audience)
        assert identity.port.actor() == actor

    @both
    async def test_a_token_shows_itself_to_nobody(self, identity: Face) -> None:
        token = await identity.token(self.audience)
        assert isinstance(token, Secret)
        for shown in (repr(token), str(token), f"{token}", repr(identity.port), repr(vars(identity.port))):
            assert token.reveal() not in shown
        spill: tuple[Callable[[Any], object], ...] = (pickle.dumps, copy.copy, copy.deepcopy, json.dumps)
        for give in spill:
            try:
                give(token)
            except TypeError:
                continue
            raise AssertionError(f"{give.__name__} gave the token away")

    @both
    async def test_a_token_proves_the_actor_to_the_audience_asked(self, identity: Face) -> None:
        claims = self.claims((await identity.token(self.audience)).reveal())
        assert claims["sub"] == identity.port.actor()
        assert self.audience in ([claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"])

    @both
    async def test_no_audience_is_given_the_token_of_another(self, identity: Face) -> None:
        one = (await identity.token(self.audience)).reveal()
        try:
            other = (await identity.token("https://other.example")).reveal()
        except IdentityError:
            return
        assert other != one
        claims = self.claims(other)
        assert self.audience not in ([claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"])

    @both
    async def test_what_cannot_be_had_is_an_identity_error(self, identity: Face) -> None:
        broken = self.broken()
        face = Face(broken, asynchronous=identity._asynchronous)
        try:
            assert await refused(IdentityError, face.token(self.audience))
        finally:
            getattr(broken, "close", lambda: None)()
