"""The sources of facts: functions and queries."""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentguard.errors import ConfigurationError, FactError
from agentguard.facts import FunctionFact, IdleConnections, SqlFact, fact_of, type_of
from agentguard.model import AccessRequest, FactType
from agentguard.testing import FactContract, sample_request

QUERY = "SELECT id, status FROM orders WHERE id = ?"
ORDERS = {"4711": {"id": "4711", "status": "pending"}}


@dataclass
class Order:
    status: str


def database(path: Path) -> Callable[[], sqlite3.Connection]:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, status TEXT)")
        connection.execute("INSERT OR REPLACE INTO orders VALUES ('4711', 'pending'), ('4712', 'shipped')")
    connection.close()
    return lambda: sqlite3.connect(path)


class TestAFunctionOfTheKey(FactContract):
    def make(self) -> FunctionFact:
        return FunctionFact(ORDERS.get)


class TestAnAsyncFunction(FactContract):
    def make(self) -> FunctionFact:
        async def order(order_id: str) -> Any:
            await asyncio.sleep(0)
            return ORDERS.get(order_id)

        return FunctionFact(order)


class TestAFunctionOfTheRequest(FactContract):
    def make(self) -> FunctionFact:
        def order(request: AccessRequest, order_id: str) -> Any:
            return ORDERS.get(order_id) if request.identity.subject == "user:ada" else None

        return FunctionFact(order, with_request=True)


class TestAQuery(FactContract):
    @pytest.fixture(autouse=True)
    def path(self, tmp_path: Path) -> None:
        self.connect = database(tmp_path / "orders.db")

    def make(self) -> SqlFact:
        return SqlFact(self.connect, QUERY)


@pytest.mark.promise("a-key-of-a-fact-is-only-a-value")
def test_a_query_has_the_key_as_a_parameter_and_its_row_as_fields(tmp_path: Path) -> None:
    connect = database(tmp_path / "orders.db")
    source = SqlFact(connect, QUERY)
    assert source.read(sample_request(), ("4711",)) == {"id": "4711", "status": "pending"}
    assert source.read(sample_request(), ("x' OR '1'='1",)) is None
    assert SqlFact(connect, "SELECT count(*) FROM orders", scalar=True).read(sample_request(), ()) == 2


def test_a_query_that_finds_several_rows_or_gets_a_key_of_another_kind_has_no_answer(tmp_path: Path) -> None:
    connect = database(tmp_path / "orders.db")
    with pytest.raises(FactError, match="several rows"):
        SqlFact(connect, "SELECT id FROM orders WHERE id <> ?").read(sample_request(), ("x",))
    with pytest.raises(FactError, match="neither text"):
        SqlFact(connect, QUERY).read(sample_request(), (["4711"],))


def test_an_answer_of_several_rows_is_asked_for_once_and_breaks_no_connection(tmp_path: Path) -> None:
    idle = IdleConnections(database(tmp_path / "orders.db"))
    asked: list[str] = []

    def connect() -> Any:
        connection = idle()
        connection._connection.set_trace_callback(asked.append)
        return connection

    source = SqlFact(connect, "SELECT id FROM orders WHERE id <> ?")
    for _ in range(2):
        with pytest.raises(FactError, match="several rows"):
            source.read(sample_request(), ("x",))
    assert len(asked) == 2
    assert len(idle.connections) == 1
    idle.close()


def test_a_query_by_the_user_gets_the_user_first(tmp_path: Path) -> None:
    source = SqlFact(database(tmp_path / "orders.db"), "SELECT ? AS who", by_subject=True)
    assert source.read(sample_request(), ()) == {"who": "user:ada"}


def test_each_connection_is_closed_also_where_the_query_fails(tmp_path: Path) -> None:
    opened: list[sqlite3.Connection] = []
    connect = database(tmp_path / "orders.db")

    def remembering() -> sqlite3.Connection:
        opened.append(connect())
        return opened[-1]

    SqlFact(remembering, QUERY).read(sample_request(), ("4711",))
    with pytest.raises(sqlite3.Error):
        SqlFact(remembering, "SELECT nothing FROM nowhere WHERE id = ?").read(sample_request(), ("4711",))
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


