"""Facts: what a record of the application says about the thing that a call is about.

A rule about a call often needs more than the call says: that the order is still pending, who owns it, or by
what it was paid. The application declares such a record once, with its type (`FactSpec`). The guard asks for
it before a decision, and the value is a part of the request (`Facts`). No model sees it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from pydantic import PydanticUserError, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import SchemaError, from_json

from agentguard.errors import ConfigurationError
from agentguard.model.arguments import Arguments, Json, canonical_json, digest_of, quick_canonical_json
from agentguard.model.limits import Limits
from agentguard.model.provenance import Sensitivity

__all__ = ["KEY", "NO_FACTS", "FactSpec", "FactType", "Facts"]

KEY = 1_024
"""The most bytes of JSON that name a record. A model may have chosen the name."""

_PARTS, _DEPTH = 20_000, 50
_NONE = b"null"
_NO_NUMBER = re.compile(rb'"-?(?:Infinity|s?NaN)')  # the beginning of such a text
_NO_PROBLEMS: Mapping[str, str] = MappingProxyType({})


class _ExactSchema(GenerateJsonSchema):
    """Writes the schema of values as `FactType.canonical` writes them: decimals as texts with all digits."""

    def decimal_schema(self, schema: Any) -> dict[str, Any]:
        return {"type": "string", "format": "decimal"}

    def field_is_required(self, field: Any, total: bool) -> bool:
        # a default is written out; only a key of a TypedDict may be absent
        return bool(field.get("required", total)) if field["type"] == "typed-dict-field" else True


class FactType:
    """The type of a fact's values: a pydantic model, dataclass, TypedDict, or any other type of pydantic.

    `schema` is the JSON Schema of a value as JSON. A `Decimal` is a text with ``format: decimal``, and a time
    is a text with ``format: date-time``. `optional` says that there may be no record.

    Raises:
        ConfigurationError: pydantic does not know the type.
    """

    def __init__(self, declared: Any) -> None:
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(declared)
            self.schema: Mapping[str, Json] = self._adapter.json_schema(
                mode="serialization", schema_generator=_ExactSchema
            )
        except (PydanticUserError, SchemaError, NameError, TypeError) as error:
            raise ConfigurationError(
                f"this is no type of a fact: {type(error).__name__}: {str(error).splitlines()[0]}",
                hint="return a pydantic model, a dataclass, or a TypedDict (of typing_extensions before"
                " Python 3.12)",
            ) from error
        self.optional = _admits_null(self.schema)
        self._has_decimals = '"decimal"' in json.dumps(self.schema)

    def canonical(self, value: object, size: int) -> bytes:
        """Return a value of this type as canonical JSON of at most *size* bytes.

        Raises:
            ValueError: The value has another type, holds NaN or infinity, or is larger. The message holds no
                part of the value.
        """
        try:
            typed = self._adapter.validate_python(value)
            content = self._adapter.dump_python(typed, mode="json", by_alias=True, warnings="error")
            if excess := Limits(bytes=size, parts=_PARTS, depth=_DEPTH).excess(content):
                raise _Excess(excess)
            canonical = quick_canonical_json(content)
            if self._has_decimals and _NO_NUMBER.search(canonical) is not None:
                _require_finite(self._adapter.dump_python(typed))
        except _Excess as error:
            problem = f"it holds {error}"
        except RecursionError:
            problem = "it is nested too deeply"
        except Exception as error:  # noqa: BLE001  validators are the application's code; texts hold values
            problem = f"it is not of the declared type ({type(error).__name__})"
        else:
            if len(canonical) <= size:
                return canonical
            problem = f"it holds more than {size} bytes"
        # outside of the handler, so that the error has no context, which would hold the value
        raise ValueError(problem)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FactType) and self.schema == other.schema

    __hash__ = None  # type: ignore[assignment]  # a schema has no hash

    def __repr__(self) -> str:
        return f"<FactType {self._adapter}>"


class _Excess(Exception):
    pass


def _require_finite(value: Any) -> None:
    """Refuse a decimal that is infinite or no number; JSON has a text for each of them.

    Raises:
        ValueError: There is one in the value.
    """
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValueError
    parts = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list | tuple | set | frozenset):
        for part in parts:
            _require_finite(part)


def _admits_null(schema: Any) -> bool:
    """Return whether null is a value of a schema that pydantic has written."""
    kinds = schema.get("type")
    if kinds == "null" or (isinstance(kinds, list) and "null" in kinds):
        return True
    return any(map(_admits_null, schema.get("anyOf", ())))


@dataclass(frozen=True, slots=True, kw_only=True)
class FactSpec:
    """What the application declares of a fact.

    `keys` says for which tools it holds, and for each tool which arguments name the record, in order. With no
    argument the record is that of the user. `timeout` and `lifetime` are in seconds, `size` in bytes of JSON.
    An answer is used again for `lifetime` seconds, for the same user, agent and key; with `shared` for all
    users. `trusted` and `sensitivity` are what rules see of it as ``context.provenance.facts.NAME``. With
    `resource`, the record is the thing that the tools act on: rules see its fields as ``resource.FIELD``.
    `credential` names the resource whose READ credential, with `scopes`, its source is given. `tool` is the
    tool of the catalog that reads it, if one does.

    Raises:
        ConfigurationError: It contradicts itself.
    """

    name: str
    keys: Mapping[str, tuple[str, ...]]
    type: FactType
    timeout: float = 1.0
    size: int = 65_536
    lifetime: float = 0.0
    shared: bool = False
    trusted: bool = False
    sensitivity: Sensitivity = Sensitivity.PUBLIC
    resource: bool = False
    credential: str | None = None
    scopes: frozenset[str] = field(default_factory=frozenset)
    tool: str | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name.startswith("__"):
            self._refuse("its name is no identifier", 'as in "order" or "bank_account"')
        if not self.keys:
            self._refuse("it holds for no tool", 'as in tools = { refund_order = "order_id" }')
        if not (0 < self.timeout <= 60 and 0 < self.size <= 16_777_216 and self.lifetime >= 0):
            self._refuse("a limit is out of range", "timeout up to 60 seconds, size up to 16777216 bytes")
        if self.resource and self.type.optional:
            self._refuse(
                "what its tools act on cannot be absent",
                "let its type be without None: where there is no record, the call is denied",
            )
        if self.resource and not all(map(len, self.keys.values())):
            self._refuse("what its tools act on is named by no argument", "name the argument of each tool")
        if self.resource and not isinstance(self.type.schema.get("properties", self._referred()), Mapping):
            self._refuse("what its tools act on has no fields", "let its type be a model or a dataclass")

    def _referred(self) -> Json:
        name = str(self.type.schema.get("$ref", "")).rpartition("/")[2]
        return self.type.schema.get("$defs", {}).get(name, {}).get("properties")

    def _refuse(self, problem: str, hint: str) -> None:
        raise ConfigurationError(f"fact {self.name}: {problem}", hint=hint)

    def key_of(self, tool: str, arguments: Arguments) -> tuple[Json, ...] | None:
        """Return what names the record in a call of *tool*; None if the call leaves an argument of it out.

        Raises:
            ValueError: It holds more than `KEY` bytes.
        """
        values = arguments.values
        key = tuple(values.get(name) for name in self.keys[tool])
        if None in key:
            return None
        if len(quick_canonical_json(list(key))) > KEY:
            raise ValueError(f"what names the record holds more than {KEY} bytes")
        return key


class Facts(Mapping[str, Json]):
    """The facts of one request: for each that was asked, its value as JSON, or None for no record.

    A value is a fresh copy each time, so nobody can change what others see. `problems` says why a fact that
    was asked has no value: the request is then denied.
    """

    __slots__ = ("_values", "problems")

    def __init__(self, values: Mapping[str, bytes], problems: Mapping[str, str] = _NO_PROBLEMS) -> None:
        self._values, self.problems = dict(values), MappingProxyType(dict(problems))

    @classmethod
    def of(cls, values: Mapping[str, Json]) -> Facts:
        """Return facts with these values.

        Raises:
            ValueError: A value has no JSON form.
        """
        return cls({name: canonical_json(value) for name, value in values.items()})

    def __getitem__(self, name: str) -> Json:
        return from_json(self._values[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def missing(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of *names* that nobody has asked for, in order."""
        return tuple(sorted(name for name in names if name not in self._values and name not in self.problems))

    @property
    def digests(self) -> dict[str, str | None]:
        """The digest of each value (base64url of SHA-256 over canonical JSON); None for no record."""
        return {
            name: None if value == _NONE else digest_of(value) for name, value in sorted(self._values.items())
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Facts):
            return NotImplemented
        return self._values == other._values and self.problems == other.problems

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._values.items())))

    def __repr__(self) -> str:
        return f"Facts({', '.join(sorted(self._values))})"


NO_FACTS = Facts({})
