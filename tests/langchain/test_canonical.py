"""What a tool gets is what a policy is shown and a digest covers: nothing hides from them."""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.tools import StructuredTool
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    SecretStr,
    field_serializer,
    model_serializer,
)
from pydantic.dataclasses import dataclass as checked

from agentguard.errors import Denied
from agentguard.langchain.canonical import canonicalize
from agentguard.policies import CedarPolicy
from tests.conftest import Kit, Mode, classified, tool_call


class Excluded(BaseModel):
    v: Any = Field(exclude=True)


class Serialized(BaseModel):
    v: Any

    @field_serializer("v")
    def short(self, _value: Any) -> str:
        return "..."


class Annotated_(BaseModel):
    v: Annotated[Any, PlainSerializer(lambda _value: "...")]


class Whole(BaseModel):
    v: Any

    @model_serializer
    def nothing(self) -> dict[str, Any]:
        return {}


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")


class Root(RootModel[Any]):
    @model_serializer
    def nothing(self) -> str:
        return "..."


class Holder(BaseModel):
    held: Any


@checked
class Checked:
    v: Any = Field(exclude=True)


@checked(config=ConfigDict(extra="allow"))
class CheckedExtra:
    a: int = 1


@dataclass
class Plain:
    v: Any = field(repr=False, compare=False)


@dataclass(slots=True)
class Slotted:
    v: Any


class Sneaky(str, Enum):  # noqa: UP042  it has a text of its own, as a StrEnum has not
    A = "a"
    B = "b"

    def __str__(self) -> str:
        return "..."


HIDING: dict[str, Callable[[Any], Any]] = {
    "excluded": lambda v: Excluded(v=v),
    "a field's serializer": lambda v: Serialized(v=v),
    "an annotated serializer": lambda v: Annotated_(v=v),
    "a model's serializer": lambda v: Whole(v=v),
    "extra": lambda v: Extra(v=v),  # type: ignore[call-arg]  # which is what it allows
    "root": Root,
    "secret": lambda v: SecretStr(str(v)),
    "a dataclass of pydantic's": lambda v: Checked(v=v),
    "extra of a dataclass": lambda v: CheckedExtra(**{"v": v}),
    "a dataclass": lambda v: Plain(v=v),
    "slots": Slotted,
    "nested": lambda v: Holder(held=[{"k": (Excluded(v=v),)}]),
    "a deque": lambda v: deque([Excluded(v=v)]),
    "an enum": Sneaky,
}


@pytest.mark.promise("nothing-hidden-from-policy")
@pytest.mark.parametrize("hiding", HIDING)
def test_nothing_that_the_tool_gets_is_hidden(hiding: str) -> None:
    one, same, other = (canonicalize({"x": HIDING[hiding](value)}) for value in ("a", "a", "b"))
    assert one.digest == same.digest != other.digest
    if hiding != "secret":
        assert '"a"' in one.canonical.decode()


@pytest.mark.promise("nothing-hidden-from-policy")
def test_a_secret_is_told_apart_and_not_told() -> None:
    text = canonicalize({"x": SecretStr("pa55word")}).canonical.decode()
    assert "pa55word" not in text
    assert "sha256:" in text


def test_the_names_are_those_of_the_schema_that_validates() -> None:
    class Named(BaseModel):
        a: int = Field(alias="al", serialization_alias="out", default=1)
        b: int = Field(validation_alias="va", default=1)
        c: int = Field(validation_alias=AliasChoices(AliasPath("p", 0), "c1", "c2"), default=1)
        d: int = Field(validation_alias=AliasPath("q", 0), default=1)
        e: int = Field(serialization_alias="se", default=1)

    assert canonicalize({"x": Named()}).values["x"].keys() == Named.model_json_schema()["properties"].keys()


def test_a_model_of_one_value_is_that_value() -> None:
    assert canonicalize({"x": Root([1])}).values == {"x": [1]}


SET = (
    "from agentguard.langchain.canonical import canonicalize; "
    "print(canonicalize({'x': {'a', 'b', 'c', 'd', 'e'}}).digest)"
)


@pytest.mark.process
def test_a_set_is_the_same_in_every_process() -> None:
    ran = [
        subprocess.run(
            [sys.executable, "-c", SET], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    ]
    assert len(set(ran)) == 1


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    return deep


def _cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


@pytest.mark.promise("nothing-hidden-from-policy")
@pytest.mark.parametrize(
    "value",
    [
        iter([1]),
        (n for n in (1, 2)),
        {1: "a", "1": "b"},
        Extra(**{"a": 1}).model_copy(update={"a": float("nan")}),
        object(),
        _cycle(),
        _deep(),
    ],
    ids=["iterator", "generator", "two keys of one name", "not a number", "object", "cycle", "depth"],
)
def test_what_has_no_one_form_is_refused(value: Any) -> None:
    with pytest.raises(Denied) as denied:
        canonicalize({"x": value})
    assert denied.value.code == "invalid_arguments"


class Payment(BaseModel):
    to: str
    override_limit: bool = Field(default=False, exclude=True)


@pytest.mark.promise("nothing-hidden-from-policy")
async def test_a_policy_sees_what_a_serializer_would_leave_out(mode: Mode, kit: Kit, task: Any) -> None:
    got: list[Payment] = []

    def pay(payment: Payment) -> None:
        got.append(payment)

    tool = kit.wrap(StructuredTool.from_function(pay, description="d"))
    await mode.invoke(tool, tool_call("pay", payment={"to": "bob", "override_limit": True}))
    assert kit.rule.asked[0].arguments.values == {"payment": {"to": "bob", "override_limit": True}}
    assert got[0].override_limit


class Place(BaseModel):
    name: str


class Unlisted(BaseModel):
    to: str
    place: Place = Field(default=Place(name="here"), validation_alias="at")
    limit: int = Field(default=2, validation_alias="most")


@pytest.mark.promise("nothing-hidden-from-policy")
async def test_a_rule_is_about_an_argument_that_the_model_is_not_shown(mode: Mode, tmp_path: Path) -> None:
    rules = tmp_path / "rules.cedar"
    rules.write_text(
        '@id("few") permit (principal, action == Action::"pay", resource)'
        ' when { context.args.limit < 9 && context.args.place.name == "here" };'
    )
    ran: list[int] = []

    def pay(to: str, limit: int, place: Place) -> None:
        ran.append(limit)

    made = StructuredTool.from_function(pay, description="d", args_schema=Unlisted)
    kit = Kit()
    guard = kit.another(policy=CedarPolicy.from_files([rules]))
    (tool,) = guard.wrap(classified(made))
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        for call in (
            tool_call("pay", to="bob"),
            tool_call("pay", to="bob", most=3),
            tool_call("pay", to="bob", most=9),
        ):
            await mode.invoke(tool, call)
    assert ran == [2, 3]
    assert kit.decisions() == ["permit", "permit", "policy"]
