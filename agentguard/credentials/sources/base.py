"""What a source of secrets is, how a text names one, and how a part of a JSON secret is picked."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any, NoReturn, Protocol, Self

from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import Secret

__all__ = ["TIMEOUT", "Part", "Reference", "SecretSource", "Settings", "mute", "pick"]

TIMEOUT = 4.5
"""How many seconds a source waits for an answer by default."""

Settings = Mapping[str, str]
"""How to reach a vault: names in lower case and without separators, such as ``accesskeyid``."""


class SecretSource(Protocol):
    """A place that holds one secret. Each `read` asks the place again. `aread` may be its async form."""

    @property
    def name(self) -> str:
        """The name of the place, for errors and records. It is not secret."""

    def read(self) -> Secret:
        """Return the secret that the place holds now, within a few seconds.

        Raises:
            IssueError: The place gave no secret. The message holds no secret.
        """


@dataclass(frozen=True, slots=True)
class Reference:
    """``kind:id#path``: where a secret is. The path follows the last ``#``; an id may have any character."""

    kind: str
    id: str
    path: str | None

    @classmethod
    def of(cls, text: str) -> Self:
        """Read ``kind:id`` or ``kind:id#json.path``.

        Raises:
            ConfigurationError: The text has neither form.
        """
        kind, _, place = text.partition(":")
        id, mark, path = place.rpartition("#") if "#" in place else (place, "", "")
        if not kind or not id:
            raise ConfigurationError(
                f"{text!r} names no secret", hint="write KIND:ID or KIND:ID#json.path, as in aws:prod/api#key"
            )
        if mark and not all(path.split(".")):
            raise ConfigurationError(f"{text!r}: a JSON path is names with dots between them")
        return cls(kind, id, path or None)

    @property
    def locator(self) -> str:
        """The name of the complete secret, without the path."""
        return f"{self.kind}:{self.id}"

    def __str__(self) -> str:
        return self.locator if self.path is None else f"{self.locator}#{self.path}"


class Part:
    """A `SecretSource` for one part of the JSON object that another source holds."""

    def __init__(self, whole: SecretSource, path: str) -> None:
        self.name, self._whole, self._path = f"{whole.name}#{path}", whole, path

    def read(self) -> Secret:
        """Read the complete secret, and return the part."""
        return pick(self._whole.read(), self._path, self.name)


def pick(whole: Secret, path: str, name: str) -> Secret:
    """Return the text, number (as it is written) or boolean at *path* in a JSON object.

    Raises:
        IssueError: There is no such value. The message does not say what else is there.
    """
    part = _walk(whole, path)
    if part is None:
        raise IssueError(f"{name}: the secret is no JSON object with a text or number there")
    return part


def _walk(whole: Secret, path: str) -> Secret | None:
    # raises nothing: a JSON parser's error holds the document, and so does this function's stack frame
    try:
        value: Any = json.loads(
            whole.reveal(), parse_int=_Number, parse_float=_Number, parse_constant=_no_number
        )
    except (ValueError, RecursionError):
        return None
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return Secret(str(value).lower())
    return Secret(str(value)) if isinstance(value, str) and value else None


class _Number(str):
    """A number as a text, with the digits that the document has."""

    __slots__ = ()


def _no_number(_text: str) -> NoReturn:
    raise ValueError


@contextmanager
def mute(*loggers: str) -> Iterator[None]:
    """Keep this thread's answers out of *loggers*, which write complete answers at the level DEBUG."""
    thread = get_ident()

    def is_other_thread(_record: logging.LogRecord) -> bool:
        return get_ident() != thread

    for name in loggers:
        logging.getLogger(name).addFilter(is_other_thread)
    try:
        yield
    finally:
        for name in loggers:
            logging.getLogger(name).removeFilter(is_other_thread)
