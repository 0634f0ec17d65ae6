"""The argument schema of the reviewed file binds beside the tool's own, on every way to a tool."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, SecretStr

from agentguard import ConfigurationError, Guard
from agentguard.cli.lint import findings
from agentguard.langchain.declared_schema import DeclaredSchema
from agentguard.langchain.reviewed_limits import idle_keywords
from agentguard.langchain.schema import ArgumentSchema
from agentguard.model import ToolPath, ToolSpec
from agentguard.model.schema_difference import contradictions, differences
from agentguard.testing import ScriptedChatModel

HEAD = 'policy.cedar = ["p.cedar"]\nstore = { kind = "memory" }\n'
HEAD += '[tools.order]\npath = "write"\n[tools.order.args]\n'
ALL = '@id("all") permit (principal, action, resource);'
LIMITS: list[tuple[str, str, dict[str, Any]]] = [
    ('required = ["what"]\nproperties.what = { type = "string", enum = ["tea"] }', "string", {"what": "rum"}),
    ('required = ["what"]\nproperties.what = { type = "string", const = "tea" }', "string", {"what": "rum"}),
    ('properties.what = { type = "string", pattern = "^t" }', "string", {"what": "rum"}),
    ('properties.what = { type = "string", maxLength = 2 }', "string", {"what": "rum"}),
    ('properties.what = { type = "integer", maximum = 3 }', "integer", {"what": 4}),
    ('properties.what = { type = "integer", multipleOf = 2 }', "integer", {"what": 3}),
    ('what = "integer"', "number", {"what": 1.5}),
    ('what = "string"', "any", {"what": ["a list"]}),
    ('required = ["what"]\nproperties.what = { type = "string" }', "optional", {}),
    (
        'properties.what = { type = "array", maxItems = 1, items = { type = "string" } }',
        "array",
        {"what": ["a", "b"]},
    ),
    (
        'properties.what = { type = "array", items = { type = "string", enum = ["a"] } }',
        "array",
        {"what": ["b"]},
    ),
    ('additionalProperties = false\nproperties.what = { type = "string" }', "open", {"what": "a", "more": 1}),
]
TYPES: dict[str, Any] = {
    "string": {"type": "string"},
    "optional": {"type": "string"},
    "open": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "any": {},
    "array": {"type": "array", "items": {"type": "string"}},
}
ANNOTATIONS = {"integer": int, "number": float, "any": object, "array": list[str], "optional": str | None}


def _guard(tmp_path: Path, args: str) -> Guard:
    (tmp_path / "agentguard.toml").write_text(HEAD + args)
    (tmp_path / "p.cedar").write_text(ALL)
    return Guard.from_file(tmp_path / "agentguard.toml")


def _served(kind: str, ran: list[Any]) -> BaseTool:
    """Return a tool with a JSON Schema, as an MCP server's tool has it."""

    async def run(**args: Any) -> str:
        ran.append(args)
        return "ordered"

    def run_sync(**args: Any) -> str:
        ran.append(args)
        return "ordered"

    schema = {"type": "object", "properties": {"what": TYPES[kind]}}
    return StructuredTool(
        name="order", description="Order.", args_schema=schema, coroutine=run, func=run_sync
    )


def _typed(kind: str, ran: list[Any]) -> BaseTool:
    """Return a tool made of a function, whose schema pydantic infers."""

    def order(what: Any = None) -> str:
        ran.append(what)
        return "ordered"

    order.__annotations__["what"] = ANNOTATIONS.get(kind, str)
    return StructuredTool.from_function(order, name="order", description="Order.")


def _call(args: dict[str, Any]) -> dict[str, Any]:
    return {"name": "order", "args": args, "id": "call-1", "type": "tool_call"}


