"""The texts that `agentguard init` writes. They are made from the names and schemas of tools alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from agentguard.cli.init.toml import key_of, toml
from agentguard.model import ToolPath

__all__ = ["Draft", "policy", "settings", "test"]

Schema = Mapping[str, Any]

_WORDS = {
    ToolPath.ESCALATION: "admin deploy delete drop exec execute export grant purge remove reset revoke run "
    "shell transfer wipe",
    ToolPath.WRITE: "add book cancel close create edit insert move order pay post put refund reply save "
    "schedule send set submit update upload write",
    ToolPath.READ: "check count describe fetch find get list load lookup query read search show view",
}
_PATHS = {word: path for path, words in _WORDS.items() for word in words.split()}
_PLAIN = {"string", "integer", "number", "boolean"}


@dataclass(frozen=True, slots=True)
class Draft:
    """A tool that `agentguard init` writes a table for.

    `server` names the MCP server of the tool. It is empty where the application has not named the server, and
    None for any other tool. `module` defines the tool; it is empty if that says nothing of the tool.
    """

    name: str
    description: str
    schema: Schema
    metadata: Mapping[str, Any]
    server: str | None = None
    module: str = ""

    def guess(self) -> tuple[ToolPath, str] | None:
        """Return the path that the tool seems to have, and the reason: MCP's annotations, else its name."""
        hints = {**self.metadata, **(self.metadata.get("annotations") or {})}
        if hints.get("destructiveHint") is True:
            return ToolPath.ESCALATION, "destructiveHint"
        if hints.get("readOnlyHint") is True:
            return ToolPath.READ, "readOnlyHint"
        words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+", self.name)]
        verbs = [word for word in words if word in _PATHS]
        if not verbs:
            return None
        # a dangerous word counts anywhere in the name; else the first verb, since `order` may also be a noun
        dangerous = (word for word in verbs if _PATHS[word] is ToolPath.ESCALATION)
        verb = next(dangerous, verbs[0])
        return _PATHS[verb], f"its name says {verb}"

    def arguments(self) -> dict[str, Any]:
        """Return `args` for agentguard.toml: the short form where it is enough, else the schema."""
        kinds = {name: _plain(schema) for name, schema in self.schema.get("properties", {}).items()}
        if None not in kinds.values():
            required = set(self.schema.get("required", ()))
            return {name: f"{kind}{'' if name in required else '?'}" for name, kind in kinds.items()}
        schema = {n: self.schema[n] for n in ("properties", "required", "$defs") if n in self.schema}
        pruned: dict[str, Any] = _pruned(schema, names=False)
        return pruned

    def example(self) -> dict[str, Any]:
        """Return arguments of the schema's types, with its defaults. Formats and limits may not fit."""
        required = set(self.schema.get("required", ()))
        defs = self.schema.get("$defs", {})
        return {
            name: _example(schema, defs)
            for name, schema in self.schema.get("properties", {}).items()
            if name in required or schema.get("default") is not None
        }


def settings(drafts: Iterable[Draft], target: str | None) -> str:
    """Return the text of agentguard.toml."""
    tools = "\n".join(_table(draft) for draft in drafts) or _NO_TOOLS
    return _SETTINGS.format(lint=f"agentguard lint {target or 'module:tools'}", tools=tools)


def policy(drafts: Iterable[Draft]) -> str:
    """Return the text of policies/agent.cedar."""
    return _POLICY + next((rule for draft in drafts if (rule := _rule(draft))), "")


def test(drafts: Iterable[Draft], target: str) -> str:
    """Return the text of tests/test_agent_policy.py."""
    module, _, attribute = target.partition(":")
    calls = "".join(f"    {_python(draft.name)}: {_python(draft.example())},\n" for draft in drafts)
    return _TEST.format(module=module, attribute=attribute, calls=calls)


