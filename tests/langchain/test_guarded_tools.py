"""A guarded tool is the original, with one decision before it, on every path by which it is called."""

from __future__ import annotations

import copy
import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_classic.agents import AgentExecutor
from langchain_core.agents import AgentAction, AgentFinish
from langchain_core.callbacks import CallbackManagerForRetrieverRun, CallbackManagerForToolRun, Callbacks
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import (
    BaseTool,
    InjectedToolCallId,
    StructuredTool,
    Tool,
    ToolException,
    create_retriever_tool,
    tool,
)
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, InjectedStore, ToolNode, ToolRuntime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command
from pydantic import BaseModel, Field

from agentguard import ConfigurationError, Denied, ToolPath
from agentguard.catalog import Catalog
from agentguard.model import ToolSpec
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call, tool_messages

NAME = "subject"


class Order(BaseModel):
    x: str
    n: int = 3


def plain(x: str, n: int = 3) -> str:
    return f"{x}:{n}"


async def waiting(x: str, n: int = 3) -> str:
    return f"async {x}:{n}"


class Subject(BaseTool):
    name: str = NAME
    description: str = "a tool"


class SyncOnly(Subject):
    def _run(self, x: str, n: int = 3) -> str:
        return f"{x}:{n}"


class AsyncOnly(Subject):
    def _run(self, x: str, n: int = 3) -> str:
        raise NotImplementedError("async only")

    async def _arun(self, x: str, n: int = 3) -> str:
        return f"async {x}:{n}"


class Both(SyncOnly):
    async def _arun(self, x: str, n: int = 3) -> str:
        return f"async {x}:{n}"


class WithSchema(Both):
    args_schema: Any = Order


class AsyncThroughSync(SyncOnly):
    async def _arun(self, x: str, n: int = 3) -> str:
        return "async " + self._run(x, n)


