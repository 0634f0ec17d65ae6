"""An identity from a token file that the platform writes, and replaces before the token expires."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agentguard.errors import IdentityError
from agentguard.files import is_writable_by_others
from agentguard.identity.tokens import LIMIT, Token
from agentguard.model import Secret

__all__ = ["FileIdentity"]


class FileIdentity:
    """An `IdentitySource` that reads a token file: of Kubernetes, or with any OIDC token.

    In Kubernetes the file is a projected volume's ``serviceAccountToken``. The actor is the token's
    `sub`, there ``system:serviceaccount:namespace:name``. The token is not verified here; the services
    that receive it verify it. The file is read again when it has changed, which costs one `stat` for
    each call. If it cannot be read or is incomplete, the last good token serves until *leeway* seconds
    before its expiry.

    A file that other users may write is refused, since policies decide by the actor that it names. With
    *audience*, a token with another or a further audience is refused: each audience of a token could
    use it at the others.
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
        self._state = _FileState(None, None, "")

    def actor(self) -> str:
        """Return the token's subject.

        Raises:
            IdentityError: There is no valid token.
        """
        return self._current().subject

    def token(self, audience: str) -> Secret:
        """Return the file's token, if it is for *audience*.

        Raises:
            IdentityError: The token is for other audiences, or there is no valid token.
        """
        token = self._current()
        if audience not in token.audiences:
            raise IdentityError(f"{self._path}: its token is not for the audience {audience}")
        return token.secret

    def _current(self) -> Token:
        state = self._state
        try:
            if _stamp(os.stat(self._path)) != state.stamp:
                state = self._state = self._read(state.token)
            problem = state.problem
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        token = state.token
        if token is None or token.expires_at - self._leeway <= self._clock():
            raise IdentityError(f"{self._path}: {problem or 'its token has expired'}")
        return token

    def _read(self, last: Token | None) -> _FileState:
        # without blocking: a pipe may have no writer
        with open(
            self._path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)
        ) as stream:
            status = os.fstat(stream.fileno())
            stamp = _stamp(status)
            if problem := _problem(status):
                return _FileState(stamp, last, problem)
            content = stream.read(LIMIT + 2)
        try:
            token = Token.read(content.decode("ascii").strip())
        except ValueError as error:
            reason = "is not ASCII" if isinstance(error, UnicodeDecodeError) else error
            return _FileState(stamp, last, f"its token {reason}")
        if self._audience is not None and token.audiences != {self._audience}:
            return _FileState(stamp, last, f"its token is not for the audience {self._audience} alone")
        return _FileState(stamp, token, "")

    def __repr__(self) -> str:
        return f"<FileIdentity {self._path}>"


class _FileState(NamedTuple):
    """The file at one stamp: its token, or the last good token and the problem with this one."""

    stamp: tuple[int, ...] | None
    token: Token | None
    problem: str


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _problem(status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if is_writable_by_others(status) or status.st_uid not in (0, os.geteuid()):
        return "others may write it: only its owner may write it, and that must be this user or root"
    return ""
