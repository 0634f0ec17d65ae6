"""What an agent can reach, and whether a gate stands before it: `guard.coverage(agent)`."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

from agentguard.display import code, html_of, mark, table
from agentguard.langchain.tools import GuardedTool
from agentguard.text import printable

__all__ = ["Coverage", "Reach", "coverage"]

By = Literal["tool", "middleware", "interceptor", "nothing", "outside"]
_MOST = 20_000
_AGENTS = frozenset({"CompiledStateGraph", "Pregel", "AgentExecutor"})
_NAMELESS = frozenset({"", "LangGraph"})  # what langgraph calls a graph without a name
# what these hold, such as content blocks, are words and no tools
_WORDS = ("langchain_core.messages", "langchain_core.prompts", "langchain_core.prompt_values")
# dicts of other kinds that stand in lists: messages, calls, content blocks, schemas
_NO_PROVIDER = frozenset(
    {
        *("function", "tool_call", "text", "human", "ai", "system", "tool"),
        *("object", "string", "number", "integer", "boolean", "array", "null"),
    }
)


@dataclass(frozen=True, slots=True)
class Reach:
    """One tool that the agent can reach.

    `gated_by` is ``tool``, ``middleware`` or (for one of an MCP server) ``interceptor``; ``nothing``; or
    ``outside`` for a tool that the model's provider runs, which no guard in this process can see.
    `agent` is the path of sub-agents to it.
    """

    tool: str
    gated_by: By
    agent: str

    @property
    def gated(self) -> bool:
        """Whether a call of it is judged."""
        return self.gated_by in {"tool", "middleware", "interceptor"}

    @property
    def says(self) -> str:
        """What stands before its calls, in words."""
        return f"gated by {self.gated_by}" if self.gated else _SAYS[self.gated_by]


@dataclass(frozen=True, slots=True, repr=False)
class Coverage:
    """All that was found; it says so if it gave up. ``assert guard.coverage(agent)`` is a test of an agent.

    It looks through closures, defaults, the globals that a function names, and the attributes of
    langchain's objects; not into an application's own objects, nor at what code builds when it runs.
    """

    reaches: tuple[Reach, ...]
    complete: bool = True

    @property
    def ungated(self) -> tuple[Reach, ...]:
        """What runs without a decision."""
        return tuple(reach for reach in self.reaches if not reach.gated)

    def __bool__(self) -> bool:
        return self.complete and not self.ungated

    def __str__(self) -> str:
        lines = [f"{printable(r.agent)}: {printable(r.tool)}: {r.says}" for r in self.reaches]
        return "\n".join([*lines, *([] if self.complete else ["the agent is too large: not all was seen"])])

    def __repr__(self) -> str:
        """Say on one line what is not gated, as a failed assertion shows it."""
        tools_by_agent: dict[str, list[str]] = {}
        for reach in self.ungated:
            tools_by_agent.setdefault(printable(reach.agent), []).append(printable(reach.tool))
        parts = [f"NOT GATED: {agent}: {', '.join(tools)}" for agent, tools in tools_by_agent.items()]
        parts += [] if self.complete else ["NOT ALL SEEN: the agent is too large"]
        return f"<Coverage: {'; '.join([*parts, f'{len(self.reaches) - len(self.ungated)} gated'])}>"

    def _repr_html_(self) -> str:
        rows = (
            (
                reach.gated,
                (
                    mark(reach.gated, reach.gated_by),
                    code(reach.tool),
                    html_of(reach.agent),
                    html_of(reach.says),
                ),
            )
            for reach in self.reaches
        )
        note = f"{len(self.reaches) - len(self.ungated)} of {len(self.reaches)} tools are gated"
        more = "" if self.complete else " · the agent is too large: not all was seen"
        return table(("", "tool", "agent", "its calls"), rows, f"{note}{more}")


_SAYS = {"nothing": "NOT GATED", "outside": "NOT GATED: runs at the model's provider"}


def coverage(agent: object) -> Coverage:
    """Find every tool that *agent* (a graph, runnable, executor or list of tools) can reach."""
    reaches: dict[tuple[str, str], Reach] = {}
    complete = _visit(agent, "agent", reaches, frozenset())
    return Coverage(tuple(reaches.values()), complete)


def _visit(agent: object, name: str, reaches: dict[tuple[str, str], Reach], around: frozenset[int]) -> bool:
    """Note what an agent reaches; *around* are the agents that it stands in, of which it may be one."""
    if id(agent) in around:
        return True
    around |= {id(agent)}
    items = list(_walk(agent, set()))
    nodes: list[Any] = [item for item in items if _is(item, "langgraph", "ToolNode")]
    gated = {id(tool): _gated(node) for node in nodes for tool in node.tools_by_name.values()}
    for node in nodes:  # a tool in two nodes is as safe as the worse one
        gated.update({id(tool): False for tool in node.tools_by_name.values() if not _gated(node)})
    complete = len(items) < _MOST
    for item in items:
        if isinstance(item, BaseTool):
            _note(reaches, item.name, name, "middleware" if gated.get(id(item)) else _by_itself(item))
            complete &= _visit_inside(item, f"{name} > {item.name}", reaches, around)
        elif isinstance(item, list | tuple):
            for provider in _provider_tools(item):
                _note(reaches, provider, name, "outside")
    return complete


def _visit_inside(
    tool: BaseTool, name: str, reaches: dict[tuple[str, str], Reach], around: frozenset[int]
) -> bool:
    """Find the agents and tools that a tool calls itself."""
    inside = tool.gate.sealed if isinstance(tool, GuardedTool) else tool
    bodies = [vars(kind).get(m) for kind in type(inside).__mro__ for m in ("_run", "_arun")]
    functions = [getattr(inside, n, None) for n in ("func", "coroutine", "_func", "_coroutine")]
    items = list(_walk([bodies, functions, vars(inside)], {id(tool)}, leaves=_AGENTS))
    agents = [item for item in items if type(item).__name__ in _AGENTS]
    # a list of tools beside an agent is what the agent was made of, and is judged with the agent
    by_agents = {id(item) for agent in agents for item in _walk(agent, set()) if isinstance(item, BaseTool)}
    by_agents -= set(map(id, _direct([*bodies, *functions], inside)))
    for item in items:
        if isinstance(item, BaseTool) and item.name != tool.name and id(item) not in by_agents:
            _note(reaches, item.name, name, _by_itself(item))
    visits = [_visit(agent, _path(name, agent, tool), reaches, around) for agent in agents]
    return all(visits) and len(items) < _MOST


def _direct(functions: list[Any], tool: BaseTool) -> Iterator[Any]:
    """Yield what a tool's own code can call without looking into a list or an object."""
    yield from vars(tool).values()
    for function in functions:
        yield from _parts(function) if isinstance(function, types.FunctionType) else ()