@pytest.mark.exhaustive
@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize(("args", "kind", "call"), LIMITS)
@pytest.mark.parametrize("tool_of", [_served, _typed])
@pytest.mark.parametrize("way", ["wrap", "async wrap", "middleware"])
async def test_a_limit_in_the_file_holds_where_the_tool_says_less(
    tmp_path: Path,
    args: str,
    kind: str,
    call: dict[str, Any],
    tool_of: Callable[[str, list[Any]], BaseTool],
    way: str,
) -> None:
    ran: list[Any] = []
    tool = tool_of(kind, ran)
    guard = _guard(tmp_path, args)
    with guard.task("Order", subject="user:ann", mandate={"tools": "*"}):
        if way == "middleware":
            model = ScriptedChatModel(script=[[("order", call)], "done"])
            agent: Any = create_agent(model, [tool], middleware=[guard.middleware()])
            agent.invoke({"messages": [("user", "go")]})
        else:
            (guarded,) = guard.wrap([tool])
            message = _call(call)
            result = guarded.invoke(message) if way == "wrap" else await guarded.ainvoke(message)
            if "more" not in call:
                assert "do not fit" in result.text
    guard.close()
    # a function without **kwargs drops what it does not know: nothing of it arrives
    assert ran == [] or ("more" in call and ran == ["a"])


def test_what_both_schemas_allow_reaches_the_tool_with_the_catalogs_default(tmp_path: Path) -> None:
    ran: list[Any] = []
    guard = _guard(tmp_path, 'properties.what = { type = "string", enum = ["tea"], default = "tea" }')
    (guarded,) = guard.wrap([_served("string", ran)])
    with guard.task("Order", subject="user:ann", mandate={"tools": "*"}):
        for call in ({"what": "tea"}, {}):
            guarded.invoke(_call(call) | {"id": f"call-{len(ran)}"})
    guard.close()
    assert ran == [{"what": "tea"}, {"what": "tea"}]


def test_policies_are_typed_by_the_catalogs_schema_after_the_tool_is_attached(tmp_path: Path) -> None:
    guard = _guard(tmp_path, 'what = "number"')
    guard.wrap([_served("integer", [])])
    spec = guard.catalog.tool("order")
    guard.close()
    assert spec is not None
    assert spec.schema is not None
    assert spec.schema["properties"] == {"what": {"type": "number"}}


def test_a_tool_that_is_classified_after_it_was_wrapped_is_bound_too(tmp_path: Path) -> None:
    ran: list[Any] = []
    (tmp_path / "agentguard.toml").write_text('policy.cedar = ["p.cedar"]\nstore = { kind = "memory" }\n')
    (tmp_path / "p.cedar").write_text(ALL)
    guard = Guard.from_file(tmp_path / "agentguard.toml")
    (guarded,) = guard.wrap([_served("string", ran)])
    schema = {"type": "object", "properties": {"what": {"type": "string", "enum": ["tea"]}}}
    guard.catalog.add(ToolSpec(name="order", path=ToolPath.WRITE, schema=schema))
    with guard.task("Order", subject="user:ann", mandate={"tools": "*"}):
        assert "do not fit" in guarded.invoke(_call({"what": "rum"})).text
    guard.close()
    assert ran == []


@pytest.mark.promise("reviewed-schema-binds")
def test_a_difference_is_logged_at_the_first_attach_and_told_by_lint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = _guard(tmp_path, 'properties.what = { type = "string", enum = ["tea"] }')
    tool = _served("string", [])
    with caplog.at_level(logging.WARNING, "agentguard"):
        guard.wrap([tool])
        guard.wrap([tool])
    guard.close()
    told = 'what: enum is ["tea"] in the catalog, and not set in the tool'
    assert [told in record.getMessage() for record in caplog.records] == [True]
    assert any(told in finding.text for finding in findings(tmp_path / "agentguard.toml", [tool]))


