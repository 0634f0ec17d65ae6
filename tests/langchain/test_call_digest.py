"""What a tool tells apart, the policy, the digest and a person tell apart; what they cannot is refused."""

from __future__ import annotations

import enum
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    IPvAnyNetwork,
    PrivateAttr,
    RootModel,
    Secret,
    SecretStr,
    Tag,
    create_model,
    model_validator,
)

from agentguard import AccessRequest, Decision
from agentguard.approvals import InterruptApprover
from agentguard.errors import ConfigurationError, Denied
from agentguard.langchain.schema import ArgumentSchema
from agentguard.model import Arguments
from agentguard.policies import CedarPolicy
from tests.conftest import ASK, GO, PERMIT, Kit, Mode, classified, scripted, tool_call, tool_messages


class Draft(BaseModel):
    id: str


class Publish(BaseModel):
    id: str


@dataclass
class Keep:
    id: str


@dataclass
class Drop:
    id: str


class Small(enum.Enum):
    ONE = "1"


class Large(enum.Enum):
    ONE = "1"


class Form(enum.Enum):
    TEXT = "1"
    BYTES = b"1"


def _kind(value: Any) -> Any:
    return value.get("kind") if isinstance(value, dict) else type(value).__name__.lower()


def _tagged(one: Any, other: Any) -> Any:
    return Annotated[
        Annotated[one, Tag("one")] | Annotated[other, Tag("other")], Discriminator(lambda v: _kind(v))
    ]


def _picked(choices: dict[str, Any]) -> Any:
    """Return a type whose values a validator picks by what the model wrote."""
    return Annotated[Any, BeforeValidator(lambda raw: choices[raw])]


class Found(enum.Enum):
    TEXT = "1"
    BYTES = b"1"

    @classmethod
    def _missing_(cls, value: object) -> Found | None:
        return cls.BYTES if value == "bytes" else None


class Patch(BaseModel):
    id: int
    note: str | None = None


class Node(BaseModel):
    what: Any = None
    inner: Node | None = None


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")


ONE, OTHER = {"kind": "one", "id": "7"}, {"kind": "other", "id": "7"}
FIND, DROP = {"find": "users", "drop": "users"}, {"drop": "users", "find": "users"}
TOLD_APART: dict[str, tuple[Any, Any, Any]] = {
    "two models of one shape": (_tagged(Draft, Publish), ONE, OTHER),
    "two dataclasses of one shape": (_tagged(Keep, Drop), ONE, OTHER),
    "a model and a dict": (_picked({"a": Draft(id="7"), "b": {"id": "7"}}), "a", "b"),
    "models in a list": (list[_tagged(Draft, Publish)], [ONE, OTHER], [OTHER, ONE]),  # type: ignore[misc]  # a type made by a call
    "two enums": (_picked({"a": Small.ONE, "b": Large.ONE}), "a", "b"),
    "two members of one value": (_picked({"a": Form.TEXT, "b": Form.BYTES}), "a", "b"),
    "members that an enum finds": (Found, "1", "bytes"),
    "a text and an enum": (_picked({"a": "1", "b": Small.ONE}), "a", "b"),
    "bytes and a text": (_picked({"a": "1", "b": b"1"}), "a", "b"),
    "a decimal and a text": (_picked({"a": "1.0", "b": Decimal("1.0")}), "a", "b"),
    "a list and a tuple": (_picked({"a": [1], "b": (1,)}), "a", "b"),
    "a set and a list": (_picked({"a": [1, 2], "b": {1, 2}}), "a", "b"),
    "members of a set": (_picked({"a": {1, 2.0}, "b": {1.0, 2}}), "a", "b"),
    "an integer and a float": (int | float, 1, 1.0),
    "a number of any kind": (Any, 1, 1.0),
    "minus zero": (float, 0.0, -0.0),
    "a key that is a number": (_picked({"a": {"1": "x"}, "b": {1: "x"}}), "a", "b"),
    "the order of keys": (dict[str, str], FIND, DROP),
    "the order of keys inside": (list[dict[str, Any]], [{"x": FIND}], [{"x": DROP}]),
    "the order of keys of any value": (Any, FIND, DROP),
    "the order of further fields": (Extra, FIND, DROP),
    "a field that was not set": (Patch, {"id": 1}, {"id": 1, "note": None}),
}


