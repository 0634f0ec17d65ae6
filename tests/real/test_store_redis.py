"""A real Redis and a real Valkey hold the store: the contract, and what a network adds to it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from agentguard.stores.redis import RedisStore
from agentguard.testing import StoreContract
from tests.real.conftest import needed

PREFIXES = (f"test-{number}" for number in count())


class OnServer(StoreContract):
    """The contract on the server whose URL stands in *variable*; each store has keys of its own."""

    variable: str

    def make(self, clock: Callable[[], float]) -> RedisStore:
        return RedisStore(self.url, prefix=next(PREFIXES), clock=clock)

    @pytest.fixture(autouse=True)
    def _server(self) -> None:
        self.url = needed(self.variable)


class TestRedis(OnServer):
    variable = "AGENTGUARD_TEST_REDIS"


class TestValkey(OnServer):
    variable = "AGENTGUARD_TEST_VALKEY"
