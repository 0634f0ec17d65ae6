"""What arguments a tool takes, compiled once: validation before anything is judged.

The values that a policy sees are those that the tool will get: defaults filled, aliases resolved,
validators applied, so that a rule about ``to == "evil"`` is not passed by ``"  EVIL "``. The sealed
tool runs with exactly these values and is not validated again. Tools with a JSON Schema (MCP), which
langchain does not validate at all, are validated with jsonschema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from operator import is_
from typing import Any, NamedTuple, get_args

from langchain_core.tools import BaseTool, InjectedToolCallId, Tool
from langchain_core.tools.base import _get_runnable_config_param, get_all_basemodel_annotations
from pydantic import BaseModel, ValidationError, create_model
from pydantic_core import PydanticSerializationError, to_json

from agentguard.errors import ConfigurationError, DenialCode, Denied
from agentguard.langchain.aliases import aliases_of, keys_of
from agentguard.langchain.argument_errors import validator_failed
from agentguard.langchain.canonical import canonicalize, require_within
from agentguard.langchain.choices import Choices, choices_of, open_choices
from agentguard.langchain.declared_schema import NO_KEYS, DeclaredSchema
from agentguard.langchain.hidden_state import class_name
from agentguard.langchain.injection import filled_by_a_node
from agentguard.langchain.json_schema import compile_schema
from agentguard.model import Arguments, CallLimits
from agentguard.model.arguments import digest_of
from agentguard.model.quick import is_flat

__all__ = ["NONE", "ArgumentSchema", "ValidatedArguments", "declared_form"]

Values = dict[str, Any]
_SCALARS = (str, int, float, bool, type(None))


class ValidatedArguments(NamedTuple):
    """Validated values, as the tool will get them, and their frozen form."""

    values: Values
    arguments: Arguments


class ArgumentSchema:
    """How one tool's arguments are validated.

    `injected` are those that no model may give, `required` those of them that the tool cannot do
    without, and `stripped` those that a ToolNode takes from the model and fills itself; of these, langchain
    shows the model the `overlap`. `names` are the others, in order. `positional` is said of a tool
    that passes its one value on without a name.
    """

    def __init__(self, tool: BaseTool, limits: CallLimits | None = None) -> None:
        self.limits = limits or CallLimits()
        self.positional = isinstance(tool, Tool)
        self.single = self.positional and tool.args_schema is None
        compiled = _compiled(tool, self.single)
        self.schema, self._validate = compiled.schema, compiled.validate
        self.injected, self.required, self.stripped = compiled.injected, compiled.required, compiled.stripped
        self.takes_call_id, self.overlap = compiled.takes_call_id, compiled.overlap
        self.names = tuple(self.schema.get("properties", {})) or ("input",)
        self._choices = compiled.choices or open_choices(self.names)
        self._keys = compiled.keys
        self._declared: DeclaredSchema | None = None

    def require(self, declared: Mapping[str, Any] | None) -> None:
        """Have arguments satisfy the catalog's schema too, if it gives one.

        Raises:
            ConfigurationError: It is no JSON Schema.
        """
        current = None if self._declared is None else self._declared.schema
        if declared is not current:
            self._declared = None if declared is None else declared_form(declared, self._keys)

    def says_nothing(self, name: str, value: object) -> bool:
        """Return whether this is null for an argument that a ToolNode fills: strict models write each one."""
        return value is None and name in self.overlap

    def validate(self, raw: str | Mapping[str, Any]) -> ValidatedArguments:
        """Validate what the model gave.

        Raises:
            Denied: It holds more than the limits allow, an injected argument, or what has no canonical form.
            ValueError: It does not fit the schema (pydantic's or jsonschema's error).
        """
        require_within(self.limits, raw)
        raw_values = {self.names[0]: raw} if isinstance(raw, str) else dict(raw)
        if self.single and len(raw_values) == 1:
            raw_values = dict.fromkeys(self.names, *raw_values.values())  # as `Tool` itself: by whatever name
        if forged := self.injected & raw_values.keys():
            raise Denied.of(DenialCode.FORGED_ARGUMENT, f"{sorted(forged)} may not come from the model")
        if not is_flat(raw_values):
            raw_values = {k: v if isinstance(v, _SCALARS) else deepcopy(v) for k, v in raw_values.items()}
        raw_text = _written(raw_values) if self._choices.binds_raw else ""  # before a validator can change it
        if self._declared is not None:
            self._declared.fill(raw_values)
        values = self._validate(raw_values)
        if not is_flat(values):
            # pydantic makes an iterator of what an `Iterable` is given, which could be looked at once only
            values = {k: list(v) if isinstance(v, Iterator) else v for k, v in values.items()}
        arguments = self.canonicalize(values, raw_text)
        if self._declared is not None:
            self._declared.validate(arguments, values, {self.names[0]: raw} if isinstance(raw, str) else raw)
        return ValidatedArguments(values, arguments)

    def canonicalize(self, values: Mapping[str, Any], raw: str = "") -> Arguments:
        """Return values of this schema frozen; *raw* is the `Arguments.raw` of what they were made from.

        Raises:
            Denied: A value has no canonical form, or has state that is not shown.
        """
        choices = self._choices
        return canonicalize(values, raw=raw, determined=choices.determined, order=choices.order)

    def unchanged(self, judged: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        """Return whether *values* are the judged ones, as far as identity shows it without a new digest."""
        if len(values) != len(judged):
            return False
        if (is_usual := list(values) == list(judged)) and is_flat(values):  # as nearly always
            return all(map(is_, values.values(), judged.values()))
        if self._choices.order is not None and not is_usual:
            return False
        for name, value in values.items():
            if value is not judged.get(name, judged) or not isinstance(value, _SCALARS):
                return False
        return True


def declared_form(schema: Mapping[str, Any], keys: Mapping[str, tuple[str, ...]] = NO_KEYS) -> DeclaredSchema:
    """Return the form in which arguments are checked by a schema that the catalog gives.

    *keys* are those by which a model writes arguments that have another name.

    Raises:
        ConfigurationError: It is no JSON Schema.
    """
    return DeclaredSchema(schema, partial(_json_schema, formats=True), keys)


def _written(raw: Values) -> str:
    """Return a digest of the arguments as they were given, in their order."""
    try:
        return digest_of(
            to_json(raw, inf_nan_mode="constants", fallback=lambda value: class_name(type(value)))
        )
    except (PydanticSerializationError, RecursionError) as error:
        raise Denied.of(DenialCode.INVALID_ARGUMENTS, f"no canonical form: {type(error).__name__}") from None


Validate = Callable[[Values], Values]
NONE: frozenset[str] = frozenset()


class _Compiled(NamedTuple):
    schema: Mapping[str, Any]
    validate: Validate
    injected: frozenset[str]
    required: frozenset[str] = NONE
    stripped: frozenset[str] = NONE
    takes_call_id: str | None = None
    choices: Choices | None = None
    overlap: frozenset[str] = NONE
    keys: Mapping[str, tuple[str, ...]] = NO_KEYS


def _compiled(tool: BaseTool, single: bool) -> _Compiled:
    direct = frozenset(tool._injected_args_keys)  # not public, and the only place that knows
    if single:
        schema = {"type": "object", "properties": {"__arg1": {"type": "string"}}, "required": ["__arg1"]}
        return _Compiled(schema, _json_schema(schema), direct)
    if isinstance(tool.args_schema, dict):
        properties = frozenset(tool.args_schema.get("properties", {}))
        return _Compiled(
            tool.args_schema, _json_schema(tool.args_schema), direct, stripped=direct - properties
        )
    model = tool.get_input_schema()
    if not issubclass(model, BaseModel):
        raise ConfigurationError(f"tool {tool.name} has a pydantic v1 schema", hint="use a pydantic v2 model")
    visible = tool.tool_call_schema
    if not (isinstance(visible, type) and issubclass(visible, BaseModel)):
        raise ConfigurationError(f"tool {tool.name} has no pydantic v2 schema", hint="give it an args_schema")
    annotations = get_all_basemodel_annotations(model)
    by_node = filled_by_a_node(annotations)
    injected = direct | by_node | (frozenset(annotations) - frozenset(visible.model_fields))
    call_id = next((n for n in injected if _wants_call_id(annotations.get(n))), None)
    configs = _run_configs(tool)
    injected |= configs
    fields = model.model_fields
    required = frozenset(n for n in injected - configs if n in fields and fields[n].is_required())
    aliases = frozenset(a for n in injected if n in fields for a in aliases_of(fields[n]))
    # where the function alone says that it is injected and the schema shows it, a ToolNode goes by the
    # schema and passes on what the model gave, and langchain goes by the function
    stripped = (injected - frozenset(visible.model_fields)) | by_node
    schema, validate = _without(_schema(model, visible, injected), by_node), _pydantic(model, injected)
    choices = choices_of(model, frozenset(fields) - injected)
    overlap = by_node & frozenset(visible.model_fields)
    keys = keys_of(model, frozenset(fields) - injected)
    return _Compiled(
        schema, validate, injected | aliases, required, stripped, call_id, choices, overlap, keys
    )


def _schema(model: type[BaseModel], visible: type[BaseModel], injected: frozenset[str]) -> dict[str, Any]:
    """Describe what a model can give: what it is shown, and what langchain takes beyond."""
    visible_schema = visible.model_json_schema()
    left_out = {
        n: (f.annotation, f)
        for n, f in model.model_fields.items()
        if n not in visible.model_fields and n not in injected and not f.exclude
    }
    if not left_out:
        return visible_schema
    more = create_model(model.__name__, **left_out).model_json_schema(by_alias=False)  # type: ignore[call-overload]  # mypy looks for its options
    for part in ("properties", "$defs"):
        if part in more:
            visible_schema[part] = {**more[part], **visible_schema.get(part, {})}
    return visible_schema


def _without(schema: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Return a schema without these properties."""
    properties = schema.get("properties", {})
    if names.isdisjoint(properties):
        return schema
    properties = {name: part for name, part in properties.items() if name not in names}
    needed = [name for name in schema.get("required", ()) if name not in names]
    return {**schema, "properties": properties, "required": needed}


