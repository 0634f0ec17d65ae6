"""Redaction of values and exceptions: find what leads to a secret, and rebuild that alone.

A first pass walks all that is reachable, without calling any code of its classes; a second one makes
anew what leads to a secret, down to the string that holds it, and shares the rest; a third looks at the
text of what is no plain data. Exceptions keep their identity and are mended in place. What cannot be
rebuilt, or lies beyond the bounds, becomes ``"[redacted]"``: not seen is not passed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from operator import is_
from types import MappingProxyType
from typing import Any

from agentguard.redaction.frames import strip_locals
from agentguard.redaction.look import ATOMS, INERT, PLAIN, blank, children, slots, variables

__all__ = ["REDACTED", "redact", "redact_exception"]

REDACTED = "[redacted]"
MOST = 100_000  # containers and objects that are walked

TEXT = (str, bytes, bytearray)
Text = str | bytes | bytearray


def redact(value: Any, secrets: Sequence[str]) -> Any:
    """Return *value* without the secrets; the very same object when none was found in it.

    Strings, bytes, containers, dataclasses, pydantic models and other objects are rebuilt without
    calling their constructors; exceptions are changed in place. A subclass of str or bytes that held
    a secret becomes a plain one.
    """
    needles = _Needles(secrets)
    if not needles.texts or type(value) in ATOMS:
        return value
    if type(value) in TEXT:
        return needles.without(value) if needles.inside(value) else value
    redaction = _Redaction(needles, value)
    cleaned = redaction.clean(value)
    return cleaned if redaction.plain else _silent(cleaned, needles)


def _silent(value: Any, needles: _Needles) -> Any:
    """Return *value*, or a stand-in if its text shows a secret that nothing which it holds does.

    That text is what langchain makes of a result which is no text.
    """
    if type(value) is tuple:
        silent = tuple(_silent(item, needles) for item in value)
        return value if all(map(is_, silent, value)) else silent
    try:
        return REDACTED if needles.inside(str(value)) else value
    except Exception:  # noqa: BLE001  what has no text shows none
        return value


def redact_exception(error: BaseException, secrets: Sequence[str]) -> BaseException:
    """Return *error* without the secrets in its text, notes, attributes, causes and contexts.

    It is mended in place; one that cannot be becomes a RuntimeError that names its type. The locals
    of the finished frames in its tracebacks are cleared, and frames that are suspended left out, so that
    nothing is captured from there.
    Raise the result outside of the ``except`` block: inside, Python makes the original its context.
    """
    needles = _Needles(secrets)
    if not needles.texts:
        return error
    cleaned: BaseException = _Redaction(needles, error).clean(error)
    return cleaned


class _Needles:
    """What is looked for; the longest first, since one secret may begin with another."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self.texts = sorted({str(secret) for secret in secrets if secret}, key=len, reverse=True)
        self.bytes = [text.encode(errors="surrogatepass") for text in self.texts]

    def inside(self, text: Text) -> bool:
        # by the base class, whatever a subclass makes of it
        if isinstance(text, str):
            return any(str.__contains__(text, needle) for needle in self.texts)
        base: Any = bytes if isinstance(text, bytes) else bytearray
        return any(base.__contains__(text, needle) for needle in self.bytes)

    def without(self, text: Text) -> Text:
        if isinstance(text, str):
            clean = str.__str__(text)
            for needle in self.texts:
                clean = clean.replace(needle, REDACTED)
            return clean
        data = bytes(text)
        for secret in self.bytes:
            data = data.replace(secret, REDACTED.encode())
        return bytearray(data) if isinstance(text, bytearray) else data


