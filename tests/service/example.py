"""A copy of an example of ``examples/workers``, and what its operator finds when it has ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentguard.audit.chain import verify
from agentguard.audit.jsonl import JsonLinesAudit
from agentguard.stores.sqlite import SqliteStore

__all__ = ["USERS", "Example"]

ROOT = Path(__file__).parents[2]
USERS = ("ada", "bob", "cy", "dan")


class Example:
    """The copy: its folder, and its processes."""

    def __init__(self, folder: Path) -> None:
        ignored = shutil.ignore_patterns(".*", "__pycache__")
        self.home = Path(shutil.copytree(ROOT / "examples", folder / "examples", ignore=ignored))
        self.folder = self.home / "workers"
        self._started: list[subprocess.Popen[bytes]] = []

    def replace(self, file: str, old: str, new: str) -> None:
        text = (self.home / file).read_text("utf-8")
        assert old in text
        (self.home / file).write_text(text.replace(old, new), "utf-8")

    def use(self, origin: str) -> None:
        """Have the API of the orders at *origin*."""
        for file in (
            "agentguard.toml",
            "workers/asgi_app.py",
            "workers/sync_app.py",
            "workers/celery_tasks.py",
        ):
            self.replace(file, "http://127.0.0.1:8000", origin)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Python in the example's folder."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(self.home)}
        with (self.home / "output").open("ab") as output:
            self._started.append(
                subprocess.Popen(
                    [sys.executable, *arguments],
                    cwd=self.folder, env=environment, stdout=output, stderr=output, start_new_session=True,
                )
            )  # fmt: skip
        return self._started[-1]

    @property
    def output(self) -> str:
        return (self.home / "output").read_text("utf-8")

    def kill(self) -> None:
        for process in self._started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def records(self) -> list[Mapping[str, Any]]:
        """Return the records of the audit log, which is sound."""
        log = self.home / ".agentguard" / "audit.jsonl"
        with log.open("rb") as lines:
            assert verify(lines).sound
        return list(JsonLinesAudit(log).records())

    def outcomes(self) -> list[tuple[object, object]]:
        """Return how each call ended, and whether its credential was revoked."""
        ends = [record for record in self.records() if record["event"] == "outcome"]
        return [(record["outcome"], record["revoked"]) for record in ends]

    def revocations(self) -> int:
        """Return how many credentials the outbox has revoked."""
        return sum(record["event"] == "revocation" for record in self.records())

    def denials(self) -> int:
        return sum(record["event"] == "decision" and record["effect"] == "deny" for record in self.records())

    def live(self) -> int:
        store = SqliteStore(self.home / ".agentguard" / "state.db")
        try:
            return len(store.live())
        finally:
            store.close()

    def wait(self, until: Callable[[], bool]) -> None:
        ends = time.monotonic() + 60
        while not until():
            assert time.monotonic() < ends, self.output
            time.sleep(0.2)
