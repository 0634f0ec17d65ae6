"""The keys by which a model can give an argument that has another name."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic.fields import FieldInfo

__all__ = ["aliases_of", "keys_of"]


def keys_of(model: type[BaseModel], names: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """Return the keys by which pydantic takes each of those fields that has an alias.

    The first is the one by which a default can be given; of a field that has only a path that is its name.
    """
    by_name = any(model.model_config.get(setting) for setting in ("populate_by_name", "validate_by_name"))
    keys = dict[str, tuple[str, ...]]()
    for name in names:
        field = model.model_fields[name]
        if of_name := tuple(aliases_of(field)):
            alias = _name_of_alias(field)
            first = () if alias is None else (alias,)
            keys[name] = (*first, *((name,) if by_name or not first else ()), *of_name)
    return keys


def _name_of_alias(field: FieldInfo) -> str | None:
    """Return the first alias of a field that is no path."""
    alias = field.validation_alias or field.alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return next((choice for choice in choices if isinstance(choice, str)), None)


def aliases_of(field: FieldInfo) -> Iterator[str]:
    """Name every other key under which a field could be given."""
    alias_in = field.validation_alias
    for alias in (field.alias, *(alias_in.choices if isinstance(alias_in, AliasChoices) else [alias_in])):
        if isinstance(alias, str):
            yield alias
        elif isinstance(alias, AliasPath):
            yield str(alias.path[0])
