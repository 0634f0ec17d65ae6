"""The contract suite of an identity source. pytest collects a subclass of it."""
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
from agentguard.testing.scenarios import AwaitedPort, Contract, assert_raises, on_both_paths

__all__ = ["IdentityContract"]


class IdentityContract(Contract):
    """Tests an identity source against `ports.IdentitySource`. Override `make` and `broken`.

    `audience` is an audience for which the source can get a token. Override `claims` if the tokens are not
    JWTs.
    """

    audience = "https://one.example"

    def make(self) -> Any:
        """Return a new source."""
        raise NotImplementedError

    def broken(self) -> Any:
        """Return a new source that cannot get a token."""
        raise NotImplementedError

    def claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token, at least `sub` and `aud`."""
        claims: dict[str, Any] = strict_json(unb64url(token.split(".")[1]))
        return claims

    def adapter(self) -> Any:
        return self.make()

    @on_both_paths
    async def test_the_actor_is_a_name_at_once_and_stays_the_same(self, identity: AwaitedPort) -> None:
        actor = identity.port.actor()
        assert isinstance(actor, str)
        assert actor.strip()
        assert actor.isprintable()
        await identity.token(self.audience)
        assert identity.port.actor() == actor

    @on_both_paths
    async def test_a_token_shows_itself_to_nobody(self, identity: AwaitedPort) -> None:
        token = await identity.token(self.audience)
        assert isinstance(token, Secret)
        for text in (repr(token), str(token), f"{token}", repr(identity.port), repr(vars(identity.port))):
            assert token.reveal() not in text
        copiers: tuple[Callable[[Any], object], ...] = (pickle.dumps, copy.copy, copy.deepcopy, json.dumps)
        for copier in copiers:
            try:
                copier(token)
            except TypeError:
                continue
            raise AssertionError(f"{copier.__name__} gave the token away")

    @on_both_paths
    async def test_a_token_proves_the_actor_to_the_audience_asked(self, identity: AwaitedPort) -> None:
        claims = self.claims((await identity.token(self.audience)).reveal())
        assert claims["sub"] == identity.port.actor()
        assert self.audience in ([claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"])

    @on_both_paths
    async def test_no_audience_is_given_the_token_of_another(self, identity: AwaitedPort) -> None:
        one = (await identity.token(self.audience)).reveal()
        try:
            other = (await identity.token("https://other.example")).reveal()
        except IdentityError:
            return
        assert other != one
        claims = self.claims(other)
        assert self.audience not in ([claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"])

    @on_both_paths
    async def test_what_cannot_be_had_is_an_identity_error(self, identity: AwaitedPort) -> None:
        broken = self.broken()
        port = AwaitedPort(broken, asynchronous=identity.asynchronous)
        try:
            assert await assert_raises(IdentityError, port.token(self.audience))
        finally:
            getattr(broken, "close", lambda: None)()
