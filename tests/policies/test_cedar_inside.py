"""Rules about what stands inside of arguments: their origins, the lengths of lists, and counts of entries."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard import ConfigurationError, Guard
from agentguard.analysis.explain import turning
from agentguard.audit.requests import recorded, replayed
from agentguard.model import (
    AccessRequest,
    Arguments,
    Identity,
    Json,
    Label,
    Mandate,
    Provenance,
    Sensitivity,
    TaskState,
    ToolPath,
    ToolSpec,
)
from agentguard.model.looks import looks_in
from agentguard.policies._question import question
from agentguard.policies.cedar import CedarPolicy, ReloadingCedar
from agentguard.policies.combine import Combine
from agentguard.policies.function import FunctionPolicy
from agentguard.ports.looks import looks_of
from agentguard.provenance.arguments import provenance_of
from agentguard.provenance.inside import places_in
from agentguard.provenance.joined import ABSENT
from agentguard.provenance.leaves import digest
from tests.doubles.texts import texts
from tests.tiers import examples

IDENTITY = Identity(subject="user:ada", actor="agent:one")
KINDS = ["certificate", "gift card", "credit_card"]
PAYMENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "kind": {"type": "string", "enum": KINDS},
        "user": {"type": "string"},
        "cabin": {"type": "string"},
    },
    "required": ["id"],
}
SCHEMA = {
    "type": "object",
    "properties": {
        "payments": {"type": "array", "items": PAYMENT},
        "seats": {"type": "array", "items": {"type": "string"}},
        "order": {
            "type": "object",
            "properties": {
                "items": {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]}
            },
        },
        "either": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]},
        "free": {"type": "array", "items": {"type": "object"}},
        "body": {"type": "string"},
    },
    "required": ["payments"],
}
BOOK = ToolSpec(name="book", path=ToolPath.WRITE, schema=SCHEMA)
TASK = TaskState(
    id="t",
    purpose="p",
    identity=IDENTITY,
    mandate=Mandate.of({"tools": "*"}),
    deadline=2e9,
    words="Pay with card_7, see https://good.example/a",
    untrusted=True,
    sensitivity=Sensitivity.INTERNAL,
)


def policy(condition: str) -> CedarPolicy:
    rule = f'@id("rule")\npermit (principal, action == Action::"book", resource)\nwhen {{ {condition} }};'
    cedar = CedarPolicy.from_text(rule)
    cedar.check_tools([BOOK])
    return cedar


def request(values: dict[str, Json], **trusted: list[str]) -> AccessRequest:
    labels: dict[str, list[Label]] = {}
    for source, known in trusted.items():
        for value in known:
            label = Label(digest("t", value), source, trusted=True)
            labels.setdefault(label.digest, []).append(label)
    arguments, task = Arguments.of(values), replace(TASK, labels=len(labels))
    places = places_in(values, looks_in(BOOK.declared), BOOK.declared)
    provenance = provenance_of(BOOK, arguments, task, labels, places).arguments
    return AccessRequest(identity=IDENTITY, tool=BOOK, arguments=arguments, task=task, provenance=provenance)


def permits(condition: str, values: dict[str, Json], **trusted: list[str]) -> bool:
    return policy(condition).decide(request(values, **trusted)).permitted


ORIGINS = "context.provenance.args"
OWN = [{"id": "card_7"}, {"id": "card_7", "cabin": "x"}]


@pytest.mark.promise("origins-inside")
@pytest.mark.parametrize(
    ("condition", "good", "bad"),
    [
        (f"{ORIGINS}.payments.id.user", OWN, [*OWN, {"id": "x"}]),
        (f'{ORIGINS}["payments"]["id"]["user"]', OWN, [*OWN, {"id": "x"}]),
        (f"{ORIGINS}.payments\n  .id // a comment\n.user", OWN, [*OWN, {"id": "x"}]),
        (f"({ORIGINS}.payments).id.user", OWN, [*OWN, {"id": "x"}]),
        (f"{{a: {ORIGINS}.payments}}.a.id.user", OWN, [*OWN, {"id": "x"}]),
        (f'{ORIGINS}.payments["i\\u{{64}}"].user', OWN, [*OWN, {"id": "x"}]),
        (f'{ORIGINS}.payments.id.sources_of_each.contains("user")', OWN, [*OWN, {"id": "x"}]),
        (f"{ORIGINS}.payments.user_.trusted", OWN, [{"id": "card_7", "user": "x"}]),
        (f"{ORIGINS}.payments has cabin && {ORIGINS}.payments.cabin.trusted", OWN[:1], OWN),
        (f"[{ORIGINS}.payments.id].contains({ORIGINS}.payments.cabin)", [{"id": "x", "cabin": "x"}], OWN),
    ],
)
def test_however_a_rule_asks_where_a_field_came_from_it_is_told(
    condition: str, good: list[Json], bad: list[Json]
) -> None:
    assert permits(condition, {"payments": good})
    assert not permits(condition, {"payments": bad})


@pytest.mark.promise("origins-inside")
def test_two_records_that_a_rule_compares_as_a_whole_are_there_as_a_whole() -> None:
    condition = f"[{ORIGINS}.seats].contains({ORIGINS}.body)"
    assert permits(condition, {"payments": [], "seats": ["x"], "body": "x"})
    link = {"payments": [], "seats": ["at https://good.example/a"], "body": "at https://evil.example/a"}
    assert not permits(condition, link), "their own provenance is the same, and that of the links is not"


@pytest.mark.promise("rule-names-exist")
@pytest.mark.parametrize(
    ("condition", "hint"),
    [
        (f"{ORIGINS}.payments.idd.user", "did you mean id?"),
        (f"{ORIGINS}.payments.id.usr", "did you mean user?"),
        (f"{ORIGINS}.body.link.trusted", "did you mean links?"),
        (f"{ORIGINS}.payments.id has usr", "did you mean user?"),
        (f"!({ORIGINS}.payments has idd)", "did you mean id?"),
        (f'{ORIGINS}.payments.id.sources_of_each.contains("boook.x")', "did you mean book?"),
        ("context.sizes.payment < 3", "did you mean payments?"),
        ("context.sizes.order.itms < 3", "did you mean items?"),
        ("context.sizes.either < 3", "there are"),
        ("context.counts.payments.knd.certificate < 3", "did you mean kind?"),
        ("context.counts.payments.kind.certficate < 3", "did you mean certificate?"),
        ("!(context.sizes has seat)", "did you mean seats?"),
        ("!(context.counts.payments has knd)", "did you mean kind?"),
        ("!(context.counts.payments.kind has certficate)", "did you mean certificate?"),
    ],
)
def test_a_name_that_does_not_exist_is_an_error_with_its_line(condition: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        policy(condition)
    assert error.value.line == 3
    assert hint in str(error.value)


def test_a_tool_without_lists_has_no_sizes() -> None:
    plain = ToolSpec(name="plain", path=ToolPath.WRITE, schema={"properties": {"a": {"type": "string"}}})
    cedar = CedarPolicy.from_text(
        '@id("rule") permit (principal, action, resource)'
        " when { context has sizes && context.sizes has seats };"
    )
    cedar.check_tools([BOOK, plain])
    wrong = CedarPolicy.from_text(
        '@id("rule") permit (principal, action, resource) when { context.sizes.seats < 3 };'
    )
    with pytest.raises(ConfigurationError, match="has no list"):
        wrong.check_tools([plain])


# --- lengths and counts

ORDER: dict[str, Json] = {"payments": [], "order": {"items": [1]}}


@pytest.mark.promise("lists-counted")
@pytest.mark.parametrize(
    ("condition", "good", "bad"),
    [
        ("context.sizes.payments <= 2", {"payments": [{"id": "a"}] * 2}, {"payments": [{"id": "a"}] * 3}),
        ("context.sizes.seats == 0", {"payments": []}, {"payments": [], "seats": ["a"]}),
        ("context.sizes.order.items == 2", {"payments": [], "order": {"items": [1, 1]}}, {"payments": []}),
        ("context.sizes.order.items == 0", {"payments": [], "order": {"items": None}}, ORDER),
        ("context.sizes.free == 1", {"payments": [], "free": [{"a": 1}]}, {"payments": []}),
        (
            "context.counts.payments.kind.certificate <= 1",
            {"payments": [{"id": "a", "kind": "certificate"}, {"id": "b", "kind": "credit_card"}]},
            {"payments": [{"id": "a", "kind": "certificate"}] * 2},
        ),
        (
            'context.counts.payments.kind["gift card"] <= 3 && context.sizes.payments < 9',
            {"payments": [{"id": "a", "kind": "gift card"}] * 3},
            {"payments": [{"id": "a", "kind": "gift card"}] * 4},
        ),
        ("context.counts.seats.business == 1", {"payments": [], "seats": ["business"]}, {"payments": []}),
        (
            "context.counts.payments.cabin.business == context.sizes.payments",
            {"payments": [{"id": "a", "cabin": "business"}]},
            {"payments": [{"id": "a", "cabin": "business"}, {"id": "a"}]},
        ),
        (
            'context.counts.payments.kind == {certificate: 1, "gift card": 0, credit_card: 0}',
            {"payments": [{"id": "a", "kind": "certificate"}]},
            {"payments": [{"id": "a", "kind": "certificate"}, {"id": "a", "kind": "gift card"}]},
        ),
        (
            'context.counts.payments["k\\u{69}nd"].certificate == 1',
            {"payments": [{"id": "a", "kind": "certificate"}]},
            {"payments": []},
        ),
    ],
)
def test_a_rule_counts_what_is_in_a_list(condition: str, good: dict[str, Json], bad: dict[str, Json]) -> None:
    assert permits(condition, good)
    assert not permits(condition, bad)


@pytest.mark.promise("lists-counted")
def test_a_value_that_is_no_list_is_refused_where_a_rule_counts() -> None:
    decision = policy("context.sizes.free < 3").decide(request({"payments": [], "free": {"a": 1}}))
    assert not decision.permitted
    assert "'free' is not a list" in decision.reason


KIND = st.sampled_from([*KINDS, "other"])
CHOICES = {"kind": st.sampled_from(KINDS), "cabin": KIND}
ENTRY = st.fixed_dictionaries({"id": st.text("ab", max_size=2)}, optional=CHOICES)


@pytest.mark.promise("lists-counted")
@settings(deadline=None, max_examples=examples(300))
@given(
    st.lists(ENTRY, max_size=8), st.integers(0, 8), st.sampled_from(KINDS), st.sampled_from(["kind", "cabin"])
)
def test_counts_and_lengths_are_those_that_python_counts(
    entries: list[dict[str, str]], most: int, value: str, field: str
) -> None:
    name = json.dumps(value)
    assert permits(f"context.sizes.payments <= {most}", {"payments": entries}) is (len(entries) <= most)
    count = Counter(entry.get(field) for entry in entries)[value]
    assert permits(f"context.counts.payments.{field}[{name}] <= {most}", {"payments": entries}) is (
        count <= most
    )


@settings(deadline=None, max_examples=examples(150))
@given(texts(5), texts(5), texts(5))
def test_any_names_make_a_valid_schema(argument: str, field: str, value: str) -> None:
    items = {"type": "object", "properties": {field: {"enum": [value], "type": "string"}}}
    schema = {"properties": {argument: {"type": "array", "items": items}}}
    cedar = CedarPolicy.from_text('@id("rule") permit (principal, action, resource);')
    cedar.check_tools([ToolSpec(name="any", path=ToolPath.READ, schema=schema)])
    assert cedar.schema


# --- what is worked out


@pytest.mark.promise("looks-bounded")
@pytest.mark.parametrize(
    ("condition", "paths"),
    [
        ("true", set()),
        ("context.args.payments.isEmpty()", set()),
        (f"{ORIGINS}.payments.trusted && context.args.seats.isEmpty()", set()),
        (f"{ORIGINS}.payments.id.trusted", {"payments.id"}),
        (f"{ORIGINS} has seats && {ORIGINS}.seats.trusted", set()),
        (f"{ORIGINS}.body.links.trusted", {"body:links"}),
        (f"{ORIGINS}.seats.trusted && {ORIGINS}.body.accounts.user", {"body:accounts", "seats:accounts"}),
    ],
)
def test_a_policy_says_at_which_places_its_rules_look(condition: str, paths: set[str]) -> None:
    condition = condition.replace("context.args.seats.", "context.args has seats && context.args.seats.")
    looks = policy(condition).looks_for(BOOK)
    found = {f"{name}:{kind}" for name, look in looks.items() for kind in look.texts}
    found |= {f"{name}.{field}" for name, look in looks.items() for field in look.fields}
    assert found <= paths
    assert bool(found) is bool(paths)


def test_a_policy_that_does_not_say_where_it_looks_may_look_everywhere(tmp_path: Path) -> None:
    everywhere = looks_in(BOOK.declared)
    function = FunctionPolicy(lambda request: True, looks_inside=True)
    assert looks_of(function, BOOK) == everywhere
    cedar = policy(f"{ORIGINS}.body.links.trusted")
    assert looks_of(Combine([cedar, function], "unanimous"), BOOK) == everywhere
    both = Combine(
        [cedar, policy(f"{ORIGINS}.body.accounts.trusted && {ORIGINS}.payments.id.user")], "unanimous"
    )
    united = looks_of(both, BOOK)
    assert united["body"].texts == ("links", "accounts")
    assert set(united["payments"].fields) == {"id"}
    reloading = ReloadingCedar(lambda: cedar)
    reloading.check_tools([BOOK])
    assert looks_of(reloading, BOOK) == cedar.looks_for(BOOK)


@pytest.mark.promise("looks-bounded")
@pytest.mark.parametrize(
    "look",
    [
        lambda origin: all(part.trusted for part in origin.texts.values()),
        lambda origin: all(part.trusted for _, part in origin.inside.items()),
        lambda origin: "links" not in origin.texts or origin.texts["links"].trusted,
        lambda origin: origin.texts.get("links", ABSENT).trusted,
        lambda origin: not origin.texts,
        lambda origin: len(origin.inside) < 1,
        lambda origin: dict(origin.texts) == {},
        lambda origin: origin.texts == {},
    ],
)
async def test_a_function_that_does_not_say_that_it_looks_inside_takes_nothing_for_nothing(look: Any) -> None:
    """To be told nothing of a link is not to be told that there is none."""
    evil = request({"payments": [], "body": "https://evil.example"})
    silent = FunctionPolicy(lambda asked: bool(look(asked.provenance["body"])), version="1")
    assert silent.looks_for(BOOK) == {}
    for decision in (silent.decide(evil), await silent.adecide(evil)):
        assert not decision.permitted
        assert "NotLookedInside" in decision.reason
    asking = FunctionPolicy(lambda asked: asked.provenance["body"].texts["links"].user, looks_inside=True)
    assert not asking.decide(evil).permitted
    assert asking.decide(request({"payments": [], "body": "https://good.example/a"})).permitted


@pytest.mark.promise("origins-inside")
def test_what_a_request_leaves_out_is_nobodys() -> None:
    """Rules that are replaced between the request and the decision may look where the former did not."""
    whole = request({"payments": OWN})
    without = {name: replace(origin, inside={}, texts={}) for name, origin in whole.provenance.items()}
    cedar = policy(f"{ORIGINS}.payments.id.user")
    assert cedar.decide(whole).permitted
    assert not cedar.decide(replace(whole, provenance=without)).permitted
    assert not cedar.decide(replace(whole, provenance={})).permitted


# --- the other forms of a request


def test_a_request_with_what_is_inside_is_recorded_and_replayed() -> None:
    whole = request({"payments": OWN, "body": "https://good.example/a"}, cards=["card_7"])
    assert replayed(json.loads(json.dumps(recorded(whole))), BOOK).provenance == whole.provenance


def test_another_pdp_is_sent_what_rules_in_cedar_see() -> None:
    whole = request(
        {"payments": [{"id": "card_7", "user": "x"}], "body": "https://good.example/a x@evil.example"}
    )
    args: Mapping[str, Any] = question(whole)["context"]["provenance"]["args"]
    assert args["payments"]["id"]["user"] is True
    assert args["payments"]["user_"]["user"] is False
    assert args["payments"]["user"] is False
    assert (args["body"]["links"]["user"], args["body"]["addresses"]["user"]) == (True, False)


@pytest.mark.parametrize(
    ("condition", "values", "words"),
    [
        (f"{ORIGINS}.payments.id.user", {"payments": [{"id": "x"}]}, "payments.id was named by the user"),
        (f"{ORIGINS}.body.links.trusted", {"payments": [], "body": "https://evil.example"}, "links in body"),
        ("context.sizes.payments <= 1", {"payments": OWN}, "payments were [{"),
    ],
)
def test_explain_names_the_place_inside_that_would_turn_the_decision(
    condition: str, values: dict[str, Json], words: str
) -> None:
    cedar = policy(condition)
    turned = turning(cedar.decide, request(values), rules=[rule.text for rule in cedar.rules])
    assert any(words in str(turn) for turn in turned), [*map(str, turned)]


def test_an_origin_from_elsewhere_holds_for_all_that_is_inside() -> None:
    origin = request({"payments": OWN}).provenance["payments"].from_elsewhere(Provenance(user=False))
    assert not origin.inside["id"].user
    assert not origin.inside["id"].texts["links"].user


def test_a_template_limits_a_field_and_a_mistyped_one_is_an_error_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "agentguard.toml"
    text = (
        '[tools.book]\npath = "write"\n[tools.book.args]\ntype = "object"\n[tools.book.args.properties]\n'
        'payments = { type = "array", items = { type = "object", '
        'properties = { id = { type = "string" } } } }\n'
        '[tasks.book]\nwhen = ["book"]\ntools = ["book"]\nargs = { "payments.id" = ["{card}"] }\n'
        "params = { card = { pattern = 'card_\\d' } }\n"
    )
    config.write_text(text)
    with Guard.from_file(config) as guard:
        mandate = guard.derive("please book with card_7").mandate
        spec = guard.catalog.tool("book")
    assert spec is not None
    assert mandate.objection(spec, Arguments.of({"payments": [{"id": "card_7"}]})) is None
    assert mandate.objection(spec, Arguments.of({"payments": [{"id": "card_8"}]})) is not None
    config.write_text(text.replace('"payments.id"', '"payments.idd"'))
    with pytest.raises(ConfigurationError, match=r"payments\.idd") as error:
        Guard.from_file(config)
    assert error.value.line is not None
