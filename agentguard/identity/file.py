"""An identity that the platform writes into a file, and exchanges before it ends."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agentguard.errors import IdentityError
from agentguard.identity.tokens import LIMIT, Token
from agentguard.model import Secret

__all__ = ["FileIdentity"]

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class FileIdentity:
    """An `IdentitySource` that reads a token file: of Kubernetes, or with any OIDC token.

    In Kubernetes that is a projected volume's ``serviceAccountToken``. The actor is the token's
    `sub`, there ``system:serviceaccount:namespace:name``. The token is not verified, for it was not
    issued to us but to those that we show it to. It is read when the file is another than before,
    which costs one `stat` a call; if it cannot be read, or is not complete, the last good one serves
    until *leeway* seconds before its end.

    A file that others than root and this user may write is refused, since policies judge by the
    actor that it names. With *audience*, so is a token that is not for this audience alone: one for
    several can be used by each of them at the others.
    """

    inline = True

    def __init__(
        self,
        path: str | Path,
        *,
        audience: str | None = None,
        leeway: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._audience = Path(path), audience
        self._leeway, self._clock = leeway, clock
        self._reading = _Reading(None, None, "")

    def actor(self) -> str:
        """Return the token's subject.

        Raises:
            IdentityError: There is no living token.
        """
        return self._current().subject

    def token(self, audience: str) -> Secret:
        """Return the file's token, if it is for *audience*; it is never sent elsewhere.

        Raises:
            IdentityError: It is for others, or there is no living token.
        """
        token = self._current()
        if audience not in token.audiences:
            raise IdentityError(f"{self._path}: its token is not for the audience {audience}")
        return token.secret

    def _current(self) -> Token:
        reading = self._reading
        try:
            if _stamp(os.stat(self._path)) != reading.stamp:
                reading = self._reading = self._read(reading.token)
            problem = reading.problem
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        token = reading.token
        if token is None or token.expires_at - self._leeway <= self._clock():
            raise IdentityError(f"{self._path}: {problem or 'its token has expired'}")
        return token

    def _read(self, last: Token | None) -> _Reading:
        # not blocking, for what is no regular file may have nobody at its other end
        with open(
            self._path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)
        ) as stream:
            found = os.fstat(stream.fileno())
            stamp = _stamp(found)
            if problem := _objection(found):
                return _Reading(stamp, last, problem)
            content = stream.read(LIMIT + 2)
        try:
            token = Token.read(content.decode("ascii").strip())
        except ValueError as error:
            undecoded = isinstance(error, UnicodeDecodeError)
            return _Reading(stamp, last, f"its token {'is not ASCII' if undecoded else error}")
        if self._audience is not None and token.audiences != {self._audience}:
            return _Reading(stamp, last, f"its token is not for the audience {self._audience} alone")
        return _Reading(stamp, token, "")

    def __repr__(self) -> str:
        return f"<FileIdentity {self._path}>"


class _Reading(NamedTuple):
    """What was found when the file had that stamp: a token, or the last good one and a problem."""

    stamp: tuple[int, ...] | None
    token: Token | None
    problem: str


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _objection(found: os.stat_result) -> str:
    if not stat.S_ISREG(found.st_mode):
        return "is no file"
    if found.st_mode & _OTHERS or found.st_uid not in (0, os.geteuid()):
        return "others may write it: it must belong to this user or root, and to nobody else to write"
    return ""
