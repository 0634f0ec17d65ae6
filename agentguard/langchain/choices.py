"""What a tool's schema leaves open about the values that it makes, found once for each schema.

Where a schema leaves a choice (a union, `Any`, a validator), two calls can have the same JSON and differ for
the tool. Such values are named with their classes. Where code of the application makes values from what the
model wrote, that code can keep more of it than it shows. There the call is bound to what the model wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

from pydantic import BaseModel

from agentguard.errors import ConfigurationError
from agentguard.langchain.hidden_state import class_name

__all__ = ["Choices", "choices_of", "open_choices"]

Schema = Mapping[str, Any]
NONE: frozenset[str] = frozenset()


class Choices(NamedTuple):
    """`determined` are the arguments whose classes follow from the schema alone.

    `order` is the usual order of the arguments, or None if the tool cannot see another one. `binds_raw`
    says that a call has to be bound to what the model wrote: code of the application takes part in making
    values (beyond functions that take no argument), or a set, which is iterated in an order that JSON hides.
    """

    determined: frozenset[str]
    order: tuple[str, ...] | None
    binds_raw: bool


def open_choices(names: tuple[str, ...]) -> Choices:
    """Return what a JSON Schema with these properties leaves open: the tool gets the JSON itself."""
    return Choices(NONE, names, binds_raw=False)


_LEAVES = frozenset(
    {
        *("none", "bool", "int", "float", "decimal", "str", "bytes", "date", "time", "datetime", "timedelta"),
        *("url", "multi-host-url", "uuid", "enum", "definition-ref"),
    }
)
_CONTAINERS = frozenset(
    {
        *("list", "tuple", "set", "frozenset", "dict", "nullable", "definitions", "default"),
        *("model", "model-fields", "model-field", "dataclass", "dataclass-args", "dataclass-field"),
        *("typed-dict", "typed-dict-field"),
    }
)
_CHOOSING = frozenset(
    {"any", "union", "tagged-union", "is-instance", "json", "lax-or-strict", "json-or-python"}
)
_SHOWN = (_LEAVES | _CONTAINERS | _CHOOSING | {"literal"}) - {"set", "frozenset"}
_TYPES: Mapping[str, type] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": float,
    "list": list,
    "dict": dict,
    "set": set,
    "none": type(None),
}
_NO_SCHEMA = frozenset({"metadata", "serialization", "default"})
_JSON_TYPES = (str, int, bool, type(None))


def choices_of(model: type[BaseModel], names: frozenset[str]) -> Choices:
    """Return what a pydantic model leaves open about these fields.

    Raises:
        ConfigurationError: A tool can tell two classes of one name apart, and nobody else can; or values do
            not have the names that the schema shows.
    """
    root: Schema = model.__pydantic_core_schema__
    definitions = {d["ref"]: d for part in _parts(root) for d in part.get("definitions", ())}
    fields = _fields(root, model)
    field_schemas = [fields[name] for name in names if name in fields] if fields else [root]
    for part in (part for field in field_schemas for part in _reachable(field, definitions)):
        _require_names_of_schema(part)
    determined = frozenset(
        name
        for name, field in fields.items()
        if name in names and all(map(_leaves_no_choice, _reachable(field, definitions)))
    )
    if determined != names:
        _require_unique_names(
            part for n in names - determined for part in _reachable(fields.get(n, {}), definitions)
        )
    extra = model.model_config.get("extra") == "allow"
    return Choices(
        determined, tuple(model.model_fields) if extra else None, binds_raw=any(map(_binds_raw, _parts(root)))
    )


def _fields(root: Schema, model: type[BaseModel]) -> Schema:
    """Return the schemas of the model's own fields; none if it has a form that is not known."""
    part: Any = next(
        (part for part in _parts(root) if part["type"] == "model" and part["cls"] is model), None
    )
    while isinstance(part, Mapping) and part["type"] != "model-fields":
        part = part.get("schema")
    return {} if part is None else part["fields"]


