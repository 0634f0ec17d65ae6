"""What runs when a tool is called, by which two tools of one name are the same tool or two."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Itself", "Original", "Parts", "without_words"]

Parts = tuple[object, ...]
Filled = tuple[weakref.ref[Any], frozenset[str]]
"""An object, and the names of its attributes that were set when it was looked at."""


def without_words(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a schema without the title and the description of the whole, which may be those of a request."""
    return {name: part for name, part in (schema or {}).items() if name not in ("title", "description")}


class Itself:
    """Stands for one object and for no other, and does not keep that object alive."""

    __slots__ = ("_of",)

    def __init__(self, value: Any) -> None:
        try:
            self._of: Any = weakref.ref(value)
        except TypeError:  # such as a function of C
            self._of = lambda: value

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Itself) and (value := self._of()) is not None and value is other._of()

    def __hash__(self) -> int:
        return 0  # it is compared, and not looked up


def _unknown(_filled: object) -> None:
    return None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Original:
    """What runs for a tool: where it is defined, and of what arguments.

    Two of them are equal where they are the same tool, made once or anew for each request. `place` says
    where, for an operator. `module` and `qualname` are the names of the definition in the application's
    code; empty for a tool of the MCP server `server`. `session` is the one in which such a tool was loaded,
    if it was: another session makes no other tool. `filled` says which attributes of its objects were set.
    `before` returns what ran while those were set that it is given; None if that is not known any more.
    """

    definition: Parts
    schema: str
    place: str
    module: str = ""
    qualname: str = ""
    server: str | None = None
    session: Itself | None = field(default=None, compare=False)
    filled: tuple[Filled, ...] = field(default=(), compare=False, repr=False)
    before: Callable[[tuple[Filled, ...]], Original | None] = field(
        default=_unknown, compare=False, repr=False
    )

    @property
    def name(self) -> str:
        """The place as `source` in agentguard.toml names it; for a tool of an MCP server, as a text."""
        return f"{self.module}:{self.qualname}" if self.module else self.place

    def is_from(self, source: str) -> bool:
        """Return whether *source* names this place: a module, or ``module:qualname``.

        ``shop.tools:Toolkit`` names all that stands inside this class or function.
        """
        module, _, qualname = source.partition(":")
        if not self.module or module != self.module:
            return False
        return not qualname or f"{self.qualname}.".startswith(f"{qualname}.")

    def has_filled(self, former: Original) -> bool:
        """Return whether this is *former*, one of whose objects has since set an attribute it had not set.

        So it is with a model that is loaded when it is needed first.
        """
        before = self.before(former.filled)
        return before is not None and former.difference(before) is None

    def difference(self, other: Original) -> str | None:
        """Return how *other* differs, for an operator; None if it is the same tool."""
        if self.definition != other.definition:
            return f"{self.place}, and {other.place}"
        if self.schema != other.schema:
            return f"{self.place}, and {other.place} with other arguments"
        return None
