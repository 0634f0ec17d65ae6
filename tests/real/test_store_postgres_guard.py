"""A guard and its LangChain tools on a PostgreSQL store, named by agentguard.toml."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain_core.tools import tool
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agentguard import Denied, Guard, credential
from agentguard.config import build, load
from agentguard.stores.postgres import PostgresStore
from tests.conftest import Mode
from tests.real.postgres_proxy import PostgresProxy

Database = psycopg.Connection[psycopg.rows.TupleRow]
TOML = """
[store]
kind = "postgres"
url = "{url}"
password = "env:STORE_PASSWORD"
schema = "guarded"
durability = "lossy"
timeout = 10
[policy]
cedar = ["all.cedar"]
[resources.orders]
origins = ["https://orders.example"]
[tools.get_order]
path = "read"
resource = "orders"
args = {{ order_id = "string" }}
"""


@tool
def get_order(order_id: str) -> str:
    """Return an order."""
    return f"{order_id}: {type(credential()).__name__}"


@pytest.fixture
def database(postgres: str) -> Iterator[Database]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(b"DROP SCHEMA IF EXISTS guarded CASCADE")
        yield connection
        connection.execute(b"DROP SCHEMA IF EXISTS guarded CASCADE")


@pytest.fixture
def proxy(postgres: str) -> Iterator[PostgresProxy]:
    with PostgresProxy(int(conninfo_to_dict(postgres)["port"] or 0)) as proxy:
        yield proxy


@pytest.fixture
def toml(
    postgres: str,
    proxy: PostgresProxy,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    parts: dict[str, Any] = conninfo_to_dict(postgres) | {"port": proxy.port, "sslmode": "disable"}
    monkeypatch.setenv("STORE_PASSWORD", str(parts.pop("password", "none")))
    (tmp_path / "all.cedar").write_text('@id("all") permit (principal, action, resource);')
    path = tmp_path / "agentguard.toml"
    path.write_text(TOML.format(url=make_conninfo("", **parts)))
    return path


async def test_a_call_of_a_tool_runs_by_the_shared_store_and_another_guard_ends_its_task(
    toml: Path, mode: Mode, proxy: PostgresProxy
) -> None:
    guard, other = Guard.from_file(toml), Guard.from_file(toml)
    store = build(load(toml)).ports.store
    assert isinstance(store, PostgresStore)
    (guarded,) = guard.wrap([get_order], on_deny="raise")
    with guard.task("look", subject="user:ada", mandate={"tools": "*"}) as task:
        results = [await mode.run(guarded, {"order_id": f"{number}"}) for number in range(3)]
        before = proxy.round_trips
        results.append(await mode.run(guarded, {"order_id": "3"}))
        trips = proxy.round_trips - before
        state = store.task(task.id)
        assert state is not None
        assert state.calls == 4
        assert store.live() == ()
        assert store.active("user:ada") == (task.id,)
        await asyncio.to_thread(other.find(task.id).revoke)
        with pytest.raises(Denied) as denied:
            await mode.run(guarded, {"order_id": "4"})
    assert results == [f"{number}: Lease" for number in range(4)]
    assert "is revoked" in denied.value.reason
    assert trips == 3, "the task is read to judge the call, then the call begins and ends"
    for resource in (guard, other, store):
        resource.close()
