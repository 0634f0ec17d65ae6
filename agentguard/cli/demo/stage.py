"""The demo's other processes, and a listener that nobody may reach. All end with the demo."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Self

__all__ = ["Evil", "Player"]

PATIENCE = 60.0  # seconds after which a process that hangs is killed, so that nobody waits for it


class Player:
    """A file of this directory as a process of its own, spoken to in lines.

    It ends when its stdin does, so it cannot survive this process, however that ends. It is in a
    session of its own, so that Ctrl-C reaches it in this way only.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        file = Path(__file__).with_name(f"{name}.py")
        self._process = subprocess.Popen(  # noqa: S603  this interpreter, and a file of ours
            [sys.executable, "-P", str(file)],  # -P: its neighbors are not to be found by bare names
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        assert self._process.stdin is not None  # noqa: S101  it is a pipe
        assert self._process.stdout is not None  # noqa: S101  it is a pipe
        self._in, self._out = self._process.stdin, self._process.stdout
        self._watchdog = Timer(PATIENCE, self._process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    def tell(self, line: str) -> None:
        """Send a line."""
        self._in.write(f"{line}\n")
        self._in.flush()

    def hear(self) -> str:
        """Wait for a line.

        Raises:
            RuntimeError: The process ended instead.
        """
        line = self._out.readline()
        if not line:
            raise RuntimeError(f"the {self._name} has ended early, with {self._process.wait(PATIENCE)}")
        return line.strip()

    def leave(self) -> str:
        """Let it end, and return its last words."""
        with suppress(OSError):  # it is gone already
            self._in.close()
        try:
            last = self._out.read()
            self._process.wait(5)
        except ValueError:  # left before
            last = ""
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()
        self._watchdog.cancel()
        return last.strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.leave()


class Evil:
    """Another origin: a listener that counts who comes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.origin = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def reached(self) -> bool:
        """Whether anybody has connected."""
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return False
        connection.close()
        return True

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