class _Redaction:
    """One value's graph: what of it is dirty, and what that becomes."""

    def __init__(self, needles: _Needles, root: object) -> None:
        self.needles = needles
        self.nodes: dict[int, object] = {}  # keeps them alive, so that their ids stay theirs
        self.parents: dict[int, list[int]] = {}
        self.dirty: set[int] = set()
        self.unseen: set[int] = set()
        self.made: dict[int, Any] = {}
        self.plain = True  # whether all of it is of Python's own types, whose text is known
        self._walk(root)
        self._spread()
        strip_locals([node for node in self.nodes.values() if isinstance(node, BaseException)])

    def clean(self, value: Any) -> Any:
        """Return what *value* becomes."""
        key = id(value)
        if isinstance(value, TEXT):
            return self.needles.without(value) if key in self.dirty or self.needles.inside(value) else value
        if key not in self.dirty:
            return value
        if key in self.unseen:
            return _stand_in(value)
        if key not in self.made:
            try:
                self.made[key] = self._rebuilt(value)
            except Exception:  # noqa: BLE001  its class resists, or it is too deep: what is not rebuilt does not pass
                self.made[key] = _stand_in(value)
        return self.made[key]

    def _walk(self, root: object) -> None:
        todo: list[tuple[object, int]] = [(root, 0)]
        while todo:
            value, parent = todo.pop()
            kind = type(value)
            if kind in ATOMS:
                continue
            self.plain = self.plain and (kind in PLAIN or kind in TEXT)
            if isinstance(value, TEXT) and self.needles.inside(value):
                self.dirty.add(parent)
            if id(value) in self.nodes:
                self.parents[id(value)].append(parent)
            elif kind not in TEXT and not isinstance(value, INERT):
                todo.extend((child, id(value)) for child in self._enter(value, parent))

    def _enter(self, value: object, parent: int) -> list[object]:
        self.nodes[id(value)] = value
        self.parents[id(value)] = [parent]
        try:
            if len(self.nodes) <= MOST:
                return list(children(value))
        except Exception:  # noqa: BLE001, S110  whatever its class does: what cannot be seen does not pass
            pass
        self.unseen.add(id(value))
        self.dirty.add(id(value))
        return []

    def _spread(self) -> None:
        todo = list(self.dirty)
        while todo:
            for parent in self.parents.get(todo.pop(), ()):
                if parent not in self.dirty:
                    self.dirty.add(parent)
                    todo.append(parent)

    def _rebuilt(self, value: Any) -> Any:
        if isinstance(value, BaseException):
            return self._mended(value)
        if isinstance(value, MappingProxyType):
            return MappingProxyType({self.clean(k): self.clean(v) for k, v in value.items()})
        if isinstance(value, tuple | frozenset):
            base: Any = tuple if isinstance(value, tuple) else frozenset
            return self._dressed(base.__new__(type(value), self._items(value, base)), value)
        new = blank(value)
        self.made[id(value)] = new  # before what is in it, which may lead back here
        self._fill(new, value)
        return self._dressed(new, value)

    def _fill(self, new: Any, value: Any) -> None:
        if isinstance(value, dict):
            for name, item in dict.items(value):
                new[self.clean(name)] = self.clean(item)
        elif isinstance(value, list):
            list.extend(new, self._items(value, list))
        elif isinstance(value, set):
            set.update(new, self._items(value, set))
        elif isinstance(value, deque):
            deque.__init__(new, self._items(value, deque), value.maxlen)

    def _items(self, value: Any, base: Any) -> list[Any]:
        return [self.clean(item) for item in base.__iter__(value)]

    def _dressed(self, new: Any, old: object) -> Any:
        """Give *new* the attributes of *old*."""
        for name, item in list(variables(old).items()):
            variables(new)[self.clean(name)] = self.clean(item)
        for member, item in slots(old):
            member.__set__(new, self.clean(item))
        return new

    def _mended(self, error: BaseException) -> BaseException:
        self.made[id(error)] = error
        new = error
        if isinstance(error, BaseExceptionGroup):  # its members cannot be changed in place
            message = str(self.clean(error.message))
            new = BaseExceptionGroup(message, [self.clean(each) for each in error.exceptions])
        else:
            try:
                self._mend(error)
            except Exception:  # noqa: BLE001  an attribute that cannot be set, or a text that cannot be made
                new = _stand_in(error)
        self.made[id(error)] = new
        suppressed = error.__suppress_context__
        new.__cause__ = self._link(error.__cause__)
        new.__context__ = self._link(error.__context__)
        new.__suppress_context__ = suppressed
        return new.with_traceback(error.__traceback__)

    def _mend(self, error: BaseException) -> None:
        held = variables(error)
        for name, item in list(held.items()):
            del held[name]
            held[self.clean(name)] = self.clean(item)
        for member, item in slots(error):
            if self.clean(item) is not item:
                member.__set__(error, self.clean(item))
        error.args = tuple(self.clean(item) for item in error.args)
        if self.needles.inside(f"{error!s}{error!r}"):
            raise ValueError("its text comes from elsewhere")

    def _link(self, error: BaseException | None) -> BaseException | None:
        linked: BaseException | None = self.clean(error)
        return linked


def _stand_in(value: object) -> Any:
    """What takes the place of a value that cannot be rebuilt."""
    if isinstance(value, BaseException):
        text = f"{type(value).__name__}: its text held a credential and was removed"
        return RuntimeError(text).with_traceback(value.__traceback__)
    return REDACTED