class OwnInvoke(SyncOnly):
    """Keeps something on itself in `invoke` that its body reads."""

    before: str = ""
    count: int = 0

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        self.before = "prepared "
        self.count += 1
        return super().invoke(input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        self.before = "prepared "
        return await super().ainvoke(input, config, **kwargs)

    def _run(self, x: str, n: int = 3) -> str:
        return f"{self.before}{x}:{n} {self.count}"


class OwnState(SyncOnly):
    seen: int = 0

    def _run(self, x: str, n: int = 3) -> str:
        self.seen += 1
        return f"{x} {self.seen}"


class NamedConfig(Subject):
    def _run(self, x: str, conf: RunnableConfig, run_manager: CallbackManagerForToolRun | None = None) -> str:
        return f"{x} {conf['metadata']['who']} {run_manager is not None}"


class Shelf(BaseRetriever):
    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return [Document(f"about {query}")]


def configured(x: str, conf: RunnableConfig, callbacks: Callbacks = None) -> str:
    return f"{x} {conf['metadata']['who']} {callbacks is not None}"


def called(x: str, call: Annotated[str, InjectedToolCallId]) -> str:
    return f"{x} {call}"


def commanding(x: str, call: Annotated[str, InjectedToolCallId]) -> Command[Any]:
    return Command(update={"messages": [ToolMessage(f"went {x}", tool_call_id=call)]})


def pair(x: str) -> tuple[str, dict[str, str]]:
    return f"told {x}", {"kept": x}


def failing(x: str) -> str:
    raise ToolException(f"no {x}")


def crashing(x: str) -> str:
    raise KeyError(x)


def spread(x: str, *rest: str, **more: str) -> str:
    return f"{x} {rest} {more}"


class Aliased(BaseModel):
    x: str = Field(alias="the-x")


class OnlyX(BaseModel):
    x: str


class Excluding(OnlyX):
    hidden: str = Field(default="", exclude=True)


class Shop:
    def plain(self, x: str, n: int = 3) -> str:
        return f"{x}:{n}"


def joined(parts: Iterable[str], more: Iterable[int] = ()) -> str:
    return f"{list(parts)} {list(more)}"


def shown(**given: str) -> str:
    return f"{sorted(given)}"


def _structured(function: Any = None, coroutine: Any = None, **more: Any) -> BaseTool:
    return StructuredTool.from_function(function, coroutine, name=NAME, description="a tool", **more)


JSON = {
    "type": "object",
    "properties": {"x": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["x"],
}
X = {"x": "a"}
KINDS: dict[str, tuple[Callable[[], BaseTool], dict[str, Any]]] = {
    "function": (lambda: tool(NAME, description="a tool")(plain), {"x": "a", "n": "4"}),
    "structured, sync": (lambda: _structured(plain), X),
    "structured, async": (lambda: _structured(None, waiting), X),
    "structured, both": (lambda: _structured(plain, waiting), X),
    "legacy": (lambda: Tool(NAME, lambda q: f"got {q}", "a tool"), {"__arg1": "a"}),
    "legacy, other key": (lambda: Tool(NAME, lambda q: f"got {q}", "a tool"), {"q": "a"}),
    "class, sync": (SyncOnly, X),
    "class, async": (AsyncOnly, X),
    "class, both": (Both, X),
    "class, async through sync": (AsyncThroughSync, X),
    "class, schema": (WithSchema, {"x": "a", "n": "4"}),
    "class, own invoke": (OwnInvoke, X),
    "class, own state": (OwnState, X),
    "class, config": (NamedConfig, X),
    "runnable": (
        lambda: RunnableLambda(lambda d: f"ran {d['x']}").as_tool(
            name=NAME, description="a tool", arg_types={"x": str}
        ),
        X,
    ),
    "runnable, text": (
        lambda: RunnableLambda(_shout).as_tool(name=NAME, description="a tool"),
        {"__arg1": "a"},
    ),
    "retriever": (lambda: create_retriever_tool(Shelf(), NAME, "a tool"), {"query": "q"}),
    "json schema": (lambda: StructuredTool(name=NAME, description="d", args_schema=JSON, func=plain), X),
    "call id": (lambda: _structured(called), X),
    "config": (lambda: _structured(configured), X),
    "artifact": (lambda: _structured(pair, response_format="content_and_artifact"), X),
    "return direct": (lambda: _structured(plain, return_direct=True), X),
    "command": (lambda: _structured(commanding), X),
    "handled error": (lambda: _structured(failing, handle_tool_error=lambda e: f"sorry: {e}"), X),
    "unhandled error": (lambda: _structured(failing), X),
    "crash": (lambda: _structured(crashing), X),
    "variadic": (lambda: _structured(spread), X),
    "alias": (lambda: _structured(plain, args_schema=Aliased), {"the-x": "a"}),
    "legacy, schema": (lambda: Tool(NAME, lambda q: f"got {q}", "a tool", args_schema=OnlyX), X),
    "iterable": (lambda: _structured(joined), {"parts": ["a", "b"], "more": ["1"]}),
    "excluded": (lambda: _structured(shown, args_schema=Excluding), {"x": "a", "hidden": "b"}),
    "method": (lambda: _structured(Shop().plain), X),
}


def _shout(text: str) -> str:
    return text.upper()


CONFIG: RunnableConfig = {"metadata": {"who": "me"}, "callbacks": []}
Way = Callable[[Mode, BaseTool, dict[str, Any]], Awaitable[Any]]


def _on(change: Callable[[BaseTool], Any]) -> Way:
    async def way(mode: Mode, tool: BaseTool, args: dict[str, Any]) -> Any:
        return await mode.invoke(change(tool), args, CONFIG)

    return way


async def _call(mode: Mode, tool: BaseTool, args: dict[str, Any]) -> Any:
    return await mode.invoke(tool, tool_call(NAME, **args), CONFIG)


async def _run(mode: Mode, tool: BaseTool, args: dict[str, Any]) -> Any:
    return await mode.run(tool, args, config=CONFIG, tool_call_id="c1")


async def _batch(mode: Mode, tool: BaseTool, args: dict[str, Any]) -> Any:
    (result,) = await mode.call(tool, "batch", [tool_call(NAME, **args)], CONFIG)
    return result


async def _stream(mode: Mode, tool: BaseTool, args: dict[str, Any]) -> Any:
    return await mode.stream(tool, tool_call(NAME, **args), CONFIG)


async def _node(mode: Mode, tool: BaseTool, args: dict[str, Any]) -> Any:
    graph = StateGraph(MessagesState).add_node("tools", ToolNode([tool])).add_edge(START, "tools").compile()
    asked = AIMessage("", tool_calls=[tool_call(NAME, **args)])
    return tool_messages(await mode.invoke(graph, {"messages": [asked]}, CONFIG))


async def _agent(mode: Mode, tool: BaseTool, args: dict[str, Any]) -> Any:
    agent = create_agent(scripted(tool_call(NAME, **args)), [tool])
    result = await mode.invoke(agent, GO, CONFIG)
    return [(message.type, message.content) for message in result["messages"]]


async def _executor(mode: Mode, tool: BaseTool, args: dict[str, Any]) -> Any:
    def decide(given: dict[str, Any]) -> AgentAction | AgentFinish:
        if given["intermediate_steps"]:
            return AgentFinish({"output": given["intermediate_steps"][0][1]}, "")
        return AgentAction(NAME, args, "")

    deciding: Any = RunnableLambda(decide)
    made = AgentExecutor(agent=deciding, tools=[tool])
    return await mode.invoke(made, {"input": "go"}, CONFIG)


WAYS: dict[str, Way] = {
    "invoke": _on(lambda t: t),
    "with_retry": _on(lambda t: t.with_retry(stop_after_attempt=1)),
    "with_config": _on(lambda t: t.with_config(tags=["t"])),
    "bind": _on(lambda t: t.bind()),
    "copy": _on(copy.copy),
    "model_copy": _on(lambda t: t.model_copy()),
    "deepcopy": _on(copy.deepcopy),
    "tool call": _call,
    "run": _run,
    "batch": _batch,
    "stream": _stream,
    "tool node": _node,
    "create_agent": _agent,
    "executor": _executor,
}


def _without_ids(result: Any) -> Any:
    if isinstance(result, list):
        return [_without_ids(item) for item in result]
    return result.model_copy(update={"id": None}) if isinstance(result, ToolMessage) else result


WITH_CALL_ID = {"tool call", "run", "batch", "stream", "tool node", "create_agent"}
NEEDS_CALL_ID = {"call id", "command"}
STATEFUL = {"class, own invoke", "class, own state"}


async def _outcome(way: Way, mode: Mode, tool: BaseTool, args: dict[str, Any]) -> Any:
    try:
        return _without_ids(await way(mode, tool, args))
    except Exception as error:  # noqa: BLE001  how it fails is compared too
        return type(error), str(error)


@pytest.mark.exhaustive
@pytest.mark.promise("judged-exactly-once")
@pytest.mark.filterwarnings("ignore:This API is in beta")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_guarded_tool_does_what_the_original_does_and_is_judged_once(kind: str, mode: Mode) -> None:
    make, args = KINDS[kind]
    kit, original = Kit(), make()
    guarded = kit.wrap(make())
    with kit.guard.task("t", subject="alice", mandate={"tools": "*"}):
        for name in [n for n in WAYS if n in WITH_CALL_ID or kind not in NEEDS_CALL_ID]:
            if kind in STATEFUL:
                kit.guard, original = kit.another(), make()
                guarded = kit.wrap(make())
            before = len(kit.decisions())
            expected = await _outcome(WAYS[name], mode, original, dict(args))
            actual = await _outcome(WAYS[name], mode, guarded, dict(args))
            assert actual == expected, name
            assert kit.decisions()[before:] == ["permit"], name
            assert len(kit.broker.issued) == before + 1, name
            assert not kit.broker.live, name


# --- what the model and the frameworks see


@pytest.mark.filterwarnings("ignore:This API is in beta")
@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k not in {"legacy", "runnable, text", "legacy, other key"}]
)
def test_the_model_is_shown_the_same_schema(kind: str, kit: Kit) -> None:
    make, _ = KINDS[kind]
    original, guarded = make(), kit.wrap(make())
    assert convert_to_openai_tool(guarded) == convert_to_openai_tool(original)
    assert guarded.args == original.args
    assert (guarded.return_direct, guarded.response_format) == (
        original.return_direct,
        original.response_format,
    )


