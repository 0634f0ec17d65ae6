"""`agentguard explain`: the decision on a call, its reasons, and what would turn it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from agentguard import ConfigurationError, Guard
from agentguard.analysis.close_rules import close_rules
from agentguard.analysis.decide import decider, request_for, verdict
from agentguard.analysis.explain import turning
from agentguard.analysis.lint import applies_to
from agentguard.audit.requests import replayed
from agentguard.cli._console import fail, note, out
from agentguard.cli._policies import (
    attach,
    guard_of,
    records_of,
    warn_of_unknown_arguments,
)
from agentguard.cli._target import load_object, tools_of
from agentguard.errors import DenialCode, Denied
from agentguard.model import (
    AccessRequest,
    Arguments,
    Decision,
    Identity,
    Mandate,
    Provenance,
    TaskState,
)
from agentguard.text import printable

__all__ = ["command"]

_TRUSTED = Provenance(sources=frozenset({"trusted"}), user=False)


def command(
    tool: Annotated[str | None, typer.Argument(help="The tool of an imagined call.")] = None,
    audit: Annotated[Path | None, typer.Option(help="An audit log that was written with requests.")] = None,
    call: Annotated[str, typer.Option(help="The call in it, by its id or its digest; else the last.")] = "",
    config: Annotated[Path, typer.Option(help="The file with the rules.")] = Path("agentguard.toml"),
    tools: Annotated[
        str | None, typer.Option(metavar="MODULE:TOOLS", help="An agent, or its tools, for their arguments.")
    ] = None,
    args: Annotated[str, typer.Option(metavar="JSON", help="The arguments of the imagined call.")] = "{}",
    purpose: Annotated[str, typer.Option(help="The purpose of its task.")] = "",
    subject: Annotated[str, typer.Option(help="The user for whom it would be made.")] = "user",
    words: Annotated[str, typer.Option(help="What the user has said.")] = "",
    history: Annotated[list[str] | None, typer.Option(help="A tool that was called before.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="A kind that its task is of.")] = None,
    trusted: Annotated[list[str] | None, typer.Option(help="An argument from a trusted source.")] = None,
    untrusted: Annotated[bool, typer.Option(help="Something untrusted was read before.")] = False,
) -> None:
    """Print the decision on a call, the rules that determine it, and the smallest changes that would turn it.

    The mandate of an imagined call's task comes from its words, by the tables tasks of the file; without
    words, it allows all. Exit codes: 0 explained; 1 the file or the call is wrong; 2 the log is altered or
    not readable.
    """
    records = [] if audit is None else records_of(audit)
    try:
        with guard_of(config) as guard:
            attach(guard, [] if tools is None else tools_of(load_object(tools)))
            warn_of_unknown_arguments(guard)
            if audit is not None:
                request = _recorded(guard, records, call)
            else:
                before, kinds = tuple(history or ()), tuple(kind or ())
                task = _task(guard, purpose, subject, words, before, kinds, untrusted=untrusted)
                request = _imagined(guard, tool or "", args, task, frozenset(trusted or ()))
            _report(guard, request)
    except ConfigurationError as error:
        fail(error)


def _recorded(guard: Guard, records: list[dict[str, Any]], call: str) -> AccessRequest:
    decisions = [record for record in records if record.get("event") == "decision"]
    matches = [r for r in decisions if not call or call in (r.get("call"), r.get("digest"))]
    if not matches:
        raise ConfigurationError(f"no call {printable(call)!r} is recorded", hint="give its id or its digest")
    record: Mapping[str, Any] = matches[-1]
    if not isinstance(request := record.get("request"), Mapping):
        raise ConfigurationError(
            "this call was recorded without its request",
            hint="[audit] requests = true records it from now on",
        )
    if (spec := guard.catalog.tool(str(record.get("tool")))) is None:
        raise _unclassified(str(record.get("tool")))
    try:
        return replayed(request, spec)
    except ValueError as error:
        raise ConfigurationError(printable(error), hint="this record cannot be explained") from None


def _task(
    guard: Guard,
    purpose: str,
    subject: str,
    words: str,
    history: tuple[str, ...],
    kinds: tuple[str, ...],
    *,
    untrusted: bool,
) -> TaskState:
    derived = guard.derive(words) if words and guard.intent.templates else None
    return TaskState(
        id="imagined",
        purpose=purpose,
        identity=Identity(subject=subject, actor=guard.enforcement.ports.identity.actor()),
        mandate=Mandate.of({"tools": "*"}) if derived is None else derived.mandate,
        deadline=float("inf"),
        words=words,
        kinds=tuple(dict.fromkeys((*(() if derived is None else derived.kinds), *kinds))),
        history=history,
        untrusted=untrusted,
        counted={name: counted.in_task() for name, counted in guard.catalog.counted.items()},
    )


def _imagined(guard: Guard, tool: str, args: str, task: TaskState, trusted: frozenset[str]) -> AccessRequest:
    if (spec := guard.catalog.tool(tool)) is None:
        raise _unclassified(tool)
    request = request_for(guard.enforcement, spec, _arguments(guard, tool, args), task)
    origins = request.provenance
    changed = {name: origins.get(name, _TRUSTED).from_elsewhere(_TRUSTED) for name in trusted}
    tallies = {  # what was called before was done once
        name: {**tally, "count": 1} if name in task.history else tally
        for name, tally in request.tallies.items()
    }
    return replace(request, provenance={**origins, **changed}, tallies=tallies)


def _arguments(guard: Guard, tool: str, text: str) -> Arguments:
    """Return the arguments as the guard would judge them: validated, and with the tool's defaults."""
    try:
        invocation = guard._gates.invocation(tool, dict(json.loads(text)), None)
    except (ValueError, TypeError, Denied) as error:
        raise ConfigurationError(
            f"the arguments are no JSON object: {error}", hint="--args '{...}'"
        ) from None
    if invocation.arguments is None:
        problem = invocation.problem
        reason = "" if problem is None else printable(problem.reason)
        if problem is not None and problem.code is DenialCode.DEFINITION_CHANGED:
            raise ConfigurationError(
                f"the call is denied: {reason}", hint="review it, and run: agentguard pin"
            )
        raise ConfigurationError(
            f"the tool takes other arguments, so the call is denied: {reason}", hint="correct --args"
        )
    return invocation.arguments


