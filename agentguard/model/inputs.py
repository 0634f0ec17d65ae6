"""What rules can see of a request: one table, from which each written form of a request is made.

For a new input of rules, add a row to `INPUTS`, or to `ARGUMENT_INPUTS` if each argument has its own value.
The row names a field, and does not fill it: the docstring of `agentguard` says what does. Made from the rows:

    policies/cedar/schema.py   the Cedar types of the context
    policies/cedar/context.py  the context of one call
    policies/_remote.py        the JSON that other policy decision points (PDPs) are sent
    audit/requests.py          the recorded request, and the request that is read back from it
    analysis/changes.py        the other values that `explain` tries

The arguments and a person's approval are no rows: each tool has its own, and a person answers the question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from operator import attrgetter
from typing import Any, TypeVar

from agentguard.model.arguments import Json
from agentguard.model.decision import AccessRequest, ApprovalStatus
from agentguard.model.facts import Facts
from agentguard.model.mandate import Mandate
from agentguard.model.provenance import Sensitivity
from agentguard.model.tallies import tallies_json, tallies_of

__all__ = [
    "APPROVED",
    "ARGUMENT_INPUTS",
    "FROM_JSON",
    "INPUTS",
    "JSON_FORM",
    "REQUIRED",
    "Forms",
    "InputType",
    "RuleInput",
    "approval_json",
    "in_group",
    "writer_of",
]

T = TypeVar("T")
Forms = Mapping["InputType", Callable[[Any], Json]]
GROUPS = ("task", "provenance")
REQUIRED: Any = object()


class InputType(Enum):
    """What kind of value an input is. Cedar's type for each is in `policies.cedar.schema`."""

    TEXT = "text"
    TEXTS = "texts in their order"
    NAMES = "a set of texts"
    FLAG = "true or false"
    COUNT = "a whole number"
    LEVEL = "a sensitivity, from 0 (public) to 3 (restricted)"
    TIME = "seconds since the epoch"
    TABLE = "texts by name, of which the configuration promises the names"
    FACTS = "records by name, which each tool has its own of; left out where a request has none"
    TALLIES = "what was done, by tool; left out where a request has nothing of it"
    MANDATE = "a mandate: no rule can see one"


@dataclass(frozen=True, slots=True, eq=False)
class RuleInput:
    """One value of a request, and its place in each written form of the request.

    `source` is the path of attributes from the `AccessRequest` to the value (in `ARGUMENT_INPUTS`, from the
    `Provenance`), and its place in the recorded request. `cedar` is its place in Cedar's context: a name, or
    a name in ``task`` or ``provenance``. `remote` is its place in the context that other PDPs are sent. None
    says that the value is not there. Values in ``tool`` are never recorded: they come from the catalog.

    `phrases` are the words with which `explain` describes another value. They are formatted with `value`, and
    in a TABLE with `name`. A FLAG has two phrases: for true and for false. TEXTS have two: for one text more
    and for one less. `explain` does not try a change whose phrase is empty or missing. None stands for the
    usual phrases of the type.

    `absent` is the value, in JSON, for records that were written before the row existed. Without it, such
    records are refused.

    Raises:
        ValueError: Cedar's context has no such record as `cedar` names.
    """

    source: str
    type: InputType
    cedar: str | None
    remote: str | None
    phrases: tuple[str, ...] | None = None
    recorded: bool = True
    absent: Json = REQUIRED

    def __post_init__(self) -> None:
        group, _, name = (self.cedar or "").rpartition(".")
        if group and (group not in GROUPS or not name):
            raise ValueError(f"{self.cedar}: the context has the records {', '.join(GROUPS)} and no other")

    @property
    def name(self) -> str:
        """The last part of its place in Cedar's context."""
        return (self.cedar or "").rpartition(".")[2]

    @property
    def on_record(self) -> bool:
        """Whether the value is recorded with a request."""
        return self.recorded and not self.source.startswith("tool.")

    def changed(self, request: T, value: object) -> T:
        """Return the request with another value here."""
        *parents, name = self.source.split(".")
        objects: list[Any] = [request]
        for parent in parents:
            objects.append(getattr(objects[-1], parent))
        for parent, holder in zip((*parents, name)[::-1], objects[::-1], strict=True):
            value = replace(holder, **{parent: value})
        return value  # type: ignore[return-value]  # the last holder is the request


