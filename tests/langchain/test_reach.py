"""All that a tool runs makes it the tool that it is, wherever that stands; and data makes no other tool."""

from __future__ import annotations

import functools
import operator
import os
import sqlite3
import types
import warnings
import weakref
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool, create_retriever_tool
from langchain_mcp_adapters.tools import convert_mcp_tool_to_langchain_tool
from mcp.types import Tool

from agentguard.catalog import Catalog, spec_of
from agentguard.errors import ConfigurationError
from agentguard.langchain.reach import Reach
from tests.conftest import GO, Kit, Mode, scripted, tool_call, tool_messages

SCHEMA = {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}
Function = Callable[..., str]


def read(item: str) -> str:
    return f"read {item}"


def destroy(item: str) -> str:
    return f"destroy {item}"


async def aread(item: str) -> str:
    return read(item)


async def adestroy(item: str) -> str:
    return destroy(item)


def of(function: Any, **more: Any) -> BaseTool:
    return StructuredTool.from_function(
        func=function, name="look", description="Look.", args_schema=SCHEMA, **more
    )


def calling(run: Any) -> Function:
    def body(item: str) -> str:
        return str(run(item))

    return body


# --- places where what runs may stand


class Retry:
    """A decorator that is a class."""

    def __init__(self, function: Function, *, named: bool = False) -> None:
        if named:
            functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, item: str) -> str:
        return self.function(item)

    def run(self, item: str) -> str:
        return self.function(item)


class Slotted:
    __slots__ = ("run",)

    def __init__(self, function: Function) -> None:
        self.run = function

    def __call__(self, item: str) -> str:
        return self.run(item)


class Handler:
    """An object that nobody calls, and that holds a function."""

    def __init__(self, function: Function) -> None:
        self.function = function

    def run(self, item: str) -> str:
        return self.function(item)


class MadeByReader:
    def __new__(cls, item: str) -> str:  # type: ignore[misc]  # an odd class
        return read(item)


class MadeByDestroyer:
    def __new__(cls, item: str) -> str:  # type: ignore[misc]  # an odd class
        return destroy(item)


class Chain:
    def __init__(self, inner: Any) -> None:
        self.inner = inner


def default(function: Function) -> BaseTool:
    def body(item: str, run: Function = function) -> str:
        return run(item)

    return of(body)


def keyword_default(function: Function) -> BaseTool:
    def body(item: str, *, run: Function = function) -> str:
        return run(item)

    return of(body)


def attribute(function: Function) -> BaseTool:
    def body(item: str) -> str:
        return str(body.run(item))  # type: ignore[attr-defined]  # it is set below

    body.run = function  # type: ignore[attr-defined]  # a function may have attributes
    return of(body)


def items(function: Function) -> BaseTool:
    steps = [function]

    def body(item: str) -> str:
        return "".join(step(item) for step in steps)

    return of(body)


def table(function: Function) -> BaseTool:
    steps = {"look": function, "other": read}

    def body(item: str) -> str:
        return steps["look"](item)

    return of(body)


def tool_inside(function: Function) -> BaseTool:
    inner = StructuredTool.from_function(function, name="inner", description="x", args_schema=SCHEMA)

    def body(item: str) -> str:
        return str(inner.invoke({"item": item}))

    return of(body)


def class_of_a_factory(function: Function) -> BaseTool:
    class Look(BaseTool):
        name: str = "look"
        description: str = "Look."
        args_schema: Any = SCHEMA

        def _run(self, item: str) -> str:
            return function(item)

    return Look()


class Field(BaseTool):
    name: str = "look"
    description: str = "Look."
    args_schema: Any = SCHEMA
    work: Any = None

    def _run(self, item: str) -> str:
        return str(self.work["run"](item))


def object_of_an_object(function: Function) -> BaseTool:
    handler = Chain(Handler(function))

    def body(item: str) -> str:
        return str(handler.inner.run(item))

    return of(body)


def module(function: Function) -> BaseTool:
    handlers = types.ModuleType("handlers")
    handlers.run = function  # type: ignore[attr-defined]  # a module has any

    def body(item: str) -> str:
        return str(handlers.run(item))

    return of(body)


def weakly(function: Function) -> BaseTool:
    reference = weakref.ref(function)

    def body(item: str) -> str:
        run = reference()
        return "" if run is None else run(item)

    return of(body)


def beside(function: Function) -> BaseTool:
    return of(read, coroutine=aread if function is read else adestroy)


def composed(function: Function) -> BaseTool:
    chain = RunnableLambda(lambda item: item) | RunnableLambda(function)

    def body(item: str) -> str:
        return str(chain.invoke(item))

    return of(body)


def as_tool(function: Function) -> BaseTool:
    with warnings.catch_warnings(action="ignore"):  # it is in beta
        chain = RunnableLambda(lambda given: given["item"]) | RunnableLambda(function)
        return chain.as_tool(name="look", description="Look.", arg_types={"item": str})


