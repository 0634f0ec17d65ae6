"""What a tool runs: the walk over all that its functions and objects hold.

One walk answers two questions. Which definition is it? That is the code of what runs, and of what that code
holds: closures, defaults, attributes of functions, partials, methods and their objects, objects that are
called, classes, lists and dicts of them, and tools. And which objects does the tool reach? One of them may be
a client of an MCP server.

Code makes another tool, and data makes none. An object that nobody calls is data, such as the user of a
request, whatever its class. The functions that it holds count, by the names that the code around it uses, or
that the methods of its class use which operators run: nobody writes the name of ``__getitem__``. All that a
framework's function holds counts, since such a function stands for anything. A graph that the application's
code holds does not count: its tools are judged themselves. What cannot be looked into stands for itself.

The walk does not follow the global names of a module, which belong to the code itself, no names that code
computes, and no names by which a function uses what it is given as an argument. What a cached property has
made does not count: the code that makes it does. In a list or dict of more than 1,000 items, an object that
cannot be called is data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
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

from agentguard.langchain.contents import (
    DATA,
    MAPPINGS,
    SEQUENCES,
    TooLong,
    globals_of,
    held_by,
    is_own_module,
    operator_codes,
    pairs_of,
    passes_on,
)
from agentguard.langchain.identification import adapted_by, place_of_adapted
from agentguard.langchain.objects import (
    LIBRARIES,
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
from agentguard.langchain.visits import TooMuch, Visits
from agentguard.model.original import Filled, Itself, Parts

__all__ = ["Reach", "body_of"]

Codes = tuple[CodeType, ...]
_MOST = 2_000  # objects of one tool; a tool that reaches more stands for itself
_MOST_OF_ONE = 300  # objects that one called object holds; one that holds more stands for itself
_DEEPEST = 40  # objects in one another
_REMOTE = frozenset({"RemoteGraph", "RemoteRunnable"})  # what they run is on another machine
_COMPOSED = "langchain_core.runnables."  # what is defined here runs what it holds, and nothing else
_HANDLERS = ("handle_tool_error", "handle_validation_error")
# what langchain keeps for a tool or runnable, and what is not its work
_DESCRIPTIVE = (
    BaseTool.model_fields.keys() | {"callback_manager", "callbacks", "metadata", "tags", "_agentguard_forms"}
) - set(_HANDLERS)


def body_of(tool: BaseTool) -> Any:
    """Return what a tool calls: its function, or the tool itself."""
    return getattr(tool, "func", None) or getattr(tool, "coroutine", None) or tool


class Reach:
    """What a tool, or one function of it, runs.

    `definition` says where it is defined, and keeps nothing alive but code. `objects` is all that is reached,
    and lives as long as this object. With *bound*, an MCP server is known by its name and its URL's origin.
    """

    def __init__(self, root: Any, *, bound: bool = False, former: Iterable[Filled] = ()) -> None:
        self._bound, self._visits = bound, Visits(_MOST, former)
        self.objects, self.filled = self._visits.objects, self._visits.filled
        try:
            self.definition = self._part(root, (), False, 0)
        except TooMuch:
            self.definition = ()
        self.definition = self.definition or itself(body_of(root) if isinstance(root, BaseTool) else root)

    def _part(self, value: Any, codes: Codes, form: bool, depth: int) -> Parts:
        """Return what a value adds to the definition; nothing if it is data.

        *codes* is the code that holds the value. With *form*, a framework's function or object holds it.
        """
        kind = type(value)
        if kind in DATA:
            return ()
        if kind is CodeType:
            return ("code", value)
        called = runs(value, kind)
        key = (id(value), None if called else (codes, form))
        if key in self._visits:
            return self._visits.again(key)
        if depth > _DEEPEST:
            return itself(value)
        self._visits.visit(key, value)
        if called:
            self._visits.number(key)
            return self._called(value, kind, form, depth + 1)
        if parts := self._uncalled(value, kind, codes, form, depth + 1):
            self._visits.number(key)
        return parts

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
        if issubclass(kind, SEQUENCES + MAPPINGS):
            named_parts = () if kind in SEQUENCES + MAPPINGS else self._named(value, kind, codes, depth)
            return (*self._items(value, kind, form, depth), *named_parts)
        if (references := held_by(value, kind)) is not None:
            return self._parts((("", part) for part in references), codes, form, depth)
        if package_of(kind.__module__) == "agentguard":  # a guard, say, which reaches everything
            return ()
        if form or kind.__module__.startswith(_COMPOSED):
            return self._runnable(value, kind, codes, form, depth)
        return () if is_foreign(kind.__module__) else self._named(value, kind, codes, depth)

    def _items(self, value: Any, kind: type, form: bool, depth: int) -> Parts:
        """Return what a container holds."""
        try:
            parts = self._parts(pairs_of(value), (), form, depth)
        except TooLong:
            raise TooMuch(self._visits.most) from None
        return (frozenset(parts),) if parts and issubclass(kind, set | frozenset) else parts

    def _function(self, function: FunctionType, depth: int) -> Parts:
        """Return the place of a function, and what it holds."""
        if adapted := adapted_by(function):
            return place_of_adapted(adapted, bound=self._bound) or (Itself(function),)
        codes, form = (function.__code__,), is_foreign(module_of(function))
        defaults = [("", value) for value in function.__defaults__ or ()]
        pairs = (*closure_of(function), *defaults, *(function.__kwdefaults__ or {}).items())
        contents = self._parts((*pairs, *vars(function).items()), codes, form, depth)
        return (*code_of(function), *contents, *self._parts(globals_of(function), codes, form, depth))

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
        if kind in DATA or issubclass(kind, (*SEQUENCES, *MAPPINGS)) or runs(owner, kind):
            return self._part(owner, (), False, depth)
        key = (id(owner), None)
        if key in self._visits:
            return self._visits.again(key)
        self._visits.visit(key, owner)
        self._visits.number(key)
        if is_foreign(kind.__module__):
            return self._runnable(owner, kind, (), True, depth)
        code: CodeType | None = getattr(method, "__code__", None)
        codes = (code,) if code is not None and not is_installed(code.co_filename) else ()
        return (*self._class(kind, depth), *self._named(owner, kind, codes, depth))

    def _object(self, value: Any, kind: type, depth: int) -> Parts:
        """Return what an object is that is called, or whose method is."""
        bases = [base for base in kind.__mro__ if package_of(base.__module__) not in LIBRARIES]
        codes = tuple(f.__code__ for b in bases for _, f in members_of(b) if isinstance(f, FunctionType))
        most = self._visits.most
        try:
            with self._visits.apart(_MOST_OF_ONE):
                items = (
                    self._items(value, kind, False, depth) if issubclass(kind, SEQUENCES + MAPPINGS) else ()
                )
                pairs = (("__wrapped__", wrapped_by(value)), *self._own(value, kind, codes, depth))
                contents = (*items, *self._parts(pairs, codes, False, depth))
                place = self._class(kind, depth)
        except TooMuch as error:
            if error.most == most:
                raise
            return itself(value)
        return (*place, *contents) if codes or contents else opaque(value, kind)

    def _runnable(self, value: Any, kind: type, codes: Codes, form: bool, depth: int) -> Parts:
        """Return what an object runs that a framework's function holds, or that runs what it holds."""
        if kind.__name__ in _REMOTE:
            return itself(value)
        pairs = self._own(value, kind, codes, depth, _DESCRIPTIVE)
        inner = form and (issubclass(kind, Runnable) or is_foreign(kind.__module__))
        return (*self._class(kind, depth), *self._parts(pairs, codes, inner, depth))

    def _tool(self, tool: Any, kind: type, depth: int) -> Parts:
        if package_of(kind.__module__) == "agentguard" and hasattr(tool, "gate"):
            return tuple(tool.gate.original.definition)  # a guarded tool, which is judged itself
        if kind in (StructuredTool, Tool):
            names = ("func", "coroutine", *_HANDLERS)
            return self._parts(((name, getattr(tool, name)) for name in names), (), False, depth)
        codes = tuple(f.__code__ for _, f in members_of(kind) if isinstance(f, FunctionType))
        pairs = self._own(tool, kind, codes, depth, _DESCRIPTIVE)
        contents = self._parts(pairs, codes, is_foreign(kind.__module__), depth)
        return (*self._class(kind, depth), *contents)

    def _class(self, kind: type, depth: int) -> Parts:
        """Return the place of a class, also of one that is made for a request, and not the class itself."""
        names = (kind.__module__, kind.__qualname__)
        if package_of(kind.__module__) in LIBRARIES or not isinstance(vars(kind), MappingProxyType):
            return names
        key = (id(kind), "class")
        if key in self._visits:
            return self._visits.again(key)
        self._visits.visit(key, kind)
        self._visits.number(key)
        members = tuple(self._member(member, depth + 1) for _, member in members_of(kind))
        bases = tuple(
            self._class(b, depth + 1) for b in kind.__bases__ if package_of(b.__module__) not in LIBRARIES
        )
        return (*names, *members, *bases)

    def _member(self, member: Any, depth: int) -> Parts:
        plain = (
            isinstance(member, FunctionType)
            and is_own_module(member)
            and not (member.__closure__ or member.__defaults__ or member.__kwdefaults__ or vars(member))
        )
        return code_of(member) if plain else self._part(member, (), False, depth)

    def _own(
        self, value: Any, kind: type, codes: Codes, depth: int, without: Collection[str] = ()
    ) -> Iterable[tuple[str, Any]]:
        """Return the attributes of an object. What its cached properties have made is no part of it."""
        values, results = self._visits.parted(value, kind)
        with self._visits.unnumbered():
            self._parts((("", item) for item in results), codes, False, depth)
        return [pair for pair in values.items() if pair[0] not in without]

    def _named(self, value: Any, kind: type, codes: Codes, depth: int) -> Parts:
        """Return what an object holds by the names that *codes* use, or methods that they or operators run.

        Where a class answers other names by its own code, what it holds is looked at by these names too.
        """
        values = dict(self._own(value, kind, codes, depth))
        waiting, names, parts = [*codes, *operator_codes(kind)], set[str](), list[object]()
        outer_codes = codes if passes_on(kind) else ()
        while waiting:
            code = waiting.pop(0)
            for name in names_in(code):
                if name in names:
                    continue
                names.add(name)
                if name in values:
                    part = self._part(values[name], (code, *outer_codes), False, depth)
                    parts += [(name, part)] if part else []
                elif isinstance(method := method_of(kind, name), FunctionType):
                    waiting.append(method.__code__)
        return tuple(parts)
