"""The Cedar schema of a catalog: what policies are type-checked against.

The paths are action groups, and each tool is an action of its path. The arguments of a tool are the record
``context.args``, and ``context.provenance.args.<name>`` says where each argument came from; in it,
``.<field>`` says where the fields inside of the argument came from, and ``.links``, ``.addresses`` and
``.accounts`` what stands in its texts. ``context.sizes`` and ``context.counts`` count what is in lists. An
absent argument counts as named by the user. Sensitivities and clearances are numbers, from 0 (public) to 3
(restricted). Resources are enumerated, so that a rule about a resource that does not exist is an error.

What calls of counted tools have done is in ``context.task.done``, and in ``context.done_by_user`` and
``context.done_by_agent`` over windows; see `tallies`.

The facts of a tool are the record ``context.facts``. One that is the thing the tool acts on has a type of
entities of its own, such as ``Order``, whose parent is the tool's resource: ``resource.status``, and
``resource in Resource::"shop"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from agentguard.model import ToolPath, ToolSpec
from agentguard.model.inputs import ARGUMENT_INPUTS, INPUTS, InputType, RuleInput, in_group
from agentguard.model.looks import TEXT_KINDS, Look
from agentguard.model.origin_form import name_inside
from agentguard.policies.cedar.types import UNTYPED, ToolShape, quoted

__all__ = ["resource_of", "schema_text"]

Inputs = tuple[RuleInput, ...]


def resource_of(spec: ToolSpec) -> str:
    """Return the id of the Cedar resource: the tool's resource, or its own name if it has none."""
    return spec.name if spec.resource is None else spec.resource


_CEDAR: Mapping[InputType, str] = {
    InputType.TEXT: "String",
    InputType.TEXTS: "Set<String>",
    InputType.NAMES: "Set<String>",
    InputType.FLAG: "Bool",
    InputType.COUNT: "Long",
    InputType.LEVEL: "Long",
    InputType.TIME: "datetime",
    InputType.TABLE: "Environment",
    InputType.FACTS: "\0facts",
}
_LINES = (
    ("args",),
    ("task", "history", "subject", "legacy", "environment"),
    ("provenance",),
    ("clearance", "now"),
)
"""The lines of the context's type. A policy's version is a digest of the schema, so these lines stay as they
are. An input that is not named here follows in the last line."""
_ARGS, _ORIGINS, _FACT_ORIGINS, _COUNTED = "\0args", "\0origins", "\0factorigins", "\0counted"
_FACTS = f", facts: {_CEDAR[InputType.FACTS]}"

_NOTHING = ToolShape("{}", lambda value: value, (), ())


def schema_text(
    tools: Iterable[ToolSpec],
    shapes: Mapping[str, ToolShape],
    environment: Iterable[str] = (),
    inputs: Inputs = INPUTS,
) -> str:
    """Return the Cedar schema of these tools, the same for the same tools in any order.

    The paths are action groups. A path without a tool is an action with no arguments, so that a
    rule about the whole path is no error before its first tool exists.
    """
    specs = sorted(tools, key=lambda spec: spec.name)
    names = ", ".join(quoted(name) for name in sorted({resource_of(spec) for spec in specs}))
    lines = [_types(inputs) + (f"entity Resource enum [{names}];" if names else "entity Resource;")]
    if any(shapes[spec.name].untyped for spec in specs):
        lines.append(f"entity {UNTYPED};")
    lines += _types_of_facts([shapes[spec.name] for spec in specs])
    parts = ", ".join(f"{quoted(name)}: String" for name in sorted(environment))
    lines.append(f"type Environment = {{ {parts} }};")
    paths = {spec.path for spec in specs}
    lines += [
        f"action {quoted(path)}{'' if path in paths else _applies(inputs, _NOTHING)};"
        for path in sorted(ToolPath)
    ]
    lines += [
        f"action {quoted(spec.name)} in [Action::{quoted(spec.path)}]{_applies(inputs, shapes[spec.name])};"
        for spec in specs
    ]
    return "\n".join(lines) + "\n"