def _tool(kind: Any, ran: list[Any]) -> BaseTool:
    def act(what: Any) -> str:
        ran.append(what)
        return "ok"

    schema = create_model("Schema", what=(kind, ...))
    return StructuredTool.from_function(act, name="act", description="Act.", args_schema=schema)


@pytest.mark.exhaustive
@pytest.mark.promise("told-apart-judged-apart")
@pytest.mark.parametrize("case", TOLD_APART)
async def test_what_the_tool_tells_apart_is_two_calls(case: str, mode: Mode, kit: Kit, task: Any) -> None:
    kind, *calls = TOLD_APART[case]
    tool = kit.wrap(_tool(kind, ran := list[Any]()))
    for number, what in enumerate(calls):
        await mode.invoke(tool, tool_call("act", f"c{number}", what=what))
    assert len(ran) == 2
    one, other = kit.rule.asked
    assert one.arguments.digest != other.arguments.digest
    assert (
        one.distinctions != other.distinctions or one.arguments.distinctions != other.arguments.distinctions
    )


SAME: dict[str, tuple[Any, Any]] = {
    "a model": (Draft, {"id": "7"}),
    "a union": (_tagged(Draft, Publish), OTHER),
    "a set": (set[str], ["b", "a", "c"]),
    "a validated text": (Annotated[str, AfterValidator(str.strip)], " x "),
    "an object": (dict[str, Any], {"b": 1.0, "a": [FIND]}),
}


@pytest.mark.promise("told-apart-judged-apart")
@pytest.mark.parametrize("case", SAME)
async def test_control_the_same_call_has_the_same_digest(case: str, mode: Mode, kit: Kit, task: Any) -> None:
    kind, what = SAME[case]
    tool = kit.wrap(_tool(kind, ran := list[Any]()))
    for number in range(2):
        await mode.invoke(tool, tool_call("act", f"c{number}", what=what))
    assert len(ran) == 2
    assert len({request.arguments.digest for request in kit.rule.asked}) == 1


def test_control_a_plain_call_is_named_by_its_json_alone() -> None:
    def send(to: str, count: int, urgent: bool = False, price: float = 1.5) -> None: ...

    schema = ArgumentSchema(StructuredTool.from_function(send, description="d"))
    arguments = schema.validate({"to": "bob", "count": 2, "price": 3}).arguments
    assert arguments == Arguments.of({"to": "bob", "count": 2, "urgent": False, "price": 3})
    assert arguments.digest == arguments.json_digest
    assert arguments.distinctions == ()


# --- state that is not shown


class Labelled(str):
    label = ""


class Slotted(str):
    __slots__ = ("label",)


class Counted(int):
    label = ""


class Tagged(dict[str, str]):
    label = ""


class Rows(list[str]):
    label = ""


class Post(BaseModel):
    id: str
    _mode: str = PrivateAttr("draft")

    @model_validator(mode="wrap")
    @classmethod
    def take(cls, raw: Any, make: Callable[[Any], Any]) -> Any:
        rest = dict(raw)
        mode = rest.pop("mode", "draft")
        post = make(rest)
        post._mode = mode
        return post


class Fresh(BaseModel):
    id: str
    _mark: str = PrivateAttr(default_factory=lambda: "m")

    def model_post_init(self, _context: Any) -> None:
        if self.id == "publish":
            self._mark = "published"


class Loose(BaseModel):
    id: str

    @model_validator(mode="after")
    def note(self) -> Any:
        if self.id == "publish":
            self.__dict__["mode"] = "published"
        return self


class Rooted(RootModel[str]):
    _mode: str = PrivateAttr("draft")

    @model_validator(mode="after")
    def note(self) -> Any:
        if self.root == "publish":
            self._mode = "published"
        return self