@pytest.mark.parametrize(
    ("args", "kind"),
    [('what = "integer"', "string"), ('what = "string"', "array"), ('what = "boolean"', "number")],
)
def test_a_tool_that_no_call_can_satisfy_is_refused(tmp_path: Path, args: str, kind: str) -> None:
    guard = _guard(tmp_path, args)
    with pytest.raises(ConfigurationError, match="no call of tool order can satisfy"):
        guard.wrap([_served(kind, [])])
    guard.close()


def test_lists_of_values_with_none_in_common_are_a_contradiction() -> None:
    one, other = ({"properties": {"a": {"enum": values}}} for values in (["x"], ["y"]))
    assert list(contradictions(one, other))
    assert not list(contradictions(one, one))


def test_a_title_a_null_and_a_reference_are_no_difference() -> None:
    own = {
        "$defs": {"T": {"type": "string", "title": "T"}},
        "properties": {"a": {"anyOf": [{"$ref": "#/$defs/T"}, {"type": "null"}], "description": "A."}},
    }
    assert list(differences({"properties": {"a": {"type": "string"}}}, own)) == []


def test_a_text_of_a_server_cannot_draw_on_the_log() -> None:
    own = {"properties": {"a": {"type": "object", "properties": {"\x1b[2J\nb": {"const": "\x1b[2J"}}}}}
    text = "; ".join(differences({"properties": {"a": {"type": "object"}}}, own))
    assert text.isprintable()
    assert text


def test_a_null_of_an_optional_argument_counts_as_absent_and_of_a_required_one_not() -> None:
    schema = ArgumentSchema(_typed("optional", []))
    schema.require({"properties": {"what": {"type": "string", "enum": ["a"]}}})
    assert schema.validate({}).values == {"what": None}
    schema.require({"properties": {"what": {"type": "string", "enum": ["a"]}}, "required": ["what"]})
    with pytest.raises(ValidationError, match="null"):
        schema.validate({})


LIMITED = {"type": "integer", "maximum": 100}


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize(
    ("part", "kept"),
    [
        (LIMITED, False),
        ({"enum": ["alice"]}, False),
        ({"$ref": "#/$defs/a"}, False),
        ({"type": ["integer", "null"]}, True),
        ({"anyOf": [LIMITED, {"type": "null"}]}, True),
        ({"enum": ["alice", None]}, True),
        ({}, True),
    ],
)
def test_a_null_that_the_catalog_does_not_accept_never_reaches_the_tool(
    part: dict[str, Any], kept: bool
) -> None:
    schema = {
        "type": "object",
        "properties": {"a": part, "deep": {"properties": {"a": part}}},
        "$defs": {"a": {"type": "integer"}},
    }
    arguments: dict[str, Any] = {"a": None, "deep": {"a": None}}
    DeclaredSchema(schema, lambda _schema: lambda _arguments: None).fill(arguments)
    assert ("a" in arguments, "a" in arguments["deep"]) == (kept, kept)


class Amounts(BaseModel):
    amount: Decimal | int | str = 1
    wait: timedelta = timedelta(0)
    items: list[Decimal] = []


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize(
    ("part", "good", "bad"),
    [
        ({"amount": {"maximum": 100}}, {"amount": Decimal("99.5")}, {"amount": Decimal("100.5")}),
        ({"amount": {"maximum": 100}}, {"amount": 100}, {"amount": "9999"}),
        ({"amount": {"exclusiveMinimum": 0}}, {"amount": Decimal(1)}, {"amount": Decimal(0)}),
        ({"amount": {"multipleOf": 5}}, {"amount": Decimal(10)}, {"amount": Decimal(7)}),
        ({"wait": {"maximum": 60}}, {"wait": timedelta(seconds=60)}, {"wait": timedelta(days=2)}),
        ({"items": {"items": {"maximum": 9}}}, {"items": [Decimal(9)]}, {"items": [Decimal(1), Decimal(10)]}),
    ],
)
def test_a_limit_without_a_type_binds_numbers_of_each_kind(
    typed: bool, part: dict[str, Any], good: dict[str, Any], bad: dict[str, Any]
) -> None:
    def pay(**_arguments: Any) -> str:
        return "paid"

    if typed:
        part = {
            name: {"type": "array" if name == "items" else "number", **limit} for name, limit in part.items()
        }
    schema = ArgumentSchema(
        StructuredTool.from_function(pay, name="pay", description="d", args_schema=Amounts)
    )
    schema.require({"properties": part})
    schema.validate(good)
    with pytest.raises(ValidationError):
        schema.validate(bad)


