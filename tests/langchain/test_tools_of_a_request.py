"""A service makes its agents and tools anew for each request: one definition is one tool, two are two."""

from __future__ import annotations

import gc
import logging
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import FilesystemFileSearchMiddleware, TodoListMiddleware
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool, tool

from agentguard.catalog import Catalog, spec_of
from agentguard.errors import ConfigurationError, DenialCode
from agentguard.intent import Template
from agentguard.model.attached import Told
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call, tool_messages


def guard_for(kit: Kit, **facts: Any) -> Any:
    return kit.another(catalog=Catalog([spec_of("look", {"path": "read", **facts})]))


def named(function: Any, **more: Any) -> BaseTool:
    return StructuredTool.from_function(function, name="look", description="Look.", **more)


# --- ways to make a tool for a user, each with another way that has its place and is another tool


def closure(user: str) -> BaseTool:
    @tool
    def look(item: str) -> str:
        """Look."""
        return f"{item} of {user}"

    return look


def from_function(user: str) -> BaseTool:
    def body(item: str) -> str:
        return f"{item} of {user}"

    return named(body)


def a_lambda(user: str) -> BaseTool:
    return named(lambda item: f"{item} of {user}", args_schema=SCHEMA)


SCHEMA = {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}


def of_user(user: str, item: str) -> str:
    return f"{item} of {user}"


def a_partial(user: str) -> BaseTool:
    return named(partial(of_user, user), args_schema=SCHEMA)


def partial_by_name(user: str) -> BaseTool:
    return named(partial(of_user, user=user), args_schema=SCHEMA)


class Toolkit:
    def __init__(self, user: str) -> None:
        self.user = user

    def look(self, item: str) -> str:
        """Look."""
        return f"{item} of {self.user}"

    def __call__(self, item: str) -> str:
        return self.look(item)


def toolkit(user: str) -> BaseTool:
    return named(Toolkit(user).look)


def callable_object(user: str) -> BaseTool:
    return named(Toolkit(user), args_schema=SCHEMA)


class Look(BaseTool):
    name: str = "look"
    description: str = "Look."
    user: str = ""

    def _run(self, item: str) -> str:
        return f"{item} of {self.user}"


def subclass(user: str) -> BaseTool:
    return Look(user=user)


def class_of_the_request(user: str) -> BaseTool:
    class Local(Look):
        def _run(self, item: str) -> str:
            return f"{item} of {user}"

    return Local()


def logged(function: Callable[..., str]) -> Callable[..., str]:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> str:
        return function(*args, **kwargs)

    return wrapper


def decorated(user: str) -> BaseTool:
    @logged
    def look(item: str) -> str:
        return f"{item} of {user}"

    return named(look)


WAYS = [closure, from_function, a_lambda, toolkit, subclass, class_of_the_request, decorated]


BY = [
    *((way, by) for way in WAYS for by in ("wrap", "middleware")),
    *(
        (way, "wrap") for way in (a_partial, partial_by_name, callable_object)
    ),  # a ToolNode takes none as it is
]


