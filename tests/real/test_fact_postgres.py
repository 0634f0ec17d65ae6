"""A fact by a query to a real PostgreSQL, as agentguard.toml names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from agentguard.config.fact_database import connecting
from agentguard.facts import IdleConnections, SqlFact, type_of
from agentguard.model import FactType
from agentguard.testing import FactContract, sample_request

QUERY = "SELECT status, total, placed FROM fact_orders WHERE id = %s"
FIELDS = {
    "status": {"type": "string"},
    "total": {"type": "string", "format": "decimal"},
    "placed": {"type": "string", "format": "date-time"},
}


@pytest.fixture(scope="module")
def url(postgres: str) -> Iterator[str]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE fact_orders (id text PRIMARY KEY, status text, total numeric, placed timestamptz)"
        )
        connection.execute(
            "INSERT INTO fact_orders VALUES ('4711', 'pending', 12.3400, '2026-01-01 12:00:00.123456+02')"
        )
        yield postgres
        connection.execute("DROP TABLE fact_orders")


class TestAQueryToPostgres(FactContract):
    @pytest.fixture(autouse=True)
    def _server(self, url: str) -> None:
        self.url = url

    def make(self) -> SqlFact:
        return SqlFact(IdleConnections(connecting(self.url, timeout=5.0, ca=None, password=None)), QUERY)


def source_of(url: str, query: str = QUERY, timeout: float = 5.0) -> SqlFact:
    return SqlFact(IdleConnections(connecting(url, timeout=timeout, ca=None, password=None)), query)


def test_a_row_is_exact_to_its_last_place(url: str) -> None:
    source = source_of(url)
    row = source.read(sample_request(), ("4711",))
    assert row["total"] == Decimal("12.3400")
    kind = FactType(type_of({"type": "object", "properties": FIELDS, "required": list(FIELDS)}))
    assert kind.canonical(row, 1_000).startswith(b'{"placed":"2026-01-01T')
    assert b'"total":"12.3400"' in kind.canonical(row, 1_000)
    source.close()


@pytest.mark.parametrize(
    "query",
    [
        "UPDATE fact_orders SET status = 'shipped' WHERE id = %s RETURNING status",
        "WITH gone AS (DELETE FROM fact_orders WHERE id = %s RETURNING status) SELECT status FROM gone",
    ],
)
def test_a_query_changes_nothing(url: str, query: str) -> None:
    with closing(source_of(url, query)) as source, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        source.read(sample_request(), ("4711",))
    with closing(source_of(url)) as source:
        assert source.read(sample_request(), ("4711",))["status"] == "pending"


def test_a_connection_that_the_server_has_ended_is_replaced(url: str) -> None:
    source = source_of(url)
    assert source.read(sample_request(), ("4711",))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agentguard'"
        )
    assert source.read(sample_request(), ("4711",))["status"] == "pending"
    source.close()


def test_a_query_that_takes_too_long_is_ended_at_the_server(url: str) -> None:
    source: Any = source_of(url, "SELECT pg_sleep(30)::text WHERE %s <> ''", timeout=0.5)
    with pytest.raises(psycopg.errors.QueryCanceled):
        source.read(sample_request(), ("4711",))
    source.close()
