"""One table of what rules see: its bytes in Cedar, for other PDPs and on record, and what a new row does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agentguard.analysis.changes import changes
from agentguard.audit.requests import recorded, replayed
from agentguard.model import (
    AccessRequest,
    Approval,
    ApprovalStatus,
    Arguments,
    Identity,
    Mandate,
    Provenance,
    Sensitivity,
    TaskState,
    ToolPath,
    ToolSpec,
)
from agentguard.model.inputs import FROM_JSON, INPUTS, JSON_FORM, InputType, RuleInput
from agentguard.policies._question import question
from agentguard.policies.cedar.context import ContextWriter
from agentguard.policies.cedar.schema import schema_text
from agentguard.policies.cedar.types import shape_of
from agentguard.policies.cedar.view import view_of

GOLDEN = Path(__file__).parent / "golden"
WHOLE = "permit (principal, action, resource) when { context == context };"
PAY = ToolSpec(
    name="pay",
    path=ToolPath.WRITE,
    resource="bank",
    schema={
        "type": "object",
        "properties": {"to": {"type": "string"}, "amount": {"type": "number"}, "note": {"type": "string"}},
        "required": ["to", "amount"],
    },
    sinks=frozenset({"to"}),
    clearance=Sensitivity.CONFIDENTIAL,
)
READ = ToolSpec(name="read", path=ToolPath.READ, schema={"type": "object", "properties": {}})
READS = replace(READ, name="look")
IDENTITY = Identity(subject="user:ada", actor="agent:one", chain=("agent:zero",))
TASK = TaskState(
    id="t-1",
    purpose="Pay the bill",
    identity=IDENTITY,
    mandate=Mandate.of({"tools": ["pay", "look"], "args": {"to": ["FR14", "DE02"]}}),
    deadline=1_790_000_500.0,
    lineage=("t-0",),
    calls=3,
    writes=1,
    history=("look", "pay"),
    untrusted=True,
    words="Pay 20 to FR14",
    kinds=("refund", "bill"),
    sensitivity=Sensitivity.INTERNAL,
    labels=7,
    questions=2,
)
REQUEST = AccessRequest(
    identity=IDENTITY,
    tool=PAY,
    arguments=Arguments.of({"to": "FR14", "amount": 20.5}),
    task=TASK,
    environment={"region": "eu", "tier": "gold"},
    legacy=True,
    provenance={"to": Provenance(sources=frozenset({"user", "look.iban"}), sensitivity=Sensitivity.INTERNAL)},
    at=1_790_000_000.25,
)
APPROVED = replace(
    REQUEST,
    approval=Approval(
        id="a-1",
        call_key="k",
        task_id="t-1",
        tool="pay",
        digest=REQUEST.arguments.digest,
        policy_version="v",
        expires_at=1_790_000_100.0,
        status=ApprovalStatus.APPROVED,
        approver="user:boss",
    ),
)
SPECS = (PAY, READS)
SHAPES = {spec.name: shape_of(spec) for spec in SPECS}


def golden(name: str) -> str:
    return (GOLDEN / name).read_text("utf-8").removesuffix("\n")


def written(request: AccessRequest, rule: str, inputs: tuple[RuleInput, ...] = INPUTS) -> object:
    shape = SHAPES["pay"]
    view = view_of([rule], shape.names, inputs)
    return ContextWriter(shape, ("region", "tier"), view, inputs).write(request)


def test_the_cedar_schema_is_the_same_text_as_ever() -> None:
    """The version of a policy is a digest of it, and a pending approval holds under its version alone."""
    assert schema_text(SPECS, SHAPES, ("tier", "region")).removesuffix("\n") == golden("schema.cedarschema")


def test_the_cedar_context_has_the_same_values_as_ever() -> None:
    """Only Cedar in this process reads it: the order of its members is nobody's business."""
    assert written(APPROVED, WHOLE) == json.loads(golden("context_whole.json"), object_hook=_tuples)
    rule = (
        "context.task.calls < 3 && context.provenance.args.note.trusted && context.clearance > 1"
        " && context.now > x && context.args.to"
    )
    assert written(REQUEST, rule) == json.loads(golden("context_viewed.json"))


