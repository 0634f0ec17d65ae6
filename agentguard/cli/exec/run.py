"""One run of a command: its audit record, how the child gets the secrets, and its restarts."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Any

from agentguard.audit import JsonLinesAudit
from agentguard.cli.exec.child import Child, SignalWatch
from agentguard.cli.exec.files import SecretFile
from agentguard.cli.exec.secrets import Problems, Secrets
from agentguard.errors import ConfigurationError
from agentguard.text import printable

__all__ = ["Delivery", "Renew", "RunRecord", "run_child", "warn"]

_NOT_EXECUTABLE, _NOT_FOUND = 126, 127  # as env and timeout have them
_GRACE = 5.0


class Renew(StrEnum):
    """How a new value reaches the child."""

    FD = "fd"
    RESTART = "restart"
    NONE = "none"


class RunRecord:
    """The audit record of one run: its start, before any secret is read, and its end in every case.

    It names the variables, their sources and the program. It has no values, and no arguments of the
    program, which may hold secrets.

    Raises:
        AuditError: The record cannot be written, so the run must not go on. Each method may raise it.
    """

    def __init__(self, file: Path, **start: Any) -> None:
        self.status: int | None = None
        self._run = {"event": "exec", "task": f"exec-{secrets.token_urlsafe(12)}", "lineage": []}
        self._audit = JsonLinesAudit(file)
        self._append("started", pid=os.getpid(), uid=os.getuid(), **start)

    def add(self, event: str, names: Iterable[str]) -> None:
        """Record an event and the variables that it concerns."""
        self._append(event, secrets=sorted(names))

    def close(self) -> None:
        """Record the end, and the exit status if there is one."""
        try:
            self._append("ended", status=self.status)
        finally:
            self._audit.close()

    def _append(self, event: str, **facts: Any) -> None:
        self._audit.append({**self._run, "what": event, **facts})


class Delivery:
    """How the child gets *secrets*: in its environment, or in the files with the `descriptors`."""

    def __init__(self, env: Mapping[str, str], secrets: Secrets, renew: Renew, stack: ExitStack) -> None:
        self._env, self._secrets, self._renew = env, secrets, renew
        self._files = {name: SecretFile() for name in secrets.values} if renew is Renew.FD else {}
        for file in self._files.values():
            stack.callback(file.close)
        self.descriptors = [file.descriptor for file in self._files.values()]
        if not all(file.sealed for file in self._files.values()):
            warn("this system cannot seal a file: programs of the same user can write into the descriptors")

    def env(self) -> dict[str, str]:
        """Return the child's environment, with the current values."""
        if self._renew is not Renew.FD:
            return {**self._env, **{name: value.reveal() for name, value in self._secrets.values.items()}}
        self._fill()
        descriptors = {name: file.descriptor for name, file in self._files.items()}
        return {
            **self._env,
            **{f"AGENTGUARD_FD_{name}": str(number) for name, number in descriptors.items()},
            **{f"{name}_FILE": f"/dev/fd/{number}" for name, number in descriptors.items()},
        }

    def renew(self) -> bool:
        """Renew the secrets that are due. Return whether the child must be started again."""
        if not self._secrets.renew():
            return False
        self._fill()
        return self._renew is Renew.RESTART

    def revoke_superseded(self) -> Problems:
        """Revoke the leases of the child that has ended. Return the errors."""
        return self._secrets.revoke_superseded()

    def due(self) -> float | None:
        """Return in how many seconds a secret is due, or None for never."""
        return self._secrets.due()

    def _fill(self) -> None:
        for name, file in self._files.items():
            file.put(self._secrets.values[name])


def run_child(argv: list[str], delivery: Delivery, watch: SignalWatch) -> int:
    """Run the command to its end, with all its restarts, and return its exit status.

    Raises:
        ConfigurationError: An argument or a secret holds a NUL, so no child can get it.
    """
    while True:
        try:
            child = Child(argv, delivery.env(), delivery.descriptors, watch)
        except OSError as error:
            warn(f"{argv[0]}: {error.strerror}")
            return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
        except ValueError:  # the message holds no value
            raise ConfigurationError("an argument or a secret holds a NUL, which no child can get") from None
        try:
            status = child.wait(delivery.due, delivery.renew)
            if status is None:
                status = child.stop(_GRACE)
        finally:
            child.close()
        if status is not None:
            return status
        for problem in delivery.revoke_superseded():
            warn(str(problem))


def warn(text: str) -> None:
    """Write a line to stderr; stdout belongs to the child."""
    message = "\n".join(map(printable, text.split("\n")))
    print(f"agentguard: {message}", file=sys.stderr, flush=True)
