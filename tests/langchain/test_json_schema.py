"""A schema of somebody else is validated in bounded time, by the same rules as before."""

from __future__ import annotations

from time import process_time
from typing import Any

import pytest
from jsonschema import SchemaError, ValidationError

from agentguard import ConfigurationError
from agentguard.langchain.json_schema import WorkExceeded, compile_schema

SECONDS = 3.0


def q(**schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"q": schema}}


@pytest.mark.promise("schemas-in-bounded-time")
@pytest.mark.parametrize("pattern", ["^(a|a)*$", "^(a+)+$", "(a|b)*a(a|b){500}$", r"^(\w+\s?)*$"])
@pytest.mark.parametrize("of_names", [False, True])
def test_a_pattern_takes_linear_time(pattern: str, of_names: bool) -> None:
    text = "a" * 20_000 + "!"
    if of_names:
        schema: dict[str, Any] = {"patternProperties": {pattern: False}, "additionalProperties": False}
        arguments: dict[str, Any] = {text: 1}
    else:
        schema, arguments = q(type="string", pattern=pattern), {"q": text}
    validate, start = compile_schema(schema), process_time()
    if not pattern.startswith("(a|b)"):
        with pytest.raises(ValidationError):
            validate(arguments)
    assert process_time() - start < SECONDS


@pytest.mark.promise("schemas-in-bounded-time")
@pytest.mark.parametrize("pattern", [r"(a)\1", "(?=a)b", "(?<!a)b", "(", "a" * 5000, r"(\w{1000}){1000}"])
@pytest.mark.parametrize("place", ["pattern", "names", "deep"])
def test_a_pattern_that_is_not_linear_is_refused(pattern: str, place: str) -> None:
    schema = {
        "pattern": q(pattern=pattern),
        "names": {"patternProperties": {pattern: {}}},
        "deep": {"anyOf": [q(items={"allOf": [{"pattern": pattern}]})]},
    }[place]
    with pytest.raises((ConfigurationError, SchemaError)) as refusal:
        compile_schema(schema)
    # jsonschema itself refuses what is no pattern for Python either
    assert isinstance(refusal.value, ConfigurationError) or pattern == "("


@pytest.mark.promise("schemas-in-bounded-time")
def test_references_that_multiply_end_in_an_error() -> None:
    parts = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 10} for n in range(12)}
    schema = {"$defs": {**parts, "d12": {}}, "properties": {"q": {"$ref": "#/$defs/d0"}}}
    validate, start = compile_schema(schema), process_time()
    with pytest.raises(WorkExceeded):
        validate({"q": 1})
    assert process_time() - start < 2 * SECONDS


@pytest.mark.promise("schemas-in-bounded-time")
def test_unique_items_take_linear_time_and_mean_what_they_meant() -> None:
    validate = compile_schema(q(type="array", uniqueItems=True))
    start = process_time()
    validate({"q": [{"id": n} for n in range(20_000)]})
    validate({"q": [1, True, "1", [1], {"a": 1}, {"b": 1}, 0, False, None]})
    assert process_time() - start < SECONDS
    for twice in ([1, 1.0], [{"a": 1, "b": 2}, {"b": 2, "a": 1}], [[1], [1.0]], [None, None]):
        with pytest.raises(ValidationError):
            validate({"q": twice})


@pytest.mark.promise("schemas-in-bounded-time")
def test_names_that_match_a_pattern_are_no_additional_ones() -> None:
    schema = {
        "patternProperties": {"^x-": {"type": "integer"}},
        "properties": {"q": {}},
        "additionalProperties": False,
    }
    validate = compile_schema(schema)
    validate({"x-a": 1, "q": "s"})
    for wrong in ({"x-a": "s"}, {"y": 1}):
        with pytest.raises(ValidationError):
            validate(wrong)
    with pytest.raises(ConfigurationError):
        compile_schema({"patternProperties": {"^x-": {}}, "unevaluatedProperties": False})


def test_a_property_may_be_named_like_a_keyword() -> None:
    compile_schema({"properties": {"pattern": {"type": "string"}, "default": {"enum": ["("]}}})(
        {"pattern": "("}
    )


