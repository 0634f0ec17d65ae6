"""Writers of streams are put into a copy of the run's objects, and never into the objects of the graph."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
from langgraph.runtime import Runtime

from agentguard.langchain.streams import RUNTIME, cleared
from agentguard.lease import Lease
from agentguard.model import Limits

LIMITS = Limits(bytes=1_000, parts=100, depth=10)
LEASE = Lease("tool", None, None)


def clearing(runtime: Any) -> Any:
    """Return the runtime that a tool finds in its config."""
    config = {"configurable": {RUNTIME: runtime}}
    return cleared({"config": config}, LEASE, LIMITS)["config"]["configurable"][RUNTIME]


def write(_chunk: object) -> None:
    """Be a writer."""


@dataclass
class Plain:
    stream_writer: Any = write


@dataclass(slots=True)
class Slotted:
    stream_writer: Any = write
    note: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Hiding(Slotted):
    """A dataclass that counts its copies itself."""

    copies: int = 0

    def __copy__(self) -> Hiding:
        return Hiding(self.stream_writer, self.note, self.copies + 1)


class Beside(Slotted):
    """Has a dict beside the slots of its dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.more = "kept"


class MoreSlots(Slotted):
    """Has a slot that is no field."""

    __slots__ = ("more",)

    def __init__(self) -> None:
        super().__init__()
        self.more = "kept"


class Reduced(Slotted):
    """Says itself what it is made of."""

    __slots__ = ()

    def __reduce_ex__(self, _protocol: object) -> Any:
        return Slotted, (self.stream_writer, ["reduced"])


@pytest.mark.parametrize("make", [Runtime, Plain, Slotted, Hiding, Beside, MoreSlots, Reduced])
def test_a_runtime_is_copied_as_copy_does_it_but_for_its_writer(make: Any) -> None:
    original = make()
    own = original.stream_writer
    quiet, expected = clearing(original), copy(original)
    assert quiet is not original
    assert original.stream_writer is own
    assert quiet.stream_writer is not own
    assert type(quiet) is type(expected)
    names = {name for base in type(expected).__mro__ for name in getattr(base, "__slots__", ())}
    names |= vars(expected).keys() if hasattr(expected, "__dict__") else set()
    for name in names - {"stream_writer", "__weakref__"}:
        assert getattr(quiet, name) == getattr(expected, name)


def test_two_calls_have_writers_of_their_own() -> None:
    runtime = Slotted()
    first, second = clearing(runtime), clearing(runtime)
    assert first.stream_writer is not second.stream_writer


def test_a_run_without_a_runtime_keeps_its_config() -> None:
    config: dict[str, Any] = {"configurable": {"thread_id": "t"}}
    assert cleared({"config": config}, LEASE, LIMITS)["config"] is config
