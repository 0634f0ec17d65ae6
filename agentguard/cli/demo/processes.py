"""The demo's other processes, and a listener that no call may reach. All of them end with the demo."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Self

__all__ = ["ChildProcess", "ForbiddenOrigin"]

TIME_LIMIT = 60.0  # seconds; then a child process that hangs is killed, and the demo does not wait forever


class ChildProcess:
    """A Python file of this directory, run as a process of its own. It exchanges lines with this process.

    The child ends when its stdin ends. So it cannot outlive this process, however this process ends. The
    child has a session of its own, so Ctrl-C does not reach it directly.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        file = Path(__file__).with_name(f"{name}.py")
        self._process = subprocess.Popen(  # noqa: S603  this interpreter, and a file of this package
            [
                sys.executable,
                "-P",
                str(file),
            ],  # -P: the files beside it are not importable by their bare names
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        assert self._process.stdin is not None  # noqa: S101  it is a pipe
        assert self._process.stdout is not None  # noqa: S101  it is a pipe
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._watchdog = Timer(TIME_LIMIT, self._process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    def send(self, line: str) -> None:
        """Send a line."""
        self._stdin.write(f"{line}\n")
        self._stdin.flush()

    def receive(self) -> str:
        """Wait for a line, and return it.

        Raises:
            RuntimeError: The process ended instead.
        """
        line = self._stdout.readline()
        if not line:
            raise RuntimeError(f"the {self._name} ended early, with code {self._process.wait(TIME_LIMIT)}")
        return line.strip()

    def finish(self) -> str:
        """Let the process end, and return the rest of its output. A second call returns an empty text."""
        with suppress(OSError):  # the process has ended already
            self._stdin.close()
        try:
            rest = self._stdout.read()
            self._process.wait(5)
        except ValueError:  # stdout is closed: this is not the first call
            rest = ""
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()
        self._watchdog.cancel()
        return rest.strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.finish()


class ForbiddenOrigin:
    """The attacker's origin: a listener that notices whether anything connects to it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.origin = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def was_reached(self) -> bool:
        """Return whether something has connected."""
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return False
        connection.close()
        return True

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
