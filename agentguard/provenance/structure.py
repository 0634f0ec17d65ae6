"""What the structure of arguments says: the values in them, and what a model could spell by the rest.

Names of properties that are there or not, lists in lists, and the order of keys can spell a text, though no
value of it is taken from anywhere. So each of them is counted in bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import lgamma, log, log2

from agentguard.model.declared import Declared
from agentguard.provenance.leaves import DEEPEST, MOST, Leaf

__all__ = ["bits_of_order", "bits_of_presence", "take_apart"]

_ORDER = ": order ["


def take_apart(name: str, value: object, around: Declared) -> tuple[list[Leaf], float]:
    """Return the values in an argument, and the bits that its structure says.

    *around* is what the schema declares of the object that holds the argument. Values are texts, numbers,
    booleans, and each name that the schema does not declare at its place. None stands for each empty value
    for which nobody vouches, and for all parts beyond `MOST` and `DEEPEST`. An empty text, list or object and
    null are such values in a list. Beside a list, they say nothing if the schema has them as a default, or
    does not say what it has where the model leaves the property out.
    """
    values, bits, count = list[Leaf](), 0.0, 0
    waiting = [(name, value, around, around.of(name), 0, False)]
    while waiting:
        name, part, around, here, depth, listed = waiting.pop()
        count += 1
        if count > MOST or depth > DEEPEST:
            values.append(None)
            break
        if part is None or (isinstance(part, str | list | tuple | dict) and not part):
            choices = 0 if listed else around.omission_choices(name, part)
            if not choices:
                values.append(None)
            bits += log2(choices or 1)
        elif isinstance(part, str | int | float):
            values.append(part)
        elif isinstance(part, dict):
            values += (key or None for key in part if key not in here.properties)
            bits += 1 + bits_of_presence(here, part)
            waiting += (
                (key, inner, here, here.of(key), depth + 1, listed) for key, inner in reversed(part.items())
            )
        elif isinstance(part, list | tuple):
            bits += 1 + log2(len(part) + 1)
            waiting += (("", inner, here, here.items, depth + 1, True) for inner in reversed(part))
    return values, bits


def bits_of_presence(place: Declared, names: Collection[str]) -> float:
    """Return how many bits it says which of the optional properties at a place are there.

    It is said first how many are there, then which of all sets with so many names.
    """
    of_all = len(place.optional)
    if not of_all:
        return 0.0
    there = sum(name in place.optional for name in names)
    return log2(of_all + 1) + _bits_of_factorial(of_all, there, of_all - there)


def bits_of_order(distinctions: Iterable[str]) -> float:
    """Return how many bits the order of keys says, where a tool can see another one than the usual.

    An order that is the same as one before says which one it is.
    """
    orders, bits = set[str](), 0.0
    for distinction in distinctions:
        # the first place: where a name holds these words too, more is counted as an order, never less
        _, mark, order = distinction.partition(_ORDER)
        if not mark or not order.endswith("]"):
            continue
        bits += log2(len(orders) + 1)
        if order not in orders:
            orders.add(order)
            bits += _bits_of_factorial(order.count('", "') + 1)
    return bits


def _bits_of_factorial(number: int, *divisors: int) -> float:
    """Return log2 of the factorial of a number, divided by those of others."""
    return (lgamma(number + 1) - sum(lgamma(divisor + 1) for divisor in divisors)) / log(2)
