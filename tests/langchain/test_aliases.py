"""Values have the names that a tool's schema shows, or the tool is refused: limits and rules go by these."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, NamedTuple

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, InjectedToolArg, StructuredTool
from pydantic import AfterValidator, AliasChoices, AliasPath, BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from agentguard import ConfigurationError
from agentguard.catalog import Catalog, spec_of
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call, tool_messages

Sum = Annotated[int, Field(alias="sum")]


class Row(TypedDict):
    amount: Sum


class ValidatedRow(TypedDict):
    amount: Annotated[int, Field(validation_alias=AliasChoices(AliasPath("all", 0), "sum"))]


class GeneratedRow(TypedDict):
    __pydantic_config__ = ConfigDict(alias_generator=lambda _name: "sum")  # type: ignore[misc]  # pydantic's way
    amount: int


@dataclasses.dataclass
class Plain:
    amount: Sum


@dataclasses.dataclass
class PlainDefault:
    amount: int = Field(alias="sum")


class Model(BaseModel):
    amount: Sum


@pydantic_dataclass
class PydanticDataclass:
    amount: int = Field(alias="sum")


class Tuple(NamedTuple):
    amount: Sum


class PathRow(TypedDict):
    amount: Annotated[int, Field(validation_alias=AliasPath("sum", 0))]


class Outer(BaseModel):
    rows: dict[str, Row | None]


def _tool(annotation: Any) -> BaseTool:
    def pay(p: Any) -> str:
        return f"paid {p}"

    pay.__annotations__["p"] = annotation
    return StructuredTool.from_function(pay, name="pay", description="Pay.")


CHECKED = Annotated[Plain, AfterValidator(lambda value: value)]


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize(
    "annotation",
    [
        Row,
        ValidatedRow,
        GeneratedRow,
        Plain,
        PlainDefault,
        CHECKED,
        list[Row],
        Row | None,
        Outer,
        dict[str, Plain],
    ],
)
def test_a_tool_whose_values_have_other_names_than_its_schema_is_refused(kit: Kit, annotation: Any) -> None:
    tool = classified(_tool(annotation), path="write")
    with pytest.raises(ConfigurationError, match="the schema calls a field sum"):
        kit.guard.wrap([tool])


@pytest.mark.promise("reviewed-schema-binds")
async def test_such_a_tool_does_not_run_under_the_middleware(kit: Kit, task: Any, mode: Mode) -> None:
    model = scripted(tool_call("pay", p={"sum": 9_999}))
    tool = classified(_tool(Row), path="write")
    agent: Any = create_agent(model, [tool], middleware=[kit.guard.middleware()])
    answer = tool_messages(await mode.invoke(agent, GO))[0]
    assert (answer.status, "paid" in answer.text) == ("error", False)


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize("annotation", [Model, PydanticDataclass, list[Model]], ids=str)
async def test_a_limit_binds_a_field_by_the_name_in_the_schema(kit: Kit, mode: Mode, annotation: Any) -> None:
    limited: dict[str, Any] = {"type": "object", "properties": {"sum": {"type": "integer", "maximum": 100}}}
    is_list = annotation == list[Model]
    part = {"type": "array", "items": limited} if is_list else limited
    guard = kit.another(
        catalog=Catalog([spec_of("pay", {"path": "write"}, {"type": "object", "properties": {"p": part}})])
    )
    guarded = guard.wrap([_tool(annotation)])[0]
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        for amount, status in ((99, "success"), (9_999, "error")):
            value = [{"sum": amount}] if is_list else {"sum": amount}
            assert (await mode.invoke(guarded, tool_call("pay", p=value))).status == status


@pytest.mark.parametrize("annotation", [Tuple, PathRow], ids=str)
def test_a_value_without_another_name_in_the_schema_is_taken(kit: Kit, annotation: Any) -> None:
    kit.guard.wrap([classified(_tool(annotation), path="write")])


def test_an_argument_that_no_model_gives_may_have_any_names(kit: Kit) -> None:
    kit.guard.wrap([classified(_tool(Annotated[Row, InjectedToolArg]), path="write")])
