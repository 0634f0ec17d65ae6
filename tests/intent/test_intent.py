"""Mandates from templates, and from the user's own words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard import Denied, Guard
from agentguard.catalog import Catalog
from agentguard.config import load
from agentguard.errors import ConfigurationError
from agentguard.intent import Derivation, Intent, Parameter, Template
from agentguard.model import WORDS, Arguments, Budget, ToolPath, ToolSpec


def spec(name: str, *arguments: str, sinks: tuple[str, ...] = ()) -> ToolSpec:
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in arguments}}
    return ToolSpec(name=name, path=ToolPath.WRITE, schema=schema, sinks=frozenset(sinks))


GET, REFUND, MAIL = (
    replace(spec("get", "order_id"), path=ToolPath.READ),
    spec("refund", "order_id", "amount"),
    spec("mail", "to", sinks=("to",)),
)
CATALOG = Catalog([GET, REFUND, MAIL])
ORDER = Parameter(pattern=r"\border (\d+)")
TEMPLATES = [
    Template(
        name="refund",
        when=(r"\brefund\b",),
        tools=("get", "refund"),
        args={"order_id": ("{order}",), "refund.amount": ("{amount}", 5)},
        params={"order": ORDER, "amount": Parameter(type="number", pattern=r"\$(\d[\d,.]*)", required=False)},
        budget=Budget(calls=4, writes=1),
    ),
    Template(name="look", when=(r"\blook\b",), tools=("get",), budget=Budget(calls=2)),
    Template(
        name="tell",
        when=(r"\btell\b",),
        tools=("mail",),
        counterparties=("{who}", "boss@x.example"),
        params={"who": Parameter(pattern=r"\S+@\S+\w", required=False)},
    ),
]
INTENT = Intent(TEMPLATES, CATALOG)


def allows(derivation: Derivation, tool: ToolSpec, **arguments: Any) -> bool:
    return derivation.mandate.objection(tool, Arguments.of(arguments)) is None


@pytest.mark.promise("derived-mandate")
def test_a_refund_is_for_the_order_in_the_users_words_and_no_other() -> None:
    derived = INTENT.derive("Please REFUND $2,200.50 for order 4711.")
    assert derived.kinds == ("refund",)
    assert derived.budget == Budget(calls=4, writes=1)
    assert allows(derived, REFUND, order_id="4711", amount=2200.5)
    assert allows(derived, REFUND, order_id="4711", amount=5)
    assert allows(derived, GET, order_id="4711")
    for arguments in ({"order_id": "4712", "amount": 5}, {"order_id": "4711", "amount": 6}, {"amount": 5}):
        assert not allows(derived, REFUND, **arguments)
    assert not allows(derived, GET, order_id="4712")
    assert not allows(derived, MAIL, to="a@x.example")


@pytest.mark.promise("derived-mandate")
def test_each_value_says_who_put_it_there() -> None:
    origins = INTENT.derive("refund $7 for order 4711").mandate.authors
    assert origins["args.refund.amount"] == {7.0: "user", 5: "template refund"}
    assert origins["args.refund.order_id"] == {"4711": "user"}
    assert origins["tools"] == {"get": "template refund", "refund": "template refund"}
    filled = INTENT.mandate("refund", order="4711").mandate.authors
    assert {who for values in filled.values() for who in values.values()} == {"application"}


@pytest.mark.promise("derived-mandate")
def test_what_the_words_do_not_say_refuses() -> None:
    derived = INTENT.derive("refund order 4711")
    assert allows(derived, REFUND, order_id="4711", amount=5)
    assert not allows(derived, REFUND, order_id="4711", amount=1)
    # a required one: this kind of task was not meant
    nothing = INTENT.derive("refund it")
    assert nothing.kinds == ()
    assert nothing.mandate.tools == frozenset()
    assert nothing.budget == Budget(calls=0, writes=0, questions=0, choice_bits=0)
    assert str(nothing).splitlines()[0] == "refund: not chosen, since the words do not say its order"


@pytest.mark.promise("derived-mandate")
@pytest.mark.parametrize("words", ["", "hello", "refundable order 1", "r e f u n d order 1"])
def test_words_of_no_kind_permit_nothing(words: str) -> None:
    derived = INTENT.derive(words)
    assert not any(allows(derived, name, order_id="1") for name in CATALOG)


@pytest.mark.promise("derived-mandate")
def test_where_two_kinds_give_a_tool_one_alone_would_have_permitted_it() -> None:
    both = INTENT.derive("Look at it and refund order 4711.")
    assert both.kinds == ("refund", "look")
    assert allows(both, GET, order_id="4712")
    assert not allows(both, REFUND, order_id="4712", amount=5)
    assert both.budget == Budget(calls=6, writes=1)


def test_a_tool_may_have_a_dot_in_its_name() -> None:
    dotted = spec("shop.refund", "order_id")
    template = Template(
        name="refund",
        when=("refund",),
        tools=("shop.refund",),
        args={"order_id": ("{order}",)},
        params={"order": ORDER},
    )
    derived = Intent([template], Catalog([dotted])).derive("refund order 4711")
    assert allows(derived, dotted, order_id="4711")
    assert not allows(derived, dotted, order_id="4712")


def test_counterparties_of_one_kind_hold_for_its_own_sinks() -> None:
    derived = INTENT.derive("tell ada@x.example, and refund order 4711")
    for to, allowed in (("ada@x.example", True), ("boss@x.example", True), ("eve@x.example", False)):
        assert allows(derived, MAIL, to=to) is allowed
    assert allows(derived, REFUND, order_id="4711", amount=5)
    assert derived.mandate.authors["args.mail.to"] == {
        "ada@x.example": "user",
        "boss@x.example": "template tell",
    }


def test_an_application_fills_a_template_with_what_fits_it() -> None:
    assert allows(INTENT.mandate("refund", order="4711", amount=[1, 2]), REFUND, order_id="4711", amount=2)
    for kind, values, problem in (
        ("refnd", {}, "there is no"),
        ("refund", {}, "needs order"),
        ("refund", {"order": 4711}, "order is no string"),
        ("refund", {"order": "4711", "amount": True}, "amount is no number"),
        ("refund", {"order": "4711", "ammount": 1}, "no parameter ammount"),
    ):
        with pytest.raises(ValueError, match=problem):
            INTENT.mandate(kind, **values)


def test_what_stands_behind_the_bound_was_not_said() -> None:
    assert INTENT.derive(" " * WORDS + "refund order 4711").kinds == ()


@pytest.mark.promise("derived-mandate")
@given(st.text(alphabet="refundtlok order12@x.\n\x1b[31m$,", max_size=60))
def test_the_same_words_mean_the_same_and_no_control_reaches_the_reader(words: str) -> None:
    one, two = INTENT.derive(words), Intent(TEMPLATES, CATALOG).derive(words)
    assert (one, str(one), one.mandate.authors) == (two, str(two), two.mandate.authors)
    assert all(character.isprintable() or character == "\n" for character in str(one))


def test_a_reader_sees_what_will_take_effect() -> None:
    assert str(INTENT.derive("refund $7 for order 4711")) == (
        "refund: by 'refund'\n"
        "tools: get, refund\n"
        "args.get.order_id: '4711' (user)\n"
        "args.refund.order_id: '4711' (user)\n"
        "args.refund.amount: 5 (template refund), 7 (user)\n"
        "calls: 4\n"
        "writes: 1"
    )


def of(**facts: Any) -> Template:
    return Template(**{"name": "it", "when": ("it",), "tools": ("refund",), **facts})


def derived(template: Template, words: str = "it", catalog: Catalog = CATALOG) -> Derivation:
    return Intent([template], catalog).derive(words)


@pytest.mark.promise("template-limits")
@pytest.mark.parametrize("name", ["ordr_id", "refnd.order_id"])
def test_a_limit_that_no_tool_takes_refuses_and_is_not_left_out(name: str) -> None:
    mistyped = derived(of(args={name: ("1",)}))
    assert not allows(mistyped, REFUND, order_id="1")


def test_no_template_gives_all_tools() -> None:
    with pytest.raises(ConfigurationError, match="gives"):
        of(tools=("*",), args={"order_id": ("1",)})


@pytest.mark.promise("template-limits")
@pytest.mark.parametrize("limit", [{"counterparties": ("a",)}, {"resources": ("orders",)}])
def test_a_tool_that_is_not_classified_yet_is_left_out_where_a_limit_needs_its_class(limit: Any) -> None:
    early = derived(of(tools=("mail",), **limit), catalog=Catalog())
    assert not allows(early, MAIL, to="a")
    assert "without mail" in str(early)


@pytest.mark.promise("template-limits")
def test_where_arguments_and_counterparties_are_limited_both_hold() -> None:
    both = derived(of(tools=("mail",), args={"to": ("a",)}, counterparties=("a", "eve")))
    assert allows(both, MAIL, to="a")
    assert not allows(both, MAIL, to="eve")


@pytest.mark.promise("template-limits")
def test_resources_of_one_kind_hold_beside_a_kind_without() -> None:
    template = of(resources=("orders",))
    other = Template(name="tell", when=("it",), tools=("mail",))
    both = Intent([template, other], CATALOG).derive("it")
    assert allows(both, MAIL, to="a")
    assert not allows(both, REFUND, order_id="1")  # its resource is another


def test_a_group_that_found_nothing_says_nothing() -> None:
    order = Parameter(pattern=r"order(?: (\d+))?")
    assert derived(of(args={"order_id": ("{o}",)}, params={"o": order}), "it, my order").kinds == ()


@pytest.mark.parametrize("flagged", [("no", "(?i)it"), ("(?P<v>no)", "(?P<v>it)")])
def test_each_pattern_is_one_of_its_own(flagged: tuple[str, ...]) -> None:
    assert derived(of(when=flagged)).kinds == ("it",)


@pytest.mark.promise("template-limits")
@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("$10.00", (10.0,)),
        ("$2,200.", (2200,)),
        ("9007199254740993", (9007199254740993,)),
        ("1,50", ()),  # one and a half, and not 150
        (".5", ()),
        ("nan", ()),
        ("inf", ()),
        ("1_0", ()),
        ("1e3", ()),
        ("٣", ()),
        ("9" * 400 + ".5", ()),
    ],
)
def test_a_number_is_read_exactly_or_not_at_all(words: str, numbers: tuple[float, ...]) -> None:
    assert Parameter(type="number", pattern=r"\S+").values_in(words) == numbers


@pytest.mark.parametrize("value", [None, {"1": 2}, [["1"]], b"1"])
def test_what_is_no_value_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(ValueError, match="order is no string"):
        INTENT.mandate("refund", order=value)


@pytest.mark.parametrize("name", ["name", "kind", "values"])
def test_a_parameter_may_have_any_name(name: str) -> None:
    template = of(args={"order_id": (f"{{{name}}}",)}, params={name: Parameter()})
    guard = Intent([template], CATALOG)
    assert allows(guard.mandate("it", **{name: "1"}), REFUND, order_id="1")


TOML = """\
[policy]
cedar = []
mode = "enforce"
[store]
kind = "memory"
[tools.refund]
path = "write"
args = { order_id = "string" }
sensitivity = "internal"
[tasks.refund]
when = ['\\brefund\\b']
tools = ["refund"]
args = { order_id = ["{order}"] }
params = { order = { pattern = 'order (\\d+)' } }
writes = 1
[tasks.other]
otherwise = true
tools = []
"""


def written(folder: Path, text: str = TOML) -> Path:
    file = folder / "agentguard.toml"
    file.write_text(text)
    return file


def test_a_guard_derives_by_its_file_and_a_derivation_takes_effect(tmp_path: Path) -> None:
    with_policy = TOML.replace("cedar = []", 'cedar = ["p.cedar"]')
    (tmp_path / "p.cedar").write_text(
        '@id("kind") permit (principal, action, resource) when { context.task.kinds.contains("refund") };'
    )
    guard = Guard.from_file(written(tmp_path, with_policy))

    def refund(order_id: str) -> str:
        """Refund an order."""
        return f"refunded {order_id}"

    (tool,) = guard.wrap(refund)
    words = "please refund order 4711"
    derived = guard.derive(words)
    with guard.task("Refund", subject="user:ada", words=words, mandate=derived, writes=5):
        with pytest.raises(Denied, match="outside the current task"):
            tool.invoke({"order_id": "4712"})
        assert tool.invoke({"order_id": "4711"}) == "refunded 4711"
        with pytest.raises(Denied, match="budget"):
            tool.invoke({"order_id": "4711"})
    with guard.task("Refund", subject="user:ada", mandate=guard.mandate("refund", order="1")):
        assert tool.invoke({"order_id": "1"}) == "refunded 1"
    assert guard.derive("hello").kinds == ("other",)
    guard.close()


@pytest.mark.parametrize(
    ("right", "wrong", "at", "hint"),
    [
        ('tools = ["refund"]', 'tools = ["refnd"]', "tasks.refund.tools", "use one of: refund"),
        ("{ order_id = [", "{ ordr = [", "tasks.refund.args", "order_id, refund.order_id"),
        ('"{order}"', '"{ordr}"', "tasks.refund.params", "use one of: order"),
        ('"{order}"', '"no. {order}"', "tasks.refund.params", "alone"),
        ("'\\brefund\\b'", "'('", "tasks.refund.when", "single quotes"),
        ("'order (\\d+)'", "'*'", "tasks.refund.params", "single quotes"),
        ("writes = 1", "writes = 1\notherwise = true", "tasks.other.otherwise", "remove it from one"),
        ("writes = 1", "writes = -1", "tasks.refund.writes", "how many calls that write"),
        ("writes = 1", "wirtes = 1", "tasks.refund.wirtes", "did you mean writes?"),
        ('"internal"', '"secret"', "tools.refund.sensitivity", "confidential"),
        ('"enforce"', '"off"', "policy.mode", "observe"),
    ],
)
def test_a_mistake_in_a_template_has_its_line_and_its_mend(
    tmp_path: Path, right: str, wrong: str, at: str, hint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(written(tmp_path, TOML.replace(right, wrong, 1)))
    assert at in caught.value.problem
    assert hint in caught.value.hint
    assert caught.value.line


@pytest.mark.parametrize(
    ("limits", "hint"),
    [
        ({"args": {"order_id": ("{ordr}",)}}, "add it to params"),
        ({"args": {"order_id": ("4711", "no. {order}")}}, "alone"),
        ({"counterparties": ("{order}@example.org",)}, "alone"),
    ],
)
def test_a_blank_that_nothing_would_fill_is_an_error(limits: dict[str, Any], hint: str) -> None:
    params = {"order": Parameter(type="string")}
    with pytest.raises(ConfigurationError) as caught:
        Template(name="refund", tools=("refund",), params=params, **limits)
    assert hint in caught.value.hint
    literal: dict[str, Any] = {
        name: {"a": ("{x} and {y}",)} if name == "args" else ("{x}-",) for name in limits
    }
    assert Template(name="refund", tools=("refund",), params=params, **literal).params == params


@pytest.mark.promise("template-limits")
def test_scopes_of_one_kind_hold_beside_a_kind_that_does_not_limit_them() -> None:
    catalog = Catalog(
        [replace(GET, scopes=frozenset({"read"})), replace(REFUND, scopes=frozenset({"refund", "all"}))]
    )
    kinds = [
        Template(name="refund", when=("refund",), tools=("refund",), scopes=("refund",)),
        Template(name="look", when=("look",), tools=("get",)),
    ]
    intent = Intent(kinds, catalog)
    assert intent.derive("refund").mandate.scopes == frozenset({"refund"})
    assert intent.derive("look and refund").mandate.scopes == frozenset({"refund", "read"})
    assert intent.derive("look").mandate.scopes is None