class Agreeing:
    """A value that says that it equals every other."""

    def __init__(self, mode: str = "draft") -> None:
        self.mode = mode

    def __eq__(self, _other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


class Sworn(BaseModel):
    id: str
    _mode: Any = PrivateAttr(default="draft")

    def model_post_init(self, _context: Any) -> None:
        if self.id == "publish":
            self._mode = Agreeing("published")


class Nested(BaseModel):
    id: str
    _flags: Any = PrivateAttr(default=[{"n": 0}])

    def model_post_init(self, _context: Any) -> None:
        if self.id == "publish":
            self._flags = [{"n": False}]


class Made(BaseModel):
    id: str
    _since: Any = PrivateAttr(default_factory=lambda: [datetime(2026, 1, 1, tzinfo=UTC), Decimal("1.0")])

    def model_post_init(self, _context: Any) -> None:
        if self.id == "publish":
            self._since[1] = Decimal("1.00")


def _stateful(kind: Any, value: Any, state: str = "label") -> Any:
    def make(raw: str) -> Any:
        made = kind(value)
        if raw == "publish":
            setattr(made, state, "published")
        return made

    return Annotated[Any, BeforeValidator(make)]


HIDDEN: dict[str, tuple[Any, Any, Any]] = {
    "a private attribute": (Post, {"id": "7"}, {"id": "7", "mode": "publish"}),
    "one in a list": (list[Post], [{"id": "7"}], [{"id": "7", "mode": "publish"}]),
    "one with a factory": (Fresh, {"id": "7"}, {"id": "publish"}),
    "one of a single value": (Rooted, "7", "publish"),
    "one that says that it equals the default": (Sworn, {"id": "7"}, {"id": "publish"}),
    "one that differs deep inside": (Nested, {"id": "7"}, {"id": "publish"}),
    "one that differs by its digits": (Made, {"id": "7"}, {"id": "publish"}),
    "an entry of __dict__": (Loose, {"id": "7"}, {"id": "publish"}),
    "state of a text": (_stateful(Labelled, "7"), "draft", "publish"),
    "a slot of a text": (_stateful(Slotted, "7"), "draft", "publish"),
    "state of a number": (_stateful(Counted, 7), "draft", "publish"),
    "state of a dict": (_stateful(Tagged, {"a": "b"}), "draft", "publish"),
    "state of a list": (_stateful(Rows, ["a"]), "draft", "publish"),
}


@pytest.mark.exhaustive
@pytest.mark.promise("told-apart-judged-apart")
@pytest.mark.parametrize("by", ["wrap", "middleware"])
@pytest.mark.parametrize("case", HIDDEN)
async def test_state_that_is_not_shown_is_refused_and_recorded(
    case: str, by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    kind, plain, hiding = HIDDEN[case]
    tool = classified(_tool(kind, ran := list[Any]()))
    if by == "wrap":
        (guarded,) = kit.guard.wrap([tool])
        await mode.invoke(guarded, tool_call("act", "c1", what=plain))
        answer = await mode.invoke(guarded, tool_call("act", "c2", what=hiding))
    else:
        model = scripted(tool_call("act", "c1", what=plain), tool_call("act", "c2", what=hiding))
        agent: Any = create_agent(model, [tool], middleware=[kit.guard.middleware()])
        answer = tool_messages(await mode.invoke(agent, GO))[-1]
    assert len(ran) == 1
    assert answer.status == "error"
    assert kit.decisions() == ["permit", "invalid_arguments"]
    reason = [r["reason"] for r in kit.audit.records() if r["event"] == "decision"][-1]
    assert "what" in reason
    assert "state that is not shown" in reason
    assert "published" not in reason


class Doubled(BaseModel):
    id: int

    @cached_property
    def double(self) -> int:
        return 2 * self.id

    @model_validator(mode="after")
    def look(self) -> Any:
        assert self.double % 2 == 0
        return self


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (IPv4Network, "10.0.0.0/8", "10.0.0.0/9"),
        (IPv6Network, "2001:db8::/32", "2001:db8::/33"),
        (IPv4Interface, "10.0.0.1/8", "10.0.0.1/9"),
        (IPv6Interface, "2001:db8::1/32", "2001:db8::1/33"),
        (IPvAnyNetwork, "10.0.0.0/8", "2001:db8::/32"),
        (ZoneInfo, "Europe/Berlin", "Europe/Paris"),
        (Doubled, {"id": 1}, {"id": 2}),
    ],
)
def test_a_value_whose_text_says_all_of_it_is_told_from_another(
    kind: Any, one: Any, other: Any, kit: Kit, task: Any
) -> None:
    digests = list[str]()
    (guarded,) = kit.guard.wrap([classified(_tool(kind, ran := list[Any]()))])
    for number, what in enumerate((one, other)):
        guarded.invoke(tool_call("act", f"c{number}", what=what))
        digests.append(kit.rule.asked[-1].arguments.digest)
    assert len(ran) == len(set(digests)) == 2