def test_the_model_is_shown_one_string_for_a_legacy_tool(kit: Kit) -> None:
    make, _ = KINDS["legacy"]
    bound: Any = scripted().bind_tools([kit.wrap(make())])
    shown = bound.kwargs["tools"][0]["function"]["parameters"]
    assert shown["properties"] == {"__arg1": {"type": "string"}}
    assert shown["required"] == ["__arg1"]


def stateful(
    x: str,
    state: Annotated[dict[str, Any], InjectedState],
    first: Annotated[list[Any], InjectedState("messages")],
    shelf: Annotated[BaseStore, InjectedStore()],
    call: Annotated[str, InjectedToolCallId],
) -> str:
    found = shelf.get(("n",), "k")
    return f"{x} {sorted(state)} {len(first)} {found and found.value} {call}"


def running(x: str, runtime: ToolRuntime) -> str:
    return f"{x} {runtime.tool_call_id} {sorted(runtime.state)} {runtime.store is not None}"


class Stateful(Subject):
    def _run(self, x: str, messages: Annotated[list[Any], InjectedState("messages")]) -> str:
        return f"{x} {len(messages)}"


@pytest.mark.parametrize("node", [False, True], ids=["create_agent", "ToolNode"])
@pytest.mark.parametrize(
    "make",
    [lambda: _structured(stateful), lambda: _structured(running), Stateful],
    ids=["state, store, id", "runtime", "class"],
)
async def test_what_a_framework_injects_reaches_the_tool(
    make: Callable[[], BaseTool], node: bool, mode: Mode, kit: Kit, task: Any
) -> None:
    store = InMemoryStore()
    store.put(("n",), "k", {"v": 1})

    async def result(tool: BaseTool) -> list[Any]:
        if node:
            built = StateGraph(MessagesState).add_node("tools", ToolNode([tool])).add_edge(START, "tools")
            graph: Any = built.compile(store=store)
            messages: Any = {"messages": [AIMessage("", tool_calls=[tool_call(NAME, x="a")])]}
        else:
            graph = create_agent(scripted(tool_call(NAME, x="a")), [tool], store=store)
            messages = GO
        found = tool_messages(await mode.invoke(graph, messages))
        return [message.content for message in found]

    assert await result(kit.wrap(make())) == await result(make())
    assert kit.decisions() == ["permit"]
    assert list(kit.rule.asked[0].arguments.values) == ["x"]


