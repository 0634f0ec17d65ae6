"""What all servers have in common: children of their own, a port, a wait with a bound, and an end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import ClassVar

import httpx

__all__ = ["Server", "ServerError", "free_port", "serves"]


class ServerError(Exception):
    """A server cannot be installed or does not start; the message has the end of its log."""


class Server(ABC):
    """One server with its state in *home*, which belongs to `user` where the tests are run by root.

    Everything that it starts is a group of processes of its own, which `stop` ends. Where the system has
    setpriv, the kernel ends them too when the tests are killed.
    """

    name: ClassVar[str]
    user: ClassVar[str | None] = None
    patience: ClassVar[float] = 30.0
    """How long it may take to become ready, in seconds."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._children: list[subprocess.Popen[bytes]] = []
        self._lock, self._stopped = Lock(), False

    @abstractmethod
    def install(self) -> None:
        """Make sure that its program is there; a second time, that takes no time."""

    @abstractmethod
    def start(self) -> Mapping[str, str]:
        """Start it, await it, and return the environment variables that lead to it."""

    def make_home(self) -> None:
        """Make its folder, for nobody but it."""
        self.home.mkdir(mode=0o700)
        if self._user:
            shutil.chown(self.home, self._user)

    def spawn(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a program that runs until `stop`; what it says goes to the log."""
        with self.log.open("ab") as log:
            return self._popen(command, {**_clean(), "HOME": str(self.home), **(env or {})}, log.fileno())

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run a program to its end, in the tests' own environment, and return what it has written.

        Raises:
            ServerError: It failed.
        """
        child = self._popen(command, os.environ, subprocess.PIPE, cwd)
        output = child.communicate()[0].decode(errors="replace")
        if child.returncode:
            raise ServerError(
                f"{self.name}: {Path(command[0]).name} failed ({child.returncode})\n{_end(output)}"
            )
        return output

    def wait(self, child: subprocess.Popen[bytes], ready: Callable[[], object]) -> None:
        """Poll until *ready* returns something true.

        Raises:
            ServerError: *child* has ended, or the patience has.
        """
        ends = time.monotonic() + self.patience
        while not ready():
            if child.poll() is not None or time.monotonic() > ends:
                state = "is not ready in time" if child.poll() is None else f"has ended ({child.returncode})"
                raise ServerError(f"{self.name}: {state}\n{_end(self.log.read_text(errors='replace'))}")
            time.sleep(0.03)

    def stop(self) -> None:
        """End whatever was started, and start nothing any more."""
        with self._lock:
            self._stopped = True
        for number, patience in ((self.farewell, 5.0), (signal.SIGKILL, 5.0)):
            for child in self._children:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, number)
            for child in self._children:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(patience)

    farewell: ClassVar[signal.Signals] = signal.SIGTERM
    """The signal that asks it to end soon."""

    @property
    def log(self) -> Path:
        """What its programs say."""
        return self.home.with_suffix(".log")

    @property
    def _user(self) -> str | None:
        return self.user if os.geteuid() == 0 else None

    def _popen(
        self, command: tuple[str, ...], env: Mapping[str, str], output: int, cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        setpriv = shutil.which("setpriv")
        # after the change of user, which would clear the wish to die with the parent
        mortal = (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()
        with self._lock:
            if self._stopped:
                raise ServerError(f"{self.name}: stopped while it was starting")
            child = subprocess.Popen(
                (*mortal, *command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd or self.home,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
                start_new_session=True,
            )
            self._children.append(child)
        return child


def _clean() -> dict[str, str]:
    """Return the environment without what would lead a server to another's state."""
    foreign = ("PG", "BAO_", "VAULT_", "AWS_", "SPIFFE_", "NODE_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def _end(text: str) -> str:
    return "\n".join(text.splitlines()[-40:])


def free_port() -> int:
    """Return a loopback port that nobody listens on at this moment."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def serves(url: str) -> bool:
    """Whether an HTTP server answers *url* with success."""
    try:
        return httpx.get(url, trust_env=False, timeout=2.0).is_success
    except httpx.HTTPError:
        return False
