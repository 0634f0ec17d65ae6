"""The answers of Cedar about one tool that are kept, so that the same question is not evaluated twice.

An answer follows from the rules, the entities and the question, and from nothing else. The rules and entities
of a tool never change: new ones make another tool, which keeps nothing yet. A question holds what the rules
may look at, and no more. So an equal question has an equal answer.

Counters and amounts differ from call to call. But a rule that only compares a number with constants can tell
two numbers apart by nothing but their place among these constants. So such a number stands in a question by
that place. The comparisons are read in the tree that Cedar itself has parsed. A number that any rule looks at
in another way, as in ``context.task.writes + 1 > 3``, stands there as it is.

A question is kept as its digest: no argument stays in memory.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from cedarpy import PolicySet, pst
from pydantic_core import to_json

from agentguard.model.arguments import Json

__all__ = ["MOST", "Answer", "Constants", "KnownAnswers", "constants_of"]

MOST = 256  # answers that are kept of one tool
_MOST_RULES = 50  # whose trees are read for their constants, in about 0.1 ms each
_COMPARISONS = frozenset({"eq", "not_eq", "less", "less_eq", "greater", "greater_eq"})
_CONTEXT = pst.Var("context")
Place = tuple[str, str]  # a record of the context, and a name in it
Constants = Mapping[Place, Sequence[int]]


class Answer(NamedTuple):
    """Whether Cedar allows, the numbers of the rules that determined it, and which rules failed."""

    allowed: bool
    numbers: tuple[str, ...]
    failure: str = ""


class KnownAnswers:
    """The last answers about one tool; when there are `MOST`, all are forgotten."""

    def __init__(self, constants: Constants) -> None:
        self._constants = constants
        self._answers: dict[bytes, Answer] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def question(self, actor: str, context: Mapping[str, Json], thing: Json = None) -> bytes:
        """Return what names this question, and each that no rule can tell from it.

        *thing* is what the rules may look at of the one thing that the call acts on.
        """
        parts = dict(context)
        for (record, name), constants in self._constants.items():
            value = parts.get(record, {}).get(name)
            if type(value) is int:
                place = bisect_left(constants, value) + bisect_right(constants, value)
                parts[record] = {**parts[record], name: place}
        return sha256(to_json((actor, parts) if thing is None else (actor, parts, thing))).digest()

    def get(self, question: bytes) -> Answer | None:
        """Return the answer to this question, if it is kept."""
        return self._answers.get(question)

    def keep(self, question: bytes, answer: Answer) -> None:
        """Keep an answer."""
        if len(self._answers) >= MOST:
            self._answers.clear()
        self._answers[question] = answer


def constants_of(rules: PolicySet) -> Constants:
    """Return the numbers in the context that rules only compare with constants, each with these constants.

    Of more than `_MOST_RULES` rules, none is returned: the first call of a tool waits for the trees.
    """
    constants, other, whole = defaultdict[Place, set[int]](set), set[Place](), set[str]()
    if len(rules) > _MOST_RULES:
        return {}
    try:
        for rule in rules.to_pst().static_policies.values():
            for look, constant in _looks(rule):
                if isinstance(look, str):
                    whole.add(look)
                elif constant is None:
                    other.add(look)
                else:
                    constants[look].add(constant)
    except ValueError:  # a rule looks at the whole context, or has a tree too deep to read
        return {}
    return {
        place: sorted(values)
        for place, values in constants.items()
        if place not in other and place[0] not in whole
    }


def _looks(rule: pst.Template) -> Iterator[tuple[Place | str, int | None]]:
    """Yield each place that a rule looks at, with the constant that it compares the value with.

    None stands for any other look. A name alone is a part of the context that the rule looks at as a whole,
    which may be a record. Whether a name is there at all is no look at its value.

    Raises:
        ValueError: The rule looks at the whole context.
    """
    waiting: list[Any] = list(rule.clauses)
    while waiting:
        node = waiting.pop()
        if (comparison := _comparison(node)) is not None:
            yield comparison
        elif (place := _place(node)) is not None:
            yield place, None
        elif node == _CONTEXT:
            raise ValueError("the rule looks at the whole context")
        elif (name := _whole_part(node)) is not None:
            yield name, None
        elif not _is_no_look(node):
            waiting.extend(_parts(node))


def _comparison(node: object) -> tuple[Place, int] | None:
    match node:
        case (
            pst.BinaryOp(op=op, left=look, right=pst.LongLit(value=constant))
            | pst.BinaryOp(op=op, left=pst.LongLit(value=constant), right=look)
        ) if op in _COMPARISONS and (place := _place(look)) is not None:
            return place, constant
    return None


def _place(node: object) -> Place | None:
    match node:
        case pst.GetAttr(base=pst.GetAttr(base=pst.Var(name="context"), attr=record), attr=name):
            return record, name
    return None


def _whole_part(node: object) -> str | None:
    match node:
        case pst.GetAttr(base=pst.Var(name="context"), attr=name):
            return name
    return None


def _is_no_look(node: object) -> bool:
    """Return whether this asks if a name is there, or for an attribute of an entity."""
    match node:
        case pst.HasAttr(base=pst.Var() | pst.GetAttr(base=pst.Var())) | pst.GetAttr(base=pst.Var()):
            return True
    return False


def _parts(node: object) -> Iterable[object]:
    if isinstance(node, tuple):
        return node
    if isinstance(node, Mapping):
        return node.values()
    if is_dataclass(node) and not isinstance(node, type):
        return [getattr(node, field.name) for field in fields(node)]
    return ()