def _unclassified(tool: str) -> ConfigurationError:
    return ConfigurationError(
        f"{printable(tool)!r} is not classified, so its calls are denied", hint="add it to [tools]"
    )


def _report(guard: Guard, request: AccessRequest) -> None:
    console, policy = out(), guard.enforcement.ports.policy
    decide = decider(guard.enforcement)
    decision = decide(request)
    rules = {rule.id: rule for rule in getattr(policy, "rules", ())}
    note(console, verdict(decision), printable(f"{request.tool.name}: {decision.reason}"))
    for name, origin in sorted(request.provenance.items()):
        if name in request.arguments.values:
            sources = ", ".join(sorted(origin.sources)) or "no known source"
            note(console, "argument", printable(f"{name} by {sources}"))
    _rules(console, decision, rules)
    for line in close_rules(policy, request, permitted=decision.permitted):
        note(console, "close", printable(line))
    # rules about other tools cannot turn the decision, and their constants would use up the attempts
    near = [rule.text for rule in rules.values() if applies_to(rule, request.tool)]
    for turned in turning(decide, request, rules=near):
        note(console, "turns", printable(turned))


def _rules(console: Console, decision: Decision, rules: Mapping[str, Any]) -> None:
    for name in decision.policy_ids:
        if (rule := rules.get(name)) is not None:
            note(console, "rule", f"{rule.file}:{rule.line}\n{rule.text}")
