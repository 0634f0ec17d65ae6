"""The references in a schema, found once: no use of one looks through the schema again, or fetches anything.

jsonschema looks for an anchor or an ``$id`` in the whole schema, and forgets what it has found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentguard.errors import ConfigurationError

__all__ = ["REFERENCES", "resolver_of", "work_of_reference"]

REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_NAMES = frozenset({*REFERENCES, "$id", "id", "$anchor", "$dynamicAnchor"})
_LONGEST = 1_000  # characters of a reference, or of a name for one, at most
_STEP = 2  # units of work for one step on the way to a place, or for one place from which it was come here


def resolver_of(schema: Mapping[str, Any], kind: Any) -> Any:
    """Return a resolver of all references within a schema, of a class of jsonschema's validators.

    A reference to another document leads nowhere: whoever serves the tool writes the schema, and may not make
    us fetch anything.

    Raises:
        ConfigurationError: A reference or a name is too long, or the names cannot be read.
    """
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # it has no types
    from referencing.jsonschema import DRAFT202012, specification_with

    _require_short_names(schema)
    try:
        specification = specification_with(kind.ID_OF(kind.META_SCHEMA), default=DRAFT202012)
        resource = specification.create_resource(schema)
        base = resource.id() or ""
        return REGISTRY.with_resource(base, resource).crawl().resolver(base)
    except Exception as error:  # the library raises many kinds where a name is of an odd form
        raise ConfigurationError(
            f"the references in a tool's schema cannot be read: {type(error).__name__}",
            hint="write each as #/$defs/NAME, without $id and anchors",
        ) from error


def work_of_reference(reference: object, validator: Any) -> int:
    """Return how many units of work it is at most to follow a reference from where a validator is."""
    steps = reference.count("/") if isinstance(reference, str) else 0
    return _STEP * (steps + sum(1 for _ in validator._resolver.dynamic_scope()))


def _require_short_names(schema: Mapping[str, Any]) -> None:
    waiting: list[Any] = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, Mapping):
            waiting += part.values()
            for name in _NAMES & part.keys():
                if isinstance(text := part[name], str) and len(text) > _LONGEST:
                    raise ConfigurationError(
                        f"a tool's schema has a {name} of more than {_LONGEST} characters", hint="shorten it"
                    )
