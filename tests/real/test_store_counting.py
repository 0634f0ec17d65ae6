"""What was done is counted on real servers: guards on several hosts overrun no limit together."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from redis import Redis as Client

from tests.enforcement.refunding_agent import refunds, store_at
from tests.real.conftest import needed

SERVERS = {
    "postgres": "AGENTGUARD_TEST_POSTGRES",
    "redis": "AGENTGUARD_TEST_REDIS",
    "valkey": "AGENTGUARD_TEST_VALKEY",
}


@pytest.fixture(params=SERVERS)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Return the kind of a store, and the URL of a server that holds nothing of these tests."""
    url = needed(SERVERS[request.param])
    if request.param == "postgres":
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(b"DROP SCHEMA IF EXISTS refunds CASCADE")
            yield "postgres", url
            connection.execute(b"DROP SCHEMA refunds CASCADE")
    else:
        with Client.from_url(url) as client:
            for key in client.scan_iter("{refunds}:*"):
                client.delete(key)
            yield "redis", url


@pytest.mark.promise("done-is-counted")
def test_guards_that_share_a_server_overrun_no_limit_together(place: tuple[str, str]) -> None:
    stores = [store_at(*place) for _ in range(3)]
    stores[0].check()
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda store: refunds(store, 4, 30), stores))
    assert sum(done) == 3
    for store in stores:
        store.close()
