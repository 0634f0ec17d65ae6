"""What is counted of the calls that were done: of which tools, and under which names a store keeps it.

A store keeps whole numbers, and knows nothing of tools. A count is a number of calls. A sum is a number of
units of 1/10,000, which is the finest that a decimal of Cedar has, so no sum is ever rounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

__all__ = [
    "BUCKETS",
    "MOST",
    "UNITS",
    "VALUES",
    "Addition",
    "Cell",
    "Counted",
    "amount_of",
    "family_of",
    "unit_count",
]

UNITS = 10_000
"""How many units of a sum are 1."""
MOST = 10**15 - 1
"""The largest sum in units, and the largest count: a JSON number of 15 digits is the same in any reader."""
VALUES = 10_000
"""How many different values of one argument a task, or one part of a window, tells apart."""
BUCKETS = 32
"""Into how many parts a sliding window is divided. A call counts until the whole of its part is over."""
_PLAIN = re.compile(r"[0-9]{1,40}(\.[0-9]{1,40})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What is counted of the calls of one tool that were done.

    Their number is always counted. `sum` are the arguments whose values are added up, and `per` those for
    each value of which count and sums are kept too. `user` and `agent` are sliding windows over the calls
    for one user, and over those of one agent, in all tasks: their lengths in seconds, by names that the
    author gives them.
    """

    sum: tuple[str, ...] = ()
    per: tuple[str, ...] = ()
    user: Mapping[str, int] = field(default_factory=dict)
    agent: Mapping[str, int] = field(default_factory=dict)

    @property
    def arguments(self) -> frozenset[str]:
        """The arguments of the tool that are looked at."""
        return frozenset((*self.sum, *self.per))

    def in_task(self) -> Counted:
        """Return what is counted within a task: everything but the windows."""
        return Counted(sum=self.sum, per=self.per)

    def covers(self, other: Counted) -> bool:
        """Return whether all that *other* counts within a task is counted here too."""
        return set(other.sum) <= set(self.sum) and set(other.per) <= set(self.per)

    def literal(self) -> dict[str, Any]:
        """Return what is counted within a task, as JSON."""
        return {"sum": list(self.sum), "per": list(self.per)}

    @classmethod
    def of(cls, form: Mapping[str, Any]) -> Counted:
        """Return what `literal` has written."""
        return cls(sum=tuple(form["sum"]), per=tuple(form["per"]))


class Cell(NamedTuple):
    """A number in a store: the sum over all buckets of *name* from *since* on, of one owner.

    An owner is a family of tasks, or a window of one user or agent. What belongs to a family is all in bucket
    0, and is kept as long as the family's oldest task.
    """

    owner: str
    name: str
    since: int = 0


class Addition(NamedTuple):
    """What a call adds to a number while it runs, and when it is done.

    With *group*, *name* is that of one value of an argument, and the number by the name *group* says how many
    such values there are in this bucket. There are at most `VALUES`. *until* is the time from which on nobody
    looks at the bucket any more; 0.0 for what is kept with a family.
    """

    owner: str
    name: str
    bucket: int
    amount: int
    group: str = ""
    until: float = 0.0


def family_of(root_id: str) -> str:
    """Return the owner of what is counted in a family of tasks."""
    return f"task {root_id}"


def unit_count(value: object) -> int | None:
    """Return a number in units, or None if a sum cannot hold it: it is negative, too large or too fine.

    A text counts if it is a plain number: so is a `Decimal` written as JSON.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and _PLAIN.fullmatch(value) is None:
        return None
    number = Decimal(repr(value) if isinstance(value, float) else value)
    if not number:
        return 0
    if number.is_signed() or not number.is_finite() or not -4 <= number.adjusted() <= 10:
        return None
    whole, _, rest = f"{number:f}".partition(".")
    rest = rest.rstrip("0")
    return None if len(rest) > 4 else int(f"{whole}{rest:0<4}")


def amount_of(units: int) -> Decimal:
    """Return a sum as the number that it is."""
    return Decimal(units) / UNITS