def test_what_another_pdp_is_sent_is_the_same_json_as_ever() -> None:
    assert json.dumps(question(APPROVED)) == golden("question.json")


def test_what_is_recorded_is_the_same_json_as_ever() -> None:
    """The audit log writes sorted members without white space."""
    assert json.dumps(recorded(APPROVED), sort_keys=True, separators=(",", ":")) == golden("record.json")
    assert replayed(json.loads(golden("record.json")), PAY) == REQUEST


def test_a_record_from_before_there_were_distinctions_and_questions_is_read() -> None:
    record = json.loads(golden("record.json"))
    del record["distinctions"], record["task"]["questions"]
    assert replayed(record, PAY) == replace(REQUEST, task=replace(TASK, questions=0))


def test_a_record_from_before_sources_of_each_says_that_no_source_is_that_of_each_value() -> None:
    record = json.loads(golden("record.json"))
    del record["origins"]["to"]["sources_of_each"]
    before = REQUEST.provenance["to"]
    origins = {"to": replace(before, sources_of_each=frozenset())}
    assert replayed(record, PAY) == replace(REQUEST, provenance=origins)


def _tuples(members: dict[str, object]) -> dict[str, object]:
    """Read the lists that Cedar is given as tuples: both are the same JSON."""
    ordered = ("history", "kinds", "distinctions")
    return {k: tuple(v) if k in ordered and isinstance(v, list) else v for k, v in members.items()}


# --- a new input is one row

WORDS = next(row for row in INPUTS if row.source == "task.words")
WITHOUT = tuple(row for row in INPUTS if row is not WORDS)
NEW = RuleInput("task.words", InputType.TEXT, "task.words", "task.words")
AMONG_ALL = RuleInput("task.words", InputType.TEXT, "words", "words")
Seen = Callable[[tuple[RuleInput, ...]], object]
FORMS: dict[str, Seen] = {
    "schema": lambda inputs: schema_text(SPECS, SHAPES, inputs=inputs),
    "context of a rule that names it": lambda inputs: written(REQUEST, "context.task.words like x", inputs),
    "context of a rule that names all": lambda inputs: written(REQUEST, WHOLE, inputs),
    "question to another PDP": lambda inputs: json.dumps(question(REQUEST, inputs)),
    "record": lambda inputs: json.dumps(recorded(REQUEST, inputs)),
    "what explain varies": lambda inputs: [change.words for change in changes(REQUEST, ['"other"'], inputs)],
}


@pytest.mark.parametrize("row", [NEW, AMONG_ALL], ids=["in the task", "in the context itself"])
@pytest.mark.parametrize("form", FORMS)
def test_a_new_input_is_one_row(form: str, row: RuleInput) -> None:
    assert "words" not in str(FORMS[form](WITHOUT))
    assert "words" in str(FORMS[form]((*WITHOUT, row)))


def test_a_new_input_is_replayed_from_its_record() -> None:
    record = json.loads(json.dumps(recorded(REQUEST, (*WITHOUT, NEW))))
    assert replayed(record, PAY, (*WITHOUT, NEW)) == REQUEST
    assert replayed(record, PAY, WITHOUT).task.words == ""


def test_a_record_from_before_an_input_is_refused_unless_its_row_says_what_it_was() -> None:
    before = json.loads(json.dumps(recorded(REQUEST, WITHOUT)))
    with pytest.raises(ValueError, match="words"):
        replayed(before, PAY, (*WITHOUT, NEW))
    tolerant = RuleInput("task.words", InputType.TEXT, None, None, absent="unknown")
    assert replayed(before, PAY, (*WITHOUT, tolerant)).task.words == "unknown"


def test_an_input_has_a_place_that_the_schema_knows() -> None:
    with pytest.raises(ValueError, match="task, provenance"):
        RuleInput("task.words", InputType.TEXT, "words.of.user", None)


def test_what_is_recorded_in_a_form_of_its_own_is_read_back() -> None:
    assert JSON_FORM.keys() <= FROM_JSON.keys()