def _table(draft: Draft) -> str:
    guess = draft.guess()
    text = "".join(letter if letter.isprintable() else " " for letter in draft.description)
    summary = shorten(text, 90, placeholder=" ...")
    lines = [f"# {summary}"] if summary else []
    lines += [f"[tools.{key_of(draft.name)}]", 'path = "escalation"']
    if guess is not None and guess[0] is not ToolPath.ESCALATION:
        lines.append(f'# path = "{guess[0]}" # a guess: {guess[1]}')
    if draft.server:
        lines.append(f"server = {toml(draft.server)}")
    elif draft.server is not None:
        lines.append("# give load_mcp_tools a server_name, and write it here: server = ...")
    elif draft.module:
        lines.append(f"# source = {toml(draft.module)} # a tool of this name from elsewhere is then denied")
    lines.append(f"args = {toml(draft.arguments())}")
    return "\n".join(lines) + "\n"


def _rule(draft: Draft) -> str:
    """Return an example in comments; an empty text where a name could end the comment."""
    name = next(iter(draft.schema.get("properties", {})), "")
    if not (draft.name.isidentifier() and name.isidentifier()):
        return ""
    return _RULE.format(tool=draft.name, argument=name)


def _plain(schema: Schema) -> str | None:
    """Return the type if the short form has a word for it. A null beside the type makes it optional."""
    choices = [choice for choice in schema.get("anyOf", (schema,)) if choice.get("type") != "null"]
    kind = choices[0].get("type") if len(choices) == 1 and "enum" not in choices[0] else None
    return kind if kind in _PLAIN else None


def _pruned(value: Any, *, names: bool) -> Any:
    """Leave out descriptions, and null, which TOML does not have. With *names*, the keys are names."""
    if isinstance(value, Mapping):
        texts = () if names else ("title", "description", "examples")
        has_names = {n: n in {"properties", "$defs"} and not names for n in value}
        return {
            n: _pruned(v, names=has_names[n]) for n, v in value.items() if v is not None and n not in texts
        }
    if isinstance(value, list | tuple):
        return [_pruned(item, names=False) for item in value if item is not None]
    return value


def _python(value: Any) -> str:
    text = repr(value)
    return (
        text if '"' in text or "\\" in text else text.replace("'", '"')
    )  # with double quotes, as formatters write it


_EXAMPLES: Mapping[str, Any] = {"string": "example", "integer": 1, "number": 1, "boolean": False, "array": []}