@pytest.mark.promise("reviewed-schema-binds")
def test_a_plain_number_may_be_a_decimal_and_a_limit_of_texts_binds_no_number() -> None:
    def pay(**_arguments: Any) -> str:
        return "paid"

    schema = ArgumentSchema(
        StructuredTool.from_function(pay, name="pay", description="d", args_schema=Amounts)
    )
    schema.require({"properties": {"amount": {"type": "number"}}, "required": ["amount"]})
    schema.validate({"amount": Decimal("1.5")})
    with pytest.raises(ValueError, match="not of the type"):
        schema.validate({"amount": "1.5"})
    schema.require({"properties": {"amount": {"pattern": "^[a-z]+$"}}})
    schema.validate({"amount": "abc"})
    with pytest.raises(ValidationError):
        schema.validate({"amount": 5})


UNTYPED: list[tuple[dict[str, Any], Any, Any]] = [
    ({"maxItems": 1}, ["a"], "a,b"),
    ({"maxItems": 1}, ["a"], {"a": 1, "b": 2}),
    ({"items": {"enum": ["a"]}}, ["a"], "b"),
    ({"contains": {"const": "a"}}, ["b", "a"], "b"),
    ({"uniqueItems": True}, [1, 2], "x"),
    ({"required": ["id"]}, {"id": 1}, "evil"),
    ({"additionalProperties": False, "properties": {"id": {}}}, {"id": 1}, ["evil"]),
    ({"propertyNames": {"enum": ["a"]}}, {"a": 1}, "evil"),
    ({"anyOf": [{"maximum": 10}, {"const": "all"}]}, "all", "9999"),
    ({"oneOf": [{"maximum": 10}, {"const": "all"}]}, "all", "9999"),
    ({"allOf": [{"maximum": 10}]}, 9, "9999"),
    ({"maximum": 10, "allOf": [{"description": "an amount"}]}, 9, "9999"),
    ({"$ref": "#/$defs/few"}, 9, "9999"),
    ({"if": {}, "then": {"maximum": 10}}, 9, "9999"),
    ({"type": "array", "prefixItems": [{"maximum": 10}], "items": False}, [9], ["9999"]),
    ({"not": {"maximum": 10}}, 11, "9999"),
    ({"not": {"$ref": "#/$defs/few"}}, 11, "9999"),
    ({"if": {"maximum": 10}, "then": {"const": 3}}, 11, "9999"),
    ({"contains": {"maximum": 10}, "maxContains": 1}, [1, 11], [1, "9999"]),
]


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize(("limit", "good", "bad"), UNTYPED)
def test_a_limit_without_a_type_binds_whatever_the_value_is(
    limit: dict[str, Any], good: Any, bad: Any
) -> None:
    schema = ArgumentSchema(_anything(Any))
    schema.require({"properties": {"what": limit}, "$defs": {"few": {"maximum": 10}}})
    schema.validate({"what": good})
    with pytest.raises(ValidationError):
        schema.validate({"what": bad})


