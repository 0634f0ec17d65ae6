"""What only an operator runs makes a tool the tool that it is too; and data still makes no other tool."""

from __future__ import annotations

import collections
import contextlib
import functools
import gc
import itertools
import sqlite3
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import process_time
from typing import Any

import httpx
import pytest
import redis
from fastapi import FastAPI, Request
from langchain.agents import create_agent
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.tools import BaseTool
from langchain_core.vectorstores import InMemoryVectorStore

from agentguard.catalog import Catalog, spec_of
from agentguard.errors import ConfigurationError
from agentguard.langchain.reach import Reach
from tests.conftest import GO, Kit, Mode, scripted, tool_call, tool_messages
from tests.langchain.test_reach import Function, Handler, destroy, of, read

PROMISE = pytest.mark.promise("tools-of-a-request")


class Held:
    def __init__(self, function: Function) -> None:
        self.function = function


class Subscript(Held):
    def __getitem__(self, name: str) -> Function:
        return self.function


class With(Held):
    def __enter__(self) -> Function:
        return self.function

    def __exit__(self, *_error: object) -> None: ...


class Sum(Held):
    def __add__(self, item: str) -> str:
        return self.function(item)


class Each(Held):
    def __iter__(self) -> Iterator[Function]:
        yield self.function


class Text(Held):
    def __format__(self, item: str) -> str:
        return self.function(item)


