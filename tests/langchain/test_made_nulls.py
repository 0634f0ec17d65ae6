"""A null that the tool's own validator makes of a value is checked by the reviewed schema."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from jsonschema import ValidationError
from langchain_core.tools import StructuredTool
from pydantic import BaseModel, BeforeValidator, Field

from agentguard.langchain.schema import ArgumentSchema

OrNull = Annotated[str | None, BeforeValidator(lambda value: value or None)]
ALICE: dict[str, Any] = {"enum": ["alice"]}


class Filter(BaseModel):
    """What is looked for."""

    owner: OrNull = "alice"
    note: str | None = None


class Aliased(BaseModel):
    """What is looked for, by another name."""

    owner: OrNull = Field(default="alice", validation_alias="who")


class Search(BaseModel):
    """The arguments of a search."""

    owner: OrNull = "alice"
    other: str | None = None
    filter: Filter = Filter()
    filters: list[Filter] = []
    aliased: Aliased = Field(default_factory=Aliased)
    names: dict[str, OrNull] = {}


def _schema(part: dict[str, Any]) -> ArgumentSchema:
    schema = ArgumentSchema(
        StructuredTool(name="search", description="Search.", args_schema=Search, func=lambda **_arguments: "")
    )
    nested = {"properties": {"owner": part}}
    schema.require({
        "properties": {
            "owner": part, "other": {"type": "string"}, "filter": nested, "names": nested,
            "aliased": {"properties": {"who": part}},
            "filters": {"items": nested},
        },
    })  # fmt: skip
    return schema


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize("part", [ALICE, {"type": "string", "minLength": 0}], ids=["limit", "type"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"owner": ""},
        {"filter": {"owner": ""}},
        {"filters": [{"owner": "alice"}, {"owner": ""}]},
        {"aliased": {"who": ""}},
        {"names": {"owner": ""}},
    ],
    ids=str,
)
def test_a_null_that_a_validator_makes_is_refused(part: dict[str, Any], arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="null"):
        _schema(part).validate(arguments)


@pytest.mark.promise("reviewed-schema-binds")
def test_a_null_of_a_plain_type_that_a_validator_makes_is_refused() -> None:
    schema = ArgumentSchema(
        StructuredTool(name="search", description="Search.", args_schema=Filter, func=lambda **_arguments: "")
    )
    schema.require(
        {"type": "object", "properties": {"owner": {"type": "string"}, "note": {"type": "string"}}}
    )
    with pytest.raises(ValueError, match="type"):
        schema.validate({"owner": ""})
    assert schema.validate({"owner": None}).values["owner"] == "alice"
    assert schema.validate({}).values["note"] is None


@pytest.mark.promise("reviewed-schema-binds")
def test_a_null_that_a_validator_makes_of_the_catalogs_default_is_refused() -> None:
    with pytest.raises(ValidationError, match="null"):
        _schema({"type": "string", "enum": ["alice", ""], "default": ""}).validate({})


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"owner": None, "other": None},
        {"filter": {"owner": None, "note": None}},
        {"filters": [{}, {"note": None}], "aliased": {}},
        {"names": {"owner": None}},
        {"aliased": {"who": "alice"}, "owner": "alice"},
    ],
    ids=str,
)
def test_a_default_of_the_tool_and_a_null_of_the_model_are_no_value(arguments: dict[str, Any]) -> None:
    _schema(ALICE).validate(arguments)