ASIDE: ContextVar[str] = ContextVar("aside", default="")


@pytest.mark.promise("told-apart-judged-apart")
async def test_what_a_validator_puts_aside_makes_another_call(mode: Mode, kit: Kit, task: Any) -> None:
    def aside(raw: str) -> str:
        ASIDE.set(raw)
        return "same"

    tool = kit.wrap(_tool(Annotated[str, BeforeValidator(aside)], []))
    for number, what in enumerate(("draft", "publish")):
        await mode.invoke(tool, tool_call("act", f"c{number}", what=what))
    one, other = (request.arguments for request in kit.rule.asked)
    assert one.json_digest == other.json_digest
    assert one.digest != other.digest


@pytest.mark.promise("told-apart-judged-apart")
def test_the_order_in_which_a_set_was_written_makes_another_call() -> None:
    """Of numbers that collide, the first that was written is the first that a tool iterates."""
    schema = ArgumentSchema(_tool(set[int], []))
    one, other = (schema.validate({"what": what}) for what in ([0, 8], [8, 0]))
    assert list(one.values["what"]) != list(other.values["what"])
    assert one.arguments.digest != other.arguments.digest


@pytest.mark.promise("told-apart-judged-apart")
async def test_a_tool_with_a_json_schema_sees_the_order_that_was_judged(
    mode: Mode, kit: Kit, task: Any
) -> None:
    ran = list[str]()
    schema = {"type": "object", "additionalProperties": {"type": "string"}}

    def command(**parts: str) -> str:
        ran.append(next(iter(parts)))
        return "ok"

    tool = kit.wrap(StructuredTool.from_function(command, description="d", args_schema=schema))
    for number, parts in enumerate((FIND, DROP)):
        await mode.invoke(tool, tool_call("command", f"c{number}", **parts))
    assert ran == ["find", "drop"]
    one, other = kit.rule.asked
    assert one.arguments.digest != other.arguments.digest


@pytest.mark.promise("told-apart-judged-apart")
@pytest.mark.parametrize("name", ["default", "metadata", "serialization", "type", "fields"])
def test_a_choice_is_found_under_whatever_name(name: str) -> None:
    inner = create_model("Inner", **{name: (_tagged(Draft, Publish), ...)})  # type: ignore[call-overload]  # mypy looks for its options
    schema = ArgumentSchema(_tool(inner, []))
    one, other = (schema.validate({"what": {name: what}}).arguments for what in (ONE, OTHER))
    assert one.distinctions != other.distinctions


@pytest.mark.promise("told-apart-judged-apart")
def test_a_choice_is_found_in_a_model_that_holds_itself() -> None:
    schema = ArgumentSchema(_tool(Node, []))
    one, other = (schema.validate({"what": {"inner": {"what": w}}}).arguments for w in (1, 1.0))
    assert one.distinctions != other.distinctions


def test_two_classes_of_one_name_are_an_error() -> None:
    first, second = (create_model("Twin", id=(str, ...)) for _ in range(2))
    tool = _tool(_tagged(first, second), [])
    with pytest.raises(ConfigurationError, match="two classes"):
        ArgumentSchema(tool)


def test_a_choice_of_named_literals_is_shown_by_json_alone() -> None:
    kind = Literal["draft", "publish"]
    arguments = ArgumentSchema(_tool(kind, [])).validate({"what": "draft"}).arguments
    assert arguments.digest == arguments.json_digest


