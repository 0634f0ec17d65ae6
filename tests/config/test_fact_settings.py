"""``[facts.NAME]`` of agentguard.toml: what it builds, and that every mistake has a line and a hint."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool

from agentguard import Denied, Guard
from agentguard.config import build, load
from agentguard.errors import ConfigurationError
from agentguard.facts import HttpFact, SqlFact, ToolFact
from tests.conftest import Mode

TOML = """
[policy]
cedar = ["p.cedar"]
[store]
kind = "memory"
[resources.orders]
origins = ["https://orders.example"]
[tools.get_order]
path = "read"
args = { id = "string" }
[tools.refund_order]
path = "write"
instance = "order_id"
args = { order_id = "string" }
"""
TOOL = """
[facts.order]
kind = "tool"
tool = "get_order"
arguments = ["id"]
tools = { refund_order = "order_id" }
type = { status = "string", total = "decimal?", tags = "string[]?" }
resource = true
"""
SQL = """
[facts.order]
kind = "sql"
url = "sqlite:///orders.db"
query = "SELECT status FROM orders WHERE id = ?"
tools = { refund_order = ["order_id"] }
type = { status = "string" }
optional = true
timeout = 2.5
lifetime = 5
sensitivity = "confidential"
"""
HTTP = """
[facts.order]
kind = "http"
url = "https://orders.example/orders/{order_id}"
credential = "orders"
scopes = ["orders:read"]
tools = { refund_order = "order_id" }
[facts.order.type]
required = ["status"]
properties = { status = { enum = ["pending", "shipped"] } }
type = "object"
"""
CEDAR = """
@id("reads") permit (principal, action in Action::"read", resource);
@id("refunds") permit (principal, action == Action::"refund_order", resource) when { CONDITION };
"""
OF_THING, OF_FACT = (
    'resource.status == "pending"',
    ('context.facts has order && context.facts.order.status == "pending"'),
)


@tool
def get_order(id: str) -> dict[str, Any]:
    """Get an order."""
    return {"status": "pending" if id == "4711" else "shipped", "total": "1.5"}


@tool
def refund_order(order_id: str) -> str:
    """Refund an order."""
    return f"refunded {order_id}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("orders.db") as connection:
        connection.execute("CREATE TABLE orders (id TEXT, status TEXT)")
        connection.execute("INSERT INTO orders VALUES ('4711', 'pending'), ('4712', 'shipped')")
    connection.close()
    return tmp_path


def write(folder: Path, table: str, condition: str = "true") -> Path:
    (folder / "p.cedar").write_text(CEDAR.replace("CONDITION", condition))
    file = folder / "agentguard.toml"
    file.write_text(TOML + table)
    return file


@pytest.mark.parametrize(("table", "condition"), [(TOOL, OF_THING), (SQL, OF_FACT)])
async def test_a_fact_of_the_file_is_read_by_a_tool_or_a_query(
    folder: Path, mode: Mode, table: str, condition: str
) -> None:
    with Guard.from_file(write(folder, table, condition)) as guard:
        tools = guard.wrap([get_order, refund_order])
        with guard.task("test", subject="alice", mandate={"tools": "*"}):
            assert await mode.invoke(tools[1], {"order_id": "4711"}) == "refunded 4711"
            with pytest.raises(Denied, match="not permitted"):
                await mode.invoke(tools[1], {"order_id": "4712"})


def test_the_file_says_all_that_a_declaration_says(folder: Path) -> None:
    (declared,) = build(load(write(folder, SQL))).ports.facts
    spec = declared.spec
    assert isinstance(declared.source, SqlFact)
    assert (spec.name, spec.keys, spec.timeout, spec.lifetime) == (
        "order",
        {"refund_order": ("order_id",)},
        2.5,
        5.0,
    )
    assert (spec.type.optional, spec.sensitivity.name, spec.shared, spec.trusted) == (
        True,
        "CONFIDENTIAL",
        False,
        False,
    )
    declared.source.close()
    (by_tool,) = build(load(write(folder, TOOL))).ports.facts
    assert isinstance(by_tool.source, ToolFact)
    assert (by_tool.spec.tool, by_tool.spec.resource) == ("get_order", True)
    assert by_tool.spec.type.canonical({"status": "a", "total": "1.50"}, 99) == (
        b'{"status":"a","tags":null,"total":"1.50"}'
    )
    (by_http,) = build(load(write(folder, HTTP))).ports.facts
    assert isinstance(by_http.source, HttpFact)
    assert (by_http.spec.credential, by_http.spec.scopes) == ("orders", frozenset({"orders:read"}))


@pytest.mark.parametrize(
    ("table", "before", "after", "problem", "hint"),
    [
        (TOOL, "tool = ", "tol = ", "facts.order.tol: unknown key", "did you mean tool?"),
        (TOOL, '"get_order"', '"get_orders"', "there is no tool 'get_orders'", "[tools.get_orders]"),
        (TOOL, '"get_order"', '"refund_order"', "is needed to judge the call of", "leave refund_order out"),
        (TOOL, "refund_order =", "refund =", "there is no tool 'refund'", "[tools.refund]"),
        (TOOL, '"order_id"', '"order"', "no argument order", "use: order_id"),
        (TOOL, '"decimal?"', '"money"', "'money' is no type", "decimal"),
        (TOOL, "resource = true", "resource = true\noptional = true", "cannot be absent", "without None"),
        (SQL, 'kind = "sql"', 'kind = "graph"', "its kind is missing or unknown", '"http"'),
        (SQL, "sqlite:///orders.db", "mysql://db", "names no database that is known", "postgresql://"),
        (SQL, "timeout = 2.5", "timeout = 100", "less than or equal to 60", "seconds"),
        (SQL, "lifetime = 5", 'password = "hunter2"', "pattern", "file:/run/secrets/db"),
        (HTTP, '= "orders"', '= "others"', "there is no resource 'others'", "[resources.others]"),
        (HTTP, "https://orders.example", "https://o.example", "none of the origins of orders", "origins"),
        (HTTP, "{order_id}", "{id}", "holes of a fact's url", "{order_id}"),
        (HTTP, '"object"', '"object"\npattern = "x"', "'pattern' is not known here", "JSON Schema"),
    ],
)
def test_a_mistake_in_a_fact_is_an_error_with_file_line_and_hint(
    folder: Path, table: str, before: str, after: str, problem: str, hint: str
) -> None:
    assert before in table
    with pytest.raises(ConfigurationError) as caught:
        Guard.from_file(write(folder, table.replace(before, after, 1)))
    assert problem in caught.value.problem
    assert hint in caught.value.hint
    assert "hunter2" not in str(caught.value)
    if "no argument" not in problem and "needed to judge" not in problem:
        assert caught.value.line is not None


def test_an_instance_that_is_no_argument_is_an_error(folder: Path) -> None:
    file = write(folder, "")
    file.write_text(file.read_text().replace('instance = "order_id"', 'instance = "id"'))
    with pytest.raises(ConfigurationError, match="'id' is not an argument of the tool"):
        load(file)
