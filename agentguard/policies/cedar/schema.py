"""The Cedar schema of a catalog: what policies are type-checked against.

The paths are action groups, each tool is an action of its path, and its arguments are the record
``context.args``, of each of which ``context.provenance.args`` says where it came from: of one that is
absent, that the user said all of it. Sensitivities and clearances are numbers, from 0 (public) to 3
(restricted). Resources are enumerated, so that a rule about one that does not exist is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agentguard.model import ToolPath, ToolSpec
from agentguard.policies.cedar.types import ToolShape, quoted

__all__ = ["resource_of", "schema_text"]


def resource_of(spec: ToolSpec) -> str:
    """Return the id of the Cedar resource: the tool's resource, or its own name if it has none."""
    return spec.name if spec.resource is None else spec.resource


_TYPES = """\
entity Agent;
type Task = { id: String, purpose: String, status: String, kinds: Set<String>, calls: Long, writes: Long };
type Provenance = { user: Bool, trusted: Bool, untrusted: Bool, sources: Set<String>, sensitivity: Long };
type Approval = { approvers: Long, approver?: String };
"""


def schema_text(
    tools: Iterable[ToolSpec], shapes: Mapping[str, ToolShape], environment: Iterable[str] = ()
) -> str:
    """Return the Cedar schema of these tools, the same for the same tools in any order.

    The paths are action groups. A path without a tool is an action with no arguments, so that a
    rule about the whole path is no error before its first tool exists.
    """
    specs = sorted(tools, key=lambda spec: spec.name)
    names = ", ".join(quoted(name) for name in sorted({resource_of(spec) for spec in specs}))
    lines = [_TYPES + (f"entity Resource enum [{names}];" if names else "entity Resource;")]
    parts = ", ".join(f"{quoted(name)}: String" for name in sorted(environment))
    lines.append(f"type Environment = {{ {parts} }};")
    used = {spec.path for spec in specs}
    lines += [f"action {quoted(path)}{'' if path in used else _applies('{}')};" for path in sorted(ToolPath)]
    lines += [
        f"action {quoted(spec.name)} in [Action::{quoted(spec.path)}]"
        f"{_applies(shapes[spec.name].text, shapes[spec.name].names)};"
        for spec in specs
    ]
    return "\n".join(lines) + "\n"


def _applies(args: str, names: Iterable[str] = ()) -> str:
    origins = ", ".join(f"{quoted(name)}: Provenance" for name in names)
    return (
        " appliesTo { principal: [Agent], resource: [Resource], context: {\n"
        f"  args: {args},\n"
        "  task: Task, history: Set<String>, subject: String, legacy: Bool, environment: Environment,\n"
        f"  provenance: {{ untrusted: Bool, sensitivity: Long, args: {{ {origins} }} }},\n"
        "  clearance: Long, now: datetime, approval?: Approval\n} }"
    )
