"""A tool's arguments as JSON: everything that the tool gets, by the names that its schema shows.

Pydantic's own serialization is for output: a field may be left out of it (``exclude``), hidden (`SecretStr`)
or given another form by a serializer. What a policy is not shown and a digest does not cover could be
changed by an injection unseen, so models are taken apart field by field.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set
from hashlib import sha256
from types import NoneType
from typing import Any

import rfc8785
from pydantic import AliasChoices, BaseModel, RootModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, to_jsonable_python

from agentguard.errors import DenialCode, Denied
from agentguard.model import Arguments

__all__ = ["canonicalize"]

ATOMS = frozenset((str, int, float, bool, NoneType))
Pairs = Iterable[tuple[Any, Any]]


def canonicalize(values: Mapping[str, Any]) -> Arguments:
    """Return Python values as canonical JSON, frozen.

    A set is a sorted list. A secret of pydantic's is the SHA-256 of it, so that another one is another
    call; one that is short can be guessed from it.

    Raises:
        Denied: A value has no JSON form, or can be read once only.
    """
    try:
        return Arguments.of(_object(values.items()))
    except (ValueError, RecursionError, PydanticSerializationError) as error:
        raise Denied.of(DenialCode.INVALID_ARGUMENTS, f"no canonical form: {error}") from None


def _plain(value: Any) -> Any:
    if type(value) in ATOMS:
        return value
    if isinstance(value, Mapping):
        return _object(value.items())
    if isinstance(value, list | tuple | deque):
        return [_plain(item) for item in value]
    if isinstance(value, Set):
        return sorted(map(_plain, value), key=rfc8785.dumps)
    return _taken_apart(value)


def _taken_apart(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _plain(value.root) if isinstance(value, RootModel) else _object(_members(value))
    if dataclasses.is_dataclass(value):
        return _object(_attributes(value))
    if isinstance(value, Secret | SecretStr | SecretBytes):
        return f"sha256:{sha256(rfc8785.dumps(_plain(value.get_secret_value()))).hexdigest()}"
    if isinstance(value, Iterator):
        raise ValueError("an iterator is gone when it was looked at")
    return to_jsonable_python(value)


def _object(pairs: Pairs) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for given, value in pairs:
        name = given if type(given) is str else next(iter(to_jsonable_python({given: None})))
        if name in plain:
            raise ValueError(f"{name} stands there twice")
        plain[name] = _plain(value)
    return plain


def _members(model: BaseModel) -> Pairs:
    for name, field in type(model).model_fields.items():
        yield _shown(name, field), getattr(model, name)
    yield from (model.model_extra or {}).items()


def _attributes(value: Any) -> Pairs:
    declared: Mapping[str, FieldInfo] = getattr(value, "__pydantic_fields__", {})
    names = [field.name for field in dataclasses.fields(value)]
    more = [name for name in getattr(value, "__dict__", ()) if name not in names]
    for name in (*names, *more):
        yield _shown(name, declared.get(name)), getattr(value, name)


def _shown(name: str, field: FieldInfo | None) -> str:
    """Return the name of a field in a JSON Schema that validates."""
    alias = None if field is None else field.validation_alias
    if isinstance(alias, AliasChoices):
        alias = next((choice for choice in alias.choices if isinstance(choice, str)), None)
    return alias if isinstance(alias, str) else name
