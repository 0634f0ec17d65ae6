"""Which arguments a default factory of the application has made, because the model gave no value for them.

A factory may make the same value twice, and another one while a person thinks: the time in whole seconds,
today's date, one of two regions. No second validation finds that. So nobody is asked about such a call: the
model can give the value instead. A type of Python, a model and a dataclass make an equal value each time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any

from langchain_core.tools import BaseTool
from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from agentguard.enforcement.call import Repetition
from agentguard.langchain.schema import ArgumentSchema

__all__ = ["DEPTH", "model_of", "repeated"]

DEPTH = 100
"""How deep values are looked into. A schema that nests deeper is not looked into further."""
Factory = Callable[..., Any] | None
_TYPES = frozenset({"builtins", "collections"})


def model_of(tool: BaseTool) -> type[BaseModel] | None:
    """Return the model of a tool's arguments; None for a tool with a JSON Schema, which has no factories."""
    if tool.args_schema is None or isinstance(tool.args_schema, dict):
        return None
    model = tool.get_input_schema()
    return model if issubclass(model, BaseModel) else None


def repeated(
    schema: ArgumentSchema, model: type[BaseModel] | None, raw: str | Mapping[str, Any]
) -> Repetition:
    """Validate again what the model gave, and name what factories have made; it raises as `validate` does."""
    values, arguments = schema.validate(raw)
    if model is None:
        return Repetition(arguments)
    raw_values = raw if isinstance(raw, Mapping) else dict.fromkeys(schema.names)
    fields = ((name, field) for name, field in model.model_fields.items() if name in values)
    names = [
        name
        for name, field in fields
        if _makes(field.default_factory) and not _is_in(raw_values, name, field)
    ]
    nested = (
        name
        for argument, value in values.items()
        for name in _nested(value, argument, raw_values.get(argument), 0)
    )
    return Repetition(arguments, tuple(dict.fromkeys([*names, *nested])))


def _nested(value: Any, place: str, raw_value: Any, depth: int) -> Iterator[str]:
    """Yield the fields in a value that a factory has made, where the model gave *raw_value* for it."""
    if depth > DEPTH:
        return
    yield from (f"{place}.{name}" for name in _made_in(value, raw_value))
    for name, member, part in _members(value, raw_value):
        yield from _nested(member, f"{place}{name}", part, depth + 1)


def _made_in(value: Any, raw_value: Any) -> list[str]:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        return [n for n, f in fields if n not in value.model_fields_set and _makes(f.default_factory)]
    if isinstance(value, type) or not dataclasses.is_dataclass(value):
        return []
    # a dataclass does not say which of its fields were given
    raw_fields = raw_value if isinstance(raw_value, Mapping) else {}
    return [name for name, factory in _factories(value) if name not in raw_fields and _makes(factory)]


def _members(value: Any, raw_value: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the parts of a value: where each stands, the part, and what the model gave for it."""
    if isinstance(value, list | tuple | Set):
        parts = raw_value if isinstance(raw_value, list) and isinstance(value, list | tuple) else []
        for position, item in enumerate(value):
            yield "[]", item, parts[position] if position < len(parts) else None
        return
    pairs: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, BaseModel):
        pairs = [(name, getattr(value, name)) for name in type(value).model_fields]
    elif dataclasses.is_dataclass(value):
        pairs = [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    for name, member in pairs:
        yield f".{name}", member, raw_value.get(name) if isinstance(raw_value, Mapping) else None


def _factories(value: Any) -> Iterator[tuple[str, Factory]]:
    """Yield the factory of each field of a dataclass; pydantic keeps those of its `Field` apart."""
    with_field: Mapping[str, FieldInfo] = getattr(value, "__pydantic_fields__", {})
    for field in dataclasses.fields(value):
        factory = None if field.default_factory is dataclasses.MISSING else field.default_factory
        yield (
            field.name,
            with_field[field.name].default_factory if field.name in with_field else factory,
        )


def _makes(factory: Factory) -> bool:
    """Return whether a default comes from a factory that is no type, and so may make any value."""
    if factory is None:
        return False
    is_type = isinstance(factory, type)
    return not (is_type and (factory.__module__ in _TYPES or _is_shape(factory)))


def _is_shape(kind: Any) -> bool:
    return issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)


def _is_in(raw_values: Mapping[str, Any], name: str, field: FieldInfo) -> bool:
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias, field.alias]
    return any(_has(raw_values, choice) for choice in (name, *choices))


def _has(raw_values: Mapping[str, Any], choice: str | AliasPath | None) -> bool:
    if isinstance(choice, AliasPath):
        return choice.search_dict_for_path(dict(raw_values)) is not PydanticUndefined
    return choice in raw_values
