"""Redaction of values and exceptions: find the objects that lead to a secret, and rebuild only these.

Plain data without a secret is passed on after one quick look (`plain`). Of any other value, its parts are
counted first, each wherever it stands: a value of which there is too much is withheld. The first pass walks
all reachable objects, without calling the code of their classes. The second pass rebuilds each object that
leads to a secret, down to the string that contains it; all others are shared with the original. The third
pass checks the text of a result that is not plain data; a class of the application may write that text, in a
time that nobody can bound. Exceptions keep their identity and are changed in place. An object that cannot be
rebuilt becomes ``"[redacted]"``. One that cannot be looked into, or that was not walked because there are
too many, becomes a text that says so. So does an object that has such a one as its attribute, as a picture
has its pixels: with a text there it would be no such object any more. What was not checked is not passed on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from operator import is_
from types import MappingProxyType
from typing import Any

from agentguard.model import Limits
from agentguard.model.inside import variables
from agentguard.redaction.frames import strip_locals
from agentguard.redaction.needles import REDACTED, TEXT, Needles, is_text
from agentguard.redaction.objects import ATOMS, INERT, LIVE, PLAIN, blank, children, slots
from agentguard.redaction.plain import DEEPEST, MOST_TEXT, is_clean
from agentguard.text import label

__all__ = ["redact", "redact_exception"]

UNCHECKED = "[withheld: a secret in {} would not be seen]"
MOST = 100_000  # containers and objects that are walked at most

BUDGET = Limits(bytes=MOST_TEXT, parts=1_000_000, depth=DEEPEST)
KNOWN = ATOMS.union(TEXT, PLAIN)
BULK: dict[Any, Any] = {str: "\0", bytes: b"\0"}  # texts that are looked through at once, and what joins them
QUICK = ATOMS.union(BULK)
log = logging.getLogger("agentguard")


def redact(value: Any, secrets: Sequence[str]) -> Any:
    """Return *value* without the secrets, or the same object if no secret is in it.

    Strings, bytes, containers, dataclasses, pydantic models and other objects are rebuilt without calling
    their constructors. Exceptions are changed in place. An instance of a subclass of str or bytes that
    contained a secret becomes a plain str or bytes.
    """
    needles = Needles(secrets)
    if not needles.texts or type(value) in ATOMS:
        return value
    if type(value) in TEXT:
        return needles.without(value) if needles.inside(value) else value
    if is_clean(value, needles.texts, needles.bytes):
        return value
    value = _within_budget(value)
    redaction = _Redaction(needles, value)
    cleaned = redaction.clean(value)
    if redaction.withheld:
        log.warning("withheld, since a secret in it would not be seen: %s", ", ".join(redaction.withheld))
    return cleaned if redaction.plain else _check_text(cleaned, needles)


def _within_budget(value: Any) -> Any:
    """Return *value*, or a stand-in for it, or for an item of a tuple such as a content and an artifact."""
    if type(value) is tuple:
        items = tuple(_within_budget(item) for item in value)
        return value if all(map(is_, items, value)) else items
    return REDACTED if BUDGET.excess(value) else value


def _check_text(value: Any, needles: Needles) -> Any:
    """Return *value*, or a stand-in if ``str(value)`` contains a secret that its parts do not show.

    langchain makes that text of a result that is not text.
    """
    if type(value) is tuple:
        items = tuple(_check_text(item, needles) for item in value)
        return value if all(map(is_, items, value)) else items
    if is_text(value):  # its characters were looked at, and langchain writes no other text of it
        return value
    try:
        return REDACTED if needles.inside(str(value)) else value
    except Exception:  # noqa: BLE001  if it has no text, its text shows no secret
        return value


def redact_exception(error: BaseException, secrets: Sequence[str]) -> BaseException:
    """Return *error* without the secrets in its text, notes, attributes, causes and contexts.

    The error is changed in place. One that cannot be changed, or that holds too much to be looked through,
    becomes a RuntimeError that names its type.
    In its tracebacks, the locals of finished frames are cleared and suspended frames are removed, so that
    nobody can read a secret from them.

    Raise the result outside of the ``except`` block; inside it, Python would make the original error the
    context of the result.
    """
    needles = Needles(secrets)
    if not needles.texts:
        return error
    if BUDGET.excess(error):
        return RuntimeError(f"{type(error).__name__}: it held too much to be looked through")
    cleaned: BaseException = _Redaction(needles, error).clean(error)
    return cleaned


class _Unchecked(Exception):
    """An attribute of an object cannot be looked into."""


class _Redaction:
    """The object graph of one value: which objects lead to a secret ("dirty"), and their replacements."""

    def __init__(self, needles: Needles, root: object) -> None:
        self.needles = needles
        self.nodes: dict[int, object] = {}  # by id; kept alive, so that no other object gets the id
        self.parents: dict[int, list[int]] = {}
        self.dirty: set[int] = set()
        self.unwalked: set[int] = set()
        self.replacements: dict[int, Any] = {}
        self.withheld: dict[str, None] = {}  # the names of classes
        self.plain = True  # whether all objects are of Python's own types, whose text is known
        self._walk(root)
        self._mark_parents()
        strip_locals([node for node in self.nodes.values() if isinstance(node, BaseException)])

    def clean(self, value: Any) -> Any:
        """Return *value* if it is clean, or its replacement."""
        key = id(value)
        if is_text(value):
            return self.needles.without(value) if key in self.dirty or self.needles.inside(value) else value
        if key not in self.dirty:
            return value
        if key in self.unwalked:
            return self._withhold(value)
        if key not in self.replacements:
            try:
                self.replacements[key] = self._rebuild(value)
            except _Unchecked:
                self.replacements[key] = self._withhold(value)
            except Exception:  # noqa: BLE001  its class prevents it, or it is too deep: it is not passed on
                self.replacements[key] = _stand_in(value)
        return self.replacements[key]

    def _withhold(self, value: object) -> Any:
        """Return what stands for an object that is not passed on since not all of it was checked."""
        if isinstance(value, BaseException):
            return _stand_in(value)
        kind = type(value)
        name = label(f"{kind.__module__}.{kind.__qualname__}")
        self.withheld[name] = None
        return UNCHECKED.format(name)

    def _walk(self, root: object) -> None:
        todo = self._look((root,), 0)
        while todo:
            value, parent = todo.pop()
            if id(value) in self.nodes:
                self.parents[id(value)].append(parent)
            else:
                outer = value is root or type(value) not in PLAIN
                todo += self._look(self._enter(value, parent), id(value), outer=outer)

    def _look(
        self, parts: tuple[object, ...], parent: int, *, outer: bool = False
    ) -> list[tuple[object, int]]:
        """Look for a secret in the texts of a container, all at once; return what else is to be walked.

        Plain data that is clean is not walked, where an *outer* object holds it.
        """
        kinds = set(map(type, parts))
        self.plain = self.plain and kinds <= KNOWN
        for kind, between in BULK.items():
            texts = [part for part in parts if type(part) is kind] if kind in kinds else []
            if texts and self.needles.inside(between.join(texts)):
                self.dirty.add(parent)
        if kinds <= QUICK:
            return []
        rest = [part for part in parts if type(part) not in QUICK]
        if any(self.needles.inside(part) for part in rest if is_text(part)):
            self.dirty.add(parent)
        if outer:
            needles = self.needles
            rest = [p for p in rest if type(p) not in PLAIN or not is_clean(p, needles.texts, needles.bytes)]
        return [
            (part, parent) for part in rest if type(part) not in TEXT and not issubclass(type(part), INERT)
        ]

    def _enter(self, value: object, parent: int) -> tuple[object, ...]:
        self.nodes[id(value)] = value
        self.parents[id(value)] = [parent]
        try:
            if len(self.nodes) <= MOST:
                parts = tuple(children(value))
                # the budget did not count what these hold: nothing writes it down
                if not issubclass(type(value), LIVE) or not any(map(BUDGET.excess, parts)):
                    return parts
        except Exception:  # noqa: BLE001, S110  whatever its class raises, an unreadable object is not passed on
            pass
        self.unwalked.add(id(value))
        self.dirty.add(id(value))
        return ()

    def _mark_parents(self) -> None:
        todo = list(self.dirty)
        while todo:
            for parent in self.parents.get(todo.pop(), ()):
                if parent not in self.dirty:
                    self.dirty.add(parent)
                    todo.append(parent)

    def _rebuild(self, value: Any) -> Any:
        if isinstance(value, BaseException):
            return self._clean_error(value)
        if isinstance(value, MappingProxyType):
            return MappingProxyType({self.clean(k): self.clean(v) for k, v in value.items()})
        if isinstance(value, tuple | frozenset):
            base: Any = tuple if isinstance(value, tuple) else frozenset
            return self._copy_attributes(base.__new__(type(value), self._items(value, base)), value)
        new = blank(value)
        self.replacements[id(value)] = new  # before its items, which may refer to it
        self._fill(new, value)
        return self._copy_attributes(new, value)

    def _fill(self, new: Any, value: Any) -> None:
        if isinstance(value, dict):
            names, items = self._clean_all(dict.keys(value)), self._clean_all(dict.values(value))
            for name, item in zip(names, items, strict=True):
                new[name] = item
        elif isinstance(value, list):
            list.extend(new, self._items(value, list))
        elif isinstance(value, set):
            set.update(new, self._items(value, set))
        elif isinstance(value, deque):
            deque.__init__(new, self._items(value, deque), value.maxlen)

    def _items(self, value: Any, base: Any) -> list[Any]:
        return self._clean_all(base.__iter__(value))

    def _clean_all(self, items: Iterable[Any]) -> list[Any]:
        cleaned = [item if type(item) in QUICK else self.clean(item) for item in items]
        for kind, needles, stand_in in self.needles.replacements:
            for needle in needles:
                cleaned = [i.replace(needle, stand_in) if type(i) is kind else i for i in cleaned]
        return cleaned

    def _copy_attributes(self, new: Any, old: object) -> Any:
        """Give *new* the cleaned attributes of *old*."""
        values = [*variables(old).values(), *(item for _, item in slots(old))]
        if not self.unwalked.isdisjoint(map(id, values)):
            raise _Unchecked
        for name, item in list(variables(old).items()):
            variables(new)[self.clean(name)] = self.clean(item)
        for member, item in slots(old):
            member.__set__(new, self.clean(item))
        return new

    def _clean_error(self, error: BaseException) -> BaseException:
        self.replacements[id(error)] = error
        new = error
        if isinstance(error, BaseExceptionGroup):  # its members cannot be changed in place
            message = str(self.clean(error.message))
            new = BaseExceptionGroup(message, [self.clean(member) for member in error.exceptions])
        else:
            try:
                self._clean_in_place(error)
            except Exception:  # noqa: BLE001  an attribute that cannot be set, or a text that cannot be made
                new = _stand_in(error)
        self.replacements[id(error)] = new
        suppressed = error.__suppress_context__
        new.__cause__ = self._link(error.__cause__)
        new.__context__ = self._link(error.__context__)
        new.__suppress_context__ = suppressed
        return new.with_traceback(error.__traceback__)

    def _clean_in_place(self, error: BaseException) -> None:
        attributes = variables(error)
        for name, item in list(attributes.items()):
            del attributes[name]
            attributes[self.clean(name)] = self.clean(item)
        for member, item in slots(error):
            if self.clean(item) is not item:
                member.__set__(error, self.clean(item))
        error.args = tuple(self.clean(item) for item in error.args)
        if self.needles.inside(f"{error!s}{error!r}"):
            raise ValueError("the text of the error still contains a secret")

    def _link(self, error: BaseException | None) -> BaseException | None:
        linked: BaseException | None = self.clean(error)
        return linked


def _stand_in(value: object) -> Any:
    """Return the replacement of a value that cannot be rebuilt."""
    if isinstance(value, BaseException):
        text = f"{type(value).__name__}: its text held a credential and was removed"
        return RuntimeError(text).with_traceback(value.__traceback__)
    return REDACTED