def test_no_key_can_pretend_to_be_another_place() -> None:
    one = {"what": {"a": {"b": 1.0}}}
    other = {"what": {"a.b": 1.0}}
    schema = ArgumentSchema(_tool(Any, []))
    first, second = (schema.validate(raw).arguments.distinctions for raw in (one, other))
    assert first == ("what.a.b: 1.0",)
    assert second == ('what["a.b"]: 1.0',)


@pytest.mark.promise("told-apart-judged-apart")
def test_what_tells_two_secrets_apart_is_covered_and_not_told() -> None:
    kind = _picked({"a": SecretStr("7"), "b": Secret({"x": 1.0}), "c": Secret({"x": 1}), "d": Secret("7")})
    schema = ArgumentSchema(_tool(kind, []))
    results = [schema.validate({"what": what}).arguments for what in "abcd"]
    assert len({arguments.digest for arguments in results}) == 4
    assert results[1].json_digest != results[2].json_digest
    assert "1.0" not in " ".join(text for arguments in results for text in arguments.distinctions)


@pytest.mark.promise("told-apart-judged-apart")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (deque([1], maxlen=1), deque([1], maxlen=9)),
        (deque([1]), deque([1], maxlen=9)),
        (defaultdict(bool, a=1), defaultdict(int, a=1)),
        (defaultdict(None, a=1), defaultdict(int, a=1)),
    ],
)
def test_what_a_collection_does_later_is_told_apart(one: Any, other: Any) -> None:
    schema = ArgumentSchema(_tool(_picked({"a": one, "b": other}), []))
    digests = {schema.validate({"what": "a"}).arguments.distinctions for _ in range(2)}
    assert len(digests) == 1
    assert schema.validate({"what": "b"}).arguments.distinctions not in digests


@pytest.mark.promise("told-apart-judged-apart")
def test_a_key_with_state_is_refused() -> None:
    key = Labelled("k")
    key.label = "published"
    schema = ArgumentSchema(_tool(_picked({"a": {Labelled("k"): 1}, "b": {key: 1}}), []))
    schema.validate({"what": "a"})
    with pytest.raises(Denied) as denied:
        schema.validate({"what": "b"})
    assert "a key in what has state" in denied.value.reason


@pytest.mark.promise("told-apart-judged-apart")
def test_a_long_vector_is_told_in_one_word_for_all_its_numbers() -> None:
    schema = ArgumentSchema(_tool(Any, []))
    vector = [float(number % 7) for number in range(10_000)]
    one, other = (
        schema.validate({"what": what}).arguments for what in (vector, [*vector[:-1], int(vector[-1])])
    )
    assert one.json_digest == other.json_digest
    assert one.digest != other.digest
    assert len(one.distinctions) == 1


@pytest.mark.promise("told-apart-judged-apart")
def test_what_is_too_much_to_be_read_is_refused_in_bounded_time() -> None:
    """Each word names its place, so that 90 levels of long keys would take 45 times their length."""
    deep: Any = 1.0
    for _ in range(90):
        deep = {"b" * 1000: 1, "a" * 1000: deep}
    started = time.process_time()
    with pytest.raises(Denied) as denied:
        ArgumentSchema(_tool(Any, [])).validate({"what": deep})
    assert time.process_time() - started < 1
    assert "JSON does not say" in denied.value.reason


def test_control_the_order_of_the_schema_needs_no_word() -> None:
    properties = {"to": {"type": "string"}, "amount": {"type": "integer"}}
    json_schema = {"type": "object", "properties": properties}
    schema = ArgumentSchema(
        StructuredTool.from_function(print, name="p", description="d", args_schema=json_schema)
    )
    usual, other = (
        schema.validate(raw).arguments for raw in ({"to": "a", "amount": 1}, {"amount": 1, "to": "a"})
    )
    assert usual.digest == usual.json_digest == other.json_digest
    assert other.distinctions == ('arguments: order ["amount", "to"]',)


# --- what policies, people and records see of it


