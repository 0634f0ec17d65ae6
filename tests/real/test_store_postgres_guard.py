"""A guard and its LangChain tools on a PostgreSQL store, named by agentguard.toml."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agentguard import Denied, Guard, credential
from agentguard.config import build, load
from agentguard.stores.postgres import PostgresStore
from tests.conftest import GO, Mode, scripted, tool_call, tool_messages
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
[tools.find_orders]
path = "read"
untrusted = true
sensitivity = "internal"
trusted = ["order"]
args = {{ customer = "string" }}
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
        # by another process, which has read nothing of the task before
        (guarded_there,) = other.wrap([get_order], on_deny="raise")
        results.append(await mode.run(guarded_there, {"order_id": "4"}))
        before = proxy.round_trips
        results.append(await mode.run(guarded, {"order_id": "5"}))
        trips_after_another = proxy.round_trips - before
        state = store.task(task.id)
        assert state is not None
        assert state.calls == 6
        assert store.live() == ()
        assert store.active("user:ada") == (task.id,)
        await asyncio.to_thread(other.find(task.id).revoke)
        with pytest.raises(Denied) as denied:
            await mode.run(guarded, {"order_id": "6"})
    assert results == [f"{number}: Lease" for number in range(6)]
    assert "is revoked" in denied.value.reason
    assert trips == 2, "the call begins, if its task is as it was, and ends"
    assert trips_after_another == 3, "the call was judged anew by the answer to its beginning"
    for resource in (guard, other, store):
        resource.close()


@tool
def find_orders(customer: str) -> dict[str, str]:
    """Return what a customer has ordered."""
    return {"order": f"order-of-{customer}", "note": f"written by anybody, of {customer}"}


async def test_each_call_of_an_agent_costs_two_round_trips_though_its_task_reads_and_gets_labels(
    toml: Path, mode: Mode, proxy: PostgresProxy
) -> None:
    guard = Guard.from_file(toml)
    runs, trips = list[Any](), list[int]()
    with guard.task("look", subject="user:ada", mandate={"tools": "*"}) as task:
        for run in range(3):
            steps = list[Any]()
            for number in range(3):
                customer = f"{run}-{number}"
                steps.append(tool_call("find_orders", f"f{customer}", customer=customer))
                steps.append(tool_call("get_order", f"g{customer}", order_id=f"order-of-{customer}"))
            agent = create_agent(scripted(*steps), [find_orders, get_order], middleware=[guard.middleware()])
            before = proxy.round_trips
            runs.append(await mode.invoke(agent, GO))
            trips.append(proxy.round_trips - before)
        state = task.state()
    assert [message.status for run in runs for message in tool_messages(run)] == ["success"] * 18
    assert (state.calls, state.untrusted, state.labels > 9) == (18, True, True)
    assert trips[1:] == [12, 12], "in the first run connections are opened and statements prepared"
    guard.close()