# --- what a function declares


def order(order_id: str) -> Order | None:
    return None


def test_the_annotation_of_a_function_is_the_type_of_its_fact() -> None:
    spec = fact_of(order, tools=["refund_order"], key="order_id").spec
    assert (spec.name, spec.keys, spec.type.optional) == ("order", {"refund_order": ("order_id",)}, True)
    assert spec.type.canonical(Order("pending"), 100) == b'{"status":"pending"}'


def test_each_tool_may_name_its_own_arguments() -> None:
    def seat(flight: str, number: int) -> Order:
        return Order(flight * number)

    spec = fact_of(seat, tools={"book": ("flight", "seat"), "move": ("to", "seat")}).spec
    assert spec.keys == {"book": ("flight", "seat"), "move": ("to", "seat")}


def nothing(order_id: str):  # type: ignore[no-untyped-def]  # what is tested
    return order_id


def late(request: AccessRequest, order_id: str) -> Order:
    return Order(order_id)


@pytest.mark.parametrize(
    ("function", "options", "problem"),
    [
        (nothing, {"key": "order_id"}, "does not say what it returns"),
        (order, {"key": ("order_id", "more")}, "does not take order_id, more"),
        (order, {}, "does not take nothing"),
        (late, {"key": "order_id", "lifetime": 5.0}, "whole request"),
        (order, {"key": "order_id", "name": "an order"}, "no identifier"),
        (order, {"key": "order_id", "tools": []}, "holds for no tool"),
        (order, {"key": "order_id", "timeout": 0.0}, "out of range"),
        (order, {"key": "order_id", "resource": True}, "cannot be absent"),
        (lambda order_id: None, {"key": "order_id", "name": "x", "type": str, "resource": True}, "no fields"),
        (order, {"key": "order_id", "type": object()}, "no type of a fact"),
    ],
)
def test_a_wrong_declaration_says_what_is_wrong(
    function: Callable[..., Any], options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        fact_of(function, **{"tools": ["refund_order"], **options})


# --- types in JSON Schema

SCHEMA = {
    "type": "object",
    "properties": {
        "status": {"enum": ["pending", "shipped"]},
        "total": {"type": "string", "format": "decimal"},
        "placed": {"type": "string", "format": "date-time"},
        "items": {"type": "array", "items": {"type": "object", "properties": {"sku-no": {"type": "string"}}}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "count": {"type": ["integer", "null"]},
        "kind": {"const": "order"},
    },
    "required": ["status", "total"],
}


def test_a_schema_is_a_type_that_leaves_out_what_it_does_not_name() -> None:
    kind = FactType(type_of(SCHEMA))
    record = {
        "status": "pending",
        "total": Decimal("12.3400"),
        "placed": "2026-01-01T10:00:00Z",
        "items": [{"sku-no": "a", "secret": "s"}],
        "secret": "s",
    }
    assert kind.canonical(record, 1_000) == (
        b'{"count":null,"items":[{"sku-no":"a"}],"kind":null,"note":null,"placed":"2026-01-01T10:00:00Z",'
        b'"status":"pending","total":"12.3400"}'
    )


@pytest.mark.parametrize(
    "record",
    [
        {"status": "lost", "total": "1"},
        {"status": "pending"},
        {"status": "pending", "total": "NaN"},
        {"status": "pending", "total": "1", "placed": "yesterday"},
        {"status": "pending", "total": "1", "items": [{"sku-no": 5}]},
        {"status": "pending", "total": "1", "kind": "user"},
        [],
        "pending",
    ],
)
def test_a_record_of_another_type_is_refused_without_its_values(record: Any) -> None:
    with pytest.raises(ValueError, match=r"not of the declared type \(\w+\)$") as caught:
        FactType(type_of(SCHEMA)).canonical(record, 1_000)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "schema",
    [
        "string",
        {"type": "text"},
        {"type": "string", "format": "email"},
        {"type": "integer", "format": "date"},
        {"type": "string", "pattern": "x"},
        {"type": "object"},
        {"type": "array"},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]},
    ],
)
def test_a_schema_that_would_not_be_checked_is_refused(schema: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        type_of(schema)