DEFINITIONS: dict[str, Any] = {
    "few": {"maximum": 10},
    "plain": {"title": "An amount"},
    "a/b": {"maximum": 10},
    "chain": {"$ref": "#/$defs/few"},
    "to itself": {"$ref": "#/$defs/to itself", "maximum": 10},
}


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize("value", ["9999", [9999], True, {"x": 9999}], ids=str)
@pytest.mark.parametrize(
    "limit",
    [
        {"$ref": "#/$defs/plain", "maximum": 10},
        {"$ref": "#/$defs/chain"},
        {"$ref": "#/$defs/a~1b"},
        {"allOf": [{"$ref": "#/$defs/plain"}], "maximum": 10},
        {"anyOf": [{"$ref": "#/$defs/plain"}, {"$ref": "#/$defs/few"}], "maximum": 10},
        {"anyOf": [{"$ref": "#/$defs/few"}]},
    ],
    ids=str,
)
def test_a_limit_behind_or_beside_a_reference_binds_whatever_the_value_is(
    limit: dict[str, Any], value: Any
) -> None:
    schema = ArgumentSchema(_anything(Any))
    schema.require({"properties": {"what": limit}, "$defs": DEFINITIONS})
    schema.validate({"what": 9})
    with pytest.raises(ValidationError):
        schema.validate({"what": value})


def test_a_reference_to_a_type_gives_the_limit_beside_it_that_type() -> None:
    schema = ArgumentSchema(_anything(Any))
    schema.require(
        {
            "properties": {"what": {"$ref": "#/$defs/either", "maximum": 10}},
            "$defs": {"either": {"type": ["number", "string"]}},
        }
    )
    schema.validate({"what": "all"})
    with pytest.raises(ValidationError):
        schema.validate({"what": 11})


def test_a_part_that_refers_to_the_whole_schema_has_its_limits() -> None:
    schema = ArgumentSchema(_anything(Any))
    schema.require({"properties": {"what": {"anyOf": [{"$ref": "#"}, {"maximum": 10}]}}})
    schema.validate({"what": {"what": {"what": 9}}})
    with pytest.raises(ValidationError):
        schema.validate({"what": {"what": {"what": "9999"}}})


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize(
    ("part", "definition"),
    [
        ({"$ref": "#amount"}, {"$anchor": "amount", "maximum": 10}),
        ({"$dynamicRef": "#amount"}, {"$dynamicAnchor": "amount", "maximum": 10}),
        ({"$ref": "#/$defs/a/properties/b"}, {"properties": {"b": {"maximum": 10}}}),
        ({"$ref": "#/$defs/a/$defs/b"}, {"$defs": {"b": {"maximum": 10}}}),
        ({"$ref": "#/%24defs/a"}, {"maximum": 10}),
        ({"$ref": "#/$defs/%61"}, {"maximum": 10}),
        ({"$ref": "#/$defs/b"}, {"maximum": 10}),
        ({"$ref": "#/properties/other"}, {}),
        ({"$ref": "amount"}, {"$id": "amount", "maximum": 10}),
        ({"$ref": "https://else.example/amount.json"}, {}),
        ({"not": {"$ref": "#/$defs/b"}}, {}),
        ({"items": {"anyOf": [{"$ref": "#amount"}]}}, {"$anchor": "amount", "maximum": 10}),
        ({"$id": "other", "$ref": "#/$defs/a"}, {"maximum": 10}),
        *(
            ({"type": "string", "format": name}, {})
            for name in ("uri-template", "color", "e-mail", "iri-reference", "byte")
        ),
        ({"then": {"maximum": 10}}, {}),
        ({"minContains": 1}, {}),
    ],
    ids=str,
)
def test_what_leads_to_no_limit_is_an_error_at_the_first_attach_and_by_lint(
    tmp_path: Path, part: dict[str, Any], definition: dict[str, Any]
) -> None:
    schema = {"properties": {"what": part, "other": {"maximum": 10}}, "$defs": {"a": definition}}
    assert any(place.startswith(("properties.what.", "$defs.a.")) for place in idle_keywords(schema))
    with pytest.raises(ConfigurationError, match="bind nothing"):
        ArgumentSchema(_anything(Any)).require(schema)


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize("name", ["email", "ipv4", "ipv6", "date", "uuid", "regex", "idn-email"])
def test_a_format_that_lint_accepts_is_checked(name: str) -> None:
    schema = ArgumentSchema(_anything(Any))
    schema.require({"properties": {"what": {"type": "string", "format": name}}})
    with pytest.raises(ValidationError):
        schema.validate({"what": "[[[ (nothing of the kind"})