def _path(name: str, agent: object, tool: BaseTool) -> str:
    """Return the path of an agent inside a tool; with its name, if the application has given it one."""
    label = getattr(agent, "name", None)
    return f"{name} > {label}" if isinstance(label, str) and label not in {*_NAMELESS, tool.name} else name


def _by_itself(tool: BaseTool) -> By:
    """Say what gates a tool wherever it is called from."""
    if isinstance(tool, GuardedTool):
        return "tool"
    body: Any = getattr(tool, "coroutine", None)
    if getattr(body, "__module__", None) != "langchain_mcp_adapters.tools":
        return "nothing"
    listed = inspect.getclosurevars(body).nonlocals.get("tool_interceptors") or [None]
    return "interceptor" if _is(listed[-1], "agentguard.langchain", "McpInterceptor") else "nothing"


def _note(reaches: dict[tuple[str, str], Reach], tool: str, agent: str, by: By) -> None:
    present = reaches.get((agent, tool))
    if present is None or present.gated:  # of two by one name, the worse counts
        reaches[agent, tool] = Reach(tool, by, agent)


def _is(item: object, package: str, name: str) -> bool:
    """Whether it is of that class, which need not be importable here."""
    return any(kind.__name__ == name and kind.__module__.startswith(package) for kind in type(item).__mro__)


def _gated(node: Any) -> bool:
    """Whether a ToolNode's calls pass the middleware, sync and async."""
    wrapper, awrapper = node._wrap_tool_call, node._awrap_tool_call
    return _passes_guard(wrapper) and (awrapper is None or _passes_guard(awrapper))


def _passes_guard(wrapper: object) -> bool:
    return any(_is(item, "agentguard.langchain", "GuardMiddleware") for item in _walk(wrapper, set()))


def _provider_tools(items: Sequence[Any]) -> Iterator[str]:
    """Name the tools that are dicts for the provider, such as ``{"type": "web_search_20250305"}``.

    They stand in lists of tools: lists of nothing but tools, dicts and functions.
    """
    if not all(isinstance(item, dict | BaseTool | types.FunctionType) for item in items):
        return
    for item in items:
        kind = item.get("type") if isinstance(item, dict) else None
        if isinstance(kind, str) and kind not in _NO_PROVIDER:
            yield str(item.get("name", kind))


def _walk(root: object, visited: set[int], leaves: frozenset[str] = frozenset()) -> Iterator[object]:
    """Yield what hangs together with *root*; not what is inside a tool, or inside one of *leaves*."""
    stack, count = [root], 0
    while stack and count < _MOST:
        item = stack.pop()
        if id(item) in visited or isinstance(item, str | bytes | int | float | type | types.ModuleType):
            continue
        visited.add(id(item))
        count += 1
        yield item
        if not isinstance(item, BaseTool) and type(item).__name__ not in leaves:
            stack.extend(_parts(item))


def _parts(item: object) -> Iterator[Any]:
    if isinstance(item, Mapping):
        yield from item.values()
    elif isinstance(item, list | tuple | set | frozenset):
        yield from item
    elif isinstance(item, functools.partial):
        yield from (item.func, *item.args, *item.keywords.values())
    elif isinstance(item, types.MethodType):
        yield from (item.__self__, item.__func__)
    elif isinstance(item, types.FunctionType):
        yield from _cells(item)
    elif type(item).__module__.startswith(_WORDS):
        return
    elif isinstance(item, Runnable) or _is_of_framework(type(item).__module__):
        yield from list(getattr(item, "__dict__", {}).values())


def _is_of_framework(module: str) -> bool:
    # the form of a final answer is a tool by name only: nothing runs for it. What a guard itself holds, such
    # as the tools of its other agents, is not looked into either: it is of agentguard
    return module.startswith(("langchain", "langgraph")) and module != "langchain.agents.structured_output"


def _cells(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield getattr(function, "__wrapped__", None)
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if isinstance(value, Runnable | list | tuple | dict) or _of_one_package(function, value):
            yield value


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _of_one_package(function: types.FunctionType, value: object) -> bool:
    """Whether *value* is a function beside this one: the way is not followed into libraries."""
    package = (function.__module__ or "").partition(".")[0]
    return isinstance(value, types.FunctionType) and (value.__module__ or "").partition(".")[0] == package
