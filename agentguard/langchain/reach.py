"""What a tool runs: the walk over all that its functions and objects hold.

One walk answers two questions. Which definition is it? That is the code of what runs, and of what that code
holds: closures, defaults, attributes of functions, partials, methods and their objects, objects that are
called, classes, lists and dicts of them, and tools. And which objects does the tool reach? One of them may be
a client of an MCP server.

Code makes another tool, and data makes none. An object that nobody calls is data, such as the user of a
request, whatever its class. The functions that it holds count, by the names that the code around it uses,
unless it is in a list or dict. All that a framework's function holds counts, since such a function stands for
anything. A graph that the application's code holds does not count: its tools are judged themselves. What
cannot be looked into stands for itself.

The walk does not follow global names, which belong to the code itself, and no names that code computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any
from weakref import ReferenceType

from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool, StructuredTool, Tool

from agentguard.langchain.identification import adapted_by, place_of_adapted
from agentguard.langchain.objects import (
    LIBRARIES,
    attributes,
    closure_of,
    code_of,
    is_foreign,
    is_installed,
    itself,
    members_of,
    method_of,
    module_of,
    names_in,
    opaque,
    package_of,
    runs,
    wrapped_by,
)
from agentguard.model.original import Itself, Parts

__all__ = ["Reach", "body_of"]

Codes = tuple[CodeType, ...]
_Key = tuple[int, object]
_DATA = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, range, type(...), CodeType})
_SEQUENCES = (list, tuple, deque, set, frozenset)
_MAPPINGS = (dict, MappingProxyType)
_MOST = 2_000  # objects of one tool; a tool that reaches more stands for itself
_MOST_OF_ONE = 300  # objects that one called object holds; one that holds more stands for itself
_LONGEST = 1_000  # items; a longer list or dict is data
_DEEPEST = 40  # objects in one another
_REMOTE = frozenset({"RemoteGraph", "RemoteRunnable"})  # what they run is on another machine
_COMPOSED = "langchain_core.runnables."  # what is defined here runs what it holds, and nothing else
_HANDLERS = ("handle_tool_error", "handle_validation_error")
# what langchain keeps for a tool or runnable, and what is not its work
_DESCRIPTIVE = (
    BaseTool.model_fields.keys() | {"callback_manager", "callbacks", "metadata", "tags", "_agentguard_forms"}
) - set(_HANDLERS)


class _TooMuch(Exception):
    """More is reached than is looked at: more than `most`."""

    def __init__(self, most: int) -> None:
        self.most = most


def body_of(tool: BaseTool) -> Any:
    """Return what a tool calls: its function, or the tool itself."""
    return getattr(tool, "func", None) or getattr(tool, "coroutine", None) or tool


class Reach:
    """What a tool, or one function of it, runs.

    `definition` says where it is defined, and keeps nothing alive but code. `objects` is all that is reached,
    and lives as long as this object. With *bound*, an MCP server is known by its name and its URL's origin.
    """

    def __init__(self, root: Any, *, bound: bool = False) -> None:
        self.objects: list[object] = []
        self._bound = bound
        self._visited: dict[_Key, int] = {}
        self._numbers: dict[_Key, int] = {}  # of what was visited, that which is no data
        self._most = _MOST
        try:
            self.definition = self._part(root, (), False, 0)
        except _TooMuch:
            self.definition = ()
        self.definition = self.definition or itself(body_of(root) if isinstance(root, BaseTool) else root)

    def _part(self, value: Any, codes: Codes, form: bool, depth: int) -> Parts:
        """Return what a value adds to the definition; nothing if it is data.

        *codes* is the code that holds the value. With *form*, a framework's function or object holds it.
        """
        kind = type(value)
        if kind in _DATA:
            return ()
        called = runs(value, kind)
        key = (id(value), None if called else (codes, form))
        if key in self._visited:
            return self._again(key)
        if depth > _DEEPEST:
            return itself(value)
        self._visit(key, value)
        if called:
            self._number(key)
            return self._called(value, kind, form, depth + 1)
        if parts := self._uncalled(value, kind, codes, form, depth + 1):
            self._number(key)
        return parts

    def _visit(self, key: _Key, value: object) -> None:
        if len(self._visited) >= self._most:
            raise _TooMuch(self._most)
        self._visited[key] = len(self._visited)
        self.objects.append(value)  # no other object can have its id while the walk lasts

    def _number(self, key: _Key) -> None:
        """Number what is no data. Data has no numbers: how much there is differs from request to request."""
        self._numbers[key] = len(self._numbers)

    def _again(self, key: _Key) -> Parts:
        number = self._numbers.get(key)
        return () if number is None else ("again", number)

    def _parts(self, pairs: Iterable[tuple[str, Any]], codes: Codes, form: bool, depth: int) -> Parts:
        """Return the names and parts of those values that are no data."""
        return tuple((name, part) for name, value in pairs if (part := self._part(value, codes, form, depth)))

    def _called(self, value: Any, kind: type, form: bool, depth: int) -> Parts:
        if issubclass(kind, FunctionType):
            return self._function(value, depth)
        if issubclass(kind, MethodType):
            owner = self._owner(value.__self__, value.__func__, depth)
            return (*owner, *self._part(value.__func__, (), form, depth))
        if issubclass(kind, partial):
            return self._partial(value, form, depth)
        if issubclass(kind, type):
            return self._class(value, depth)
        if issubclass(kind, BaseTool):
            return self._tool(value, kind, depth)
        if issubclass(kind, BuiltinFunctionType | MethodWrapperType):
            owner = value.__self__
            contents = () if owner is None or type(owner) is ModuleType else self._owner(owner, None, depth)
            return ("built in", str(getattr(value, "__module__", "")), value.__qualname__, *contents)
        return self._object(value, kind, depth)

    def _uncalled(self, value: Any, kind: type, codes: Codes, form: bool, depth: int) -> Parts:
        if issubclass(kind, ReferenceType):
            return self._part(value(), codes, form, depth)
        if issubclass(kind, _SEQUENCES):
            items = () if len(value) > _LONGEST else tuple(value)
            parts = tuple(part for item in items if (part := self._part(item, (), form, depth)))
            return (frozenset(parts),) if parts and issubclass(kind, set | frozenset) else parts
        if issubclass(kind, _MAPPINGS):
            return self._mapping(value, form, depth)
        if package_of(kind.__module__) == "agentguard":  # a guard, say, which reaches everything
            return ()
        if form or kind.__module__.startswith(_COMPOSED):
            return self._runnable(value, kind, codes, form, depth)
        if is_foreign(kind.__module__):
            return ()
        return self._named(value, kind, codes, depth)

    def _mapping(self, value: Mapping[Any, Any], form: bool, depth: int) -> Parts:
        items = () if len(value) > _LONGEST else tuple(value.items())
        pairs = [(key if type(key) is str else "", item) for key, item in items]
        return self._parts(sorted(pairs, key=lambda pair: pair[0]), (), form, depth)

    def _function(self, function: FunctionType, depth: int) -> Parts:
        """Return the place of a function, and what it holds."""
        if adapted := adapted_by(function):
            return place_of_adapted(adapted, bound=self._bound) or (Itself(function),)
        codes, form = (function.__code__,), is_foreign(module_of(function))
        defaults = [("", value) for value in function.__defaults__ or ()]
        pairs = (*closure_of(function), *defaults, *(function.__kwdefaults__ or {}).items())
        contents = self._parts((*pairs, *vars(function).items()), codes, form, depth)
        return (*code_of(function), *contents)

    def _partial(self, value: partial[Any], form: bool, depth: int) -> Parts:
        function = getattr(value.func, "__func__", value.func)
        form = form or is_foreign(module_of(function))
        codes = (function.__code__,) if isinstance(function, FunctionType) else ()
        pairs = [("", argument) for argument in value.args]
        contents = self._parts((*pairs, *sorted(value.keywords.items())), codes, form, depth)
        return (len(value.args), *sorted(value.keywords), *contents, *self._part(value.func, (), form, depth))

    def _owner(self, owner: Any, method: Any, depth: int) -> Parts:
        """Return the class of an object whose method runs, and what it holds by the names that this uses."""
        kind = type(owner)
        if kind in _DATA or issubclass(kind, (*_SEQUENCES, *_MAPPINGS)) or runs(owner, kind):
            return self._part(owner, (), False, depth)
        key = (id(owner), None)
        if key in self._visited:
            return self._again(key)
        self._visit(key, owner)
        self._number(key)
        if is_foreign(kind.__module__):
            return self._runnable(owner, kind, (), True, depth)
        code: CodeType | None = getattr(method, "__code__", None)
        codes = (code,) if code is not None and not is_installed(code.co_filename) else ()
        return (*self._class(kind, depth), *self._named(owner, kind, codes, depth))

    def _object(self, value: Any, kind: type, depth: int) -> Parts:
        """Return what an object is that is called, or whose method is."""
        bases = [base for base in kind.__mro__ if package_of(base.__module__) not in LIBRARIES]
        functions = [member for base in bases for _, member in members_of(base)]
        codes = tuple(f.__code__ for f in functions if isinstance(f, FunctionType))
        first, first_number, most = len(self._visited), len(self._numbers), self._most
        self._most = min(most, first + _MOST_OF_ONE)
        try:
            pairs = (("__wrapped__", wrapped_by(value)), *attributes(value).items())
            contents = self._parts(pairs, codes, False, depth)
            place = self._class(kind, depth)
        except _TooMuch as error:
            if error.most == most:
                raise
            for entries, number in ((self._visited, first), (self._numbers, first_number)):
                for key in list(entries)[number:]:
                    del entries[key]
            return itself(value)
        finally:
            self._most = most
        return (*place, *contents) if codes or contents else opaque(value, kind)

    def _runnable(self, value: Any, kind: type, codes: Codes, form: bool, depth: int) -> Parts:
        """Return what an object runs that a framework's function holds, or that runs what it holds."""
        if kind.__name__ in _REMOTE:
            return itself(value)
        pairs = ((name, item) for name, item in attributes(value).items() if name not in _DESCRIPTIVE)
        inner = form and (issubclass(kind, Runnable) or is_foreign(kind.__module__))
        return (*self._class(kind, depth), *self._parts(pairs, codes, inner, depth))

    def _tool(self, tool: Any, kind: type, depth: int) -> Parts:
        if package_of(kind.__module__) == "agentguard" and hasattr(tool, "gate"):
            return tuple(tool.gate.original.definition)  # a guarded tool, which is judged itself
        if kind in (StructuredTool, Tool):
            names = ("func", "coroutine", *_HANDLERS)
            return self._parts(((name, getattr(tool, name)) for name in names), (), False, depth)
        pairs = ((name, item) for name, item in attributes(tool).items() if name not in _DESCRIPTIVE)
        codes = tuple(f.__code__ for _, f in members_of(kind) if isinstance(f, FunctionType))
        contents = self._parts(pairs, codes, is_foreign(kind.__module__), depth)
        return (*self._class(kind, depth), *contents)

    def _class(self, kind: type, depth: int) -> Parts:
        """Return the place of a class, also of one that is made for a request, and not the class itself."""
        names = (kind.__module__, kind.__qualname__)
        if package_of(kind.__module__) in LIBRARIES or not isinstance(vars(kind), MappingProxyType):
            return names
        key = (id(kind), "class")
        if key in self._visited:
            return self._again(key)
        self._visit(key, kind)
        self._number(key)
        members = tuple(self._member(member, depth + 1) for _, member in members_of(kind))
        bases = tuple(
            self._class(b, depth + 1) for b in kind.__bases__ if package_of(b.__module__) not in LIBRARIES
        )
        return (*names, *members, *bases)

    def _member(self, member: Any, depth: int) -> Parts:
        plain = isinstance(member, FunctionType) and not (
            member.__closure__ or member.__defaults__ or member.__kwdefaults__ or vars(member)
        )
        return code_of(member) if plain else self._part(member, (), False, depth)

    def _named(self, value: Any, kind: type, codes: Codes, depth: int) -> Parts:
        """Return what an object holds by the names that *codes* use, or the methods that they call."""
        values = vars(value) if kind is ModuleType else attributes(value)
        waiting, names, parts = list(codes), set[str](), list[object]()
        while waiting:
            code = waiting.pop(0)
            for name in names_in(code):
                if name in names:
                    continue
                names.add(name)
                if name in values:
                    part = self._part(values[name], (code,), False, depth)
                    parts += [(name, part)] if part else []
                elif isinstance(method := method_of(kind, name), FunctionType):
                    waiting.append(method.__code__)
        return tuple(parts)