def _anything(annotation: Any) -> BaseTool:
    def order(what: Any = None) -> str:
        return "ordered"

    order.__annotations__["what"] = annotation
    return StructuredTool.from_function(order, name="order", description="Order.")


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize(
    ("args", "keyword"),
    [
        ('properties.what = { type = "string", max_length = 2 }', "properties.what.max_length"),
        ('properties.what = { anyOf = [ { type = "string", maxLenght = 2 } ] }', "anyOf.0.maxLenght"),
        ('additional_properties = false\nproperties.what = { type = "string" }', "additional_properties"),
        ('properties.what = { type = "string", maxItems = 2 }', "properties.what.maxItems"),
        ('properties.what = { type = "string", format = "e-mail" }', "properties.what.format"),
        (
            'properties.what = { "$ref" = "#s" }\n"$defs" = { s = { "$anchor" = "s" } }',
            "properties.what.*ref",
        ),
        (
            '"$schema" = "http://json-schema.org/draft-07/schema#"\n'
            'properties.what = { "$ref" = "#/$defs/s", maxLength = 2 }\n'
            '"$defs" = { s = { type = "string" } }',
            "properties.what.maxLength",
        ),
    ],
)
def test_a_keyword_that_binds_nothing_is_an_error(tmp_path: Path, args: str, keyword: str) -> None:
    guard = _guard(tmp_path, args)
    with pytest.raises(ConfigurationError, match=keyword):
        guard.wrap([_anything(str)])
    guard.close()
    report = findings(tmp_path / "agentguard.toml")
    assert any(finding.word == "error" and re.search(keyword, finding.text) for finding in report)


def test_keywords_that_describe_are_no_error_nor_are_those_of_a_servers_schema(tmp_path: Path) -> None:
    guard = _guard(
        tmp_path,
        'title = "t"\nproperties.what = { type = "string", examples = ["a"], x-note = 1, x-format = "z" }',
    )
    guard.wrap([_anything(str)])
    guard.close()
    server = {"type": "object", "properties": {"what": {"type": "string", "max_length": 2}}}
    ArgumentSchema(
        StructuredTool(name="order", description="d", args_schema=server, func=lambda **_values: "ordered")
    ).validate({"what": "abc"})


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize(
    "limit", [{"not": {"const": "root"}}, {"pattern": "^[a-z]{9,}$"}, {"enum": ["good-enough"]}]
)
def test_a_secret_argument_is_checked_as_it_is_and_is_not_told(limit: dict[str, Any]) -> None:
    schema = ArgumentSchema(_anything(SecretStr))
    schema.require({"properties": {"what": {"type": "string", **limit}}})
    with pytest.raises(ValueError, match="secret") as caught:
        schema.validate({"what": "root"})
    assert "root" not in str(caught.value)
    assert caught.value.__cause__ is None
    if "enum" in limit:
        schema.validate({"what": "good-enough"})


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ({"type": "number", "multipleOf": 0.01}, "10.1"),
        ({"type": "number", "multipleOf": 0.5}, "10.5"),
        ({"type": "integer", "maximum": 10}, "5"),
        ({"type": "number", "maximum": 10.5}, "10.5"),
    ],
)
def test_a_decimal_that_fits_is_accepted(limit: dict[str, Any], value: str) -> None:
    schema = ArgumentSchema(_anything(Decimal))
    schema.require({"properties": {"what": limit}})
    schema.validate({"what": value})
    with pytest.raises(ValidationError):
        schema.validate({"what": "10.503"})