def _types_of_facts(shapes: Iterable[ToolShape]) -> list[str]:
    facts = {name: fact for shape in shapes for name, fact in shape.facts.items()}
    entities = {fact.entity: fact.type.text for fact in facts.values() if fact.spec.resource}
    lines = [f"entity {name} in [Resource] {fields};" for name, fields in sorted(entities.items())]
    return [*lines, "type Fact = { trusted: Bool, sensitivity: Long };"] if facts else []


def _types(inputs: Inputs) -> str:
    task, origin = _fields(in_group(inputs, "task")), _fields(ARGUMENT_INPUTS)
    return (
        "entity Agent;\n"
        f"type Task = {{ {task} }};\n"
        f"type Provenance = {{ {origin} }};\n"
        f"type TextProvenance = {{ {origin}, {_of_texts(TEXT_KINDS)} }};\n"
        "type Approval = { approvers: Long, approver?: String };\n"
    )


def _fields(inputs: Inputs) -> str:
    rows = [row for row in inputs if row.type is not InputType.TALLIES]
    return ", ".join(f"{row.name}: {_CEDAR[row.type]}" for row in rows)


@cache
def _request_type(inputs: Inputs) -> str:
    """Return the type of a request, with marks in the places of what each tool has of its own."""
    rows = [row for row in in_group(inputs, "") if row.type is not InputType.TALLIES]
    types = {row.name: _CEDAR[row.type] for row in rows}
    types |= {"args": _ARGS, "task": "Task"}
    of_task = _fields(in_group(inputs, "provenance"))
    types["provenance"] = f"{{ {of_task}, args: {{ {_ORIGINS} }}{_FACT_ORIGINS} }}"
    *lines, last = _LINES
    lines.append((*last, *(name for name in types if not any(name in line for line in _LINES))))
    context = ",\n  ".join(", ".join(f"{name}: {types[name]}" for name in line) for line in lines)
    return (
        " appliesTo { principal: [Agent], resource: [Resource], context: {\n"
        f"  {context}, approval?: Approval{_COUNTED}\n}} }}"
    )


def _of_texts(kinds: Iterable[str]) -> str:
    return ", ".join(f"{kind}: Provenance" for kind in kinds)


def _origin(look: Look | None) -> str:
    """Return the type of the provenance of an argument or of a field inside of it."""
    if look is None or not look.fields:
        return "TextProvenance" if look is not None and look.texts else "Provenance"
    fields = [f"{quoted(name_inside(name))}: {_origin(inner)}" for name, inner in look.fields.items()]
    texts = [_of_texts(look.texts)] if look.texts else []
    return f"{{ {', '.join((_fields(ARGUMENT_INPUTS), *texts, *fields))} }}"


def _lists(shape: ToolShape) -> str:
    """Return the parts of the context that say how long a tool's lists are, and what is in them."""
    lists = shape.lists
    counts = lists.counts_type()
    sizes = f", sizes: {lists.sizes_type()}" if lists else ""
    return f"{sizes}, counts: {counts}" if counts else sizes


def _applies(inputs: Inputs, shape: ToolShape) -> str:
    facts, fact_origins = "", ""
    if shape.facts:
        types = [f"{n}{'?' if f.optional else ''}: {f.type.text}" for n, f in sorted(shape.facts.items())]
        facts = f", facts: {{ {', '.join(types)} }}"
        fact_origins = f", facts: {{ {', '.join(f'{name}: Fact' for name in sorted(shape.facts))} }}"
    origins = ", ".join(f"{quoted(name)}: {_origin(shape.looks.get(name))}" for name in shape.visible)
    text = _request_type(inputs).replace(_FACTS, facts).replace(_FACT_ORIGINS, fact_origins)
    tallies = shape.tallies
    if tallies:
        of_task = f"task: {{ {_fields(in_group(inputs, 'task'))}, done: {tallies.text_of_task()} }}"
        text = text.replace("task: Task", of_task, 1)
    windows = "".join(f", {part}: {kind}" for part, kind in tallies.texts_of_windows().items())
    text = text.replace(_COUNTED, _lists(shape) + windows)
    if shape.instance is not None:
        text = text.replace("resource: [Resource]", f"resource: [{shape.instance.entity}]", 1)
    before, _, rest = text.partition(_ARGS)
    between, _, after = rest.partition(_ORIGINS)
    return f"{before}{shape.text}{between}{origins}{after}"
