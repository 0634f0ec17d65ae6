"""The argument schema that the catalog gives, as each call must satisfy it beside the tool's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import timedelta
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

from agentguard.errors import ConfigurationError
from agentguard.langchain.argument_errors import Unfit, place_of
from agentguard.langchain.reviewed_limits import idle_keywords, with_types
from agentguard.model import Arguments

__all__ = ["NO_KEYS", "Compile", "DeclaredSchema"]

Compile = Callable[[dict[str, Any]], Callable[[dict[str, Any]], object]]
NO_KEYS: Mapping[str, tuple[str, ...]] = {}
_DIGITS = 400  # the greatest float has 309; of more digits an int would cost without bound
_LIMIT = 100  # characters of a keyword's value that an error tells
_ATOMS = frozenset((str, int, float, bool, type(None)))
_PLAIN: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float, Decimal),
    "boolean": (bool,),
}


class DeclaredSchema:
    """Checks validated arguments, in their JSON form, against the catalog's schema.

    An optional argument for which the model wrote null is left out, unless the catalog's schema accepts null:
    the tool gets its own default. That is what the check then sees as absent. A null that the tool's own
    validator makes of another value is checked as null. A default of the catalog is
    filled in before the tool's own. A property with a limit and no type accepts only what the limit is about:
    a number, a text, a list or an object. A Decimal is a number here, and a timedelta is its seconds. A
    secret is checked as it is, and told to nobody. *compile_schema* makes a validator of a JSON Schema. It is
    not needed if the schema says only which plain type each argument has. *keys* are those by which a model
    writes an argument that has another name, such as an alias.
    """

    def __init__(
        self,
        schema: Mapping[str, Any],
        compile_schema: Compile,
        keys: Mapping[str, tuple[str, ...]] = NO_KEYS,
    ) -> None:
        self.schema, self._keys = schema, keys
        self._names = {key: name for name, of_name in keys.items() for key in of_name}
        self._required = tuple(schema.get("required", ()))
        properties: Mapping[str, Any] = schema.get("properties", {})
        self._defaults = {
            name: part["default"]
            for name, part in properties.items()
            if isinstance(part, Mapping) and part.get("default") is not None
        }
        self._typed: Mapping[str, Any] = with_types(schema)
        self._parts = self._typed.get("properties", {})
        self._types = _plain_types(schema)
        self._validate = None if self._types is not None else _compiled(schema, self._typed, compile_schema)

    def fill(self, arguments: dict[str, Any]) -> None:
        """Add the catalog's defaults for what is left out, and leave out each null that it refuses."""
        for name, value in self._defaults.items():
            keys = self._keys.get(name, (name,))
            if all(arguments.get(key) is None for key in keys):
                arguments[keys[0]] = deepcopy(value)
        for key in [key for key, value in arguments.items() if value is None]:
            if not _keeps_null(self._names.get(key, key), self._typed):
                del arguments[key]
        for key, value in arguments.items():
            if isinstance(value, dict | list):
                arguments[key] = _without_refused(value, self._parts.get(self._names.get(key, key)))

    def validate(self, arguments: Arguments, originals: Mapping[str, Any], raw: object) -> None:
        """Check arguments as the tool will get them; *originals* are the values that they were made of.

        *raw* is what the model wrote. Of a value that it did not write, as where a validator has looked
        it up, the error tells the place and the keyword only.

        Raises:
            ValueError: They do not fit, and the schema gives plain types only.
            jsonschema.ValidationError: They do not fit.
        """
        values, raw = arguments.values, self._by_name(raw)
        if not _ATOMS.issuperset(map(type, originals.values())):
            values = _with_numbers(values, originals)
        if self._validate is not None:
            candidate = {**self._defaults, **raw} if isinstance(raw, Mapping) else raw
            self._check(_without_absent(values, originals, candidate, self._typed), originals, raw)
            return
        for name in self._required:
            if values.get(name) is None:
                raise Unfit(f"{name!r} is a required property")
        for name, kinds in (self._types or {}).items():
            value = values.get(name)
            if type(value) not in kinds and not (value is None and not _is_given(name, originals, raw)):
                raise Unfit(f"{name!r} is not of the type that the catalog gives")

    def _by_name(self, raw: Any) -> Any:
        """Return what the model wrote, by the names of the arguments."""
        if not self._keys or not isinstance(raw, Mapping):
            return raw
        values = {name: [raw[key] for key in keys if key in raw] for name, keys in self._keys.items()}
        return {**raw, **{name: texts[0] for name, texts in values.items() if texts}}

    def _check(self, values: dict[str, Any], originals: Mapping[str, Any], raw: object) -> None:
        """Check the values by the whole schema, and tell no value if there are secrets among them."""
        assert self._validate is not None  # noqa: S101  the caller has looked
        try:
            self._validate(values)
        except Exception as error:
            if _has_secret(originals):
                reason = f"arguments with a secret among them do not fit: {type(error).__name__}"
                raise Unfit(reason) from None
            if not hasattr(error, "absolute_path") or _is_written(error, raw):
                raise
            raise type(error)(self._reason(error)) from None

    def _reason(self, error: Any) -> str:
        """Return which keyword of the catalog's schema refuses something, and where; no value."""
        place = place_of(error.absolute_path, self.schema) or "arguments"
        limit = error.validator_value
        plain = isinstance(limit, str | int | float | list) and len(text := repr(limit)) <= _LIMIT
        value = " by null" if error.instance is None else ""
        return f"{place}: {error.validator}{f' {text}' if plain else ''} is not satisfied{value}"