def _example(schema: Schema, defs: Schema) -> Any:
    if (default := schema.get("default")) is not None:
        return default
    if "$ref" in schema:
        return _example(defs.get(str(schema["$ref"]).rpartition("/")[2], {}), defs)
    for key in ("enum", "anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return schema[key][0] if key == "enum" else _example(schema[key][0], defs)
    if schema.get("type") == "object":
        required = schema.get("required", ())
        return {n: _example(s, defs) for n, s in schema.get("properties", {}).items() if n in required}
    return schema.get("const", schema.get("minimum", _EXAMPLES.get(str(schema.get("type")), "example")))


_SETTINGS = """\
# agentguard.toml says who the agent is, what its tools are, and which rules judge their calls.
# `agentguard init` wrote this file. Read it and correct it. Paths are relative to this file.
# To check it: {lint}

[agent]
id = "agent://local" # a URI, such as the workload's SPIFFE ID

[policy]
cedar = ["policies/*.cedar"]

# These are the defaults. git leaves the directory .agentguard out: it holds state and keys.
# [store]
# path = ".agentguard/state.db" # and keep = "1d"
# [audit]
# path = ".agentguard/audit.jsonl"
# [issuer]
# lifetime = 60 # seconds; a credential is revoked when its call ends, and expires after this time

# A tool that calls a protected service gets a credential for each call. Add `resource = "orders"`
# to the tool's table below, and in its code: httpx.get(url, auth=agentguard.auth("orders")).
# [resources.orders]
# origins = ["https://orders.example"] # the credentials are sent there, and nowhere else
# broker = "login" # or {{ read = "login" }}; without a broker, the embedded issuer mints

# Other brokers: token_exchange, openbao, aws, github, or secret (a long-lived key that stays inside).
# [brokers.login]
# kind = "token_exchange"
# issuer = "https://login.example"
# client_id = "agent"
# client_auth = "spiffe" # with [identity] kind = "spiffe", the platform proves who the agent is

# Tools. A path is a tool's access tier: "read" changes nothing, "write" changes something, and for
# "escalation" a person is asked about each call. Each tool starts with "escalation"; correct it.
# Add `untrusted = true` to a tool whose result may contain text by strangers (mail, web pages,
# tickets), and `sinks = ["to"]` to a tool with an argument that names a receiver.

{tools}"""

_NO_TOOLS = """\
# [tools.get_order]
# path = "read"
# args = { order_id = "string" }
"""

_POLICY = """\
// These rules say what the agent may do. The mandate of the task must allow a call as well.
// A call needs a permit that matches. A forbid that matches overrides every permit.
// Give each rule its own @id: decisions and the audit log name the rule by it.

@id("reads")
permit (principal, action in Action::"read", resource);

// After a task has read text that a stranger may have written, a person must approve its writes.
@id("writes-before-untrusted-text")
permit (principal, action in Action::"write", resource)
when { !context.provenance.untrusted && context.task.writes < 10 };

@id("writes-with-approval")
permit (principal, action in Action::"write", resource)
when { context has approval };

@id("escalations-with-approval")
permit (principal, action in Action::"escalation", resource)
when { context has approval };
"""

_RULE = """
// A rule about one tool can use the tool's arguments. The model reads @advice when the rule denies.
// @id("no-{tool}-for-example")
// @advice("Use another value.")
// forbid (principal, action == Action::"{tool}", resource)
// when {{ context.args has {argument} && context.args.{argument} == ... }};
"""

_TEST = '''\
"""Tests of this project's policy. `agentguard init` wrote this file. Add what must never change.

No tool runs here: the tests ask the policy only.
"""

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agentguard import AccessRequest, Decision, Guard, Identity, Mandate, ToolPath
from agentguard.model import Arguments, TaskState

PROJECT = Path(__file__).parents[1]
CALLS: dict[str, dict[str, Any]] = {{
{calls}}}


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    """Return a guard with this project's rules, and with a store and an audit log of its own."""
    monkeypatch.syspath_prepend(PROJECT)
    shutil.copy(PROJECT / "agentguard.toml", tmp_path)
    shutil.copytree(PROJECT / "policies", tmp_path / "policies")
    guard = Guard.from_file(tmp_path / "agentguard.toml")
    guard.wrap(importlib.import_module("{module}").{attribute})
    yield guard
    guard.close()


def ask(guard: Guard, tool: str, *, untrusted: bool = False) -> Decision:
    """Ask the policy about a call of *tool*. With *untrusted*, the task has read text by a stranger."""
    identity = Identity(subject="tester", actor="agent://test")
    mandate = Mandate.of({{"tools": "*"}})
    task = TaskState(
        id="test", purpose="Test", identity=identity, mandate=mandate, deadline=2**40, untrusted=untrusted
    )
    spec = guard.catalog.tool(tool)
    assert spec is not None, f"{{tool}} is not classified in agentguard.toml"
    request = AccessRequest(identity=identity, tool=spec, arguments=Arguments.of(CALLS[tool]), task=task)
    return guard.enforcement.ports.policy.decide(request)


@pytest.mark.parametrize("tool", CALLS)
def test_after_untrusted_text_only_reads_need_no_person(guard: Guard, tool: str) -> None:
    decision = ask(guard, tool, untrusted=True)
    assert decision.permitted, decision.reason
    spec = guard.catalog.tool(tool)
    assert (decision.obliges("approve") is None) == (spec is not None and spec.path is ToolPath.READ)
'''