# --- no way around


@pytest.mark.promise("judged-exactly-once")
@pytest.mark.filterwarnings("ignore:This API is in beta")
@pytest.mark.parametrize("kind", KINDS)
async def test_no_public_path_reaches_the_original(kind: str, kit: Kit, task: Any) -> None:
    make, _ = KINDS[kind]
    original = classified(make())
    guarded: Any = kit.guard.wrap(original)[0]
    for path in (guarded.func, guarded._run):
        with pytest.raises(PermissionError):
            path(x="a")
    with pytest.raises(PermissionError):
        guarded.coroutine(x="a")
    with pytest.raises(PermissionError):
        await guarded._arun(x="a")
    assert not hasattr(guarded.func, "__wrapped__")
    assert kit.decisions() == []
    shown = [*vars(guarded).values(), *(cell.cell_contents for cell in guarded.func.__closure__ or ())]
    functions = {getattr(original, "func", None), getattr(original, "coroutine", None)} - {None}
    assert not any(value is original or value in functions for value in shown if callable(value))
    for text in (repr(guarded), str(guarded), repr(guarded.model_dump())):
        assert not any(repr(function) in text for function in functions)
        assert "sealed" not in text.lower()


@pytest.mark.promise("judged-exactly-once")
@pytest.mark.parametrize("kind", ["function", "class, both", "legacy"])
async def test_the_sealed_form_does_nothing_without_a_permit(kind: str, kit: Kit, task: Any) -> None:
    make, args = KINDS[kind]
    sealed = kit.guard.wrap(classified(make()))[0].gate.sealed
    with pytest.raises(Denied):
        sealed.invoke(args)
    with pytest.raises(Denied):
        await sealed.ainvoke(args)
    assert kit.broker.issued == []


