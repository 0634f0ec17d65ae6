"""A slice answers as the whole set does, and a set of rules is replaced whole or not at all."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from cedarpy import Entities, PolicySet, is_authorized, policies_to_pst
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.errors import ConfigurationError
from agentguard.model import (
    AccessRequest,
    Arguments,
    Decision,
    Effect,
    Identity,
    Mandate,
    TaskState,
    ToolPath,
    ToolSpec,
)
from agentguard.policies.cedar import CedarPolicy, ReloadingCedar
from agentguard.policies.cedar.head import head_of, opening_in, opening_of
from agentguard.policies.cedar.slices import Slice, slices
from agentguard.policies.cedar.source import read_text
from agentguard.policies.cedar.types import shape_of
from agentguard.policies.cedar.validation import validate
from agentguard.ports import CatalogAware, Policy
from tests.benchmarks.policies import measure
from tests.tiers import examples

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TOOLS = tuple(
    ToolSpec(name=name, path=path, resource=resource, schema=SCHEMA)
    for name, path, resource in [
        ("pay", ToolPath.WRITE, "bank"),
        ("send", ToolPath.WRITE, "mail"),
        ("look", ToolPath.READ, None),
        ("list", ToolPath.READ, "bank"),
        ("drop", ToolPath.ESCALATION, "bank"),
    ]
)
NAMES = [spec.name for spec in TOOLS]
ENTITIES = Entities.from_json_str(
    json.dumps(
        [
            {
                "uid": {"type": "Action", "id": t.name},
                "attrs": {},
                "parents": [{"type": "Action", "id": t.path}],
            }
            for t in TOOLS
        ]
    )
)
MOST = 2**63 - 1
ERRS = f"context.args.n + {MOST} > 5"  # where n is above 0


@dataclass(frozen=True)
class Made:
    """One generated policy; `text` with its head, `open` with the same head among its conditions."""

    effect: str
    head: tuple[str, str, str]
    rest: str
    note: str

    def text(self, name: str) -> str:
        return f'@id("{name}") {self.note} {self.effect} ({", ".join(self.head)}) {self.rest};'

    def open(self, name: str) -> str:
        tests = " ".join(f"when {{ {part} }}" for part in self.head if " " in part)
        return f'@id("{name}") {self.note} {self.effect} (principal, action, resource) {tests} {self.rest};'


def uids(kind: str, names: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from([f'{kind}::"{name}"' for name in names])


def several(names: list[str]) -> st.SearchStrategy[str]:
    lists = st.lists(uids("Action", names), min_size=1, max_size=3)
    return lists.map(lambda action_ids: f"action in [{', '.join(action_ids)}]")


PATHS = [str(path) for path in ToolPath]
PRINCIPALS = ["principal", 'principal == Agent::"me"', 'principal == Agent::"you"', "principal is Agent"]
ACTIONS = (
    st.just("action")
    | uids("Action", NAMES).map("action == {}".format)
    | uids("Action", [*NAMES, *PATHS]).map("action in {}".format)
    | several([*NAMES, *PATHS])
)
PLACES = uids("Resource", ["bank", "mail", "look"])
RESOURCES = (
    st.sampled_from(["resource", "resource is Resource"])
    | PLACES.map("resource == {}".format)
    | PLACES.map("resource in {}".format)
    | PLACES.map("resource is Resource in {}".format)
)
# what the type check would refuse, and evaluation does not: other types, names of nothing, no action
STRANGE_ACTIONS = ACTIONS | st.sampled_from(
    [
        'action == Action::"write"',
        'action == Other::Action::"pay"',
        'action in Action::"ghost"',
        "action in []",
    ]
)
STRANGE_RESOURCES = RESOURCES | st.sampled_from(
    ["resource is Other", 'resource is Other in Resource::"bank"', 'resource == Other::"bank"']
)
RESTS = st.sampled_from(
    [
        "",
        "when { context.args.n > 1 }",
        "unless { context.args.n > 1 }",
        f"when {{ {ERRS} }}",
        f"when {{ context.args.n < 2 }} unless {{ {ERRS} }}",
        'when { action in Action::"read" || context.provenance.untrusted }',
        f"when {{ context.provenance.untrusted && {ERRS} }}",
        "when { context has approval }",
        "unless { context has approval }",
    ]
)
NOTES = {
    "permit": ["", '@lifetime("30")', '@scopes("a b")', '@scopes("b c")'],
    "forbid": ["", '@advice("No.")'],
}


def rules(
    actions: st.SearchStrategy[str], resources: st.SearchStrategy[str]
) -> st.SearchStrategy[list[Made]]:
    def made(effect: str) -> st.SearchStrategy[Made]:
        head = st.tuples(st.sampled_from(PRINCIPALS), actions, resources)
        return st.builds(Made, st.just(effect), head, RESTS, st.sampled_from(NOTES[effect]))

    return st.lists(made("permit") | made("forbid"), max_size=8)


def request(tool: ToolSpec, n: int = 0, *, untrusted: bool = False, **more: Any) -> AccessRequest:
    identity = Identity(subject="user:ada", actor="me")
    mandate = Mandate(tools=frozenset("*"))
    task = TaskState(
        id="t", purpose="p", identity=identity, mandate=mandate, deadline=2e9, untrusted=untrusted
    )
    return AccessRequest(identity=identity, tool=tool, arguments=Arguments.of({"n": n}), task=task, **more)


def bound(text: str, tools: tuple[ToolSpec, ...] = TOOLS) -> CedarPolicy:
    policy = CedarPolicy.from_text(text)
    policy.check_tools(tools)
    return policy


Answer = tuple[object, list[str], list[str]]


def answer(rules: Slice, tool: ToolSpec, n: int, untrusted: bool) -> Answer:
    """What Cedar says by these policies: effect, determining ids, and ids of those that err."""
    question = {
        "principal": 'Agent::"me"',
        "action": {"type": "Action", "id": tool.name},
        "resource": {"type": "Resource", "id": tool.resource or tool.name},
        "context": {"args": {"n": n}, "provenance": {"untrusted": untrusted}},
    }
    response = is_authorized(question, rules.policies, ENTITIES)
    numbers = [number for error in response.diagnostics.errors for number in re.findall(r"policy\d+", error)]
    return (
        response.decision,
        sorted(response.diagnostics.id_annotations_by_reason.values()),
        sorted(rules.rule(number).id for number in numbers),
    )


@pytest.mark.promise("cedar-slices-equal")
@given(rules(STRANGE_ACTIONS, STRANGE_RESOURCES), st.integers(0, 2), st.booleans())
@settings(max_examples=examples(300), deadline=None)
def test_a_slice_gives_the_answer_ids_and_errors_of_the_whole_set(
    rules: list[Made], n: int, untrusted: bool
) -> None:
    whole = Slice(read_text("\n".join(rule.text(f"p{i}") for i, rule in enumerate(rules)), "rules"))
    for tool in TOOLS:
        sliced = slices(whole.rules, TOOLS)[tool.name]
        assert answer(sliced, tool, n, untrusted) == answer(whole, tool, n, untrusted)


@pytest.mark.promise("cedar-slices-equal")
@given(rules(ACTIONS, RESOURCES), st.sampled_from(TOOLS), st.integers(0, 2), st.booleans(), st.randoms())
@settings(max_examples=examples(200), deadline=None)
def test_a_decision_is_that_of_the_same_rules_without_heads_in_any_order(
    rules: list[Made], tool: ToolSpec, n: int, untrusted: bool, random: Any
) -> None:
    texts = [rule.text(f"p{i}") for i, rule in enumerate(rules)]
    unsliced = bound("\n".join(rule.open(f"p{i}") for i, rule in enumerate(rules)))
    policy = bound("\n".join(texts))
    random.shuffle(texts)
    shuffled = bound("\n".join(texts), TOOLS[::-1])
    decision = policy.decide(request(tool, n, untrusted=untrusted))
    expected = unsliced.decide(request(tool, n, untrusted=untrusted))
    assert replace(decision, policy_version="") == replace(expected, policy_version="")
    assert shuffled.decide(request(tool, n, untrusted=untrusted)) == decision


@pytest.mark.promise("cedar-slices-equal")
@pytest.mark.parametrize(
    ("head", "tools"),
    [
        ("principal, action, resource", NAMES),
        ('principal, action == Action::"pay", resource', ["pay"]),
        ('principal, action in Action::"write", resource', ["pay", "send"]),
        ('principal, action in [Action::"read", Action::"pay"], resource', ["pay", "look", "list"]),
        ('principal, action, resource == Resource::"bank"', ["pay", "list", "drop"]),
        ('principal, action, resource in Resource::"mail"', ["send"]),
        ('principal, action, resource is Resource in Resource::"look"', ["look"]),
        ("principal, action, resource is Resource", NAMES),
        ('principal, action in Action::"read", resource == Resource::"bank"', ["list"]),
        ("principal, action in [], resource", []),
    ],
)
@pytest.mark.parametrize("effect", ["permit", "forbid"])
def test_a_rule_is_in_the_slices_of_the_tools_that_its_head_means_and_in_no_other(
    effect: str, head: str, tools: list[str]
) -> None:
    rules_by_tool = slices(read_text(f'@id("a") {effect} ({head});', "rules"), TOOLS)
    assert [name for name in NAMES if rules_by_tool[name].rules] == tools


def test_a_rule_that_errs_for_one_tool_denies_that_tool_and_not_another() -> None:
    policy = bound(
        '@id("all") permit (principal, action, resource);'
        f'@id("odd") forbid (principal, action == Action::"pay", resource) when {{ {ERRS} }};'
    )
    assert policy.decide(request(TOOLS[0], 1)).reason == "policy_error: odd could not be evaluated"
    assert policy.decide(request(TOOLS[1], 1)).permitted


def test_tools_with_the_same_rules_share_one_parsed_set() -> None:
    rules_by_tool = slices(
        read_text('@id("w") permit (principal, action in Action::"write", resource);', "r"), TOOLS
    )
    assert rules_by_tool["pay"] is rules_by_tool["send"]
    assert rules_by_tool["pay"].policies is rules_by_tool["send"].policies
    assert rules_by_tool["look"] is rules_by_tool["list"] is rules_by_tool["drop"]


@pytest.mark.promise("cedar-text-hides-nothing")
@given(st.text(alphabet='@id("a")permit;{}/\n\r\\ \x1c\x85\u2028', max_size=30))
@settings(max_examples=examples(200), deadline=None)
def test_no_text_hides_a_rule_from_us_that_cedar_sees(text: str) -> None:
    whole = (
        f'//{text}\r@id("a") forbid (principal, action, resource);\n'
        '@id("b") permit (principal, action, resource); //'
    )
    try:
        read = read_text(whole, "rules")
    except ConfigurationError:
        return
    assert len(read) == len(PolicySet.from_str(whole))
    assert "a" in {rule.id for rule in read}


@given(rules(ACTIONS, RESOURCES), st.integers(0, 3))
@settings(max_examples=examples(50), deadline=None)
def test_rules_read_together_are_those_read_one_by_one(rules: list[Made], blank: int) -> None:
    texts = [f"{chr(10) * blank}{rule.text(f'p{i}')} // end;" for i, rule in enumerate(rules)]
    together = read_text("\n".join(texts), "rules")
    alone = [rule for text in texts for rule in read_text(text, "rules")]
    assert [replace(rule, line=0) for rule in together] == [replace(rule, line=0) for rule in alone]
    assert [rule.line for rule in together] == [(blank + 1) * (i + 1) for i in range(len(texts))]


@pytest.mark.promise("cedar-text-hides-nothing")
@pytest.mark.parametrize(
    "odd",
    [
        '@id("a") @advice("x) when y") forbid (principal, action, resource);',
        '@id("a") forbid (principal, action, resource // b) when c\n == Resource::"bank") when { true };',
        '@id("a") forbid (principal, action, resource) // b) when c\n when { true };',
        '@id("a") @advice("x) when y") forbid (principal, action, resource);\n'
        '@id(") forbid (principal, action in [], resource); permit (principal, action in [], resource); //")'
        " permit (principal, action, resource);",
    ],
)
def test_no_string_or_comment_gives_a_rule_another_head(odd: str) -> None:
    for rule in read_text(odd + '\n@id("z") permit (principal, action, resource);', "rules"):
        assert rule.head == head_of(rule.node)
        assert rule.head.actions is None


ODDITIES = [
    "",
    " ",
    "\n",
    "\t",
    "\x0b",
    "\xa0",
    "// c\n",
    "// ) when {",
    '"',
    "\\u{61}",
    "\\n",
    "::",
    "]",
    ",",
    ")",
]


@given(
    st.integers(0, 8),
    st.sampled_from(ODDITIES),
    st.sampled_from(['"a"', '"a\\n"', '"\\u{61}"', '"é"', '"// b"', '"a) when"', '"]"', '"\x85"', '"\x7f"']),
    st.sampled_from(["== A::", "in A::", "in [B::C::", "is A in A::", "is A", "== ?resource //", ""]),
)
@settings(max_examples=examples(500), deadline=None)
def test_an_opening_that_we_read_is_the_one_that_cedar_reads(at: int, odd: str, name: str, how: str) -> None:
    a, b, c, d, e, f, g, h, i = (odd if place == at else " " for place in range(9))
    uid = f"{how}{name}" if how.endswith("::") else how
    end = f",{h}Action::{name}]" if "[" in how else ""
    other = uid if "[" not in how and "?" not in how else ""
    statement = (
        f"@id({a}{name}{b}) @x({name}){c}permit{d}({e}principal{f} {other}{g}, action {uid}{end}{h},"
        f"resource{i} {other}) when {{ true }};"
    )
    opening = opening_in(statement)
    try:
        (node,) = policies_to_pst(statement).static_policies.values()
    except ValueError:
        return
    assert opening in (None, opening_of(node))


def test_a_simple_opening_is_read_without_cedar() -> None:
    for simple in (
        '@id("a") permit (principal, action, resource);',
        '@id("a")\n@advice("b c")\nforbid (\n  principal == A::"x",\n'
        '  action in [Action::"b", Action::"a"],\n  resource in R::"z"\n) when { true };',
    ):
        (node,) = policies_to_pst(simple).static_policies.values()
        assert opening_in(simple) == opening_of(node)


WRONG = {
    "argument": 'action == Action::"drop", resource) when { context.args.m > 1 };',
    "tool": 'action == Action::"dorp", resource);',
    "tool in a condition": 'action == Action::"pay", resource) when { action == Action::"dorp" };',
    "resource": 'action == Action::"pay", resource == Resource::"bnak");',
    "type": 'action == Action::"pay", resource) when { context.args.n == "1" };',
    "path's argument": 'action in Action::"read", resource) when { context.args.m > 1 };',
    "tools of two parts": 'action in [Action::"pay", Action::"drop"], resource) when { context.args.m > 1 };',
    "no tool": 'action == Action::"write", resource);',
    "nothing wrong": 'action == Action::"pay", resource) when { action in Action::"write" };',
}


@pytest.mark.promise("cedar-text-hides-nothing")
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_rules_checked_for_few_tools_at_once_have_the_errors_of_all_tools(wrong: str) -> None:
    text = f'@id("good") permit (principal, action, resource);\n@id("bad") permit (principal, {wrong}'
    read, shapes = read_text(text, "rules"), {spec.name: shape_of(spec) for spec in TOOLS}
    errors: list[str] = []
    for together in (1, 2, 100):
        try:
            validate(read, TOOLS, shapes, together=together)
        except ConfigurationError as error:
            errors.append(str(error))
    assert len(errors) == (0 if wrong == WRONG["nothing wrong"] else 3)
    assert len(set(errors)) <= 1
    assert all(line.startswith('rules:2: policy "bad"') for line in errors)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    one, two = tmp_path / "one.cedar", tmp_path / "two.cedar"
    write((one, two), "a")
    return one, two


def write(files: tuple[Path, Path], name: str) -> None:
    for file, part in zip(files, ("one", "two"), strict=True):
        file.write_text(f'@id("{name}-{part}") permit (principal, action, resource);', "utf-8")


def reloading(files: tuple[Path, Path], **more: Any) -> ReloadingCedar:
    policy = ReloadingCedar(lambda: CedarPolicy.from_files(files, environment=["stage"]), **more)
    policy.check_tools(TOOLS)
    return policy


def ask(policy: ReloadingCedar, stage: Mapping[str, str] | None = None) -> Decision:
    return policy.decide(request(TOOLS[0], environment={"stage": "x"} if stage is None else stage))


@pytest.mark.promise("cedar-reload-whole")
def test_a_reload_puts_all_files_in_force_and_changes_the_version(files: tuple[Path, Path]) -> None:
    policy = reloading(files)
    assert isinstance(policy, Policy)
    assert isinstance(policy, CatalogAware)
    before = ask(policy)
    write(files, "b")
    assert ask(policy) == before
    assert policy.reload()
    after = ask(policy)
    assert after.policy_ids == ("b-one", "b-two") == tuple(rule.id for rule in policy.rules)
    assert after.policy_version == policy.version != before.policy_version
    write(files, "a")
    assert policy.reload()
    assert ask(policy) == before


BAD: dict[str, Callable[[Path], object]] = {
    "syntax": lambda file: file.write_text("permit (principal"),
    "unknown tool": lambda file: file.write_text(
        '@id("x") permit (principal, action == Action::"y", resource);'
    ),
    "id of the other file": lambda file: file.write_text(
        '@id("b-one") permit (principal, action, resource);'
    ),
    "no text": lambda file: file.write_bytes(b"\xff"),
    "gone": lambda file: file.unlink(),
}


@pytest.mark.promise("cedar-reload-whole")
@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
def test_a_bad_file_leaves_the_old_rules_in_force_and_gives_the_alarm(
    files: tuple[Path, Path], spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    alarms: list[Exception] = []
    policy = reloading(files, alarm=alarms.append)
    before, schema = ask(policy), policy.schema
    write(files, "b")
    spoil(files[1])
    assert not policy.reload()
    assert ask(policy) == before
    assert (policy.version, policy.schema) == (before.policy_version, schema)
    assert [type(alarm) for alarm in alarms] == [ConfigurationError]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    write(files, "b")
    assert policy.reload()
    assert ask(policy).policy_ids == ("b-one", "b-two")


def test_an_alarm_that_fails_changes_nothing(files: tuple[Path, Path]) -> None:
    def fails(problem: Exception) -> None:
        raise OSError("nobody is there")

    policy = reloading(files, alarm=fails)
    files[0].unlink()
    assert not policy.reload()
    assert ask(policy).permitted


@pytest.mark.promise("cedar-reload-whole")
def test_a_call_in_flight_is_judged_by_one_set(files: tuple[Path, Path]) -> None:
    policy = reloading(files)
    before = ask(policy)
    write(files, "b")

    class Late(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:  # asked for in the midst of a decision
            assert policy.reload()
            return "x"

    assert ask(policy, Late(stage="x")) == before
    assert ask(policy).policy_ids == ("b-one", "b-two")


@pytest.mark.promise("cedar-reload-whole")
def test_calls_in_parallel_see_the_old_set_or_the_new_and_never_both(files: tuple[Path, Path]) -> None:
    policy = reloading(files)
    decisions: set[tuple[str, tuple[str, ...]]] = set()
    stop = Event()

    def calls() -> None:
        while not stop.is_set():
            decision = ask(policy)
            decisions.add((decision.policy_version, decision.policy_ids))

    threads = [Thread(target=calls) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        write(files, "ab"[turn % 2])
        assert policy.reload()
    stop.set()
    for thread in threads:
        thread.join()
    assert {ids for _, ids in decisions} <= {("a-one", "a-two"), ("b-one", "b-two")}
    assert len(decisions) == len({version for version, _ in decisions})


def test_of_two_reloads_the_one_that_began_last_holds(files: tuple[Path, Path]) -> None:
    nested: list[bool] = []

    def read() -> CedarPolicy:
        new_policy = CedarPolicy.from_files(files, environment=["stage"])
        if new_policy.rules[0].id == "b-one" and not nested:
            write(files, "c")
            nested.append(policy.reload())
        return new_policy

    policy = ReloadingCedar(read)
    policy.check_tools(TOOLS)
    write(files, "b")
    assert not policy.reload()
    assert nested == [True]
    assert ask(policy).policy_ids == ("c-one", "c-two")


def test_a_failed_bind_is_raised_and_forgotten(files: tuple[Path, Path]) -> None:
    policy = reloading(files)
    version = policy.version
    with pytest.raises(ConfigurationError, match="like a path"):
        policy.check_tools([replace(TOOLS[0], name="read")])
    assert policy.reload()
    assert policy.version == version
    assert ask(policy).effect is Effect.PERMIT


@pytest.mark.timing
def test_a_decision_takes_no_longer_among_the_policies_of_many_other_tools() -> None:
    figures = measure(most=2_000, rounds=3, calls=20)
    micro = figures["microseconds"]
    assert 0 < figures["decision_ratio"] < 3.0  # ten times, were the set not sliced
    assert micro["2,000"] < micro["2,000 of one tool"]
    assert figures["policies"] == 2_000
    assert figures["peak_mebibytes"] > 0
