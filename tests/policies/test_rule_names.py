"""A rule about a name that cannot exist is found, and the presence of a value without type is visible."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import BaseTool, StructuredTool

from agentguard import ConfigurationError, Guard
from agentguard.cli.lint import findings
from agentguard.errors import Denied
from agentguard.model import Mandate, ToolPath, ToolSpec
from agentguard.policies import CedarPolicy
from tests.tiers import sample

EXAMPLES = Path(__file__).parents[2] / "examples" / "policies"
TEXT, TEXTS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
NUMBER = {"type": "number"}
FREE = {"anyOf": [{"type": "array", "items": {"type": "object"}}, {"type": "null"}]}
ARGUMENTS: dict[str, dict[str, Any]] = {  # as AgentDojo's tools take them
    "send_money": {"recipient": TEXT, "amount": NUMBER, "subject": TEXT, "date": TEXT},
    "schedule_transaction": {"recipient": TEXT, "amount": NUMBER, "subject": TEXT, "date": TEXT},
    "update_scheduled_transaction": {"id": {"type": "integer"}, "recipient": TEXT, "amount": NUMBER},
    "update_user_info": {"first_name": TEXT, "last_name": TEXT, "street": TEXT, "city": TEXT},
    "update_password": {"password": TEXT},
    "send_email": {
        **{"recipients": TEXTS, "cc": TEXTS, "bcc": TEXTS},
        **{"subject": TEXT, "body": TEXT, "attachments": FREE},
    },
    "create_calendar_event": {"title": TEXT, "participants": TEXTS},
    "add_calendar_event_participants": {"event_id": TEXT, "participants": TEXTS},
    "reschedule_calendar_event": {"event_id": TEXT, "new_start_time": TEXT},
    "create_file": {"filename": TEXT, "content": TEXT},
    "append_to_file": {"file_id": TEXT, "content": TEXT},
    "share_file": {"file_id": TEXT, "email": TEXT, "permission": TEXT},
}  # fmt: skip
REQUIRED = {"send_money": ["amount"], "schedule_transaction": ["amount"], "share_file": ["permission"]}


def tools_of(guard: Guard) -> list[BaseTool]:
    """Return a tool for each name of the catalog, with the arguments of AgentDojo's."""
    tools: list[BaseTool] = []
    for spec in guard.catalog:
        properties = ARGUMENTS.get(spec.name, {})
        schema = {"type": "object", "properties": properties, "required": REQUIRED.get(spec.name, [])}
        tools.append(
            StructuredTool(name=spec.name, description=".", args_schema=schema, func=lambda **_: "done")
        )
    return tools


def problems(folder: Path) -> str:
    """Return what is said of a configuration and of the tools that fit it: an error, or lint's errors."""
    try:
        guard = Guard.from_file(folder / "agentguard.toml")
        tools = tools_of(guard)
        guard.close()
        report = findings(folder / "agentguard.toml", tools)
        return "\n".join(finding.text for finding in report if finding.word == "error")
    except ConfigurationError as error:
        return str(error)


# a name behind a dot or a `has`, or a text; neither an annotation nor a comment nor a decimal. A text of one
# letter is a value of an argument (a permission) and no name
_NAME = re.compile(r"//[^\n]*|@\w+\(\"[^\"]*\"\)|(?:\.|has )(\w+)|\"([a-z_.]{2,})\"")


def mutants(text: str) -> list[tuple[str, str]]:
    """Return each name of a policy file, and the file with a letter of this one name missing or added."""
    files: list[tuple[str, str]] = []
    for match in _NAME.finditer(text):
        for group in (1, 2):
            if name := match[group]:
                start, end = match.span(group)
                middle = start + len(name) // 2
                files.append((name, text[:middle] + text[middle + 1 :]))
                files.append((name, text[:end] + "x" + text[end:]))
    return files


@pytest.mark.exhaustive
@pytest.mark.promise("rule-names-exist")
@pytest.mark.parametrize("suite", ["banking", "workspace"])
def test_each_mistyped_name_of_a_shipped_policy_is_found(suite: str, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / suite, tmp_path, dirs_exist_ok=True)
    assert problems(tmp_path) == ""
    text = (tmp_path / "policy.cedar").read_text()
    files = mutants(text)
    assert len(files) > 40
    unfound = []
    for name, mutant in sample(files):
        (tmp_path / "policy.cedar").write_text(mutant)
        if not problems(tmp_path):
            unfound.append(name)
    assert unfound == []