def _run_configs(tool: BaseTool) -> frozenset[str]:
    """Name the run's config where a schema inferred from the body shows it as an argument."""
    if tool.args_schema is not None:
        return frozenset()
    return frozenset(n for n in map(_get_runnable_config_param, (tool._run, tool._arun)) if n)


def _wants_call_id(annotation: Any) -> bool:
    return any(
        mark is InjectedToolCallId or isinstance(mark, InjectedToolCallId)
        for mark in get_args(annotation)[1:]
    )


def _json_schema(schema: dict[str, Any], *, formats: bool = False) -> Validate:
    check = compile_schema(schema, formats=formats)
    defaults = {n: p["default"] for n, p in schema.get("properties", {}).items() if "default" in p}

    def validate(values: Values) -> Values:
        filled = {**{n: deepcopy(d) for n, d in defaults.items() if n not in values}, **values}
        check(filled)
        return filled

    return validate


def _pydantic(model: type[BaseModel], injected: frozenset[str]) -> Validate:
    # the same model, validators included, in which what will be injected may still be missing
    open_fields: dict[str, Any] = {n: (Any, None) for n in injected if n in model.model_fields}
    partial = create_model(model.__name__, __base__=model, **open_fields) if open_fields else model
    fields = {n: f for n, f in partial.model_fields.items() if n not in injected and not f.exclude}
    defaulted = frozenset(n for n, f in fields.items() if not f.is_required()) - {"args", "kwargs"}

    def validate(raw_values: Values) -> Values:
        try:
            result = partial.model_validate(raw_values)
        except (ValidationError, Denied):
            raise
        except Exception as error:  # noqa: BLE001  validators are the application's code
            raise validator_failed(error) from None
        names = defaulted | raw_values.keys() | result.model_fields_set
        values = {n: getattr(result, n) for n in fields if n in names}
        return values | (result.model_extra or {})

    return validate
