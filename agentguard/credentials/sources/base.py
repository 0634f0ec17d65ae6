"""What a secret source is, how one is named, and how a part of a JSON secret is picked."""

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

__all__ = ["TIMEOUT", "Part", "Reference", "SecretSource", "Settings", "pick", "unlogged"]

TIMEOUT = 4.5
"""Seconds that a source takes to answer, at most, unless told otherwise."""

Settings = Mapping[str, str]
"""How to reach a vault: names in lower case and without separators, such as ``accesskeyid``."""


class SecretSource(Protocol):
    """A place that holds one secret. Each `read` asks it anew; `aread` is its twin, if it has one."""

    @property
    def name(self) -> str:
        """Names the place, for errors and records; it is no secret."""

    def read(self) -> Secret:
        """Return what the place holds now, within a few seconds.

        Raises:
            IssueError: It gave nothing; the message holds no secret.
        """


@dataclass(frozen=True, slots=True)
class Reference:
    """``kind:id#path``: where a secret is. The path is behind the last ``#``; an id may hold any sign."""

    kind: str
    id: str
    path: str | None

    @classmethod
    def of(cls, text: str) -> Self:
        """Read ``kind:id`` or ``kind:id#json.path``.

        Raises:
            ConfigurationError: It is neither.
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
        """The whole secret's name."""
        return f"{self.kind}:{self.id}"

    def __str__(self) -> str:
        return self.locator if self.path is None else f"{self.locator}#{self.path}"


class Part:
    """A `SecretSource` for one part of the JSON object that another source holds."""

    def __init__(self, whole: SecretSource, path: str) -> None:
        self.name, self._whole, self._path = f"{whole.name}#{path}", whole, path

    def read(self) -> Secret:
        """Read the whole, and return the part."""
        return pick(self._whole.read(), self._path, self.name)


def pick(whole: Secret, path: str, name: str) -> Secret:
    """Return the text, number (as it is written) or boolean at *path* in a JSON object.

    Raises:
        IssueError: There is none. It does not say what else is there.
    """
    found = _walk(whole, path)
    if found is None:
        raise IssueError(f"{name}: the secret is no JSON object with a text or number there")
    return found


def _walk(whole: Secret, path: str) -> Secret | None:
    # raises nothing itself: the error of a JSON parser holds the document, and so would a frame of ours
    try:
        found: Any = json.loads(
            whole.reveal(), parse_int=_Number, parse_float=_Number, parse_constant=_no_number
        )
    except (ValueError, RecursionError):
        return None
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, bool):
        return Secret(str(found).lower())
    return Secret(str(found)) if isinstance(found, str) and found else None


class _Number(str):
    """A number with the digits that it was written with."""

    __slots__ = ()


def _no_number(_text: str) -> NoReturn:
    raise ValueError


@contextmanager
def unlogged(*loggers: str) -> Iterator[None]:
    """Keep what this thread receives from *loggers*, which write out whole answers at DEBUG."""
    here = get_ident()

    def elsewhere(_record: logging.LogRecord) -> bool:
        return get_ident() != here

    for each in loggers:
        logging.getLogger(each).addFilter(elsewhere)
    try:
        yield
    finally:
        for each in loggers:
            logging.getLogger(each).removeFilter(elsewhere)