def _parts(schema: Any) -> Iterator[Schema]:
    """Yield each schema in a core schema of pydantic's; a definition stands there once."""
    todo = [schema]
    while todo:
        part = todo.pop()
        if isinstance(part, list | tuple):
            todo.extend(part)
        elif isinstance(part, Mapping):
            if isinstance(part.get("type"), str):
                yield part
                todo.extend(value for name, value in part.items() if name not in _NO_SCHEMA)
            else:  # schemas by the names of fields, which can be any
                todo.extend(part.values())


def _reachable(schema: Any, definitions: Mapping[str, Schema]) -> Iterator[Schema]:
    """Yield each schema in this one, and in the definitions that it refers to."""
    references, todo = set[str](), [schema]
    while todo:
        for part in _parts(todo.pop()):
            yield part
            reference = str(part.get("schema_ref"))
            if reference in definitions and reference not in references:
                references.add(reference)
                todo.append(definitions[reference])


def _leaves_no_choice(part: Schema) -> bool:
    kind = part["type"]
    if kind == "literal":
        return all(type(value) in _JSON_TYPES for value in part["expected"])
    if kind == "default":
        return _is_default_of_type(part)
    open_ended = part.get("extra_behavior") or part.get("config", {}).get("extra_fields_behavior")
    return (kind in _LEAVES or kind in _CONTAINERS) and open_ended != "allow"


def _is_default_of_type(part: Schema) -> bool:
    inner = part["schema"]
    if "default" not in part:
        factory = part.get("default_factory")
        return factory in (list, dict, set) and _TYPES.get(inner.get("type")) is factory
    default = part["default"]
    while inner.get("type") == "nullable":
        if default is None:
            return True
        inner = inner["schema"]
    if isinstance(default, Enum):
        return inner.get("type") == "enum" and type(default) is inner.get("cls")
    if inner.get("type") == "literal":
        return type(default) in _JSON_TYPES
    return type(default) is _TYPES.get(inner.get("type")) and not isinstance(default, list | dict | set)


def _binds_raw(part: Schema) -> bool:
    if part["type"] == "tagged-union":
        return callable(part.get("discriminator"))
    own_code = (
        part.get("custom_init"),
        part.get("post_init"),
        part["type"] == "enum" and part.get("missing"),
    )
    return part["type"] not in _SHOWN or any(own_code)


def _require_unique_names(parts: Iterator[Schema]) -> None:
    classes: dict[str, type] = {}
    for part in parts:
        kind = part.get("cls")
        if not isinstance(kind, type):
            continue
        if classes.setdefault(class_name(kind), kind) is not kind:
            raise ConfigurationError(
                f"two classes in the arguments of a tool are called {class_name(kind)}",
                hint="give them two names: policies and approvals tell them apart by these",
            )


def _require_names_of_schema(part: Schema) -> None:
    """Require that the values of a TypedDict or a dataclass have the names that its JSON Schema shows.

    A limit or a rule has a field by that name. A pydantic model and a pydantic dataclass know it themselves.
    """
    if part["type"] == "typed-dict":
        fields = part["fields"].items()
    elif part["type"] == "dataclass" and not hasattr(part["cls"], "__pydantic_fields__"):
        inner = part["schema"]
        while inner["type"] != "dataclass-args":
            inner = inner["schema"]
        fields = ((field["name"], field) for field in inner["fields"])
    else:
        return
    for name, field in fields:
        if (alias := _name_in_schema(name, field)) != name:
            kind = class_name(part["cls"]) if "cls" in part else "a TypedDict"
            raise ConfigurationError(
                f"the schema calls a field {alias}, and its value in {kind} is called {name}",
                hint="leave the alias out, or make a pydantic model of the class",
            )


def _name_in_schema(name: str, field: Schema) -> str:
    """Return the name of a field in a JSON Schema; of several aliases it is the first that is no path."""
    alias = field.get("validation_alias", name)
    if isinstance(alias, list):
        choices = alias if alias and isinstance(alias[0], list) else [alias]
        alias = next((path[0] for path in choices if len(path) == 1), name)
    return str(alias)
