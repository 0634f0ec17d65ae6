"""The state of a run that a tool is given beside its arguments, shown to a person and bound to a yes.

The digest is the same in the process that resumes the run: what a checkpoint makes of a value, such as a list
of a tuple, does not change it. Of a value without a form in JSON only its class counts. A person is told that
what such a value holds is not covered.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Set
from enum import Enum
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from agentguard.model import Json
from agentguard.model.arguments import digest_of

__all__ = ["FIELD", "FIELDS", "RunState"]

FIELD = 2_000
"""How many bytes of JSON of one field a person is shown; of a larger one its size and its digest."""
FIELDS = 16_384
"""How many bytes of all fields together; of more, each field is shown by its size and its digest."""
DEPTH = 100
_PLAIN = (str, int, float, bool, type(None))


class RunState(NamedTuple):
    """What a person is shown of the state, by field, and a digest of all of it."""

    display: Mapping[str, Json]
    digest: str

    @classmethod
    def of(cls, values: Mapping[str, object]) -> RunState:
        """Return the fields of a state in their form."""
        texts = {name: _text(_form(value, 0)) for name, value in sorted(values.items())}
        room = FIELD if sum(map(len, texts.values())) <= FIELDS else 0
        fields = {name: _shown(text, room) for name, text in texts.items()}
        return cls(fields, digest_of(json.dumps(texts).encode()))


def _text(form: Json) -> str:
    return json.dumps(form, sort_keys=True, separators=(",", ":"))


def _shown(text: str, room: int) -> Json:
    if len(text) <= room:
        return json.loads(text)
    return f"{len(text)} bytes, SHA-256 {digest_of(text.encode())}"


def _form(value: Any, depth: int) -> Json:
    """Return a value as JSON."""
    if isinstance(value, _PLAIN) and not isinstance(value, Enum):
        return value
    if depth > DEPTH:
        return "(not covered: too deep)"
    if isinstance(value, list | tuple):
        return [_form(item, depth + 1) for item in value]
    if isinstance(value, Set):
        return sorted((_form(item, depth + 1) for item in value), key=_text)
    members = _members(value)
    if members is None:
        return _atom(value)
    return {str(name): _form(member, depth + 1) for name, member in members.items()}


def _members(value: Any) -> Mapping[Any, Any] | None:
    """Return the parts of a value that has parts with names."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel):
        return {n: getattr(value, n, None) for n in type(value).model_fields} | (value.model_extra or {})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    return None


def _atom(value: Any) -> Json:
    try:
        return to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError):
        return f"(not covered: {type(value).__module__}.{type(value).__qualname__})"
