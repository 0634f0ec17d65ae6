"""What a server has started is gone when it is stopped, and why one did not start is told."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.servers.cache import kept
from tests.servers.server import Server, ServerError, free_port, serves

PARENT = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); sys.exit(int({}))"


class Parent(Server):
    """A program that starts another; its own end is *exits*."""

    name = "parent"
    patience = 10.0

    def __init__(self, home: Path, exits: str = "input()") -> None:
        super().__init__(home)
        self._code = PARENT.format(exits)

    def install(self) -> None:
        """Nothing is missing."""

    def start(self) -> Mapping[str, str]:
        child = self.spawn(sys.executable, "-c", self._code)
        self.wait(child, lambda: False)
        return {}

    def grandchild(self) -> int:
        return int(self.log.read_text().split()[0])


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # one that has ended, and that nobody has asked about yet


def soon(condition: Callable[[], bool]) -> bool:
    ends = time.monotonic() + 5.0
    while not condition() and time.monotonic() < ends:
        time.sleep(0.02)
    return condition()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    server = Parent(tmp_path / "parent", "3")
    server.make_home()
    yield server
    server.stop()


def test_stop_ends_what_a_server_has_left_behind(parent: Parent) -> None:
    with pytest.raises(ServerError, match=r"parent: has ended \(3\)"):
        parent.start()
    orphan = parent.grandchild()
    assert alive(orphan)
    parent.stop()
    assert soon(lambda: not alive(orphan))


def test_nothing_is_started_after_the_end(parent: Parent) -> None:
    parent.stop()
    with pytest.raises(ServerError, match="stopped while it was starting"):
        parent.start()


def test_a_failed_command_tells_what_it_has_said(parent: Parent) -> None:
    with pytest.raises(ServerError, match=r"failed \(1\)\n[^$]*no such table"):
        parent.run(sys.executable, "-c", "raise SystemExit('no such table')")


def test_a_server_that_answers_is_not_one_that_does_not() -> None:
    assert not serves(f"http://127.0.0.1:{free_port()}/")


def test_what_was_installed_is_not_installed_again_and_what_was_interrupted_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTGUARD_CACHE", str(tmp_path / "cache"))
    built = []

    def build(folder: Path) -> None:
        assert not os.listdir(folder)
        built.append((folder / "half").write_text("done"))
        if len(built) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept("thing-1", build)
    assert kept("thing-1", build) == kept("thing-1", build) == tmp_path / "cache" / "thing-1"
    assert len(built) == 2
