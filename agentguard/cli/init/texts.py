"""What `agentguard init` writes: texts made from the names and schemas of tools, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from agentguard.model import ToolPath

__all__ = ["Draft", "key_of", "policy", "settings", "test", "toml"]

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
    """One tool, as it will be suggested."""

    name: str
    description: str
    schema: Schema
    metadata: Mapping[str, Any]

    def guess(self) -> tuple[ToolPath, str] | None:
        """Return the path that it seems to have, with the reason: MCP's annotations, else its name."""
        hints = {**self.metadata, **(self.metadata.get("annotations") or {})}
        if hints.get("destructiveHint") is True:
            return ToolPath.ESCALATION, "destructiveHint"
        if hints.get("readOnlyHint") is True:
            return ToolPath.READ, "readOnlyHint"
        words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+", self.name)]
        known = [word for word in words if word in _PATHS]
        # something dangerous anywhere counts; else the first verb, since `order` may also be a noun
        found = next((word for word in known if _PATHS[word] is ToolPath.ESCALATION), None) or next(
            iter(known), None
        )
        return None if found is None else (_PATHS[found], f"its name says {found}")

    def arguments(self) -> dict[str, Any]:
        """Return `args` as agentguard.toml takes it: the shorthand where that is enough, else the schema."""
        kinds = {name: _plain(each) for name, each in self.schema.get("properties", {}).items()}
        if None not in kinds.values():
            required = set(self.schema.get("required", ()))
            return {name: f"{kind}{'' if name in required else '?'}" for name, kind in kinds.items()}
        kept = {n: self.schema[n] for n in ("properties", "required", "$defs") if n in self.schema}
        pruned: dict[str, Any] = _pruned(kept, names=False)
        return pruned

    def example(self) -> dict[str, Any]:
        """Return arguments that fit the schema, as far as types go; defaults are filled in."""
        required = set(self.schema.get("required", ()))
        defs = self.schema.get("$defs", {})
        return {
            name: _example(each, defs)
            for name, each in self.schema.get("properties", {}).items()
            if name in required or each.get("default") is not None
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
    plain = "".join(each if each.isprintable() else " " for each in draft.description)
    about = shorten(plain, 90, placeholder=" ...")
    lines = [f"# {about}"] if about else []
    lines += [f"[tools.{key_of(draft.name)}]", 'path = "escalation"']
    if guess is not None and guess[0] is not ToolPath.ESCALATION:
        lines.append(f'# path = "{guess[0]}" # a guess: {guess[1]}')
    lines.append(f"args = {toml(draft.arguments())}")
    return "\n".join(lines) + "\n"


def _rule(draft: Draft) -> str:
    """Return a commented example; none where a name, which a stranger may have given, could leave it."""
    name = next(iter(draft.schema.get("properties", {})), "")
    if not (draft.name.isidentifier() and name.isidentifier()):
        return ""
    return _RULE.format(tool=draft.name, argument=name)


def _plain(schema: Schema) -> str | None:
    """Return the type if the shorthand has a word for it: null besides it makes it optional."""
    kinds = [each for each in schema.get("anyOf", (schema,)) if each.get("type") != "null"]
    kind = kinds[0].get("type") if len(kinds) == 1 and "enum" not in kinds[0] else None
    return kind if kind in _PLAIN else None


def _pruned(value: Any, *, names: bool) -> Any:
    """Leave out what only describes, and null, which TOML does not have; *names*: keys are names."""
    if isinstance(value, Mapping):
        dropped = () if names else ("title", "description", "examples")
        inside = {n: n in {"properties", "$defs"} and not names for n in value}
        return {
            n: _pruned(v, names=inside[n]) for n, v in value.items() if v is not None and n not in dropped
        }
    if isinstance(value, list | tuple):
        return [_pruned(item, names=False) for item in value if item is not None]
    return value


def toml(value: Any) -> str:
    """Write a value, of what JSON can hold, on one line of TOML."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key_of(name)} = {toml(item)}" for name, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    # a JSON string, number or boolean is TOML too; DEL alone must be escaped in addition
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _python(value: Any) -> str:
    text = repr(value)
    return text if '"' in text or "\\" in text else text.replace("'", '"')  # as formatters want it


def key_of(name: str) -> str:
    """Write a key of TOML, quoted where it must be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml(name)


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
# agentguard.toml: who the agent is, what its tools are, and by which rules they are judged.
# Written by `agentguard init`; yours to correct. Paths are relative to this file. To check it:
#   {lint}

[agent]
id = "agent://local" # a URI, such as the workload's SPIFFE ID

[policy]
cedar = ["policies/*.cedar"]

# What follows are the defaults. The directory .agentguard holds state: keep it out of git.
# [store]
# path = ".agentguard/state.db"
# [audit]
# path = ".agentguard/audit.jsonl"
# [issuer]
# lifetime = 60 # seconds that a credential lives at most; it is revoked when its call ends

# A tool that calls a protected service gets a credential for each call, when it says
# `resource = "orders"`, and its code: httpx.get(url, auth=agentguard.auth("orders")).
# [resources.orders]
# origins = ["https://orders.example"]
# broker = "login" # or {{ read = "login" }}; without one, the embedded issuer mints

# Who else mints: token_exchange, openbao, aws, github, or secret (a long-lived key, kept inside).
# [brokers.login]
# kind = "token_exchange"
# issuer = "https://login.example"
# client_id = "agent"
# client_auth = "spiffe" # and [identity] kind = "spiffe": what the platform says the agent is

# Tools. A path is "read", "write" or "escalation"; on the last a person is asked for each call, so
# that is where each tool begins. Say also `untrusted = true` for a tool whose result may hold what
# a stranger wrote (mail, web pages, tickets), and `sinks = ["to"]` for arguments that name who
# receives something.

{tools}"""

_NO_TOOLS = """\
# [tools.get_order]
# path = "read"
# args = { order_id = "string" }
"""

_POLICY = """\
// What the agent may do, besides what its task's mandate allows: both must permit a call.
// Nothing is permitted but by a permit, and a forbid beats every permit.
// Each rule needs an @id of its own: decisions and the audit log name it.

@id("reads")
permit (principal, action in Action::"read", resource);

// Once a task has read what a stranger may have written, its writes need a person.
@id("writes-on-trusted-ground")
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
// A rule about one tool sees its arguments; @advice is what the model is told when it refuses.
// @id("no-{tool}-for-example")
// @advice("Use another value.")
// forbid (principal, action == Action::"{tool}", resource)
// when {{ context.args has {argument} && context.args.{argument} == ... }};
"""

_TEST = '''\
"""What this project's policy permits. Written by `agentguard init`; add what must never change.

No tool runs here: each question is put to the policy alone.
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
    """This project's rules, with a state and an audit log of their own."""
    monkeypatch.syspath_prepend(PROJECT)
    shutil.copy(PROJECT / "agentguard.toml", tmp_path)
    shutil.copytree(PROJECT / "policies", tmp_path / "policies")
    guard = Guard.from_file(tmp_path / "agentguard.toml")
    guard.wrap(importlib.import_module("{module}").{attribute})
    yield guard
    guard.close()


def ask(guard: Guard, tool: str, *, untrusted: bool = False) -> Decision:
    """Ask the policy about a call of *tool*, in a task that may have read what a stranger wrote."""
    me = Identity(subject="tester", actor="agent://test")
    mandate = Mandate.of({{"tools": "*"}})
    task = TaskState(
        id="test", purpose="Test", identity=me, mandate=mandate, deadline=2**40, untrusted=untrusted
    )
    spec = guard.catalog.tool(tool)
    assert spec is not None, f"{{tool}} is not classified in agentguard.toml"
    request = AccessRequest(identity=me, tool=spec, arguments=Arguments.of(CALLS[tool]), task=task)
    return guard.enforcement.policy.decide(request)


@pytest.mark.parametrize("tool", CALLS)
def test_after_untrusted_text_all_but_reads_need_a_person(guard: Guard, tool: str) -> None:
    decision = ask(guard, tool, untrusted=True)
    assert decision.permitted, decision.reason
    spec = guard.catalog.tool(tool)
    reads = spec is not None and spec.path is ToolPath.READ
    assert (decision.obliges("approve") is None) == reads
'''
