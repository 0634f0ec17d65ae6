"""A task as the store holds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from agentguard.model.counts import Counted
from agentguard.model.identity import Identity, Login
from agentguard.model.mandate import Mandate
from agentguard.model.provenance import Sensitivity
from agentguard.model.tool import ToolPath

if TYPE_CHECKING:
    from agentguard.model.credential import Call

__all__ = ["CHOICE_BITS", "QUESTIONS", "TURN", "WORDS", "Budget", "TaskState", "TaskStatus", "words_of"]

WORDS = 16_384
"""How many characters of the user's words count."""

TURN = "\x1e"
"""What stands between two turns of a conversation in `TaskState.words`; no value reaches over it."""

QUESTIONS = 20
"""How many questions about the calls of a task persons are asked at most, where nobody says another limit."""

CHOICE_BITS = 1_024
"""How many bits the calls of a task say by the choice among values, where nobody says another limit.

A text of 128 characters has as many, and so have eight calls that each say all that one call may say.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most calls, the most calls on WRITE and ESCALATION paths, and the most questions to persons.

    `choice_bits` limits how much the task's calls say by which of the values that user, mandate or a trusted
    field vouches for are in them. Beyond that, those values count as sensitive as all that the task has read.
    None is no limit. A task that a guard begins always has a limit of questions and of choice bits.
    """

    calls: int | None = None
    writes: int | None = None
    questions: int | None = None
    choice_bits: int | None = None

    def within(self, other: Budget) -> Budget:
        """Return the tighter of both, limit by limit."""
        return Budget(
            calls=_least(self.calls, other.calls),
            writes=_least(self.writes, other.writes),
            questions=_least(self.questions, other.questions),
            choice_bits=_least(self.choice_bits, other.choice_bits),
        )

    def completed(self) -> Budget:
        """Return the budget with the usual limits of questions and choice bits, where it has none of them."""
        return replace(
            self,
            questions=QUESTIONS if self.questions is None else self.questions,
            choice_bits=CHOICE_BITS if self.choice_bits is None else self.choice_bits,
        )


def words_of(turns: Iterable[str]) -> str:
    """Return what a user has said in these turns, as `TaskState.words`.

    Of one turn the first `WORDS` characters count. If all turns together are longer than that, the oldest
    ones are left out: what the user has said last is what the agent works on.
    """
    newest: list[str] = []
    room = WORDS
    for turn in reversed([text.replace(TURN, " ")[:WORDS] for text in turns]):
        room -= len(turn) + bool(newest)
        if room < 0:
            break
        newest.append(turn)
    return TURN.join(reversed(newest))


class TaskStatus(StrEnum):
    """The states of a task. Only an ACTIVE task can make calls; an ended task never becomes active again."""

    ACTIVE = "active"
    COMPLETED = "completed"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """A task as the store holds it at one moment.

    `lineage` lists its parent tasks, nearest first: the task is active only while all of them are, and its
    calls and questions count against the budgets of all. `history` holds the names of the called tools,
    each once, in the order of their first call. `untrusted` is True once the task has read an untrusted
    result, and `sensitivity` is the highest that it has read. `words` are the user's own words, which
    vouch for the values in them; those of several turns have `TURN` between them. `kinds` are the
    templates that its mandate was made of. `labels` counts the labels on values that the task and its
    family have read. `questions` counts the questions about its calls that were asked of persons.
    `choice_bits` counts the bits that its calls have said by the choice among values, each call's rounded
    up. `login` is that of the subject token; an identity provider's signal names the task by it.
    `counted` says of which tools the calls of the family that were done are counted, from the beginning of
    its oldest task on.
    """

    id: str
    purpose: str
    identity: Identity
    mandate: Mandate
    deadline: float
    budget: Budget = Budget()
    status: TaskStatus = TaskStatus.ACTIVE
    lineage: tuple[str, ...] = ()
    calls: int = 0
    writes: int = 0
    history: tuple[str, ...] = ()
    untrusted: bool = False
    words: str = ""
    kinds: tuple[str, ...] = ()
    sensitivity: Sensitivity = Sensitivity.PUBLIC
    labels: int = 0
    questions: int = 0
    login: Login | None = None
    choice_bits: int = 0
    counted: Mapping[str, Counted] = field(default_factory=dict)

    @property
    def root_id(self) -> str:
        """Return the id of the oldest task of its family: itself, or the last of its lineage.

        The store keeps the labels of a family under this id.
        """
        return self.lineage[-1] if self.lineage else self.id

    def within(self, ancestor: TaskState) -> TaskState:
        """Return the task as rules see it: within an ancestor's mandate, with all that the family has done.

        This is for each ancestor in turn, the oldest one last, which counts what the whole family has done
        and read. A value that one task of a family has read may be an argument in any other. And a limit by
        the calls so far would otherwise begin anew in each child. The limit of choice bits is what is left to
        this task, or to its family if that is less. The user speaks to the whole family. The mandate of an
        ancestor may have been renewed since this task began.
        """
        mandate = ancestor.mandate.narrow(self.mandate)
        limit = self.budget.choice_bits
        if limit is not None:
            limit += ancestor.choice_bits - self.choice_bits
        return replace(
            self,
            mandate=self.mandate if mandate == self.mandate else mandate,
            budget=replace(self.budget, choice_bits=_least(limit, ancestor.budget.choice_bits)),
            choice_bits=ancestor.choice_bits,
            calls=ancestor.calls,
            writes=ancestor.writes,
            history=ancestor.history,
            untrusted=ancestor.untrusted,
            sensitivity=ancestor.sensitivity,
            questions=ancestor.questions,
            words=ancestor.words,
        )

    def count(self, call: Call) -> tuple[int, int, int, tuple[str, ...]]:
        """Return the task's calls, writes, choice bits and history after *call*."""
        history = self.history if call.tool in self.history else (*self.history, call.tool)
        writes = self.writes + (call.path is not ToolPath.READ)
        return self.calls + 1, writes, self.choice_bits + call.choice_bits, history

    def after(self, call: Call) -> TaskState:
        """Return the task after *call*."""
        calls, writes, choice_bits, history = self.count(call)
        return replace(self, calls=calls, writes=writes, choice_bits=choice_bits, history=history)

    def ended(self, now: float) -> TaskStatus | None:
        """Return how the task ended, or None while it is active at *now*."""
        if self.status is not TaskStatus.ACTIVE:
            return self.status
        return TaskStatus.EXPIRED if now >= self.deadline else None


def _least(one: int | None, two: int | None) -> int | None:
    return min((limit for limit in (one, two) if limit is not None), default=None)