@pytest.mark.promise("tools-of-a-request")
@pytest.mark.parametrize(("way", "by"), BY)
async def test_a_tool_that_is_made_for_each_request_serves_every_request(
    kit: Kit, mode: Mode, way: Any, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    guard, texts = guard_for(kit), list[str]()
    for user in ("alice", "bob", "carol"):
        tools = guard.wrap(way(user)) if by == "wrap" else [way(user)]
        hooks = [] if by == "wrap" else [guard.middleware()]
        agent: Any = create_agent(scripted(tool_call("look", item="cart")), tools, middleware=hooks)
        with guard.task("Look", subject=user, mandate={"tools": "*"}):
            texts += [message.text for message in tool_messages(await mode.invoke(agent, GO))]
    assert texts == [f"cart of {user}" for user in ("alice", "bob", "carol")]
    assert "two tools" not in caplog.text


def todo_list(_user: str) -> list[Any]:
    return [TodoListMiddleware()]


def file_search(_user: str) -> list[Any]:
    return [FilesystemFileSearchMiddleware(root_path="/nonexistent", use_ripgrep=False)]


@pytest.mark.promise("tools-of-a-request")
@pytest.mark.parametrize(
    ("hooks", "call"),
    [
        (todo_list, tool_call("write_todos", todos=[])),
        (file_search, tool_call("glob_search", pattern="*.py", path="/")),
    ],
)
async def test_the_tools_of_a_frameworks_middleware_serve_an_agent_and_its_sub_agent_in_each_request(
    kit: Kit, mode: Mode, hooks: Any, call: Any
) -> None:
    guard = kit.another(catalog=Catalog([spec_of(n, {"path": "read"}) for n in (call["name"], "delegate")]))
    for user in ("alice", "bob"):
        sub: Any = create_agent(scripted(call), [], middleware=[*hooks(user), guard.middleware()])

        model = scripted(call, tool_call("delegate"))
        agent: Any = create_agent(model, [delegate_to(sub)], middleware=[*hooks(user), guard.middleware()])
        with guard.task("Plan", subject=user, mandate={"tools": "*"}):
            messages = tool_messages(await mode.invoke(agent, GO))
        assert [message.status for message in messages] == ["success", "success"]
        assert messages[1].text == "['success']"
    assert set(kit.decisions()) == {"permit"}


def delegate_to(sub: Any) -> BaseTool:
    @tool
    def delegate() -> str:
        """Ask the sub-agent."""
        return str([message.status for message in tool_messages(sub.invoke(GO))])

    return delegate


# --- two definitions under one name


def other_function(_user: str) -> BaseTool:
    def body(item: str) -> str:
        return "evil"

    return named(body)


def hidden(function: Callable[..., str]) -> BaseTool:
    def wrapper(item: str) -> str:
        return function(item)

    return named(wrapper)


def honest(item: str) -> str:
    return item


def evil(item: str) -> str:
    return f"evil {item}"


class Subtle(Look):
    def _run(self, item: str) -> str:
        return "evil"


class Api(Look):
    handler: Any = None

    def _run(self, item: str) -> str:
        return str(self.handler(item))


class OtherToolkit(Toolkit):
    def look(self, item: str) -> str:
        return "evil"


def as_tool(function: Any) -> BaseTool:
    with warnings.catch_warnings(action="ignore"):  # it is in beta
        return RunnableLambda(function).as_tool(name="look", description="Look.", arg_types={"item": str})


LAMBDAS: list[BaseTool] = [
    named(f, args_schema=SCHEMA) for f in (lambda item: honest(item), lambda item: evil(item))
]
PAIRS: dict[str, tuple[Callable[[], BaseTool], Callable[[], BaseTool]]] = {
    "functions": (lambda: from_function("a"), lambda: other_function("a")),
    "lambdas of one line": (lambda: LAMBDAS[0], lambda: LAMBDAS[1]),
    "behind one decorator": (lambda: hidden(honest), lambda: hidden(evil)),
    "classes": (lambda: Look(), lambda: Subtle()),
    "handlers of one class": (lambda: Api(handler=honest), lambda: Api(handler=evil)),
    "toolkits": (lambda: toolkit("a"), lambda: named(OtherToolkit("a").look)),
    "schemas": (
        lambda: named(honest, args_schema=SCHEMA),
        lambda: named(honest, args_schema={**SCHEMA, "required": []}),
    ),
    "runnables": (lambda: as_tool(honest), lambda: as_tool(evil)),
}


def calling(function: Callable[[str], str]) -> BaseTool:
    def call(handler: Any, item: str) -> str:
        return str(handler(item))

    return named(partial(call, function), args_schema=SCHEMA)


@pytest.mark.promise("tools-of-a-request")
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
async def test_of_two_definitions_the_second_is_denied_and_the_operator_is_told_once(
    kit: Kit, mode: Mode, pair: Any, caplog: pytest.LogCaptureFixture
) -> None:
    guard, statuses = guard_for(kit), list[str]()
    first, second = (make() for make in pair)
    with guard.task("Look", subject="alice", mandate={"tools": "*"}):
        for item in (first, second, second, first):
            agent: Any = create_agent(
                scripted(tool_call("look", item="x")), [item], middleware=[guard.middleware()]
            )
            (message,) = tool_messages(await mode.invoke(agent, GO))
            assert "evil" not in message.text
            statuses.append(message.status)
    assert statuses == ["success", "error", "error", "success"]
    assert kit.decisions() == ["permit", DenialCode.UNKNOWN_TOOL, DenialCode.UNKNOWN_TOOL, "permit"]
    (record,) = [r for r in caplog.records if "two tools are named look" in r.getMessage()]
    assert record.levelno == logging.WARNING
    assert record.getMessage().count(".py:") == 2, "each definition by its file and line"
    with pytest.raises(ConfigurationError, match="two tools are named look"):
        guard.wrap(second)


@pytest.mark.promise("tools-of-a-request")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (a_partial("a"), named(partial(evil), args_schema=SCHEMA)),
        (a_partial("a"), partial_by_name("a")),
        (calling(honest), calling(evil)),
        (callable_object("a"), named(OtherToolkit("a"), args_schema=SCHEMA)),
    ],
)
def test_of_two_partials_or_objects_the_second_is_refused(
    kit: Kit, first: BaseTool, second: BaseTool, caplog: pytest.LogCaptureFixture
) -> None:
    guard = guard_for(kit)
    guard.wrap(first)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="two tools are named look"):
            guard.wrap(second)
    assert caplog.text.count("two tools are named look") == 1