def in_group(inputs: tuple[RuleInput, ...], group: str) -> tuple[RuleInput, ...]:
    """Return the inputs that stand in one record of Cedar's context, or for "" in the context itself."""
    return tuple(row for row in inputs if row.cedar and row.cedar.rpartition(".")[0] == group)


def writer_of(inputs: Iterable[tuple[str, RuleInput]], forms: Forms) -> Callable[[object], dict[str, Json]]:
    """Return a function of a request that writes the values of *inputs* by the names beside them.

    *forms* convert the values of a type. The function is made once and runs in each call, so it fetches all
    the values in one step.
    """
    rows = tuple(inputs)
    # a level is fetched as the plain number: to write an enum as JSON takes ten times as long
    paths = [f"{row.source}.real" if row.type is InputType.LEVEL else row.source for _, row in rows]
    names = tuple(name for name, _ in rows)
    converted = tuple((name, forms[row.type]) for name, row in rows if row.type in forms)
    sparse = tuple(name for name, row in rows if row.type in (InputType.FACTS, InputType.TALLIES))
    get: Callable[[object], Any] = attrgetter(*paths) if paths else lambda request: ()
    if len(paths) == 1:
        (name,) = names
        convert = forms.get(rows[0][1].type)
        if convert is None:
            return lambda request: {name: get(request)}
        return lambda request: {name: convert(get(request))}

    def write(request: object) -> dict[str, Json]:
        values = dict(zip(names, get(request)))  # noqa: B905  both are made of the same rows
        for name, convert in converted:
            values[name] = convert(values[name])
        for name in sparse:
            if not values[name]:
                del values[name]
        return values

    return write


def _texts(value: Json) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError("texts are no list")
    return tuple(value)


JSON_FORM: Forms = {
    InputType.TEXTS: list,
    InputType.NAMES: sorted,
    InputType.TABLE: dict,
    InputType.FACTS: dict,
    InputType.TALLIES: tallies_json,
    InputType.MANDATE: Mandate.literal,
}
"""What makes JSON of a value; a value of a type that is not named here is JSON as it is."""
FROM_JSON: Mapping[InputType, Callable[[Json], Any]] = {
    InputType.TEXTS: _texts,
    InputType.NAMES: frozenset,
    InputType.LEVEL: Sensitivity,
    InputType.TABLE: dict,
    InputType.FACTS: Facts.of,
    InputType.TALLIES: tallies_of,
    InputType.MANDATE: Mandate.of,
}
"""What makes a value of its JSON again; each raises a TypeError or a ValueError for what is none."""

_TEXT, _TEXTS, _FLAG, _COUNT = InputType.TEXT, InputType.TEXTS, InputType.FLAG, InputType.COUNT
_LEVEL, _TIME = InputType.LEVEL, InputType.TIME
NOT_TRIED: tuple[str, ...] = ()

