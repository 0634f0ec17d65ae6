"""What calls have done, as Cedar types: ``context.task.done.<tool>``, and windows in parts of their own.

count                      how many calls were done
sum.<argument>             their values, added up
sum_with_this.<argument>   with the call that is judged, in calls of the tool itself: Cedar adds no decimals
per.<argument>             the same for those whose argument has the value that it has in this call
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentguard.model import Counted, Json, ToolSpec
from agentguard.policies.cedar.values import quoted

__all__ = ["NO_TALLIES", "WINDOWS", "Tallies", "cedar_tallies"]

WINDOWS = {"done_by_user": "user", "done_by_agent": "agent"}
"""The parts of the context that hold windows, each with whose calls these are."""
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tallies:
    """What rules can see, in calls of one tool, of what calls of *counted* tools have done.

    *arguments* are those of the tool itself.
    """

    tool: str = ""
    arguments: frozenset[str] = frozenset()
    counted: Mapping[str, Counted] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: ToolSpec, counted: Mapping[str, Counted]) -> Tallies:
        """Return what rules can see in calls of a tool."""
        return cls(spec.name, frozenset((spec.schema or {}).get("properties", ())), counted)

    def __bool__(self) -> bool:
        return bool(self.counted)

    def text_of_task(self) -> str:
        """Return the Cedar type of ``context.task.done``."""
        return _text(self._fields("done"))

    def texts_of_windows(self) -> dict[str, str]:
        """Return the Cedar types of the parts that hold windows, of those that there are."""
        return {part: _text(fields) for part in WINDOWS if (fields := self._fields(part))}

    def names_at(self, path: Iterable[str]) -> set[str]:
        """Return the names in the record at a path, which begins with ``done`` or the part of windows."""
        part, *names = path
        fields: Any = self._fields(part)
        for name in names:
            fields = fields.get(name, {}) if isinstance(fields, Mapping) else {}
        return set(fields) if isinstance(fields, Mapping) else set()

    def looks(self, part: str, is_named: Callable[[str], bool]) -> set[tuple[str, str]]:
        """Return what rules look at that name a part, and these tools: whose calls, and the tool."""
        scope = WINDOWS.get(part, "task")
        names = {name for name, counted in self.counted.items() if scope == "task" or getattr(counted, scope)}
        return {(scope, name) for name in names if is_named(name)}

    def _fields(self, part: str) -> Fields:
        if part == "done":
            return {name: self._tally(name, counted) for name, counted in sorted(self.counted.items())}
        fields: dict[str, dict[str, Fields]] = {}
        for name, counted in sorted(self.counted.items()):
            for window in sorted(getattr(counted, WINDOWS[part])):
                fields.setdefault(window, {})[name] = self._tally(name, counted)
        return fields

    def _tally(self, name: str, counted: Counted) -> Fields:
        sums: dict[str, Any] = {}
        if counted.sum:
            sums["sum"] = dict.fromkeys(counted.sum, "decimal")
            if name == self.tool:
                sums["sum_with_this"] = sums["sum"]
        fields = {"count": "Long", **sums}
        names = [one for one in counted.per if one in self.arguments or name == self.tool]
        return {**fields, "per": dict.fromkeys(names, fields)} if names else fields


NO_TALLIES = Tallies()


def _text(fields: Fields | str) -> str:
    if isinstance(fields, str):
        return fields
    return f"{{ {', '.join(f'{quoted(name)}: {_text(part)}' for name, part in fields.items())} }}"


def cedar_tallies(value: Json, is_sum: bool = False) -> Json:
    """Return what was done as Cedar's JSON, in which a sum is a decimal."""
    if not isinstance(value, dict):
        return {"__extn": {"fn": "decimal", "arg": f"{value:.4f}"}} if is_sum else value
    return {
        name: cedar_tallies(part, is_sum or name in ("sum", "sum_with_this")) for name, part in value.items()
    }
