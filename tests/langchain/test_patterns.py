"""A pattern means what ECMA-262 says, and the work that it takes is known before it is run."""

from __future__ import annotations

import random
import re
import warnings
from time import process_time
from typing import Any

import pytest
from langchain_core.tools import StructuredTool

from agentguard.errors import DenialCode
from agentguard.langchain.json_schema import WorkExceeded, compile_schema
from agentguard.langchain.patterns import compile_pattern
from tests.conftest import Kit, Mode, classified, tool_call

SECONDS = 2.0
LARGE = [
    r"(?:\w?\w?\w?){1500}c",
    "[ab]*a[ab]{2000}c",
    r"(?:(?:\w?){30}){100}c",
    r"((\w?){50}|[a-z]{1,50}){60}c",
    r"(?:\w?){3000,}c",
    r"(?:(?:(?:\w?){9}){9}){9}c",
    r"(?<name>[\w{2}]?){2500}c",
]


def _schema(pattern: str, place: str = "pattern") -> dict[str, Any]:
    of_names = {"patternProperties": {pattern: {}}, "additionalProperties": False}
    items: dict[str, Any] = {"type": "string", "pattern": pattern} if place == "pattern" else of_names
    return {"type": "object", "properties": {"t": {"type": "array", "items": items}}}


@pytest.mark.promise("schemas-in-bounded-time")
@pytest.mark.parametrize("letters", ["ab", "a\u00e9\u0416\u6f22"], ids=["ascii", "unicode"])
@pytest.mark.parametrize("place", ["pattern", "names"])
@pytest.mark.parametrize("pattern", LARGE)
def test_a_pattern_of_large_repetitions_takes_bounded_time(pattern: str, place: str, letters: str) -> None:
    chance = random.Random(1)  # noqa: S311  no secret is made of it
    text = "".join(chance.choice(letters) for _ in range(90_000))
    validate, start = compile_schema(_schema(pattern, place)), process_time()
    with pytest.raises(WorkExceeded):
        validate({"t": [text if place == "pattern" else {text: 1}] * 5})
    assert process_time() - start < SECONDS  # one of these texts alone takes up to 12 s


@pytest.mark.promise("schemas-in-bounded-time")
def test_many_short_texts_and_a_large_pattern_take_bounded_time() -> None:
    schema = {"properties": {"t": {"items": {"not": {"pattern": LARGE[0]}}}}}
    validate, start = compile_schema(schema), process_time()
    with pytest.raises(WorkExceeded):
        validate({"t": ["ab" * 50] * 9_000})
    assert process_time() - start < SECONDS


@pytest.mark.promise("schemas-in-bounded-time")
async def test_a_servers_large_pattern_is_a_recorded_denial(kit: Kit, task: Any, mode: Mode) -> None:
    server = StructuredTool(
        name="post", description="d", func=lambda **_: "ok", args_schema=_schema(LARGE[0])
    )
    guarded = kit.guard.wrap([classified(server, path="read")])[0]
    answer = await mode.invoke(guarded, tool_call("post", t=["ab" * 45_000]))
    assert answer.status == "error"
    assert kit.decisions() == [DenialCode.INVALID_ARGUMENTS.value]


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("abc", 3),
        ("a{3}b", 4),
        ("(?:ab){3,10}", 31),
        ("((a{2}){3}){4}", 57),
        (r"\{3}", 3),
        ("[a{9}]b", 2),
        (r"\u{61}{5}", 5),
        (r"\p{L}{5}", 5),
        ("a|b", 3),
        ("a{2,}", 2),
        ("a+b*c?", 6),
    ],
)
def test_the_size_of_a_pattern_has_its_repetitions_written_out(pattern: str, size: int) -> None:
    compiled = compile_pattern(pattern)
    assert compiled is not None
    assert size <= compiled.size <= size + 2


def test_a_character_of_several_bytes_is_more_work() -> None:
    compiled = compile_pattern("[ab]{600}")
    assert compiled is not None
    assert compiled.work("\u6f22" * 999) >= 3 * compiled.work("a" * 999) - 2


def _nested(opening: str, closing: str, core: str = "d") -> str:
    return opening * 60 + core + closing * 60


@pytest.mark.promise("schemas-in-bounded-time")
@pytest.mark.parametrize(
    "parts",
    [
        _nested("(?:", ")?"), _nested("(?:", ")*"), _nested("(?:", ")+?"), _nested("(", ")"),
        _nested("(?i:", ")??"), _nested("(?:|", ")"), _nested("(?:", "|)"), "d?" * 60,
        "d*?" * 60, "()" * 60, "(?:^|)" * 60,
    ],
)  # fmt: skip
def test_each_part_of_a_pattern_that_the_engine_has_a_state_for_is_counted(parts: str) -> None:
    compiled = compile_pattern(f"[ab]*a(?:{parts}[ab]){{20}}c")
    assert compiled is not None
    assert compiled.size >= 20 * 60


