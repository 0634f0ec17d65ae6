"""Where what stands inside of an argument came from: the fields of objects, and each entry of a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from time import thread_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.model import (
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
from agentguard.model.declared import declared_in
from agentguard.model.looks import DEEPEST, MOST_PLACES, Look, looks_in
from agentguard.provenance.arguments import provenance_of, value_digests
from agentguard.provenance.inside import places_in
from agentguard.provenance.joined import ABSENT, unknown_provenance
from agentguard.provenance.leaves import digest
from tests.tiers import examples

ADA = Identity(subject="user:ada", actor="agent://a")
PAYMENT = {
    "type": "object",
    "properties": {
        "payment_id": {"type": "string"},
        "amount": {"type": "number"},
        "note": {"type": ["string", "null"]},
        "payer": {"type": "object", "properties": {"email": {"type": "string"}}},
    },
    "required": ["payment_id"],
}
SCHEMA = {
    "type": "object",
    "properties": {
        "payments": {"type": "array", "items": PAYMENT},
        "main": PAYMENT,
        "nested": {"type": "array", "items": {"type": "array", "items": PAYMENT}},
        "to": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["payments"],
}
BOOK = ToolSpec(name="book", path=ToolPath.WRITE, schema=SCHEMA)
TASK = TaskState(
    id="t",
    purpose="p",
    identity=ADA,
    mandate=Mandate.of({"tools": "*"}),
    deadline=2e9,
    words="Pay with card_7 for ada@corp.example",
    untrusted=True,
    sensitivity=Sensitivity.INTERNAL,
)
UNKNOWN = unknown_provenance(TASK)


def labels(task: TaskState, **sources: list[str]) -> dict[str, list[Label]]:
    """Return labels of values by their sources; those of a source that begins with my are trusted."""
    found: dict[str, list[Label]] = {}
    for source, values in sources.items():
        for value in values:
            label = Label(digest(task.root_id, value), source, source.startswith("my"))
            found.setdefault(label.digest, []).append(label)
    return found


def origins(
    values: dict[str, Json],
    task: TaskState = TASK,
    spec: ToolSpec = BOOK,
    looks: Mapping[str, Look] | None = None,
    **sources: list[str],
) -> dict[str, Provenance]:
    """Return the provenance of arguments, with that of *looks*, or of all that is inside of them."""
    read = labels(task, **sources)
    task = replace(task, labels=len(read))
    looks = looks_in(spec.declared) if looks is None else looks
    arguments, places = Arguments.of(values), places_in(values, looks, spec.declared)
    known = {name: read[name] for name in value_digests(task, arguments, places) if name in read}
    return provenance_of(spec, arguments, task, known, places).arguments


@pytest.mark.promise("each-entry")
def test_a_list_with_one_own_and_one_foreign_id_is_not_all_from_the_own_source() -> None:
    mixed: dict[str, Json] = {"payments": [{"payment_id": "p1"}, {"payment_id": "x9"}]}
    place = origins(mixed, my_cards=["p1"], web=["x9"])["payments"].inside["payment_id"]
    assert place.sources == {"my_cards", "web"}, "the union holds the own source all the same"
    assert place.sources_of_each == frozenset()
    assert (place.user, place.trusted, place.untrusted) == (False, False, True)
    own: dict[str, Json] = {"payments": [{"payment_id": "p1"}, {"payment_id": "p2"}]}
    each = origins(own, my_cards=["p1", "p2"], web=["p2"])["payments"].inside["payment_id"]
    assert each.sources_of_each == {"my_cards"}
    assert each.trusted


def test_a_plain_list_says_what_holds_of_each_of_its_entries() -> None:
    both: dict[str, Json] = {"payments": [], "to": ["ada@corp.example", "bob@corp.example"]}
    mixed = origins(both, my_contacts=["bob@corp.example"])
    assert mixed["to"].sources == {"user", "my_contacts"}
    assert mixed["to"].sources_of_each == frozenset()
    assert mixed["to"].trusted, "each of them is vouched for by somebody"
    assert mixed["to"].vouched_by == frozenset()
    same = origins({"payments": [], "to": ["ada@corp.example"]}, my_contacts=["ada@corp.example"])
    assert same["to"].sources_of_each == same["to"].vouched_by == {"user", "my_contacts"}
    page = origins({"payments": [], "to": ["ada@corp.example"]}, web=["ada@corp.example"])
    assert page["to"].sources_of_each == {"user", "web"}
    assert page["to"].vouched_by == {"user"}


@pytest.mark.promise("origins-inside")
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"payments": [{"payment_id": "card_7", "note": "of the model"}]}, (True, True)),
        ({"payments": [{"payment_id": "card_7"}, {"payment_id": "card_8"}]}, (False, False)),
        ({"payments": [{"payment_id": "card_8", "note": "card_7"}]}, (False, False)),
        ({"payments": [{"payment_id": ""}]}, (False, False)),
        ({"payments": [{"payment_id": None}]}, (False, False)),
        ({"payments": [{"payment_id": "my_p"}]}, (False, True)),
        ({"payments": [{"payment_id": ["card_7", ["card_8"]]}]}, (False, False)),
        ({"payments": [{"payment_id": {"card_7": "card_7"}}]}, (True, True)),
        ({"payments": [{"payment_id": {"secret": "card_7"}}]}, (False, False)),
    ],
)
def test_a_field_is_the_users_or_trusted_where_all_its_values_are(
    values: dict[str, Json], expected: tuple[bool, bool]
) -> None:
    place = origins(values, my_cards=["my_p"])["payments"].inside["payment_id"]
    assert (place.user, place.trusted) == expected


@pytest.mark.promise("origins-inside")
@pytest.mark.parametrize("name", ["payments", "main", "nested"])
@pytest.mark.parametrize("id_", ["card_7", "card_8"])
def test_a_field_is_found_in_an_object_in_a_list_and_in_a_list_of_lists(name: str, id_: str) -> None:
    payment = {"payment_id": id_, "payer": {"email": id_}}
    value = {"payments": [payment], "main": payment, "nested": [[payment], []]}[name]
    place = origins({"payments": [], name: value})[name]
    assert place.inside["payment_id"].user is (id_ == "card_7")
    assert place.inside["payer"].inside["email"].user is (id_ == "card_7")
    assert place.inside["payer"].user is (id_ == "card_7")


def test_what_no_entry_has_counts_as_an_absent_argument() -> None:
    found = origins({"payments": [{"payment_id": "x"}]})
    assert found["payments"].inside["payer"] == replace(
        ABSENT, inside=found["payments"].inside["payer"].inside, texts=found["payments"].inside["payer"].texts
    )
    assert found["payments"].inside["payer"].inside["email"].user
    assert found["main"].inside["payment_id"].user, "the argument itself is absent"


@pytest.mark.promise("origins-inside")
def test_what_is_beyond_the_bounds_of_a_value_is_nobodys() -> None:
    """Of 20,001 parts the last may hold anything."""
    fields = {"payment_id": Look({}), "payer": Look({"email": Look({})}), "note": Look({}, ("links",))}
    looks = {"payments": Look(fields)}
    wide: list[Json] = [{"payment_id": "card_7"}] * 9_999
    assert origins({"payments": wide}, looks=looks)["payments"].inside["payment_id"].user
    for value in (wide * 3, [[wide, wide, wide]]):
        place = origins({"payments": value}, looks=looks)["payments"]
        assert not place.inside["payment_id"].user
        assert not place.inside["payer"].inside["email"].user
        assert not place.inside["note"].texts["links"].trusted


def test_the_choice_of_values_that_says_too_much_makes_what_is_inside_as_sensitive_as_the_task() -> None:
    words = " ".join(f"word{n}" for n in range(4_000))
    task = replace(TASK, words=words)
    values: dict[str, Json] = {"payments": [{"payment_id": f"word{n}"} for n in range(30)]}
    place = origins(values, task)["payments"]
    assert place.inside["payment_id"].sensitivity is Sensitivity.INTERNAL
    few = origins({"payments": [{"payment_id": "word1"}]}, task)["payments"]
    assert few.inside["payment_id"].sensitivity is Sensitivity.PUBLIC


# --- the places of a schema


def test_a_recursive_schema_has_places_to_a_fixed_depth() -> None:
    node = {"type": "object", "properties": {"name": {"type": "string"}, "child": {"$ref": "#/$defs/node"}}}
    schema = {"properties": {"root": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}}
    look, depth = looks_in(declared_in(schema))["root"], 0
    while "child" in look.fields:
        look, depth = look.fields["child"], depth + 1
    assert depth == DEEPEST


def test_a_schema_of_a_server_has_so_many_places_and_is_read_in_bounded_time() -> None:
    inner = {f"f{n}": {"type": "object", "properties": {f"g{m}": {} for m in range(40)}} for n in range(400)}
    started = thread_time()
    looks = looks_in(declared_in({"properties": {"a": {"type": "object", "properties": inner}}}))
    assert thread_time() - started < 1
    assert sum(1 for _ in _places(looks)) <= MOST_PLACES + 1


def _places(looks: Mapping[str, Look]) -> Iterator[Look]:
    for look in looks.values():
        yield look
        yield from _places(look.fields)


def test_a_number_has_no_texts_and_what_may_be_a_text_has() -> None:
    looks = looks_in(declared_in(SCHEMA))
    assert looks["payments"].fields["amount"].texts == ()
    assert looks["payments"].fields["note"].texts == ("links", "addresses", "accounts")
    assert looks["to"].texts == ("links", "addresses", "accounts")


# --- mandates


LIMITED = Mandate.of({"tools": ["book"], "args": {"payments.payment_id": ["p1", "p2"]}})


@pytest.mark.promise("limits-inside")
@pytest.mark.parametrize(
    ("values", "permitted"),
    [
        ({"payments": [{"payment_id": "p1"}, {"payment_id": "p2"}]}, True),
        ({"payments": [{"payment_id": "p1"}, {"payment_id": "x"}]}, False),
        ({"payments": [{"payment_id": "p1"}, {}]}, False),
        ({"payments": [{"payment_id": "p1"}, {"payment_id": None}]}, False),
        ({"payments": [{"payment_id": ["p1", "p2"]}]}, True),
        ({"payments": [{"payment_id": {"p1": "p1"}}]}, False),
        ({"payments": [{"payment_id": "p1"}, "p1"]}, False),
        ({"payments": [[{"payment_id": "p1"}], []]}, False),
        ({"payments": []}, False),
        ({"payments": None}, False),
        ({"payments": "p1"}, False),
        ({}, False),
        ({"payments.payment_id": "p1"}, True),
        ({"payments.payment_id": "x", "payments": [{"payment_id": "p1"}]}, False),
    ],
)
@pytest.mark.parametrize("prefix", ["", "book."])
def test_a_limit_of_a_field_holds_for_every_object_of_the_list(
    values: dict[str, Json], permitted: bool, prefix: str
) -> None:
    mandate = Mandate.of({"tools": ["book"], "args": {f"{prefix}payments.payment_id": ["p1", "p2"]}})
    assert (mandate.objection(BOOK, Arguments.of(values)) is None) is permitted


@pytest.mark.promise("limits-inside")
@pytest.mark.parametrize(
    "name", ["payments.paymentid", "payments.payment_id.x", "main.", "payments..payment_id"]
)
def test_a_limit_of_a_field_that_does_not_exist_refuses(name: str) -> None:
    mandate = Mandate.of({"tools": ["book"], "args": {name: ["p1"]}})
    values = {"payments": [{"payment_id": "p1"}], "main": {"payment_id": "p1"}}
    assert mandate.objection(BOOK, Arguments.of(values)) is not None


def test_a_limit_of_a_field_is_no_limit_of_a_tool_without_the_argument() -> None:
    other = ToolSpec(name="other", path=ToolPath.READ, schema={"properties": {"q": {"type": "string"}}})
    mandate = Mandate.of({"tools": ["book", "other"], "args": {"payments.payment_id": ["p1"]}})
    assert mandate.objection(other, Arguments.of({"q": "x"})) is None


@pytest.mark.promise("limits-inside")
def test_a_limit_of_a_field_vouches_for_the_values_of_that_field_and_of_no_other() -> None:
    task = replace(TASK, mandate=LIMITED, words="")
    found = origins({"payments": [{"payment_id": "p1"}]}, task)["payments"]
    assert found.trusted
    assert found.inside["payment_id"].sources == {"application"}
    other = origins({"payments": [{"payment_id": "p1", "note": "p1"}]}, task)["payments"]
    assert not other.trusted
    assert other.inside["payment_id"].trusted
    assert not other.inside["note"].trusted


# --- against a reference of a page

IDS = st.sampled_from(["card_7", "p1", "p2", "x", "", None, 7, True])
PAYERS = st.fixed_dictionaries({}, optional={"email": IDS})
OBJECTS = st.fixed_dictionaries({}, optional={"payment_id": IDS, "note": IDS, "payer": PAYERS, "zz": IDS})
VALUES = st.recursive(OBJECTS, lambda inner: st.lists(inner, max_size=4), max_leaves=8)
OPEN = {
    "properties": {
        "items": {
            "anyOf": [
                {"type": "array", "items": {"$ref": "#/properties/items"}},
                {
                    "properties": {
                        "payment_id": {},
                        "note": {},
                        "payer": {"properties": {"email": {}}, "required": ["email"]},
                    },
                    "required": ["payment_id", "note", "payer"],
                },
            ]
        }
    },
    "required": ["items"],
}


def reference(value: Any, path: tuple[str, ...], vouched: Mapping[Any, set[str]]) -> list[set[str]] | None:
    """Return the sources of each value at a path; nothing if no object has the path."""
    if isinstance(value, list) and (path or value):
        parts = [reference(entry, path, vouched) for entry in value]
        there = [part for part in parts if part is not None]
        return [one for part in there for one in part] if there else None
    if path:
        is_there = isinstance(value, dict) and path[0] in value
        return reference(value[path[0]], path[1:], vouched) if is_there else None
    if isinstance(value, dict) and value:
        names = [vouched.get(name, set()) for name in value if name != "email"]
        return [*names, *(one for inner in value.values() for one in reference(inner, (), vouched) or ())]
    return [set() if value is True or isinstance(value, dict | list) else vouched.get(value, set())]


@pytest.mark.promise("origins-inside")
@settings(deadline=None, max_examples=examples(600))
@given(VALUES)
def test_origins_inside_are_those_of_all_values_at_the_path(value: Any) -> None:
    spec = ToolSpec(name="open", path=ToolPath.WRITE, schema=OPEN)
    vouched: dict[Any, set[str]] = {
        "card_7": {"user"},
        "p1": {"my_cards"},
        "p2": {"my_cards", "web"},
        "x": {"web"},
    }
    found = origins({"items": value}, spec=spec, my_cards=["p1", "p2"], web=["x", "p2"])["items"]
    for path in (("payment_id",), ("note",), ("payer",), ("payer", "email")):
        place = found
        for name in path:
            place = place.inside[name]
        sources = reference(value, path, vouched)
        if sources is None:
            assert place.user
            assert not place.sources | place.sources_of_each
            continue
        assert place.sources == set().union(*sources)
        assert place.sources_of_each == (set.intersection(*sources) if sources else set())
        assert place.user is all("user" in one for one in sources)
        assert place.trusted is all(one & {"user", "my_cards"} for one in sources)
        assert place.untrusted is (not place.trusted)