def test_a_deepcopy_does_not_copy_the_original(kit: Kit) -> None:
    class Uncopied(SyncOnly):
        def __deepcopy__(self, memo: Any = None) -> Any:
            raise AssertionError

    copy.deepcopy(kit.wrap(Uncopied()))


def test_wrapping_leaves_the_original_as_it_was(kit: Kit) -> None:
    original = Both()
    before = original.model_dump()
    kit.guard.wrap(original)
    assert (original.model_dump(), type(original)) == (before, Both)
    assert original.invoke(X) == "a:3"


# --- denied


@pytest.mark.parametrize("way", WAYS)
async def test_a_denied_call_runs_nothing_and_mints_nothing(
    way: str, mode: Mode, kit: Kit, task: Any
) -> None:
    ran: list[str] = []
    guarded = kit.wrap(_structured(lambda x: ran.append(x)))
    kit.rule.deny(NAME)
    result = await _outcome(WAYS[way], mode, guarded, X)
    assert ran == []
    assert kit.broker.issued == []
    assert set(kit.decisions()) == {"policy"}
    for secret in ("secret-rule", "internal reason"):
        assert secret not in repr(result)
    assert "not permitted here" in repr(result)


async def test_by_default_a_model_is_answered_and_an_application_gets_the_exception(
    mode: Mode, kit: Kit, task: Any
) -> None:
    guarded = kit.wrap(_structured(plain))
    kit.rule.deny(NAME)
    answer = await mode.invoke(guarded, tool_call(NAME, x="a"))
    assert (answer.status, answer.tool_call_id, answer.name) == ("error", "c1", NAME)
    assert (await mode.run(guarded, X)).startswith("Denied: ")
    with pytest.raises(Denied):
        await mode.invoke(guarded, X)


@pytest.mark.parametrize("args", [{"x": "a"}, {"x": []}], ids=["denied", "invalid"])
async def test_on_deny_sets_one_answer_for_every_form_of_call(
    args: dict[str, Any], mode: Mode, kit: Kit, task: Any
) -> None:
    kit.rule.deny(NAME)
    (raising,) = kit.guard.wrap(classified(_structured(plain)), on_deny="raise")
    with pytest.raises((Denied, ValueError)):
        await mode.invoke(raising, tool_call(NAME, **args))
    with pytest.raises((Denied, ValueError)):
        await mode.run(raising, args)
    (telling,) = kit.another().wrap(classified(_structured(plain)), on_deny="message")
    assert (await mode.invoke(telling, args)).startswith("Denied: ")


@pytest.mark.promise("no-task-no-call")
async def test_without_a_task_nothing_runs(mode: Mode, kit: Kit) -> None:
    guarded = kit.wrap(_structured(plain))
    with pytest.raises(Denied, match="belongs to no task"):
        await mode.invoke(guarded, X)
    assert kit.decisions() == ["no_task"]


async def test_the_task_is_found_through_the_config_of_this_run_or_the_one_around_it(
    mode: Mode, kit: Kit
) -> None:
    inner = kit.wrap(tool("inner", description="d")(plain))

    def outer(x: str) -> str:
        return str(inner.invoke({"x": x}))

    guarded = kit.wrap(_structured(outer))
    named = kit.guard.task("t", subject="alice", mandate={"tools": "*"}).begin()
    assert await mode.invoke(guarded, X, named.config) == "a:3"
    assert kit.decisions() == ["permit", "permit"]


@pytest.mark.promise("unknown-tool-denied")
async def test_an_unclassified_tool_is_denied(mode: Mode, kit: Kit, task: Any) -> None:
    (guarded,) = kit.guard.wrap(_structured(plain))
    assert (await mode.invoke(guarded, tool_call(NAME, x="a"))).status == "error"
    assert kit.decisions() == ["unknown_tool"]


@pytest.mark.promise("call-id-required")
async def test_a_models_call_without_id_is_denied_before_it_runs(mode: Mode, kit: Kit, task: Any) -> None:
    guarded = kit.wrap(_structured(plain))
    assert "no id" in await mode.invoke(guarded, tool_call(NAME, None, x="a"))
    assert kit.decisions() == ["no_call_id"]