@pytest.mark.promise("schemas-in-bounded-time")
def test_groups_in_each_other_do_not_make_a_text_cost_more_than_is_counted() -> None:
    pattern = f"[ab]*a(?:{_nested('(?:', ')?')}[ab]){{40}}c"
    validate = compile_schema(_schema(pattern))
    chance = random.Random(1)  # noqa: S311  no secret is made of it
    start = process_time()
    with pytest.raises(ValueError, match="too much work"):
        validate({"t": ["".join(chance.choices("ab", k=90_000))]})
    assert process_time() - start < 1


def test_an_ordinary_pattern_takes_a_long_text() -> None:
    email = r"^[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,255}$"
    validate = compile_schema(_schema(email))
    validate({"t": ["ann@corp.example"] * 1_000})
    compile_schema(_schema(r"^[\s\S]*$"))({"t": ["x" * 100_000] * 10})
    compile_schema(_schema(r"^[\s\S]{1,5000}$"))({"t": ["x" * 4_000]})


@pytest.mark.promise("reviewed-schema-binds")
@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("^[^a-z&&b]+$", "ABC", "acd"),
        ("^[a-z&&b]+$", "a&b", "A"),
        ("^[^<>~~]+$", "a", "~"),
        ("^[a-c--b]+$", "a-b", "d"),
        ("^[+--]+$", "+,-", "."),
        ("^[^+--]+$", "a", ","),
        ("^[a[b]+$", "a[b", "c"),
        ("^[a[b]c]$", "[c]", "c"),
        ("^[^[b]+$", "ac", "["),
        (r"^[\d-x]+$", "1-x", "k"),
        (r"^[0-9\b]+$", "1\b", "EVIL"),
        (r"^[\w\b]+$", "a\b", "?:)"),
        ("^[a^]+$", "a^", "b"),
        ("^.+$", "ab", "a\rb"),
        ("^.+$", "ab", "a\u2028b"),
        (r"^\S+$", "ab", "a\ufeffb"),
        (r"^[^\s]+$", "ab", "a\ufeffb"),
        (r"^\<b\>$", "<b>", "b"),
        (r"^[^\<]+$", "b", "<"),
        (r"^(\(?s)..$", "(sab", "s\r\r"),
        (r"^x\B.$", "xy", "x\u00e9"),
        (r"\B\u00e9$", "\u00fc\u00e9", "x\u00e9"),
        ("^(?s:a.)b.c$", "a\rbxc", "axb\rc"),
        ("^(?s:a.)b.c$", "a\u2028bxc", "axb\u2028c"),
        ("^(a(?s).)b.$", "a\rbx", "a\rb\r"),
        ("^((?s)a)|b.$", "bx", "b\u2029"),
        ("(?s)^a(?-s:.)b.$", "axb\r", "a\rb\r"),
        ("(?s)^a(?i-s:B.)$", "abx", "ab\r"),
    ],
)
def test_a_sign_in_a_pattern_means_what_it_means_in_javascript(pattern: str, good: str, bad: str) -> None:
    compiled = compile_pattern(pattern)
    assert compiled is not None
    assert compiled.matches(good)
    assert not compiled.matches(bad)


@pytest.mark.promise("reviewed-schema-binds")
def test_each_class_of_characters_has_the_members_that_pythons_engine_finds() -> None:
    chance = random.Random(2)  # noqa: S311  no secret is made of it
    for _ in range(1_500):
        inside = "".join(
            chance.choice(["&", "~", "-", "[", "a", "c", "z", r"\d", r"\]", "^"]) for _ in range(7)
        )
        pattern = f"^[x{inside}]$" if chance.random() < 0.5 else f"^[^x{inside}]$"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = re.compile(pattern, re.ASCII)
        except re.error:  # a range from a higher to a lower character, or of a shorthand
            continue
        compiled = compile_pattern(pattern)
        assert compiled is not None, pattern
        for character in map(chr, range(32, 127)):
            assert compiled.matches(character) == bool(expected.search(character)), (pattern, character)


@pytest.mark.promise("schemas-in-bounded-time")
@pytest.mark.parametrize(
    "pattern",
    ["(?x)a {900}", "(?ix:a {900})", "[]a]", "[^]a]", "[a", "a)", "(a", "\\", "a" * 2_001,
     r"\a", r"\A", r"a\z",
     r"\x{41}", r"\x4", r"[\A]", r"[\z]", r"\pL", r"\p{^L}", r"\_a\q",
     r"\b{start}a", "a++", "a*+", "a??+", "a{2}{2}", "a???",
     "a{,2}", "a{ 2 }", "(?m)^a$", "(?mR)^a$", "(?U)a+", "(?u)a", "(?-u:a)", "a{", "(?i-x: a)"],
)  # fmt: skip
def test_a_pattern_that_could_mean_another_thing_is_not_taken(pattern: str) -> None:
    assert compile_pattern(pattern) is None