@pytest.mark.promise("schemas-in-bounded-time")
@pytest.mark.parametrize("draft", ["2020-12", "2019-09", "07"])
@pytest.mark.parametrize("place", ["property", "item", "definition"])
def test_a_part_with_a_dialect_of_its_own_stays_in_the_bounded_validator(draft: str, place: str) -> None:
    dialect = {
        "07": "http://json-schema.org/draft-07/schema#",
        **{name: f"https://json-schema.org/draft/{name}/schema" for name in ("2020-12", "2019-09")},
    }[draft]
    part = {"$schema": dialect, "type": "string", "pattern": "^(a+)+$"}
    parts: dict[str, dict[str, Any]] = {
        "property": {"properties": {"a": part}},
        "item": {"properties": {"a": {"items": part}}},
        "definition": {"properties": {"a": {"$ref": "#/$defs/part"}}, "$defs": {"part": part}},
    }
    validate = compile_schema({"type": "object", **parts[place]})
    text = "a" * 40 + "!"  # Python's own engine needs years for it
    started = process_time()
    with pytest.raises(ValidationError):
        validate({"a": [text] if place == "item" else text})
    assert process_time() - started < 1


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^\d{4}$", "4711", "\u0664\u0667\u0661\u0661"),
        (r"^[\d-]+$", "47-11", "\u0664-\u0667"),
        (r"^\w+$", "abc_1", "\u0430bc"),
        (r"^\D+$", "\u0664", "4"),
        (r"\babc\b", "x abc y", "xabcy"),
        (r"^\\d$", "\\d", "4"),
    ],
)
def test_a_shorthand_in_a_pattern_means_what_it_means_in_javascript(
    pattern: str, good: str, bad: str
) -> None:
    validate = compile_schema(q(pattern=pattern))
    validate({"q": good})
    with pytest.raises(ValidationError):
        validate({"q": bad})


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize(
    ("format_", "good", "bad"),
    [("email", "a@b.example", "ab"), ("ipv4", "10.0.0.1", "evil"), ("date", "2026-11-28", "soon")],
)
def test_a_format_of_the_catalog_binds_and_that_of_a_server_describes(
    format_: str, good: str, bad: str
) -> None:
    declared, server = compile_schema(q(format=format_), formats=True), compile_schema(q(format=format_))
    for validate in (declared, server):
        validate({"q": good})
    server({"q": bad})
    with pytest.raises(ValidationError):
        declared({"q": bad})


def many(pattern: str, number: int) -> dict[str, Any]:
    return {"properties": {f"p{n}": {"pattern": f"{pattern}{n}"} for n in range(number)}}


@pytest.mark.promise("schemas-in-bounded-time")
@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (many("^[a-z]{1,4}$", 101), "more than 100 patterns"),
        (many("x" * 1900, 11), "20000 characters"),
        (many(r"\p{L}{150}", 90), "to compile the patterns"),
        ({"default": many("^[a-z]+$", 101), "$ref": "#/default"}, "more than 100 patterns"),
        ({"enum": [many(r"\p{L}{150}", 90)], "$ref": "#/enum/0"}, "to compile the patterns"),
        ({"patternProperties": {f"^{n}": {} for n in range(101)}}, "more than 100 patterns"),
        ({"properties": {f"p{n}": {"type": "string"} for n in range(2_000)}}, "more than 5000 parts"),
        ({"description": "x" * 600_000}, "more than 524288 bytes"),
    ],
    ids=["many", "long", "costly", "many in a default", "costly in an enum", "names", "parts", "bytes"],
)
def test_a_schema_that_would_hold_everybody_up_when_it_is_first_seen_is_refused(
    schema: dict[str, Any], reason: str
) -> None:
    start = process_time()
    with pytest.raises(ConfigurationError, match=reason):
        compile_schema(schema)
    assert process_time() - start < SECONDS  # 90 costly patterns take 6 s


@pytest.mark.promise("schemas-in-bounded-time")
def test_a_schema_is_checked_in_bounded_time_also_where_it_is_none() -> None:
    mixed = [item for number in range(2_400) for item in (number, str(number))]
    start = process_time()
    with pytest.raises(SchemaError):
        compile_schema({"type": mixed})  # to compare each two items takes 6 s
    compile_schema({"$schema": "http://json-schema.org/draft-07/schema#", "enum": mixed})
    assert process_time() - start < SECONDS


@pytest.mark.promise("schemas-in-bounded-time")
def test_a_pattern_in_a_value_to_which_a_reference_leads_takes_linear_time_or_is_refused() -> None:
    text, start = "a" * 40 + "!", process_time()
    for name in ("default", "const"):
        validate = compile_schema({name: {"pattern": "^(a+)+$"}, "properties": {"q": {"$ref": f"#/{name}"}}})
        with pytest.raises((ValidationError, WorkExceeded)):
            validate({"q": text})
    validate = compile_schema({"default": {"pattern": r"(a)\1"}, "properties": {"q": {"$ref": "#/default"}}})
    with pytest.raises(WorkExceeded):
        validate({"q": text})
    both = {"patternProperties": {"^(a+)+$": {}}, "unevaluatedProperties": False}
    with pytest.raises(ConfigurationError):
        compile_schema({"default": both, "$ref": "#/default"})
    assert process_time() - start < SECONDS


@pytest.mark.promise("schemas-in-bounded-time")
def test_a_text_is_compiled_as_a_pattern_in_bounded_time() -> None:
    validate, start = compile_schema(q(format="regex"), formats=True), process_time()
    validate({"q": "^[a-z]+$"})
    for wrong in ("(", "(?i)" + "[\0-\U0010ffff]" * 2_000):  # for the second Python's engine needs minutes
        with pytest.raises(ValidationError):
            validate({"q": wrong})
    assert process_time() - start < SECONDS
