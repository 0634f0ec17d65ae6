"""What is told of arguments that do not fit a tool's schema: to the model, and to the operator.

A validator is the application's code. What it raises may hold anything, such as the URL of a database with
its password, and may raise again where somebody asks for its text. So the model is told which argument to
correct, and nothing that a validator has chosen. The operator is told the words, if there are any.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticKnownError

from agentguard.errors import DenialCode, Denied, safe_text
from agentguard.langchain.hidden_state import class_name

__all__ = ["Unfit", "place_of", "schema_error", "validator_failed"]

# pydantic's types of errors whose message holds what code of the application has raised
_RAISED = frozenset(
    {"value_error", "assertion_error", "get_attribute_error", "iteration_error", "mapping_type"}
)
NO_SCHEMA: Mapping[str, Any] = {}
_REASON = "arguments do not fit the schema"
_REFUSED = "the value is not accepted"
_WORDS = 500  # characters of one error's text at most that the operator is told
_PLACE = re.compile(r"\{(\w+)\}")


class Unfit(ValueError):
    """An argument does not fit; the `message` names it, and never holds its value."""

    @property
    def message(self) -> str:
        """Return its text."""
        return str(self)


class _ValidatorFailed(ValueError):
    """A validator of the application raised an error that pydantic lets pass; its text is the error's."""


def validator_failed(error: Exception) -> _ValidatorFailed:
    """Return an error with the class and the text of what a validator has raised."""
    return _ValidatorFailed(_words(error))


def schema_error(error: Exception, schema: Mapping[str, Any] = NO_SCHEMA) -> Denied:
    """Make of a validation error a denial that tells the model which argument to correct.

    *schema* is the JSON Schema of the arguments. Only names in it are told of a place, and positions in a
    list: a validator may name a place itself, and a key may be one that a validator has made.

    Of pydantic's messages the model is told those of pydantic's own types, without the facts in them: a
    validator may raise such a type itself, with any facts. The message of an `Unfit` is told, and that of
    jsonschema, which is about what the model wrote. The operator is told the words of the others. The
    `__cause__` is pydantic's error, which a tool's `handle_validation_error` is given, unless pydantic cannot
    tell it.
    """
    problems, words = [_REFUSED], list[str]()
    cause: ValidationError | None = None
    if isinstance(error, ValidationError):
        try:
            details = error.errors(include_url=False, include_input=False)[:5]
            problems = [
                f"{place_of(detail['loc'], schema) or 'input'}: {_message(detail)}" for detail in details
            ]
            words = [detail["msg"][:_WORDS] for detail in details if _message(detail) != detail["msg"]]
            cause = error
        except Exception as failure:  # noqa: BLE001  a validator's error may raise when its text is asked for
            words = [f"{safe_text(error)}, and its text cannot be read: {safe_text(failure)}"]
    elif _is_jsonschemas_own(error):
        problems = [str(getattr(error, "message", ""))[:200]]
    elif isinstance(error, Unfit):
        problems, words = [error.message[:200]], [error.message]
    else:
        words = [_words(error)]
    advice = f"The arguments do not fit the tool's schema. Correct them: {'; '.join(problems)}"
    denied = Denied.of(DenialCode.INVALID_ARGUMENTS, ": ".join([_REASON, *words]), advice=advice)
    denied.__cause__ = cause
    return denied


def place_of(path: Iterable[object], schema: Mapping[str, Any]) -> str:
    """Return a place in arguments by names of the schema and positions; other names are left out."""
    names = frozenset(_property_names(schema))
    return ".".join(str(part) if type(part) is int or part in names else "…" for part in path)


def _property_names(schema: object) -> Iterator[str]:
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            if isinstance(properties := part.get("properties"), Mapping):
                yield from properties
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part


def _words(error: Exception) -> str:
    """Return the class and the text of an error; only its class if the text cannot be read."""
    if isinstance(error, _ValidatorFailed):
        return str(error)
    try:
        # by the methods of `str`: a text may be of a class of its own
        return f"{class_name(type(error))}: {str.__getitem__(str(error), slice(_WORDS))}"
    except Exception:  # noqa: BLE001  the error is of the application's own class
        return safe_text(error)


def _message(detail: ErrorDetails) -> str:
    """Return what the model is told: the message of pydantic's type, without the facts in it.

    A validator may raise a PydanticCustomError with any type, so the message is compared as well.
    """
    kind: Any = detail["type"]
    if kind in _RAISED:
        return _REFUSED
    try:
        error = PydanticKnownError(kind, detail.get("ctx"))
        if error.message() != detail["msg"]:
            return _REFUSED
    except (KeyError, TypeError, ValueError):  # pydantic has no such type, or not with these facts
        return _REFUSED
    return _PLACE.sub(lambda fact: "s" if fact[1] == "expected_plural" else "…", error.message_template)


def _is_jsonschemas_own(error: Exception) -> bool:
    kind = type(error)
    return (kind.__module__, kind.__name__) == ("jsonschema.exceptions", "ValidationError")
