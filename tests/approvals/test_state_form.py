"""Two states that a tool can tell apart are two questions; and nothing large hides what is small."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.tools import ToolRuntime
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.prebuilt import InjectedState
from langgraph.types import Command
from pydantic import BaseModel, PrivateAttr

from agentguard.enforcement.run_state import FIELDS, RunState
from agentguard.enforcement.state_form import PARTS, StateForm, text_of
from agentguard.errors import Denied
from agentguard.langchain.run_state import state_values
from tests.approvals.bank import THREAD
from tests.approvals.test_run_state import BY, HELLO, an_agent
from tests.conftest import Kit, Mode, tool_messages
from tests.tiers import examples


class Draft(BaseModel):
    doc: str = "d"


class Publish(BaseModel):
    doc: str = "d"


class Open(BaseModel, extra="allow"):
    doc: str = "d"


class Private(BaseModel):
    doc: str = "d"
    _to: str = PrivateAttr("alice")


@dataclasses.dataclass
class Note:
    doc: str = "d"

    @cached_property
    def words(self) -> int:
        return len(self.doc.split())


@dataclasses.dataclass(frozen=True)
class Other:
    doc: str = "d"


@dataclasses.dataclass
class Order(dict[str, str]):
    number: int = 1


class Text(str):
    to: str


class Slotted(int):
    __slots__ = ()


class Number(int):
    to: str


class Table(dict[str, Any]):
    to: str


class Color(enum.Enum):
    RED = "x"
    BLUE = "y"


class Shade(enum.Enum):
    RED = "x"


Point = namedtuple("Point", "x y")
Size = namedtuple("Size", "x y")


def having(value: Any, **attributes: Any) -> Any:
    """Return an object with these attributes beside its fields or items."""
    for name, attribute in attributes.items():
        object.__setattr__(value, name, attribute)
    return value


def order(**items: str) -> Order:
    value = Order()
    value.update(items)
    return value


def open_to(to: Any) -> Open:
    return Open.model_validate({"to": to})


def private(to: str) -> Private:
    value = Private()
    value._to = to
    return value


PAIRS: dict[str, tuple[Any, Any]] = {
    "class of a model": (Draft(), Publish()),
    "class of a dataclass": (Note(), Other()),
    "model and dict": (Draft(), {"doc": "d"}),
    "model and a dict that looks like its form": (Draft(), {"(class)": f"{__name__}.Draft", "doc": "d"}),
    "field of a model": (Draft(doc="a"), Draft(doc="b")),
    "extra field": (open_to("alice"), open_to("mallory")),
    "private attribute": (private("alice"), private("mallory")),
    "attribute beside fields": (having(Note(), to="alice"), having(Note(), to="mallory")),
    "attribute of a frozen dataclass": (having(Other(), to="alice"), having(Other(), to="mallory")),
    "attribute of a text": (having(Text("d"), to="alice"), having(Text("d"), to="mallory")),
    "attribute of a number": (having(Number(1), to="alice"), having(Number(1), to="mallory")),
    "attribute of a dict": (having(Table(a=1), to="alice"), having(Table(a=1), to="mallory")),
    "number as key beside its text": ({1: "alice", "1": "x"}, {1: "mallory", "1": "x"}),
    "boolean as key": ({True: "a"}, {"True": "a"}),
    "boolean and number as key": ({True: "a"}, {1: "a"}),
    "none as key": ({None: "a", "None": "x"}, {None: "b", "None": "x"}),
    "bytes as key": ({b"1": "a", "b'1'": "x"}, {b"1": "b", "b'1'": "x"}),
    "tuple as key": ({(1, 2): "a"}, {"(1, 2)": "a"}),
    "key that looks like a written one": ({1: "a"}, {"(int) 1": "a"}),
    "order of keys": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "member of an enumeration": (Color.RED, Color.BLUE),
    "class of an enumeration": (Color.RED, Shade.RED),
    "member and text": (Color.RED, "x"),
    "bytes and text": (b"abc", "YWJj"),
    "long bytes": (b"a" * 9_999, b"a" * 9_998 + b"b"),
    "long texts": ("é" * 9_999, "é" * 9_998 + "e"),
    "time and text": (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00+00:00"),
    "second of two equal hours": (time(2, fold=0), time(2, fold=1)),
    "items of a dataclass that is a dict": (order(to="alice"), order(to="mallory")),
    "classes": (Draft, Publish),
    "class and an object of it": (Draft, Draft()),
    "keys of one form": (
        {float("nan"): "alice", float("-nan"): "x"},
        {float("nan"): "mallory", float("-nan"): "x"},
    ),
    "day and time": (date(2026, 1, 1), datetime(2026, 1, 1)),
    "decimal and text": (Decimal("5"), "5"),
    "decimals": (Decimal("5"), Decimal("5.0")),
    "id and text": (UUID(int=1), str(UUID(int=1))),
    "path and text": (PurePosixPath("a"), "a"),
    "span of time": (timedelta(1), timedelta(2)),
    "set and list": ({1, 2}, [1, 2]),
    "set and frozen set": ({1}, frozenset({1})),
    "queue and list": (deque([1]), [1]),
    "named tuples": (Point(1, 2), Size(1, 2)),
    "named tuple and tuple": (Point(1, 2), (1, 2)),
    "whole and real number": (5, 5.0),
    "number and boolean": (1, True),
    "large numbers": (2**70, 2**70 + 1),
    "large number and text": (2**70, hex(2**70)),
    "no number and text": (float("nan"), "nan"),
    "half a character and a question mark": ("\ud800", "?"),
    "half characters": ("\ud800", "\ud801"),
    "text that says that it is not covered": (object(), {"(class)": "not covered: object"}),
}


@pytest.mark.promise("state-is-approved")
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("place", ["field", "list", "dict", "model"])
def test_two_states_that_a_tool_can_tell_apart_have_two_digests(pair: str, place: str) -> None:
    into: dict[str, Any] = {
        "field": lambda value: value,
        "list": lambda value: [0, value],
        "dict": lambda value: {"a": {"b": value}},
        "model": lambda value: open_to(value),
    }
    one, other = (RunState.of({"f": into[place](value)}) for value in PAIRS[pair])
    assert one.digest != other.digest
    assert one.display != other.display or text_of(dict(one.display)) != text_of(dict(other.display))


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8)
)
KEYS = SCALARS | st.sampled_from(["(class)", "(value)", "(str) a", "(int) 1", "(text)", ""])
VALUES = st.recursive(
    SCALARS | st.binary(max_size=4) | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@given(VALUES, VALUES)
@settings(max_examples=examples(150))
def test_forms_are_equal_only_of_values_that_are_written_alike(one: Any, other: Any) -> None:
    forms = [text_of(StateForm().of(value)) for value in (one, other)]
    assert (forms[0] == forms[1]) == (repr(one) == repr(other))


KEPT: list[Any] = [
    (1, [2]), {"b", "a"}, frozenset("ab"), deque([1]), Point(1, 2), Draft(), open_to(1), Private(), Note(),
    Other(), Text("d"), Slotted(3), Table(a=1), OrderedDict(b=1, a=2), {1: {None: 2}, (1, 2): 3, b"a": 4},
    {"b": 1, "a": 2}, Color.RED, b"x", bytearray(b"x"), Decimal("5.0"), datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 10, 25, 2, fold=1), time(2, fold=1), date(2026, 1, 1), timedelta(1), UUID(int=1),
    float("nan"), float("-inf"), -0.0, 2**63, "é" * 3_000, b"a" * 3_000,
]  # fmt: skip


@pytest.mark.parametrize("value", KEPT, ids=lambda value: type(value).__name__)
def test_what_a_checkpoint_gives_back_has_the_same_form(value: Any) -> None:
    saver = JsonPlusSerializer()
    again = saver.loads_typed(saver.dumps_typed({"f": value}))
    assert RunState.of(again) == RunState.of({"f": value})


def test_what_a_property_keeps_in_an_object_tells_no_state_apart() -> None:
    used = Note()
    assert used.words == 1
    assert RunState.of({"f": used}) == RunState.of({"f": Note()})


@pytest.mark.parametrize(
    "value", [v for pair in PAIRS.values() for v in pair] + KEPT, ids=lambda v: type(v).__name__
)
def test_each_form_can_be_kept_as_text_and_shown_on_a_page(value: Any) -> None:
    shown = dict(RunState.of({"f": value}).display)
    text = json.dumps(shown, ensure_ascii=False, allow_nan=False)
    assert json.loads(text.encode()) == shown


# --- end to end


def paying(paid: list[Any]) -> BaseTool:
    @tool
    def pay(amount: int, more: Annotated[Any, InjectedState("more")]) -> str:
        """Pay."""
        paid.append(more)
        return "ok"

    return pay


def rewritten(saver: InMemorySaver, value: Any, other: Any) -> None:
    """Write another value in the place of one, wherever the checkpoint has it."""
    read, write = saver.serde.loads_typed, saver.serde.dumps_typed
    for key, (kind, data) in list(saver.blobs.items()):
        if kind != "empty" and read((kind, data)) == value:
            saver.blobs[key] = write(other)


@pytest.mark.promise("state-is-approved")
@BY
@pytest.mark.parametrize(
    ("value", "other"),
    [
        (Draft(), Publish()),
        ({1: "alice", "1": "bob"}, {1: "mallory", "1": "bob"}),
        ({"a": b"abc"}, {"a": "YWJj"}),
    ],
    ids=["class", "key", "kind"],
)
async def test_a_yes_does_not_hold_for_a_state_that_only_the_tool_can_tell_apart(
    value: Any, other: Any, by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    agent = an_agent(kit, paying(paid := list[Any]()), by, saver := InMemorySaver())
    (asked,) = (await mode.invoke(agent, {**HELLO, "more": value}, THREAD))["__interrupt__"]
    answer = await mode.call(kit.guard, "answer", asked.value, approved=True, approver="user:carol")
    rewritten(saver, value, other)
    state = await mode.invoke(agent, Command(resume={asked.id: answer}), THREAD)
    assert paid == []
    assert state["__interrupt__"][0].value["approval_id"] != asked.value["approval_id"]


@pytest.mark.parametrize("value", [float("nan"), {2.5: [Decimal("1")]}, 2**63, {"\u2028": "é" * 5_000}])
async def test_control_a_state_of_unusual_values_can_be_approved(
    value: Any, mode: Mode, kit: Kit, task: Any
) -> None:
    agent = an_agent(kit, paying(paid := list[Any]()), "wrap", InMemorySaver())
    (asked,) = (await mode.invoke(agent, {**HELLO, "more": value}, THREAD))["__interrupt__"]
    page = await mode.call(kit.guard, "pending", asked.value["approval_id"])
    answer = await mode.call(kit.guard, "answer", page, approved=True, approver="user:carol")
    await mode.invoke(agent, Command(resume={asked.id: answer}), THREAD)
    assert len(paid) == 1


@pytest.mark.promise("state-is-approved")
@BY
async def test_a_long_page_in_the_messages_hides_no_other_field(
    by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    @tool
    def pay(amount: int, runtime: ToolRuntime[Any, Any]) -> str:
        """Pay."""
        return "ok"

    agent = an_agent(kit, pay, by, InMemorySaver())
    page = "page " * 4_000
    go = {
        **HELLO,
        "to": "mallory",
        "more": {"note": page, "to": "eve"},
        "messages": [("user", "hi"), ("user", page)],
    }
    (asked,) = (await mode.invoke(agent, go, THREAD))["__interrupt__"]
    state = asked.value["state"]
    assert state["to"] == "mallory"
    assert state["more"]["to"] == "eve"
    assert "SHA-256" in str(state["more"]["note"])
    assert state["messages"][0]["content"] == "hi"
    assert len(json.dumps(state)) < FIELDS


@pytest.mark.promise("state-is-approved")
def test_the_small_parts_of_a_large_field_are_shown_and_the_large_ones_by_digest() -> None:
    many = {"page": ["a" * 90 for _ in range(200)], "to": "eve", "deep": {"why": "fee", "text": "b" * 1_900}}
    shown: Any = RunState.of({"more": many}).display["more"]
    assert (shown["to"], shown["deep"]["why"]) == ("eve", "fee")
    assert "SHA-256" in shown["page"]
    crowd = {f"f{n}": "a" * 1_500 for n in range(300)} | {"to": "eve"}
    display = RunState.of(crowd).display
    assert display["to"] == "eve"
    assert len(json.dumps(dict(display))) < FIELDS + 300 * 100


class Endless(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        number = 0
        while True:
            number += 1
            yield str(number)

    def __len__(self) -> int:
        return 1


def doubled(times: int) -> list[Any]:
    value: list[Any] = [1]
    for _ in range(times):
        value = [value, value]
    return value


@pytest.mark.promise("state-is-approved")
@pytest.mark.parametrize(
    "make_value",
    [
        Endless,
        lambda: doubled(60),
        lambda: [[n] for n in range(PARTS)],
        lambda: [c * 9_000_000 for c in "ab"],
    ],
    ids=["endless", "doubled", "many", "long"],
)
def test_nobody_is_asked_about_a_state_beyond_the_bounds_and_it_is_not_read_to_its_end(
    make_value: Callable[[], Any],
) -> None:
    value = make_value()
    with pytest.raises(Denied) as caught:
        RunState.of({"f": value})
    assert "a state of more than" in caught.value.reason


async def test_a_call_with_a_state_beyond_the_bounds_is_denied_and_recorded(
    mode: Mode, kit: Kit, task: Any
) -> None:
    agent = an_agent(kit, paying(paid := list[Any]()), "wrap", InMemorySaver())
    state = await mode.invoke(agent, {**HELLO, "more": [[0]] * PARTS}, THREAD)
    assert (paid, kit.decisions()) == ([], ["approval_unavailable"])
    assert tool_messages(state)[0].status == "error"


@dataclasses.dataclass
class GraphState:
    to: str
    messages: list[Any]


@pytest.mark.promise("state-is-approved")
@pytest.mark.parametrize("state", [GraphState("alice", []), {"to": "alice"}, open_to("alice"), []])
def test_a_field_that_the_state_does_not_have_is_no_field_with_null(state: Any) -> None:
    assert state_values({"x": "limit"}, {}, state) == {}
    assert state_values({"x": "limit"}, {"x": None}, state) == {"limit": None}
    digests = {RunState.of(values).digest for values in ({}, {"limit": None})}
    assert len(digests) == 2


@pytest.mark.promise("state-is-approved")
@pytest.mark.parametrize("name", ["remaining_steps", "is_last_step"])
def test_a_field_of_the_application_counts_though_langgraph_has_one_of_its_name(name: str) -> None:
    managed: dict[str, Any] = {"remaining_steps": 9, "is_last_step": False}
    assert state_values({"x": None}, {}, managed) == {}
    assert state_values({"x": name}, {}, {name: "alice"}) == {name: "alice"}


@pytest.mark.parametrize("state", [GraphState("alice", []), {"to": "alice"}, open_to("alice")])
def test_a_field_is_taken_as_a_tool_node_takes_it(state: Any) -> None:
    assert state_values({"x": "to"}, {}, state) == {"to": "alice"}
    assert "alice" in str(RunState.of(state_values({"x": None}, {}, state)).display)