def _is_written(error: Any, raw: Any) -> bool:
    """Return whether the model itself wrote the value that an error of jsonschema's is about."""
    for step in error.absolute_path:
        try:
            raw = raw[step]
        except (LookupError, TypeError):
            return False
    return type(raw) is type(error.instance) and bool(raw == error.instance)


def _with_numbers(plain: Any, value: Any) -> Any:
    """Return the JSON form of a value in which Decimals and timedeltas are numbers, and secrets are shown."""
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Secret | SecretStr | SecretBytes):
        secret = value.get_secret_value()
        return secret.decode(errors="replace") if isinstance(secret, bytes) else secret
    if isinstance(plain, dict) and isinstance(value, Mapping):
        return {name: _with_numbers(part, value.get(name)) for name, part in plain.items()}
    if isinstance(plain, dict) and isinstance(value, BaseModel):
        return {name: _with_numbers(part, getattr(value, name, None)) for name, part in plain.items()}
    if isinstance(plain, list) and isinstance(value, list | tuple):
        return [_with_numbers(part, item) for part, item in zip(plain, value, strict=True)]
    return plain


def _number(value: Decimal) -> int | float | Decimal:
    """Return a Decimal as the same JSON number, or as it is if a number of Python has not all its digits."""
    if not value.is_finite() or abs(value.adjusted()) > _DIGITS:
        return value
    if value == value.to_integral_value():
        return int(value)
    return nearest if Decimal(repr(nearest := float(value))) == value else value


def _has_secret(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_secret, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_secret, value))
    if isinstance(value, BaseModel):
        return any(_has_secret(part) for _, part in value)
    return isinstance(value, Secret | SecretStr | SecretBytes)


def _plain_types(schema: Mapping[str, Any]) -> dict[str, tuple[type, ...]] | None:
    """Return the Python types of arguments whose schema says nothing but a plain type, or None."""
    if not schema.keys() <= {"type", "properties", "required", "title", "description"}:
        return None
    types: dict[str, tuple[type, ...]] = {}
    for name, part in schema.get("properties", {}).items():
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str) or kind not in _PLAIN or part.keys() - {"type", "title", "description"}:
            return None
        types[name] = _PLAIN[kind]
    return types


def _compiled(
    schema: Mapping[str, Any], typed: Mapping[str, Any], compile_schema: Compile
) -> Callable[[dict[str, Any]], object]:
    try:
        if idle := idle_keywords(schema):
            raise ConfigurationError(
                f"keywords of an argument schema in the catalog bind nothing: {', '.join(idle)[:300]}",
                hint="correct them in [tools.<name>.args], or write x- before a name that only describes",
            )
        return compile_schema({name: part for name, part in typed.items() if name != "default"})
    except ConfigurationError:
        raise
    except ImportError as error:
        raise ConfigurationError(
            "an argument schema in the catalog needs the library jsonschema",
            hint='pip install "agentguard[langchain]", or give plain types only, as in { to = "string" }',
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f"an argument schema in the catalog is no JSON Schema: {type(error).__name__}",
            hint="correct [tools.<name>.args]",
        ) from error


def _without_refused(value: Any, schema: Any) -> Any:
    """Return the value without optional properties that are null, and of which the schema refuses null.

    It goes as deep as `properties` and `items` go.
    """
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, list):
        return [_without_refused(item, schema.get("items")) for item in value]
    if not isinstance(value, dict):
        return value
    parts = schema.get("properties", {})
    return {
        name: _without_refused(part, parts.get(name))
        for name, part in value.items()
        if part is not None or _keeps_null(name, schema)
    }


def _without_absent(value: Any, original: Any, raw: Any, schema: Any) -> Any:
    """Return the value without optional properties that are null and that the model did not give.

    A null that the tool's own validator has made of what the model wrote stays. It goes as deep as
    `properties` and `items` go.
    """
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, list):
        items = schema.get("items")
        return [
            _without_absent(item, _part(original, place), _part(raw, place), items)
            for place, item in enumerate(value)
        ]
    if not isinstance(value, dict):
        return value
    required, parts = schema.get("required", ()), schema.get("properties", {})
    return {
        name: _without_absent(part, _part(original, name), _part(raw, name), parts.get(name))
        for name, part in value.items()
        if part is not None or name in required or name not in parts or _is_given(name, original, raw)
    }


def _is_given(name: str, original: Any, raw: Any) -> bool:
    """Return whether a property was made from what the model wrote, and is no default."""
    if isinstance(original, BaseModel) and name in original.model_fields_set:
        return True
    # by the name that the model writes, such as an alias
    return isinstance(raw, Mapping) and raw.get(name) is not None


def _part(value: Any, step: Any) -> Any:
    try:
        return getattr(value, step) if isinstance(value, BaseModel) else value[step]
    except (LookupError, TypeError, AttributeError):
        return None


def _keeps_null(name: str, schema: Mapping[str, Any]) -> bool:
    """Return whether null for a property is a value: it is required, not declared, or may be null."""
    parts = schema.get("properties", {})
    return name in schema.get("required", ()) or name not in parts or _accepts_null(parts[name])


def _accepts_null(part: Any) -> bool:
    if not isinstance(part, Mapping):
        return part is not False
    choices = [*part.get("anyOf", ()), *part.get("oneOf", ())]
    if choices:
        return any(map(_accepts_null, choices))
    if "enum" in part or "const" in part:
        return None in part.get("enum", [part.get("const")])
    kind = part.get("type")
    return "null" in kind if isinstance(kind, list) else kind in (None, "null") and "$ref" not in part
