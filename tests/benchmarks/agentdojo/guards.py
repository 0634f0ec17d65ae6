"""Four simple policies that a real policy is compared with, all behind the same middleware.

`none` permits every call. `static` permits the tools of each task's ground truth: nobody could know these
beforehand, so this is the best that a list of tools can do. `prompt` permits a write if each of its values
occurs in the user's prompt. `coarse` permits no write after any read. All four take a tool for a read by its
name, so that they need no catalog. What goes to an address on the web is no read: the address can carry what
was read before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from agentguard.model import AccessRequest, Decision, Effect

__all__ = ["REFERENCES", "Reference", "Rule", "reads"]

Rule = Callable[[AccessRequest, Collection[str]], bool]
"""Return whether a request is permitted; the second argument holds the tools of the ground truth."""

_READS = ("get_", "read_", "search_", "list_", "check_")
_FETCHES = ("_webpage", "_website", "_url", "_link")


def reads(tool: str) -> bool:
    """Return whether a tool's name says that it reads, and from the user's own systems."""
    return tool.startswith(_READS) and not tool.endswith(_FETCHES)


def _leaves(value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _leaves(item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if value is None or isinstance(value, bool):
        return []
    return [f"{value:g}" if isinstance(value, float) else str(value)]


def _none(request: AccessRequest, tools: Collection[str]) -> bool:
    return True


def _static(request: AccessRequest, tools: Collection[str]) -> bool:
    return request.tool.name in tools


def _prompt(request: AccessRequest, tools: Collection[str]) -> bool:
    words = request.task.words.casefold()
    return reads(request.tool.name) or all(
        leaf.casefold() in words for leaf in _leaves(dict(request.arguments.values))
    )


def _coarse(request: AccessRequest, tools: Collection[str]) -> bool:
    return reads(request.tool.name) or not any(map(reads, request.task.history))


REFERENCES: dict[str, Rule] = {"none": _none, "static": _static, "prompt": _prompt, "coarse": _coarse}


class Reference:
    """A `Policy` of one rule; `tools` holds the tools of the ground truth of the current user task."""

    inline = True

    def __init__(self, name: str) -> None:
        self.version = self._name = name
        self._rule = REFERENCES[name]
        self.tools: frozenset[str] = frozenset()

    def decide(self, request: AccessRequest) -> Decision:
        """Answer the request."""
        permitted = self._rule(request, self.tools)
        return Decision(
            effect=Effect.PERMIT if permitted else Effect.DENY,
            policy_ids=(self._name,),
            policy_version=self.version,
        )
