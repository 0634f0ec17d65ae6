"""What runs for the tools of a catalog, by name, and what an operator was told of each.

Names may be those of a request: a server may rename its tools each time. So nothing is kept of a name that
nobody has classified, once its tools have ended.
"""

from __future__ import annotations

from collections import OrderedDict
from weakref import WeakValueDictionary

from agentguard.model.original import Original

__all__ = ["Attached", "Told"]

_NAMES = 1_000
_TEXTS = 8


class Attached:
    """What runs by each name. Not for several threads at once."""

    def __init__(self) -> None:
        self._classified: dict[str, Original] = {}
        self._others = WeakValueDictionary[str, Original]()

    def get(self, name: str) -> Original | None:
        """Return what runs by a name; None if nothing does."""
        return self._classified.get(name) or self._others.get(name)

    def first(self, name: str, original: Original, *, classified: bool) -> Original:
        """Return what runs by a name; *original* if nothing did before.

        That of a name which is not *classified* is known as long as somebody else keeps it.
        """
        former = self.get(name) or original
        if classified:
            self._classified[name] = former
        else:
            self._others[name] = former
        return former

    def replace(self, name: str, former: Original, original: Original) -> bool:
        """Have *original* stand for what runs by a name, in place of *former*; return whether it was that."""
        for originals in (self._classified, self._others):
            if originals.get(name) is former:
                originals[name] = original
                return True
        return False


class Told:
    """The texts that an operator was told of the latest names, so that each is told once.

    Of one name, 8 texts are told. Of 1,000 names it is known what was told.
    """

    def __init__(self) -> None:
        self._by_name: OrderedDict[str, set[str]] = OrderedDict()

    def is_new(self, name: str, text: str) -> bool:
        """Return whether a text has to be told, which is then counted as told."""
        texts = self._by_name.setdefault(name, set())
        self._by_name.move_to_end(name)
        if len(self._by_name) > _NAMES:
            self._by_name.popitem(last=False)
        if text in texts or len(texts) >= _TEXTS:
            return False
        texts.add(text)
        return True
