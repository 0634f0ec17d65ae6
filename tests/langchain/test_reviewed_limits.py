"""A limit of the reviewed file binds in each place of its schema, also where the place is turned round."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import ValidationError
from jsonschema.validators import validator_for

from agentguard import ConfigurationError
from agentguard.langchain.declared_schema import DeclaredSchema
from agentguard.langchain.json_schema import compile_schema
from agentguard.langchain.reviewed_limits import with_types
from agentguard.model.schema_difference import contradictions

Json = dict[str, Any]
AT_MOST: Json = {"maximum": 100}
OF_AN_AMOUNT: Json = {"properties": {"amount": AT_MOST}}
OTHERS = ["9999", [9999], True, {"x": 9999}]
NEVER: dict[str, Json] = {
    "else": {"if": AT_MOST, "else": False},
    "else of a part": {"if": {"allOf": [{"anyOf": [AT_MOST]}]}, "else": False},
    "else of a definition": {"if": {"$ref": "#/$defs/a"}, "else": False},
    "then of a not": {"if": {"not": AT_MOST}, "then": False},
    "then of a not of a definition": {"if": {"not": {"$ref": "#/$defs/a"}}, "then": False},
    "not of a not": {"not": {"not": AT_MOST}},
    "not of a definition of a not": {"not": {"$ref": "#/$defs/no"}},
    "not of an if": {"not": {"if": AT_MOST, "then": False}},
    "then and else": {"if": AT_MOST, "then": {}, "else": False},
    "then and else of a definition": {"if": {"$ref": "#/$defs/a"}, "then": {}, "else": False},
    "a definition of a name with a point": {"not": {"$ref": "#/$defs/a.typed"}},
}
DEFINITIONS: Json = {"a": AT_MOST, "no": {"not": AT_MOST}, "a.typed": {"not": AT_MOST}, "a.typed.": {}}


def _check(part: Json, value: Any, **more: Any) -> None:
    schema = {"type": "object", "properties": {"amount": part}, "$defs": DEFINITIONS, **more}
    typed = with_types(schema)
    validator_for(typed).check_schema(typed)
    compile_schema(typed)({"amount": value})


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize("place", NEVER)
def test_a_limit_binds_values_of_other_types_wherever_it_stands(place: str) -> None:
    _check(NEVER[place], 99)
    for value in (*OTHERS, 101):
        with pytest.raises(ValidationError):
            _check(NEVER[place], value)


@pytest.mark.promise("reviewed-schema-binds")
def test_a_limit_of_texts_in_an_if_binds_what_is_no_text() -> None:
    _check(part := {"if": {"pattern": "^[a-z]+$"}, "else": False}, "ok")
    for value in (*OTHERS, 1, "No"):
        with pytest.raises(ValidationError):
            _check(part, value)


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize("value", OTHERS, ids=str)
def test_a_limit_on_a_property_in_an_if_binds_what_it_is(value: Any) -> None:
    for more in ({"if": OF_AN_AMOUNT, "else": False}, {"if": OF_AN_AMOUNT, "then": {}, "else": False}):
        _check({}, 99, **more)
        with pytest.raises(ValidationError):
            _check({}, value, **more)


@pytest.mark.parametrize("kind", ["card", "cash"])
def test_an_ordinary_choice_refuses_no_value_that_it_is_for(kind: str) -> None:
    choice = {
        "if": {"properties": {"kind": {"const": "card"}}, "required": ["kind"]},
        "then": {"properties": {"amount": {"maximum": 500}}},
        "else": {"properties": {"amount": {"maximum": 100}}},
    }
    schema = with_types({"type": "object", "properties": {"amount": {}, "kind": {}}, **choice})
    validate, limit = compile_schema(schema), 500 if kind == "card" else 100
    validate({"kind": kind, "amount": limit})
    validate({"kind": kind})
    for amount in (limit + 1, "1", [1]):
        with pytest.raises(ValidationError):
            validate({"kind": kind, "amount": amount})


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize(
    "part",
    [
        {"not": {"if": AT_MOST, "then": {"minimum": 1}, "else": False}},
        {"contentEncoding": "base64"},
        {"type": "string", "contentMediaType": "application/json"},
        {"type": "string", "contentMediaType": "application/json", "contentSchema": AT_MOST},
    ],
    ids=["choice in not", "encoding", "media type", "content"],
)
def test_a_keyword_that_cannot_bind_is_an_error(part: Json) -> None:
    with pytest.raises(ConfigurationError):
        DeclaredSchema({"type": "object", "properties": {"amount": part}}, compile_schema)


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize(
    "part", [{"divisibleBy": 5}, {"extends": [AT_MOST]}, {"type": [AT_MOST]}, {"disallow": "string"}, {}]
)
def test_a_schema_of_draft_3_is_an_error(part: Json) -> None:
    draft = "http://json-schema.org/draft-03/schema#"
    schema = {"$schema": draft, "type": "object", "properties": {"amount": part}}
    list(contradictions(schema, {"type": "object", "properties": {"amount": {}}}))
    with pytest.raises(ConfigurationError, match="draft 3"):
        DeclaredSchema(schema, compile_schema)


# --- a reference to the whole schema

WHOLE: dict[str, tuple[Json, Any]] = {
    "not of the whole": ({"limit": AT_MOST, "part": {"not": {"$ref": "#"}}}, {"limit": "x"}),
    "if of the whole": ({"limit": AT_MOST, "part": {"if": {"$ref": "#"}, "then": False}}, {"limit": "x"}),
    "not of a definition": ({"limit": AT_MOST, "part": {"not": {"$ref": "#/$defs/whole"}}}, {"limit": "x"}),
    "not of a part of a list": (
        {"limit": AT_MOST, "part": {"items": {"not": {"$ref": "#"}}}},
        [{"limit": "x"}],
    ),
}


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize(
    "draft", ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
)
@pytest.mark.parametrize("place", WHOLE)
def test_a_not_of_the_whole_schema_lets_no_more_pass_for_the_types_of_its_limits(
    place: str, draft: str
) -> None:
    properties, value = WHOLE[place]
    schema = {"$schema": draft, "properties": properties, "$defs": {"whole": {"$ref": "#"}}}
    typed = with_types(schema)
    validator_for(typed).check_schema(typed)
    written, reviewed = validator_for(schema)(schema), validator_for(typed)(typed)
    arguments = {"part": value}
    assert not written.is_valid(arguments)
    assert not reviewed.is_valid(arguments)
    assert not reviewed.is_valid({"limit": "x"})
    reviewed.validate({"limit": 1})
    declared = DeclaredSchema(schema, compile_schema)
    with pytest.raises(ValidationError):
        declared._check(arguments, {}, arguments)


@pytest.mark.promise("reviewed-schema-binds")
def test_a_reference_to_the_whole_in_the_whole_is_strict() -> None:
    schema: Json = {"properties": {"limit": AT_MOST, "part": {"$ref": "#"}}}
    validate = compile_schema(with_types(schema))
    validate({"part": {"part": {"limit": 1}}})
    with pytest.raises(ValidationError):
        validate({"part": {"part": {"limit": "x"}}})