async def test_a_tool_that_needs_the_calls_id_is_denied_without(mode: Mode, kit: Kit, task: Any) -> None:
    guarded = kit.wrap(_structured(called))
    with pytest.raises(Denied):
        await mode.invoke(guarded, X)
    assert kit.decisions() == ["invalid_arguments"]


async def test_each_attempt_of_a_retry_is_a_decision_and_a_credential_of_its_own(
    mode: Mode, kit: Kit, task: Any
) -> None:
    tries: list[str] = []

    def flaky(x: str) -> str:
        tries.append(x)
        if len(tries) < 3:
            raise ConnectionError
        return x

    guarded = kit.wrap(_structured(flaky)).with_retry(wait_exponential_jitter=False, stop_after_attempt=3)
    assert await mode.invoke(guarded, X) == "a"
    assert kit.decisions() == ["permit"] * 3
    assert len({grant.id for grant in kit.broker.issued}) == 3
    assert not kit.broker.live


async def test_handle_validation_error_answers_and_the_policy_is_not_asked(
    mode: Mode, kit: Kit, task: Any
) -> None:
    guarded = kit.wrap(_structured(plain, handle_validation_error=lambda _error: "try x"))
    assert await mode.invoke(guarded, {"n": 1}) == "try x"
    answer = await mode.invoke(guarded, tool_call(NAME, n=1))
    assert (answer.content, answer.status) == ("Denied: try x", "error")
    assert kit.rule.asked == []
    assert kit.decisions() == ["invalid_arguments"] * 2


async def test_a_denied_call_that_the_tool_made_is_the_tools_failure_and_not_its_denial(
    mode: Mode, kit: Kit, task: Any
) -> None:
    inner = kit.wrap(tool("inner", description="d")(plain))
    guarded = kit.wrap(_structured(lambda x: inner.invoke({"x": x})))
    kit.rule.deny("inner")
    answer = await mode.invoke(guarded, tool_call(NAME, x="a"))
    assert answer.status == "error"
    assert kit.decisions(NAME) == ["permit"]
    assert kit.decisions("inner") == ["policy"]
    assert kit.outcomes() == ["failed"]
    assert not kit.broker.live


@pytest.mark.promise("limits-do-not-fall-away")
@pytest.mark.parametrize("sink", ["X", "x.to", "recipient"])
def test_a_sink_that_is_no_argument_is_an_error(sink: str, kit: Kit) -> None:
    with pytest.raises(ConfigurationError, match=f"the sink {sink}"):
        kit.wrap(_structured(plain), path="write", sinks=[sink])
    catalog = Catalog([ToolSpec(name=NAME, path=ToolPath.WRITE, sinks=frozenset({sink}))])
    with pytest.raises(ConfigurationError, match=f"the sink {sink}"):
        kit.another(catalog=catalog).wrap(_structured(plain))


@pytest.mark.promise("unknown-tool-denied")
def test_two_tools_of_one_name_are_an_error(kit: Kit) -> None:
    with pytest.raises(ConfigurationError, match="two tools are named subject"):
        kit.guard.wrap([_structured(plain), _structured(crashing)])


async def test_a_legacy_tool_takes_one_argument_only(mode: Mode, kit: Kit, task: Any) -> None:
    ran: list[str] = []
    legacy = kit.wrap(Tool(NAME, ran.append, "a tool", args_schema=Order))
    with pytest.raises(ToolException, match="one argument, and got 2"):
        await mode.invoke(legacy, {"x": "a"})
    assert ran == []


async def test_a_partial_and_a_callable_object_can_be_wrapped(mode: Mode, kit: Kit, task: Any) -> None:
    class Callable_:
        def __call__(self, x: str) -> str:
            return f"object {x}"

    for function, expected in ((functools.partial(plain, n=9), "a:9"), (Callable_(), "object a")):
        made = StructuredTool(name=NAME, description="d", args_schema=OnlyX, func=function)
        (guarded,) = kit.another().wrap(classified(made))
        assert await mode.invoke(guarded, X) == expected