@pytest.mark.promise("told-apart-judged-apart")
async def test_a_rule_can_forbid_one_class_of_a_union(mode: Mode) -> None:
    name = f"{Publish.__module__}.Publish"
    rules = CedarPolicy.from_text(
        '@id("drafts") permit (principal, action == Action::"act", resource) '
        f'unless {{ context.distinctions.contains("what[]: class {name}") }};'
    )
    kit = Kit()
    guard = kit.another(policy=rules)
    (tool,) = guard.wrap(classified(_tool(list[_tagged(Draft, Publish)], ran := list[Any]())))  # type: ignore[misc]  # a type made by a call
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(tool, tool_call("act", "c1", what=[ONE, ONE]))
        await mode.invoke(tool, tool_call("act", "c2", what=[ONE, OTHER]))
    assert ran == [[Draft(id="7"), Draft(id="7")]]
    assert kit.decisions() == ["permit", "policy"]


@pytest.mark.promise("told-apart-judged-apart")
async def test_the_record_tells_two_classes_apart(mode: Mode, kit: Kit, task: Any) -> None:
    tool = kit.wrap(_tool(_tagged(Draft, Publish), []))
    for number, what in enumerate((ONE, OTHER)):
        await mode.invoke(tool, tool_call("act", f"c{number}", what=what))
    one, other = (r for r in kit.audit.records() if r["event"] == "decision")
    assert one["digest"] == other["digest"] == Arguments.of({"what": {"id": "7"}}).json_digest
    assert one["call_digest"] != other["call_digest"]


def _asks(request: AccessRequest) -> Decision:
    return PERMIT if request.approval else ASK


@pytest.mark.promise("told-apart-judged-apart")
async def test_publish_does_not_run_under_the_approval_of_draft(mode: Mode, kit: Kit, task: Any) -> None:
    kit.rule.answer = _asks
    model = scripted(tool_call("act", "c1", what=ONE))
    tool = classified(_tool(_tagged(Draft, Publish), ran := list[Any]()))
    agent: Any = create_agent(
        model, [tool], middleware=[kit.guard.middleware()], checkpointer=InMemorySaver()
    )
    thread: Any = {"configurable": {"thread_id": "1"}}
    waiting = (await mode.invoke(agent, GO, thread))["__interrupt__"][0].value
    assert waiting["distinctions"] == [f"what: class {Draft.__module__}.Draft"]
    answer = await mode.call(kit.guard, "answer", waiting, approved=True, approver="user:carol")
    (message,) = (m for m in agent.get_state(thread).values["messages"] if isinstance(m, AIMessage))
    message.tool_calls = [tool_call("act", "c1", what=OTHER)]
    agent.update_state(thread, {"messages": [message]}, as_node="model")
    await mode.invoke(agent, Command(resume=answer), thread)
    assert ran == []


async def test_distinctions_stay_out_of_the_checkpoint_with_the_arguments(mode: Mode, kit: Kit) -> None:
    """They hold names of keys, and numbers."""
    kit.rule.answer = _asks
    guard = kit.another(approver=InterruptApprover(interrupt, show_arguments=False))
    tool = classified(_tool(_tagged(Draft, Publish), []))
    model = scripted(tool_call("act", "c1", what=ONE))
    agent: Any = create_agent(model, [tool], middleware=[guard.middleware()], checkpointer=InMemorySaver())
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        state = await mode.invoke(agent, GO, {"configurable": {"thread_id": "1"}})
    waiting = state["__interrupt__"][0].value
    assert not {"arguments", "distinctions"} & waiting.keys()


@pytest.mark.promise("told-apart-judged-apart")
def test_every_part_of_the_digest_counts() -> None:
    values = {"a": 1}
    digests = [
        Arguments.of(values),
        Arguments.of(values, ("a: x",)),
        Arguments.of(values, ("a: x", "a: y")),
        Arguments.of(values, ('a: x","a: y',)),
        Arguments.of(values, ("a: x",), "raw"),
        Arguments.of(values, (), "raw"),
        Arguments.of(values, ("raw",), ""),
    ]
    assert len({arguments.digest for arguments in digests}) == len(digests)
    assert len({arguments.json_digest for arguments in digests}) == 1