PLACES: list[Callable[[Function], BaseTool]] = [
    default,
    keyword_default,
    attribute,
    items,
    table,
    tool_inside,
    class_of_a_factory,
    object_of_an_object,
    module,
    weakly,
    beside,
    composed,
    as_tool,
    lambda function: of(Retry(function)),
    lambda function: of(Retry(function, named=True)),
    lambda function: of(Retry(function).run),
    lambda function: of(Slotted(function)),
    lambda function: of(calling(Retry(function))),
    lambda function: of(calling(Slotted(function).run)),
    lambda function: of(calling(functools.lru_cache(function))),
    lambda function: of(calling(functools.partial(calling(function)))),
    lambda function: of(calling(MadeByReader if function is read else MadeByDestroyer)),
    lambda function: of(calling(str.upper if function is read else str.lower)),
    lambda function: of(calling(os.stat if function is read else os.unlink)),
    lambda function: of(calling(operator.methodcaller("upper" if function is read else "lower"))),
    lambda function: Field(work={"run": function}),
    lambda function: of(read, handle_tool_error=function),
]
IDS = [
    *(place.__name__ for place in PLACES[:13]),
    *("class", "named class", "method", "slots", "class in closure", "slot in closure", "cached", "partial"),
    *("class by new", "descriptor of C", "function of C", "methodcaller", "field", "handler of errors"),
]


@pytest.mark.promise("tools-of-a-request")
@pytest.mark.parametrize("place", PLACES, ids=IDS)
def test_another_function_is_another_tool_and_the_same_one_is_the_same_tool_wherever_it_stands(
    kit: Kit, place: Callable[[Function], BaseTool]
) -> None:
    guard = kit.another(catalog=Catalog([spec_of("look", {"path": "read"})]))
    guard.wrap(place(read))
    guard.wrap(place(read))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="two tools are named look"):
            guard.wrap(place(destroy))
    guard.wrap(place(read))


@pytest.mark.promise("tools-of-a-request")
@pytest.mark.parametrize("place", [beside, tool_inside, items, class_of_a_factory, as_tool])
async def test_what_is_another_function_does_not_run_behind_the_middleware(
    kit: Kit, mode: Mode, place: Callable[[Function], BaseTool]
) -> None:
    guard, texts = kit.another(catalog=Catalog([spec_of("look", {"path": "read"})])), list[str]()
    with guard.task("Look", subject="alice", mandate={"tools": "*"}):
        for function in (read, destroy, read):
            agent: Any = create_agent(
                scripted(tool_call("look", item="x")), [place(function)], middleware=[guard.middleware()]
            )
            texts += [message.text for message in tool_messages(await mode.invoke(agent, GO))]
    assert [text.partition(" ")[0] for text in texts] == ["read", "Denied:", "read"]


def loaded(**changes: Any) -> BaseTool:
    tool = convert_mcp_tool_to_langchain_tool(
        None,
        Tool(name="look", inputSchema=SCHEMA),
        connection={"transport": "streamable_http", "url": "https://shop.example/mcp"},
        server_name="shop",
    )
    return tool.model_copy(update=changes)


@pytest.mark.promise("tools-of-a-request", "mcp-name-is-bound")
def test_a_function_beside_the_coroutine_of_an_mcp_tool_is_no_tool_of_the_server(kit: Kit) -> None:
    mixed = loaded(func=destroy, response_format="content")
    guard = kit.another(catalog=Catalog([spec_of("look", {"path": "read"})]))
    guard.wrap(loaded())
    with pytest.raises(ConfigurationError, match="two tools are named look"):
        guard.wrap(mixed)
    bound = kit.another(catalog=Catalog([spec_of("look", {"path": "read", "server": "shop"})]))
    with pytest.raises(ConfigurationError, match="is a tool of the MCP server shop"):
        bound.wrap(mixed)


# --- data makes no other tool


class Desk:
    """An object of the application that fills up while it is used."""

    def __init__(self) -> None:
        self.log = list[User]()


@pytest.mark.promise("tools-of-a-request")
def test_how_much_data_there_is_makes_no_other_tool_where_functions_stand_twice() -> None:
    def made(desk: Desk) -> BaseTool:
        first = later = read

        def look(item: str) -> str:
            desk.log.append(User(item))
            return first(item) + later(item)

        return of(look)

    desk = Desk()
    definition = Reach(made(desk)).definition
    for name in ("alice", "bob", "carol"):
        desk.log.append(User(name))
        assert Reach(made(desk)).definition == definition


@pytest.mark.promise("tools-of-a-request")
def test_a_connection_for_each_request_makes_no_other_tool() -> None:
    def made(connection: sqlite3.Connection) -> BaseTool:
        return of(lambda item: str(connection.execute("SELECT ?", (item,)).fetchone()))

    definitions = list[object]()
    for _ in range(2):
        with closing(sqlite3.connect(":memory:")) as connection:
            definitions.append(Reach(made(connection)).definition)
    assert definitions[0] == definitions[1]


class User:
    def __init__(self, name: str) -> None:
        self.name = name

    def can(self, item: str) -> str:
        return f"{self.name} {item}"


