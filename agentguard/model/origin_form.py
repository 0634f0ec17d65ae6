"""The written form of where an argument, and all that is inside of it, came from."""

from __future__ import annotations

from collections.abc import Callable

from agentguard.model.arguments import Json
from agentguard.model.inputs import ARGUMENT_INPUTS
from agentguard.model.looks import TEXT_KINDS
from agentguard.model.provenance import Provenance

__all__ = ["name_inside", "origin_form"]

_OF_ORIGIN = frozenset({*(row.name for row in ARGUMENT_INPUTS), *TEXT_KINDS})


def name_inside(field: str) -> str:
    """Return the name of a field inside of an argument in ``provenance.args``; no two fields have the same.

    The field ``user`` is ``user_``, since ``user`` says whether the user named the argument.
    """
    return f"{field}_" if field.rstrip("_") in _OF_ORIGIN else field


def origin_form(write: Callable[[object], dict[str, Json]], origin: Provenance) -> dict[str, Json]:
    """Return where an argument and all that is inside of it came from; *write* writes `ARGUMENT_INPUTS`."""
    form = write(origin)
    for name, inner in origin.inside.items():
        form[name_inside(name)] = origin_form(write, inner)
    for kind, things in origin.texts.items():
        form[kind] = write(things)
    return form
