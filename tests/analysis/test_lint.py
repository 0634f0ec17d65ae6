"""What an author of policies should know and no type check says."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentguard.analysis.lint import (
    find_overruled,
    find_ungiven,
    find_unmentioned,
    find_unsatisfiable,
    find_unvouched,
    find_unvouching,
)
from agentguard.cli.lint import findings
from agentguard.model import ToolPath, ToolSpec
from agentguard.policies.cedar.source import read_text

TOOLS = [
    ToolSpec(name="look", path=ToolPath.READ),
    ToolSpec(name="pay", path=ToolPath.WRITE, resource="bank"),
    ToolSpec(name="send", path=ToolPath.WRITE),
]
HEAD = '@id("a") permit (principal, action == Action::"pay", resource)'


@pytest.mark.parametrize(
    ("when", "why"),
    [
        ("false", "demands false"),
        ("context.args.n > 1 && false", "demands false"),
        ('context.task.kinds.contains("refnd")', "'refnd', and there is no such [tasks]"),
        ('true && (context.history.contains("lok") && true)', "'lok', and there is no such tool"),
        ('context.provenance.args.to.sources.contains("lok.email")', "no value comes from there"),
        ('context.task.kinds.contains("refund")', None),
        ('context.history.contains("look")', None),
        ('context.provenance.args.to.sources.contains("look.email")', None),
        ('context.provenance.args.to.sources.contains("user")', None),
        ('context.task.kinds.contains("refnd") || true', None),
        ('!context.task.kinds.contains("refnd")', None),
        ('context.args.history.contains("lok")', None),
    ],
)
def test_a_rule_that_can_never_apply_is_found(when: str, why: str | None) -> None:
    rules = read_text(f"{HEAD} when {{ {when} }};", "rules")
    reasons = [reason for _, reason in find_unsatisfiable(rules, TOOLS, ["refund"])]
    assert len(reasons) == (why is not None)
    assert all(why is not None and why in reason for reason in reasons)


def test_an_exception_that_never_holds_makes_no_rule_impossible() -> None:
    rules = read_text(f"{HEAD} unless {{ false }};", "rules")
    assert list(find_unsatisfiable(rules, TOOLS, [])) == []


def test_of_kinds_nothing_is_said_where_there_are_no_templates() -> None:
    rules = read_text(f'{HEAD} when {{ context.task.kinds.contains("x") }};', "rules")
    assert list(find_unsatisfiable(rules, TOOLS, [])) == []


@pytest.mark.parametrize(
    ("forbid", "overruling"),
    [
        ('(principal, action == Action::"pay", resource);', True),
        ('(principal, action in Action::"write", resource);', True),
        ('(principal, action, resource == Resource::"bank");', True),
        ('(principal, action == Action::"send", resource);', False),
        ('(principal, action == Action::"pay", resource == Resource::"shop");', False),
        ('(principal, action == Action::"pay", resource) when { context.legacy };', False),
        ('(principal == Agent::"x", action == Action::"pay", resource);', False),
    ],
)
def test_a_permit_of_what_is_always_forbidden_is_found(forbid: str, overruling: bool) -> None:
    rules = read_text(f'{HEAD};@id("b") forbid {forbid}', "rules")
    assert [rule.id for rule in find_overruled(rules, TOOLS)] == (["a"] if overruling else [])


def test_a_permit_for_a_tool_that_no_task_gives_is_found() -> None:
    rules = read_text(
        f'{HEAD};@id("w") permit (principal, action in Action::"write", resource);'
        '@id("f") forbid (principal, action == Action::"send", resource);',
        "rules",
    )
    assert [(rule.id, name) for rule, name in find_ungiven(rules, TOOLS, {"look"})] == [("a", "pay")]
    assert list(find_ungiven(rules, TOOLS, {"pay"})) == []


def test_a_permit_for_one_resource_mentions_no_tool_of_another() -> None:
    rules = read_text('@id("a") permit (principal, action, resource == Resource::"bank");', "rules")
    assert find_unmentioned(rules, TOOLS) == ("look", "send")


@pytest.mark.parametrize(
    ("effect", "source", "warns"),
    [
        ("permit", "look.emial", True),
        ("permit", "look.email", False),
        ("permit", "whole.any", False),
        ("permit", "look", False),
        ("permit", "user", False),
        ("forbid", "look.emial", False),
    ],
)
def test_a_permit_that_relies_on_what_nobody_vouches_for_is_found(
    effect: str, source: str, warns: bool
) -> None:
    head = HEAD.replace("permit", effect)
    rules = read_text(f'{head} when {{ context.provenance.args.to.sources.contains("{source}") }};', "rules")
    tools = [
        ToolSpec(name="look", path=ToolPath.READ, trusted=frozenset({"email"})),
        ToolSpec(name="whole", path=ToolPath.READ, trusted=frozenset({"*"})),
    ]
    assert [name for _, name in find_unvouched(rules, tools)] == ([source] if warns else [])


def test_a_name_in_another_set_is_no_source() -> None:
    rules = read_text(f'{HEAD} when {{ context.history.contains("look.emial") }};', "rules")
    assert list(find_unvouched(rules, TOOLS)) == []


def test_lint_says_where_and_the_guides_policies_have_no_such_gap(tmp_path: Path) -> None:
    (tmp_path / "agentguard.toml").write_text(
        'policy.cedar = ["p.cedar"]\n[tools]\nlook = { path = "read" }\npay = { path = "write" }\n'
        '[tasks.see]\notherwise = true\ntools = ["look"]\n'
    )
    (tmp_path / "p.cedar").write_text(
        '@id("r") permit (principal, action in Action::"read", resource);\n'
        '@id("p") permit (principal, action == Action::"pay", resource)\n'
        'when { context.task.kinds.contains("sea") };\n'
        '@id("f") forbid (principal, action in Action::"read", resource);\n'
    )
    texts = [finding.text for finding in findings(tmp_path / "agentguard.toml")]
    at = f"{tmp_path / 'p.cedar'}"
    assert f"{at}:2: policy \"p\" can never apply: it demands 'sea', and there is no such [tasks]" in texts
    assert f'{at}:1: policy "r" permits only what other rules always forbid' in texts
    assert f'{at}:2: policy "p" permits pay, which no [tasks] gives: it is wider than needed' in texts
    for suite in ("banking", "workspace"):
        file = Path(__file__).parents[2] / "examples" / "policies" / suite / "agentguard.toml"
        assert all("not known" in finding.text for finding in findings(file))


@pytest.mark.promise("trust-by-record")
@pytest.mark.parametrize(
    ("voucher", "source", "wrong"),
    [
        ("sender", "contacts.email", None),
        ("sender", "user", None),
        ("sender", "directory.anything", None),
        ("args.channel", "user", None),
        ("sender", "contacts.emial", "contacts.emial"),
        ("sender", "contact.email", "contact.email"),
        ("sender", "messages.body", "messages.body"),
        ("args.chanel", "user", "args.chanel"),
    ],
)
def test_what_cannot_vouch_for_a_field_is_found(voucher: str, source: str, wrong: str | None) -> None:
    schema = {"properties": {"channel": {"type": "string"}}}
    records = {"body": {voucher: frozenset({source})}}
    tools = [
        ToolSpec(name="contacts", path=ToolPath.READ, trusted=frozenset({"email"})),
        ToolSpec(name="directory", path=ToolPath.READ, trusted=frozenset({"*"})),
        ToolSpec(name="messages", path=ToolPath.READ, schema=schema, records=records),
    ]
    assert [name for _, _, name in find_unvouching(tools)] == ([] if wrong is None else [wrong])