class Admin(User):
    def can(self, item: str) -> str:
        return f"all {item}"


class Documents(BaseRetriever):
    user: str = ""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(page_content=f"{query} of {self.user}")]


class Others(Documents):
    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return []


def retriever_tool(user: str) -> BaseTool:
    return create_retriever_tool(Documents(user=user), "look", "Look.")


def retriever_as_tool(user: str) -> BaseTool:
    with warnings.catch_warnings(action="ignore"):  # it is in beta
        return Documents(user=user).as_tool(name="look", description="Look.")


def cached(user: str) -> BaseTool:
    @functools.lru_cache
    def look(item: str) -> str:
        return f"{item} of {user}"

    return of(look)


def of_a_user(user: str) -> BaseTool:
    subject = Admin(user) if user == "bob" else User(user)
    cart = [Handler(read) for _ in user]  # objects in a list are data, however many there are

    def look(item: str) -> str:
        return subject.can(item) + "".join(position.run(item) for position in cart)

    return of(look)


def of_a_framework_inside(user: str) -> BaseTool:
    inner = retriever_tool(user)

    def look(item: str) -> str:
        return str(inner.invoke({"query": item}))

    return of(look)


@pytest.mark.promise("tools-of-a-request")
@pytest.mark.parametrize("way", [retriever_tool, retriever_as_tool, cached, of_a_user, of_a_framework_inside])
async def test_an_ordinary_tool_that_is_made_for_each_request_serves_each(
    kit: Kit, mode: Mode, way: Callable[[str], BaseTool]
) -> None:
    guard, statuses = kit.another(catalog=Catalog([spec_of("look", {"path": "read"})])), list[str]()
    for user in ("alice", "bob", "carol"):
        tool = way(user)
        call = tool_call("look", **{next(iter(tool.args)): "x"})
        agent: Any = create_agent(scripted(call), [tool], middleware=[guard.middleware()])
        with guard.task("Look", subject=user, mandate={"tools": "*"}):
            statuses += [m.status for m in tool_messages(await mode.invoke(agent, GO))]
    assert statuses == ["success"] * 3


@pytest.mark.promise("tools-of-a-request")
def test_another_retriever_behind_a_frameworks_function_is_another_tool(kit: Kit) -> None:
    guard = kit.another(catalog=Catalog([spec_of("look", {"path": "read"})]))
    guard.wrap(retriever_tool("a"))
    with pytest.raises(ConfigurationError, match="two tools are named look"):
        guard.wrap(create_retriever_tool(Others(), "look", "Look."))


# --- what cannot be looked through


class Node:
    """An object that is called, and that holds many more."""

    def __init__(self, number: int) -> None:
        self.nodes = [Node(0) for _ in range(number)]

    def __call__(self, item: str) -> str:
        return item


def test_an_object_that_holds_too_much_is_the_same_only_as_itself() -> None:
    big, other = Node(900), Node(900)
    definitions = [Reach(of(calling(node))).definition for node in (big, big, other)]
    assert definitions[0] == definitions[1]
    assert definitions[0] != definitions[2]


def test_a_tool_that_reaches_too_much_is_the_same_only_as_itself() -> None:
    def deep(number: int) -> Function:
        body = read
        for _ in range(number):
            body = calling(body)
        return body

    assert Reach(of(deep(20))).definition == Reach(of(deep(20))).definition
    one, other = deep(500), deep(500)
    assert Reach(of(one)).definition == Reach(of(one)).definition
    assert Reach(of(one)).definition != Reach(of(other)).definition


def _raise(_proxy: object) -> Any:
    raise RuntimeError("outside of a request")


# answers each question about itself by an error, as a proxy does outside of its request
Proxy = type("Proxy", (), {"__class__": property(_raise), "__dict__": property(_raise)})


def test_a_proxy_that_raises_is_data() -> None:
    proxy, function = Proxy(), calling(read)
    function.proxy = proxy  # type: ignore[attr-defined]  # a function may have attributes
    assert proxy in [part for part in Reach(of(function)).objects if type(part) is Proxy]


def test_two_functions_that_hold_each_other_are_walked_through_once() -> None:
    def pair(last: Function) -> Function:
        def one(item: str) -> str:
            return two(item) if item else last(item)

        def two(item: str) -> str:
            return one(item)

        return one

    assert Reach(of(pair(read))).definition == Reach(of(pair(read))).definition
    assert Reach(of(pair(read))).definition != Reach(of(pair(destroy))).definition


def test_of_two_lists_that_hold_the_same_functions_in_another_order_the_second_is_another() -> None:
    def steps(*functions: Function) -> BaseTool:
        def body(item: str) -> str:
            return "".join(step(item) for step in functions)

        return of(body)

    for one, other in (
        ((read, destroy, read), (read, destroy, destroy)),
        ((read, destroy), (destroy, read)),
    ):
        assert Reach(steps(*one)).definition == Reach(steps(*one)).definition
        assert Reach(steps(*one)).definition != Reach(steps(*other)).definition
