"""One run of a command: its record, what it is given, and its restarts."""

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
from agentguard.cli.exec.child import Child, Watch
from agentguard.cli.exec.secrets import Cell, Supply
from agentguard.errors import ConfigurationError

__all__ = ["Delivery", "Journal", "Renew", "attended", "say"]

_NOT_EXECUTABLE, _NOT_FOUND = 126, 127  # as env and timeout have them
_GRACE = 5.0


class Renew(StrEnum):
    """How a new value reaches the child."""

    FD = "fd"
    RESTART = "restart"
    NONE = "none"


class Journal:
    """The record of one run: its start, before anything is read, and its end, however it comes.

    It names variables and sources, and the program; neither values nor arguments, which may hold some.

    Raises:
        AuditError: The record cannot be written, and so nothing may happen; also from each method.
    """

    def __init__(self, file: Path, **start: Any) -> None:
        self.status: int | None = None
        self._run = {"event": "exec", "task": f"exec-{secrets.token_urlsafe(12)}", "lineage": []}
        self._audit = JsonLinesAudit(file)
        self._append("started", pid=os.getpid(), uid=os.getuid(), **start)

    def tell(self, what: str, names: Iterable[str]) -> None:
        """Record what happened to which variables."""
        self._append(what, secrets=sorted(names))

    def close(self) -> None:
        """Record the end, with the status, if the child had one."""
        try:
            self._append("ended", status=self.status)
        finally:
            self._audit.close()

    def _append(self, what: str, **facts: Any) -> None:
        self._audit.append({**self._run, "what": what, **facts})


class Delivery:
    """What the child gets of *supply*: variables, or descriptors that are `descriptors`."""

    def __init__(self, env: Mapping[str, str], supply: Supply, renew: Renew, stack: ExitStack) -> None:
        self._env, self._supply, self._renew = env, supply, renew
        self._cells = {name: Cell() for name in supply.values} if renew is Renew.FD else {}
        for cell in self._cells.values():
            stack.callback(cell.close)
        self.descriptors = [cell.descriptor for cell in self._cells.values()]

    def env(self) -> dict[str, str]:
        """Return the child's environment, with the values as they are now."""
        if self._renew is not Renew.FD:
            return {**self._env, **{name: value.reveal() for name, value in self._supply.values.items()}}
        self._fill()
        places = {name: cell.descriptor for name, cell in self._cells.items()}
        return {
            **self._env,
            **{f"AGENTGUARD_FD_{name}": str(place) for name, place in places.items()},
            **{f"{name}_FILE": f"/dev/fd/{place}" for name, place in places.items()},
        }

    def renewed(self) -> bool:
        """Renew what is due; returns whether the child must be started again for it."""
        if not self._supply.renew():
            return False
        self._fill()
        return self._renew is Renew.RESTART

    def superseded(self) -> list[str]:
        """Revoke what the child had before, now that it has ended."""
        return self._supply.drop()

    def due(self) -> float | None:
        """Return in how many seconds something is due, or None."""
        return self._supply.due()

    def _fill(self) -> None:
        for name, cell in self._cells.items():
            cell.put(self._supply.values[name])


def attended(argv: list[str], delivery: Delivery, watch: Watch) -> int:
    """Run the command to its end, through all its restarts, and return its exit status.

    Raises:
        ConfigurationError: An argument or a secret cannot be given to a child.
    """
    while True:
        try:
            child = Child(argv, delivery.env(), delivery.descriptors, watch)
        except OSError as error:
            say(f"{argv[0]}: {error.strerror}")
            return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
        except ValueError:  # its message holds neither
            raise ConfigurationError("an argument or a secret holds a NUL, which no child can get") from None
        try:
            status = child.attend(delivery.due, delivery.renewed)
            if status is None:
                status = child.stop(_GRACE)
        finally:
            child.close()
        if status is not None:
            return status
        for problem in delivery.superseded():
            say(f"not known to be revoked yet: {problem}")


def say(text: str) -> None:
    """Write a line to stderr: stdout is the child's."""
    print(f"agentguard: {text}", file=sys.stderr, flush=True)
