"""A null that the tool's own validator makes of a value is checked by the reviewed schema."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from jsonschema import ValidationError
from langchain_core.tools import StructuredTool
from pydantic import AliasChoices, AliasPath, BaseModel, BeforeValidator, ConfigDict, Field

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


# --- an argument that the model writes by an alias


class ByPath(BaseModel):
    """An argument that stands in another."""

    owner: OrNull = Field(default="alice", validation_alias=AliasPath("who", 0))


class ByAlias(BaseModel):
    """An argument with an alias."""

    owner: OrNull = Field(default="alice", alias="who")


class ByValidationAlias(BaseModel):
    """An argument with an alias for what is read."""

    owner: OrNull = Field(default="alice", validation_alias="who")


class ByChoices(BaseModel):
    """An argument with several aliases."""

    owner: OrNull = Field(default="alice", validation_alias=AliasChoices("owner_id", "who"))


class ByName(BaseModel):
    """An argument that may have its own name too."""

    model_config = ConfigDict(populate_by_name=True)
    owner: OrNull = Field(default="alice", alias="who")


ALIASED: list[type[BaseModel]] = [ByAlias, ByValidationAlias, ByChoices, ByName]
REVIEWED = [ALICE, {"type": "string", "minLength": 0}, {"type": "string"}]


def _aliased(model: type[BaseModel], part: dict[str, Any]) -> ArgumentSchema:
    schema = ArgumentSchema(
        StructuredTool(name="search", description="Search.", args_schema=model, func=lambda **_arguments: "")
    )
    schema.require({"type": "object", "properties": {"owner": part}})
    return schema


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize("part", REVIEWED, ids=["limit", "keyword", "type"])
@pytest.mark.parametrize("model", ALIASED)
def test_a_null_that_a_validator_makes_of_an_aliased_argument_is_refused(
    model: type[BaseModel], part: dict[str, Any]
) -> None:
    with pytest.raises((ValidationError, ValueError), match=r"null|type"):
        _aliased(model, part).validate({"who": ""})


@pytest.mark.promise("reviewed-schema-binds")
def test_a_null_that_a_validator_makes_of_a_part_of_an_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="null"):
        _aliased(ByPath, ALICE).validate({"who": [""]})


@pytest.mark.promise("reviewed-schema-binds")
def test_a_null_by_the_own_name_beside_an_alias_is_refused() -> None:
    with pytest.raises(ValidationError, match="null"):
        _aliased(ByName, ALICE).validate({"owner": ""})


@pytest.mark.parametrize("part", REVIEWED, ids=["limit", "keyword", "type"])
@pytest.mark.parametrize("model", ALIASED)
@pytest.mark.parametrize("arguments", [{}, {"who": None}, {"who": "alice"}], ids=str)
def test_a_null_of_the_model_for_an_aliased_argument_leaves_it_to_the_tools_default(
    model: type[BaseModel], part: dict[str, Any], arguments: dict[str, Any]
) -> None:
    assert _aliased(model, part).validate(arguments).values == {"owner": "alice"}


@pytest.mark.parametrize("model", ALIASED)
def test_the_catalogs_default_fills_an_aliased_argument_that_is_left_out(model: type[BaseModel]) -> None:
    schema = _aliased(model, {"enum": ["bob", "carol"], "default": "bob"})
    assert schema.validate({}).values == {"owner": "bob"}
    assert schema.validate({"who": "carol"}).values == {"owner": "carol"}


def test_the_catalogs_default_of_a_part_of_an_argument_is_no_such_argument() -> None:
    schema = _aliased(ByPath, {"enum": ["alice", "bob"], "default": "bob"})
    assert schema.validate({}).values == {"owner": "alice"}
    assert schema.validate({"who": ["bob"]}).values == {"owner": "bob"}


class Where(BaseModel):
    """An argument with parts, and an alias."""

    filter: Filter = Field(default_factory=Filter, alias="where")


def test_a_refused_null_in_an_aliased_argument_is_left_out() -> None:
    schema = ArgumentSchema(
        StructuredTool(name="search", description="Search.", args_schema=Where, func=lambda **_arguments: "")
    )
    owner = {"type": "object", "properties": {"owner": {"type": "string", "minLength": 1}}}
    schema.require({"type": "object", "properties": {"filter": owner}})
    assert schema.validate({"where": {"owner": None}}).values["filter"] == Filter(owner="alice")
