"""A real Redis and a real Valkey hold the store: the contract, and what a network adds to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from agentguard.concurrency.drive import drive
from agentguard.stores import MemoryStore, _rules
from agentguard.stores.redis import RedisStore, requests
from agentguard.testing import StoreContract
from agentguard.testing.scenarios import AwaitedPort
from tests.conftest import Mode
from tests.real.conftest import needed
from tests.real.store_steps import Step, Watch, answers, steps
from tests.tiers import examples

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


@pytest.fixture(scope="module", params=["AGENTGUARD_TEST_REDIS", "AGENTGUARD_TEST_VALKEY"])
def url(request: pytest.FixtureRequest) -> str:
    return needed(request.param)


@pytest.fixture
def few_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_rules, requests):
        monkeypatch.setattr(module, "LABELS", 3)
        monkeypatch.setattr(module, "TRUSTED_LABELS", 2)


@pytest.mark.usefixtures("few_labels")
@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sequence=steps)
def test_each_operation_has_the_answer_and_the_error_that_the_store_in_memory_gives(
    url: str, mode: Mode, sequence: list[Step]
) -> None:
    def run(make: Callable[[Watch], Any]) -> list[Any]:
        watch = Watch()
        store = make(watch)
        port = AwaitedPort(store, asynchronous=mode.asynchronous)
        results: list[Any] = (asyncio.run if mode.asynchronous else drive)(answers(port, watch, sequence))
        getattr(store, "close", lambda: None)()
        return results

    expected = run(MemoryStore)
    assert run(lambda watch: RedisStore(url, prefix=next(PREFIXES), clock=watch)) == expected