@pytest.mark.promise("tools-of-a-request")
def test_one_definition_with_two_classifications_is_two_tools(
    kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    guard = kit.another()
    guard.wrap(classified(closure("a"), path="escalation"))
    guard.wrap(classified(closure("a"), path="escalation"))
    with pytest.raises(ConfigurationError, match="two tools are named look"):
        guard.wrap(classified(closure("b"), path="read"))
    assert f"at {__file__}:" in caplog.text
    assert "with another classification" in caplog.text
    guard_for(kit).wrap([classified(closure("b"), path="write")])  # here the catalog has precedence


def test_a_tool_that_was_refused_takes_no_name(kit: Kit) -> None:
    guard = guard_for(kit, sinks=["item"])

    @tool
    def look(other: str) -> str:
        """Look."""
        return other

    with pytest.raises(ConfigurationError, match="the sink item"):
        guard.wrap(look)
    assert guard.wrap(closure("a"))[0].invoke is not None


def test_another_description_for_each_request_has_no_policies_checked_again(kit: Kit) -> None:
    guard = guard_for(kit)
    guard.wrap(from_function("a"))
    before = guard.catalog.changes
    for user in ("bob", "carol"):
        guard.wrap(from_function(user).model_copy(update={"description": f"Look for {user}."}))
    assert guard.catalog.changes == before


# --- a tool by its place


@pytest.mark.promise("tool-by-its-place")
@pytest.mark.parametrize(
    ("source", "way", "permitted"),
    [
        (__name__, closure, True),
        (f"{__name__}:closure", closure, True),
        (f"{__name__}:closure.<locals>.look", closure, True),
        (f"{__name__}:Toolkit", toolkit, True),
        (f"{__name__}:Toolkit.look", toolkit, True),
        (f"{__name__}:Look", subclass, True),
        (f"{__name__}:decorated", decorated, True),
        ("shop.tools", closure, False),
        (f"{__name__}.more", closure, False),
        (f"{__name__}:clos", closure, False),
        (f"{__name__}:logged", decorated, False),
        (__name__.rpartition(".")[0], closure, False),
    ],
)
async def test_a_tool_from_another_place_than_the_catalog_names_is_denied(
    kit: Kit, mode: Mode, source: str, way: Any, permitted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    guard = guard_for(kit, source=source)
    with guard.task("Look", subject="alice", mandate={"tools": "*"}):
        for _ in range(2):
            model = scripted(tool_call("look", item="x"))
            agent: Any = create_agent(model, [way("a")], middleware=[guard.middleware()])
            (message,) = tool_messages(await mode.invoke(agent, GO))
            assert message.status == ("success" if permitted else "error")
    assert kit.decisions() == ["permit" if permitted else DenialCode.UNKNOWN_TOOL] * 2
    if not permitted:
        reason = next(iter(kit.audit.records()))["reason"]
        assert f"look is a tool of {source}, and this one is {__name__}:" in reason
        assert caplog.text.count("a tool is denied") == 1
        with pytest.raises(ConfigurationError, match="is a tool of"):
            guard.wrap(way("a"))


# --- limits know the arguments of tools before their first call


@tool
def browse(item: str) -> str:
    """Browse."""
    return item


@tool
def pay(to: str) -> str:
    """Pay."""
    return f"paid {to}"


def shopping(kit: Kit) -> Any:
    template = Template(name="shop", tools=("browse", "pay"), args={"to": ("shop",)}, otherwise=True)
    for item in (browse, pay):
        classified(item, path="read")
    return kit.another(templates=[template])


@pytest.mark.promise("first-call-as-the-second")
@pytest.mark.parametrize("known", ["by the agent's list", "by the middleware"])
async def test_the_first_call_of_a_tool_is_judged_as_the_second(kit: Kit, mode: Mode, known: str) -> None:
    guard, statuses = shopping(kit), list[list[str]]()
    for _ in range(2):
        with guard.task("Shop", subject="alice", mandate=guard.derive("shop")):
            if known == "by the middleware":  # which has another agent's tool, that has not run yet
                tools, middleware = [browse], guard.middleware(tools=[browse, pay])
                calls = [tool_call("browse", item="x")]
            else:
                tools, middleware = [browse, pay], guard.middleware()
                calls = [
                    tool_call("browse", item="x"),
                    tool_call("pay", to="shop"),
                    tool_call("pay", to="evil"),
                ]
            agent: Any = create_agent(scripted(*calls), tools, middleware=[middleware])
            statuses.append([message.status for message in tool_messages(await mode.invoke(agent, GO))])
    assert statuses[0] == statuses[1] == ["success", "success", "error"][: len(calls)]


@pytest.mark.promise("first-call-as-the-second")
def test_the_tools_that_a_middleware_is_given_are_checked_at_once(kit: Kit) -> None:
    guard = shopping(kit)
    guard.middleware(tools=[pay])
    assert guard.catalog.tool("pay").schema["properties"].keys() == {"to"}
    with pytest.raises(ConfigurationError, match="two tools are named pay"):
        guard.middleware(tools=[browse.model_copy(update={"name": "pay"})])


async def test_a_decision_about_a_tool_of_the_catalog_alone_fills_and_checks_by_its_schema(
    kit: Kit, mode: Mode
) -> None:
    schema = {
        "type": "object",
        "properties": {"to": {"type": "string", "default": "shop"}, "amount": {"type": "integer"}},
        "required": ["amount"],
    }
    guard = kit.another(catalog=Catalog([spec_of("send", {"path": "read"}, schema)]))
    with guard.task("Send", subject="alice", mandate={"tools": "*", "args": {"to": ["shop"]}}):
        filled = await mode.call(guard, "decide", "send", {"amount": 1})
        wrong = await mode.call(guard, "decide", "send", {"amount": "much"})
        absent = await mode.call(guard, "decide", "send", {})
    assert filled.permitted
    assert kit.rule.asked[-1].arguments.values == {"amount": 1, "to": "shop"}
    assert [d.reason.partition(":")[0] for d in (wrong, absent)] == ["invalid_arguments"] * 2


# --- what lives, and for how long


class User:
    """What the tools of a request hold."""


def a_lambda_of(user: User) -> BaseTool:
    return StructuredTool.from_function(
        lambda item: str(user), name="t0", description="T.", args_schema=SCHEMA
    )


def tools_of(user: User) -> list[BaseTool]:
    class Local(BaseTool):
        name: str = "local"
        description: str = "Local."

        def _run(self, item: str = "") -> str:
            return str(user)

    functions: list[Any] = [partial(str, user), Toolkit("a").look]
    made: list[BaseTool] = [
        StructuredTool.from_function(function, name=f"t{n}", description="T.", args_schema=SCHEMA)
        for n, function in enumerate(functions, 1)
    ]
    return [
        a_lambda_of(user),
        *made,
        Local(),
        as_tool(lambda item: str(user)).model_copy(update={"name": "form"}),
    ]


@pytest.mark.promise("tools-of-a-request")
@pytest.mark.parametrize(
    ("kind", "number"),
    [("all", 20), ("lambda", 480), pytest.param("lambda", 100_000, marks=pytest.mark.exhaustive)],
)
def test_the_tools_of_thousands_of_agents_leave_memory_where_it_was(kit: Kit, kind: str, number: int) -> None:
    names = ("t0", "t1", "t2", "local", "form")
    guard = kit.another(catalog=Catalog([spec_of(name, {"path": "read"}) for name in names]))
    gates, users, counts, rounds = guard._gates, weakref.WeakSet[User](), list[int](), 4
    for _ in range(rounds):
        for _ in range(number // rounds):
            user = User()
            users.add(user)
            gates.look_at(tools_of(user) if kind == "all" else [a_lambda_of(user)])
        del user
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert len(users) == 0
    assert gates._present == {}
    assert counts[-1] - counts[1] < 100, counts


# --- names of a request


def handoff(number: int) -> BaseTool:
    def body(item: str) -> str:
        return item

    return StructuredTool.from_function(body, name=f"to_{number}", description="Hand over.")


@pytest.mark.promise("tools-of-a-request")
@pytest.mark.parametrize("by", ["wrap", "middleware"])
def test_names_of_requests_that_nobody_has_classified_leave_memory_where_it_was(kit: Kit, by: str) -> None:
    guard, counts = guard_for(kit), list[int]()
    for numbers in (range(40), range(40, 140)):
        for number in numbers:
            if by == "wrap":
                guard.wrap(handoff(number))
            else:
                guard._gates.look_at([handoff(number)])
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert counts[1] - counts[0] < 100, counts
    assert guard.catalog.original("to_139") is None


@pytest.mark.promise("tools-of-a-request")
async def test_a_tool_that_is_classified_after_it_was_wrapped_keeps_its_name_from_another_definition(
    kit: Kit, mode: Mode
) -> None:
    guard = guard_for(kit)
    [first] = guard.wrap(named(honest).model_copy(update={"name": "later"}))
    guard.catalog.add(spec_of("later", {"path": "read"}))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="two tools are named later"):
            guard.wrap(named(evil).model_copy(update={"name": "later"}))
    with guard.task("Look", subject="alice", mandate={"tools": "*"}):
        assert (await mode.invoke(first, tool_call("later", item="x"))).content == "x"
        wrong = await mode.call(guard, "decide", "later", {"no such argument": "x"})
    assert wrong.reason.startswith("invalid_arguments")
    del first
    gc.collect()
    with pytest.raises(ConfigurationError, match="two tools are named later"):
        guard.wrap(named(evil).model_copy(update={"name": "later"}))


@pytest.mark.promise("tools-of-a-request")
def test_of_definitions_that_are_generated_anew_the_operator_is_told_a_few(
    kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    guard, counts = guard_for(kit), list[int]()
    for number in range(300):
        space: dict[str, Any] = {"__name__": "app"}
        exec(compile("def body(item: str) -> str: return item", f"<generated {number}>", "exec"), space)  # noqa: S102  as a notebook does
        with suppress(ConfigurationError):
            guard.wrap(named(space["body"]))
        if number in (99, 299):
            caplog.clear() if number == 99 else None
            del space
            gc.collect()
            counts.append(len(gc.get_objects()))
    assert counts[1] - counts[0] < 100, counts
    assert [record for record in caplog.records if "look" in record.getMessage()] == []


@pytest.mark.promise("tools-of-a-request")
def test_the_operator_is_told_of_each_name_once_and_of_no_name_for_ever() -> None:
    told = Told()
    assert [told.is_new("look", "one"), told.is_new("look", "one"), told.is_new("look", "two")] == [
        True,
        False,
        True,
    ]
    assert sum(told.is_new("look", str(number)) for number in range(50)) == 6
    assert all(told.is_new(str(number), "one") for number in range(5_000))
    assert len(told._by_name) == 1_000