INPUTS: tuple[RuleInput, ...] = (
    RuleInput("identity.actor", _TEXT, None, "agent", NOT_TRIED),  # Cedar's principal
    RuleInput("identity.chain", _TEXTS, None, None),
    RuleInput("task.id", _TEXT, "task.id", "task.id", NOT_TRIED),
    RuleInput("task.purpose", _TEXT, "task.purpose", "task.purpose", ("the purpose were {value!r}",)),
    RuleInput("task.status", _TEXT, "task.status", "task.status", NOT_TRIED, recorded=False),
    RuleInput(
        "task.history",
        _TEXTS,
        "history",
        "history",
        ("{value!r} had been called", "{value} had not been called"),
    ),
    RuleInput("task.kinds", _TEXTS, "task.kinds", "task.kinds", ("the task were of the kind {value!r}", "")),
    RuleInput("task.calls", _COUNT, "task.calls", "task.calls", ("it had made {value} calls",)),
    RuleInput("task.writes", _COUNT, "task.writes", "task.writes", ("it had made {value} writes",)),
    RuleInput(
        "task.questions",
        _COUNT,
        "task.questions",
        "task.questions",
        ("persons had been asked about {value} of its calls",),
        absent=0,
    ),
    RuleInput("tool.path", _TEXT, None, "path"),  # a group of Cedar's actions
    RuleInput("tool.clearance", _LEVEL, "clearance", "clearance", NOT_TRIED),
    RuleInput(
        "task.untrusted",
        _FLAG,
        "provenance.untrusted",
        "provenance.untrusted",
        ("something untrusted had been read", "nothing untrusted had been read"),
    ),
    RuleInput(
        "task.sensitivity",
        _LEVEL,
        "provenance.sensitivity",
        "provenance.sensitivity",
        ("what was read had been {value} at most",),
    ),
    RuleInput("environment", InputType.TABLE, "environment", "environment", ("{name} were {value!r}",)),
    RuleInput("identity.subject", _TEXT, "subject", None, ("the user were {value!r}",)),  # AuthZEN's subject
    RuleInput("legacy", _FLAG, "legacy", "legacy", ("", "its key were not long-lived")),
    RuleInput("at", _TIME, "now", "at", NOT_TRIED),
    RuleInput(
        "distinctions",
        _TEXTS,
        "distinctions",
        "distinctions",
        ("", "{value!r} were not said of its arguments"),
        absent=[],
    ),
    RuleInput("facts", InputType.FACTS, "facts", "facts", ("{name} were {value!r}",), absent={}),
    RuleInput("tallies", InputType.TALLIES, "task.done", "task.done", absent={}),
    RuleInput("user_tallies", InputType.TALLIES, "done_by_user", "done_by_user", absent={}),
    RuleInput("agent_tallies", InputType.TALLIES, "done_by_agent", "done_by_agent", absent={}),
    # what no rule sees, and what is yet a part of the request
    RuleInput("task.words", _TEXT, None, None),
    RuleInput("task.lineage", _TEXTS, None, None),
    RuleInput("task.labels", _COUNT, None, None),
    RuleInput("task.mandate", InputType.MANDATE, None, None),
    RuleInput("task.deadline", _TIME, None, None),
)
"""What a request says, but for its arguments. The order is that of the JSON that other PDPs are sent."""

ARGUMENT_INPUTS: tuple[RuleInput, ...] = (
    RuleInput("user", _FLAG, "user", "user"),
    RuleInput("trusted", _FLAG, "trusted", "trusted"),
    RuleInput("untrusted", _FLAG, "untrusted", "untrusted"),
    RuleInput("sources", InputType.NAMES, "sources", "sources"),
    RuleInput("sensitivity", _LEVEL, "sensitivity", "sensitivity"),
    RuleInput("sources_of_each", InputType.NAMES, "sources_of_each", "sources_of_each", absent=()),
    RuleInput("vouched_by", InputType.NAMES, "vouched_by", "vouched_by", absent=()),
)
"""What a request says of where an argument, and what is inside of it, came from (fields of `Provenance`)."""
APPROVED: Mapping[str, Json] = {"approvers": 1}
"""What ``context.approval`` is where a policy is asked whether it would permit with a person's approval."""


def approval_json(request: AccessRequest) -> dict[str, Json] | None:
    """Return ``context.approval`` for a request that a person has approved, and None for any other."""
    approval = request.approval
    if approval is None or approval.status is not ApprovalStatus.APPROVED:
        return None
    return dict(APPROVED) if approval.approver is None else {**APPROVED, "approver": approval.approver}