@pytest.mark.promise("rule-names-exist")
@pytest.mark.parametrize(
    ("suite", "section"), [("banking", "tasks"), ("workspace", "tasks"), ("workspace", "tools")]
)
def test_each_mistyped_tool_of_a_template_and_each_mistyped_sink_is_found(
    suite: str, section: str, tmp_path: Path
) -> None:
    shutil.copytree(EXAMPLES / suite, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "agentguard.toml"
    text = file.read_text()
    key = "tools" if section == "tasks" else "sinks"
    lists = [match.span(1) for match in re.finditer(rf"\b{key} = \[([^\]]*)\]", text)]
    names = [(a + m.start(1), m[1]) for a, b in lists for m in re.finditer(r'"(\w+)"', text[a:b])]
    assert names
    for start, name in names:
        file.write_text(f"{text[: start + len(name)]}x{text[start + len(name) :]}")
        assert problems(tmp_path), name


EXISTING = [
    'context.distinctions.contains("note: class shop.Publish")',
    'context.distinctions.containsAny(["free[].x: not set", "arguments: order"])',
    "context.args has note",
    "context.args has free",
    "context.args has deep.inner",
    "context.provenance.args has free && !context.provenance.args.free.untrusted",
    "context.environment has stage",
    'context.history.contains("look")',
    'context.provenance.args.note.sources.contains("look.any")',
    'context.provenance.args.note.sources == ["user"]',
    'context.task.status == "active"',
    "context has approval && context.approval has approver",
]
WRONG = [
    ("context.args has nott", "nott"),
    ('context.args has "no\\u{74}t"', "nott"),
    ('context["args"] has nott', "nott"),
    ("context.args has deep.innr", "innr"),
    ("context.args has deep.meta", "no type for deep.meta"),
    ("(if context.legacy then context.args has nott else true)", "nott"),
    ("!(context.args has nott)", "nott"),
    ("context.provenance.args has nott", "nott"),
    ("context.provenance.args.note has sourcs", "sourcs"),
    ("context.provenance has untrustd", "untrustd"),
    ("context.environment has stag", "stag"),
    ("context has aproval", "aproval"),
    ("context has approval && context.approval has aprover", "aprover"),
    ("context.task has kindz", "kindz"),
    ("principal has name", "name"),
    ('context.history.contains("lok")', "lok"),
    ('context.history.containsAny(["look", "lok"])', "lok"),
    ('["lok"].containsAll(context.history)', "lok"),
    ('context.history == ["lok"]', "lok"),
    ('context.history.contains(if context.legacy then "look" else "lok")', "lok"),
    ('context.provenance.args.note.sources.contains("lok.any")', "lok.any"),
    ('context.provenance.args.note.sources.contains("usr")', "usr"),
    ('context.task.status == "activ"', "activ"),
    ('context.distinctions.contains("nott: class shop.Publish")', "nott"),
    ('context.distinctions.contains("fre[].x: class shop.Publish")', "fre"),
    ("context.args has free && context.args.free == {}", "Cedar has no type"),
]
LOOK = ToolSpec(name="look", path=ToolPath.READ, untrusted=True, schema={"properties": {}})
PAY = ToolSpec(
    name="pay",
    path=ToolPath.WRITE,
    schema={
        "properties": {
            "note": TEXT,
            "free": FREE,
            "deep": {"type": "object", "properties": {"inner": TEXT, "meta": {"type": "object"}}},
        }
    },
)


@pytest.mark.exhaustive
@pytest.mark.parametrize("clause", ["when", "unless"])
@pytest.mark.parametrize("effect", ["permit", "forbid"])
@pytest.mark.parametrize(("condition", "name"), [*((c, "") for c in EXISTING), *WRONG])
@pytest.mark.promise("rule-names-exist")
def test_a_name_that_nothing_can_have_is_an_error_in_whatever_rule_it_stands(
    condition: str, name: str, effect: str, clause: str
) -> None:
    text = '@id("a") permit (principal, action, resource);\n@id("b")\n'
    text += f'{effect} (principal, action == Action::"pay", resource)\n{clause} {{ {condition} }};'
    policy = CedarPolicy.from_text(text, environment=["stage"])
    if not name:
        policy.check_tools([LOOK, PAY])
        return
    with pytest.raises(ConfigurationError) as caught:
        policy.check_tools([LOOK, PAY])
    assert name in str(caught.value)
    assert caught.value.line in (2, 4)


def test_of_the_arguments_of_a_tool_that_is_not_known_yet_nothing_is_said() -> None:
    rule = '@id("b") forbid (principal, action == Action::"pay", resource) when { context.args has nott };'
    policy = CedarPolicy.from_text(rule)
    policy.check_tools([ToolSpec(name="pay", path=ToolPath.WRITE)])
    with pytest.raises(ConfigurationError, match="nott"):
        policy.check_tools([PAY])


def _mailer(folder: Path, rule: str) -> Guard:
    (folder / "agentguard.toml").write_text(
        'policy.cedar = ["p.cedar"]\nstore = { kind = "memory" }\n[tools.send]\npath = "write"\n'
    )
    (folder / "p.cedar").write_text(rule)
    return Guard.from_file(folder / "agentguard.toml")


PRESENCE = """
@id("mail") permit (principal, action == Action::"send", resource);
@id("no") forbid (principal, action == Action::"send", resource) when { context.args has files };
"""
SOURCE = """
@id("mail") permit (principal, action == Action::"send", resource)
when { context.provenance.args.files.user };
"""


@pytest.mark.promise("rule-names-exist")
@pytest.mark.parametrize("files", [[{"file": "salaries"}], {"file": "salaries"}, "salaries", 7])
@pytest.mark.parametrize("rules", [PRESENCE, SOURCE])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_rule_about_an_argument_without_type_holds(
    tmp_path: Path, files: Any, rules: str, asynchronous: bool
) -> None:
    arguments: list[Any] = []

    def send(to: str, files: Any = None) -> str:
        """Send a mail."""
        arguments.append(files)
        return "sent"

    guard = _mailer(tmp_path, rules)
    (guarded,) = guard.wrap([send])
    with guard.task("Mail", subject="user:ann", mandate={"tools": "*"}, words="mail to bob"):
        guarded.invoke({"to": "bob"})
        mail = {"to": "bob", "files": files}
        with pytest.raises(Denied):
            await (guarded.ainvoke(mail) if asynchronous else asyncio.to_thread(guarded.invoke, mail))
    guard.close()
    assert arguments == [None]


@pytest.mark.promise("rule-names-exist")
def test_the_workspace_policy_sends_no_attachment_that_nobody_approved(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "workspace", tmp_path, dirs_exist_ok=True)
    guard = Guard.from_file(tmp_path / "agentguard.toml")
    send = next(tool for tool in guard.wrap(tools_of(guard)) if tool.name == "send_email")
    words = "Please send an email to bob@example.com about the file for 11"
    mail = {"recipients": ["bob@example.com"], "subject": "Hi", "body": "See you."}
    with guard.task("Mail", subject="user:ann", words=words, mandate=guard.derive(words)):
        assert send.invoke(mail) == "done"
        for attachments in (
            [{"type": "file", "file_id": "11"}],
            [{"type": "event", "event_details": {"id_": "11"}}],
        ):
            with pytest.raises(Denied):
                send.invoke(mail | {"attachments": attachments})
    guard.close()


TYPED = """policy.cedar = ["p.cedar"]
[tools.look]
path = "read"
trusted = ["email"]
args = {}
[tools.pay]
path = "write"
args = { note = "string?" }
[tasks.rent]
when = ["rent"]
tools = ["look", "pay"]
"""


@pytest.mark.promise("rule-names-exist")
@pytest.mark.parametrize(
    ("condition", "word", "text"),
    [
        ('context.task.kinds.contains("rnt")', "error", "did you mean rent?"),
        ('context.task.kinds.containsAny(["rent", "rnt"])', "error", "did you mean rent?"),
        ('context.task.kinds == ["rnt"]', "error", "did you mean rent?"),
        ('context.provenance.args.note.sources.contains("look.emial")', "error", "did you mean look.email?"),
        ('context.provenance.args.note.sources.contains("look.z")', "warning", "not listed as trusted"),
        ('context.task.kinds.contains("rent")', "error", ""),
        ('context.provenance.args.note.sources.contains("look.email")', "error", ""),
    ],
)
def test_lint_finds_kinds_and_trusted_fields_that_do_not_exist(
    tmp_path: Path, condition: str, word: str, text: str
) -> None:
    (tmp_path / "agentguard.toml").write_text(TYPED)
    (tmp_path / "p.cedar").write_text(
        '@id("p") permit (principal, action, resource);\n'
        f'@id("f") forbid (principal, action == Action::"pay", resource) unless {{ {condition} }};'
    )
    texts = [f.text for f in findings(tmp_path / "agentguard.toml") if f.word == word and '"f"' in f.text]
    assert [text in finding and ":2: " in finding for finding in texts] == ([True] if text else [])


def test_an_unknown_key_of_a_mandate_is_told_with_the_keys_that_there_are() -> None:
    with pytest.raises(ValueError, match="a mandate has no tool; its keys are tools, resources"):
        Mandate.of({"tool": ["look"]})