class Behind:
    """Answers each name by what is inside."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Missing(dict[str, Function]):
    function: Function

    def __missing__(self, name: str) -> Function:
        return self.function


class Steps(list[Function]):
    def __call__(self, item: str) -> str:
        return "".join(step(item) for step in self)


class Names(collections.UserDict[str, Function]):
    """A dict of Python."""


class Lines(list[str]):
    function: Function

    def run(self, item: str) -> str:
        return self.function(item)


def missing(function: Function) -> Missing:
    made = Missing()
    made.function = function
    return made


def lines(function: Function) -> Lines:
    made = Lines()
    made.function = function
    return made


def yielding(function: Function) -> Iterator[Function]:
    yield function


@contextlib.contextmanager
def managed(function: Function) -> Iterator[Function]:
    yield function


def executed(function: Function) -> Function:
    space: dict[str, Any] = {"__name__": "handlers", "run": function}
    exec("def body(item): return run(item)", space)  # noqa: S102  as a notebook or a plugin does
    made: Function = space["body"]
    return made


class OfAPlugin:
    """A class whose methods a plugin has: their module is registered nowhere."""

    def __init__(self, function: Function) -> None:
        kind = type("Plugin", (), {"run": executed(function), "__module__": "handlers"})
        self.plugin = staticmethod(vars(kind)["run"]).__func__


def weak_values(function: Function) -> Any:
    values = weakref.WeakValueDictionary[str, Any]()
    values["look"] = function
    return values


CODE = {
    read: compile("'read ' + item", "<rule>", "eval"),
    destroy: compile("'destroy ' + item", "<rule>", "eval"),
}

# what holds the function, and how a tool has it run
WAYS: dict[str, tuple[Callable[[Function], Any], Callable[[Any], Callable[[str], Any]]]] = {
    "subscript": (Subscript, lambda held: lambda item: held["look"](item)),
    "with": (With, lambda held: lambda item: _with(held, item)),
    "sum": (Sum, lambda held: lambda item: held + item),
    "for": (Each, lambda held: lambda item: [run(item) for run in held]),
    "format": (Text, lambda held: lambda item: f"{held:x}{item}"),
    "getattr": (lambda f: Behind(Handler(f)), lambda held: lambda item: held.run(item)),
    "getattr twice": (lambda f: Behind(Behind(Handler(f))), lambda held: lambda item: held.run(item)),
    "getattr of a subscript": (
        lambda f: Behind(types.SimpleNamespace(x=Subscript(f))),
        lambda held: lambda item: held.x["y"](item),
    ),
    "missing": (missing, lambda held: lambda item: held["look"](item)),
    "list that is called": (lambda f: Steps([f]), lambda held: lambda item: held(item)),
    "method of a list": (lines, lambda held: lambda item: held.run(item)),
    "UserDict": (lambda f: collections.UserDict(look=f), lambda held: lambda item: held["look"](item)),
    "subclass of UserDict": (lambda f: Names(look=f), lambda held: lambda item: held["look"](item)),
    "ChainMap": (
        lambda f: collections.ChainMap({}, {"look": f}),
        lambda held: lambda item: held["look"](item),
    ),
    "UserList": (lambda f: collections.UserList([f]), lambda held: lambda item: held[0](item)),
    "defaultdict": (
        lambda f: collections.defaultdict(lambda: f),
        lambda held: lambda item: held["look"](item),
    ),
    "WeakValueDictionary": (weak_values, lambda held: lambda item: held["look"](item)),
    "key of a dict": (lambda f: {f: 1}, lambda held: lambda item: [run(item) for run in held]),
    "namespace": (lambda f: types.SimpleNamespace(run=f), lambda held: lambda item: held.run(item)),
    "generator": (yielding, lambda held: lambda item: next(held)(item)),
    "generator expression": (lambda f: (one for one in [f]), lambda held: lambda item: next(held)(item)),
    "context manager": (managed, lambda held: lambda item: _with(held, item)),
    "iterator": (lambda f: iter([f]), lambda held: lambda item: next(held)(item)),
    "map": (lambda f: map(f, ["x"]), lambda held: lambda item: next(held)),
    "filter": (lambda f: filter(f, ["x"]), lambda held: lambda item: next(held)),
    "chain": (lambda f: itertools.chain([f]), lambda held: lambda item: next(held)(item)),
    "cycle": (lambda f: itertools.cycle([f]), lambda held: lambda item: next(held)(item)),
    "zip": (lambda f: zip([f], [1], strict=True), lambda held: lambda item: next(held)[0](item)),
    "values": (lambda f: {"look": f}.values(), lambda held: lambda item: [run(item) for run in held]),
    "globals": (executed, lambda held: lambda item: held(item)),
    "globals of a plugin": (OfAPlugin, lambda held: lambda item: held.plugin(item)),
    "code": (CODE.__getitem__, lambda held: lambda item: eval(held, {"item": item})),  # noqa: S307  it is the tool's
    "the last of 1,500": (
        lambda f: [*itertools.repeat(None, 1_499), f],
        lambda held: lambda item: held[-1](item),
    ),
    "in one of 1,500 rows": (
        lambda f: [{"run": None, "n": n} for n in range(1_499)] + [{"run": f}],
        lambda held: lambda item: held[-1]["run"](item),
    ),
    "the last of 1,500 names": (
        lambda f: dict.fromkeys(map(str, range(1_499))) | {"z": f},
        lambda held: lambda item: held["z"](item),
    ),
    "the last of 1,500 functions": (lambda f: (*[read] * 1_499, f), lambda held: lambda item: held[-1](item)),
}


def _with(held: Any, item: str) -> Any:
    with held as run:
        return run(item)


def made(way: str, function: Function) -> BaseTool:
    hold, run = WAYS[way]
    return of(run(hold(function)))


@PROMISE
@pytest.mark.parametrize("way", WAYS)
def test_another_function_that_an_operator_runs_is_another_tool(kit: Kit, way: str) -> None:
    guard = kit.another(catalog=Catalog([spec_of("look", {"path": "read"})]))
    guard.wrap(made(way, read))
    guard.wrap(made(way, read))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="two tools are named look"):
            guard.wrap(made(way, destroy))
    guard.wrap(made(way, read))


@PROMISE
@pytest.mark.parametrize("way", ["subscript", "with", "getattr", "UserDict", "generator", "globals"])
async def test_another_function_that_an_operator_runs_does_not_run_behind_the_middleware(
    kit: Kit, mode: Mode, way: str
) -> None:
    guard, texts = kit.another(catalog=Catalog([spec_of("look", {"path": "read"})])), list[str]()
    with guard.task("Look", subject="alice", mandate={"tools": "*"}):
        for function in (read, destroy, read):
            agent: Any = create_agent(
                scripted(tool_call("look", item="x")), [made(way, function)], middleware=[guard.middleware()]
            )
            texts += [message.text for message in tool_messages(await mode.invoke(agent, GO))]
    assert [text.partition(" ")[0] for text in texts] == ["read", "Denied:", "read"]


# --- data


@dataclass
class Row:
    name: str
    tags: list[str] = field(default_factory=list)


class Cart:
    def __init__(self, owner: str) -> None:
        self.owner, self.rows = owner, [Row(owner)] * len(owner)

    def __getitem__(self, number: int) -> Row:
        return self.rows[number]

    def __len__(self) -> int:
        return len(self.rows)


DATA: dict[str, Callable[[str], Any]] = {
    "cart": Cart,
    "rows": lambda user: [Row(user) for _ in range(700 * len(user))],
    "dicts": lambda user: [{"name": user, "tags": [user, {"of": n}]} for n in range(700 * len(user))],
    "numbers": lambda user: list(range(30_000 * len(user))),
    "matrix": lambda user: [[0.5] * 100 for _ in range(300 * len(user))],
    "names": lambda user: {str(n): n for n in range(700 * len(user))},
    "UserDict": lambda user: collections.UserDict(name=user, more=[user] * len(user)),
    "ChainMap": lambda user: collections.ChainMap({user: 1}, {"x": user}),
    "iterator": lambda user: iter([user] * len(user)),
    "generator": lambda user: (letter for letter in user),
    "dict of strings": lambda user: {user: len(user)},
    "client": lambda user: httpx.Client(headers={"user": user}),
    "connection": lambda user: sqlite3.connect(":memory:"),
    "proxy": lambda user: Behind(Row(user)),
}


@PROMISE
@pytest.mark.parametrize("kind", DATA)
def test_data_of_a_request_makes_no_other_tool_whatever_operators_it_has(kind: str) -> None:
    def tool_of(data: Any) -> BaseTool:
        def look(item: str) -> str:
            return f"{item} {data[0]} {len(data)} {data.name}"

        return of(look)

    with contextlib.ExitStack() as stack:
        definitions = list[object]()
        for user in ("al", "bob", "carol"):
            data = DATA[kind](user)
            if kind in ("client", "connection"):
                stack.callback(data.close)
            definitions.append(Reach(tool_of(data)).definition)
    assert definitions[0] == definitions[1] == definitions[2]


CLIENTS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "httpx": (httpx.Client, lambda client: client.get("http://127.0.0.1:1")),
    "httpx of a loop": (httpx.AsyncClient, lambda client: client.headers.update({"a": "b"})),
    "redis": (lambda: redis.Redis(port=1), lambda client: client.pipeline().get("x")),
    "pool": (lambda: ThreadPoolExecutor(1), lambda pool: pool.submit(len, "x").result()),
    "model": (
        lambda: FakeListChatModel(responses=["x"]),
        lambda model: model.invoke("x"),
    ),
    "vectors": (
        lambda: InMemoryVectorStore(DeterministicFakeEmbedding(size=3)),
        lambda store: store.add_texts(["a", "b"]),
    ),
    "request": (
        lambda: Request({"type": "http", "app": FastAPI(), "headers": [], "state": {}}),
        lambda request: setattr(request.state, "user", "alice"),
    ),
    "lock": (threading.Lock, lambda lock: lock.locked()),
    "local": (threading.local, lambda local: setattr(local, "user", "alice")),
}


@PROMISE
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_or_session_of_a_request_makes_no_other_tool_before_and_after_its_use(name: str) -> None:
    make, use = CLIENTS[name]
    with contextlib.ExitStack() as stack:
        definitions = list[object]()
        for number in range(3):
            client = make()
            close = getattr(client, "close", getattr(client, "shutdown", lambda: None))
            if not isinstance(client, httpx.AsyncClient | Request):
                stack.callback(close)
            with contextlib.suppress(OSError, httpx.HTTPError, redis.RedisError):
                _ = use(client) if number else None
            definitions.append(Reach(of(_holding(client))).definition)
            definitions.append(Reach(of(_within(client))).definition)
    assert definitions[:2] == definitions[2:4] == definitions[4:]


def _within(client: Any) -> Function:
    def look(item: str) -> str:
        with client as entered:
            return str(entered.get(item) + client(item))

    return look


@PROMISE
def test_a_long_list_is_looked_through_in_bounded_time() -> None:
    cyclic: list[Any] = [None] * 1_500
    cyclic[7] = cyclic
    kinds: list[Any] = [
        [0] * 2_000_000,
        [[]] * 600_000,
        {n: [n] for n in range(100_000)},
        [{"id": n, "tags": ["a", ["b"]]} for n in range(50_000)],
        cyclic,
    ]
    for data in kinds:
        begun = process_time()
        Reach(of(_holding(data)))
        assert process_time() - begun < 1


@PROMISE
def test_a_tool_with_more_items_than_are_looked_at_is_the_same_only_as_itself() -> None:
    one, other = (_holding([0] * 1_000_001) for _ in range(2))
    assert Reach(of(one)).definition == Reach(of(one)).definition
    assert Reach(of(one)).definition != Reach(of(other)).definition
    one, other = (_holding([0] * 999_999) for _ in range(2))
    assert Reach(of(one)).definition == Reach(of(other)).definition


def _holding(data: Any) -> Function:
    def look(item: str) -> str:
        return str(data[item])

    return look


# --- what is filled in later


class Model:
    """Something that is called, and that is loaded when it is needed first."""

    def __call__(self, item: str) -> str:
        return read(item)


class Other(Model):
    def __call__(self, item: str) -> str:
        return destroy(item)


class Loader:
    """Loads its model when it is first asked."""

    def __init__(self) -> None:
        self.model: Any = None

    def run(self, item: str) -> str:
        if self.model is None:
            self.model = Model()
        return str(self.model(item))

    @functools.cached_property
    def lazily(self) -> Model:
        return Model()

    def run_lazily(self, item: str) -> str:
        return self.lazily(item)


def calling(loader: Any, method: str = "run") -> BaseTool:
    if method == "method":
        return of(loader.run)
    if method == "attribute":

        def attribute(item: str) -> str:
            return str(loader.model(item))

        return of(attribute)
    if method == "cached":

        def cached(item: str) -> str:
            return str(loader.run_lazily(item))

        return of(cached)

    def body(item: str) -> str:
        return str(loader.run(item))

    return of(body)


@PROMISE
@pytest.mark.parametrize("method", ["run", "method", "attribute", "cached"])
async def test_a_model_that_is_loaded_between_two_requests_makes_no_other_tool(
    kit: Kit, mode: Mode, method: str
) -> None:
    guard, loader = kit.another(catalog=Catalog([spec_of("look", {"path": "read"})])), Loader()
    if method == "attribute":
        guard.wrap(calling(loader, method))
        loader.model = Model()
    statuses = list[str]()
    with guard.task("Look", subject="alice", mandate={"tools": "*"}):
        for _ in range(3):
            agent: Any = create_agent(
                scripted(tool_call("look", item="x")),
                [calling(loader, method)],
                middleware=[guard.middleware()],
            )
            statuses += [message.text for message in tool_messages(await mode.invoke(agent, GO))]
    assert statuses == ["read x"] * 3


@PROMISE
def test_what_a_cached_property_has_made_makes_no_other_tool_and_is_reached_all_the_same() -> None:
    loader, other = Loader(), Loader()
    loader.run_lazily("x")
    filled, empty = Reach(calling(loader, "cached")), Reach(calling(other, "cached"))
    assert filled.definition == empty.definition
    assert loader.lazily in [part for part in filled.objects if type(part) is Model]


@PROMISE
def test_a_function_that_a_cached_property_has_made_counts_where_it_stands_too() -> None:
    def tool_of(loader: Loader, function: Function) -> BaseTool:
        loader.__dict__["lazily"] = function
        return of(lambda item: loader.run_lazily(item) + function(item))

    definitions = [Reach(tool_of(Loader(), function)).definition for function in (read, destroy)]
    assert definitions[0] != definitions[1]


@PROMISE
@pytest.mark.parametrize("method", ["run", "method", "attribute"])
def test_what_is_filled_in_counts_from_then_on_and_another_object_is_another_tool(
    kit: Kit, method: str
) -> None:
    guard, loader, other = (
        kit.another(catalog=Catalog([spec_of("look", {"path": "read"})])),
        Loader(),
        Loader(),
    )
    guard.wrap(calling(loader, method))
    other.model = Other()
    with pytest.raises(ConfigurationError, match="two tools are named look"):
        guard.wrap(calling(other, method))
    loader.model = Model()
    guard.wrap(calling(loader, method))
    loader.model = Other()
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="two tools are named look"):
            guard.wrap(calling(loader, method))


@PROMISE
def test_an_object_that_is_gone_lends_its_room_to_no_other(kit: Kit) -> None:
    guard = kit.another(catalog=Catalog([spec_of("look", {"path": "read"})]))
    loader = Loader()
    guard.wrap(calling(loader))
    reference = weakref.ref(loader)
    del loader
    gc.collect()
    assert reference() is None
    for _ in range(20):  # one of them may have the address of the first
        filled = Loader()
        filled.model = Other()
        with pytest.raises(ConfigurationError, match="two tools are named look"):
            guard.wrap(calling(filled))
