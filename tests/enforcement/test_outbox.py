"""The outbox: what was minted is revoked, across a crash and an issuer that is down."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentguard import Guard, ToolPath
from agentguard.catalog import Catalog
from agentguard.concurrency.drive import drive
from agentguard.enforcement import process
from agentguard.enforcement.process import gone, owner
from agentguard.errors import DenialCode, IssueError, RevocationUnknown
from agentguard.identity import LocalIdentity
from agentguard.model import Budget, Credential, Grant, LiveCredential, Outcome, Resource, TaskStatus
from agentguard.stores.sqlite import SqliteStore
from agentguard.testing import FixedPolicy, RecordingAudit
from tests.doubles.flow import REFUND, Mint, World


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sweep(world: World, mode: str = "sync") -> int:
    if mode == "sync":
        return drive(world.flow.sync.outbox.sweep())
    return asyncio.run(world.flow.async_.outbox.sweep())


def left_behind(world: World, **changes: Any) -> LiveCredential:
    """Record a credential of a call that nobody finishes."""
    facts: dict[str, Any] = {
        "call_id": "dead",
        "task_id": "t1",
        "broker": "*/write",
        "handle": "h-dead",
        "expires_at": world.now + 60,
        "owner": owner().replace("@", "@0"),
    }
    held = LiveCredential(**{**facts, **changes})
    world.store.track(held)
    return held


# --- whose it is


@pytest.mark.process
@pytest.mark.promise("revoked-after-kill")
def test_a_process_that_is_gone_is_known_by_when_it_started() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", f"from {process.__name__} import owner; print(owner(), flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    name = child.stdout.readline().strip()
    assert name != owner()
    assert not gone(name)
    child.communicate("\n")
    assert gone(name)
    assert not gone(owner())


@pytest.mark.parametrize("name", ["", "nonsense", "elsewhere|1@2", "elsewhere|999999@1"])
def test_what_cannot_be_seen_from_here_is_not_called_gone(name: str) -> None:
    assert not gone(name)


@pytest.mark.promise("revoked-after-kill")
def test_a_process_id_that_came_back_is_another_process() -> None:
    place, _, _ = owner().rpartition("|")
    assert gone(f"{place}|{os.getpid()}@1")


FOREIGN_PROC = """
import os, subprocess, sys
from pathlib import Path
from agentguard.enforcement.process import gone, owner
assert Path("/proc/self").readlink() != Path(str(os.getpid())), "/proc is that of our own namespace"
code = "from agentguard.enforcement.process import owner; print(owner(), flush=True); input()"
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
sibling = subprocess.Popen([sys.executable, "-c", code], **pipes)
name = sibling.stdout.readline().strip()
print(gone(owner()), name == owner(), gone(name))
sibling.communicate("\\n")
print(gone(name))
"""


@pytest.mark.process
@pytest.mark.promise("alive-is-not-gone")
def test_nothing_is_asked_of_a_proc_that_is_another_namespaces() -> None:
    unshare = ["unshare", "--pid", "--fork"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may make no namespace of process ids")
    ran = subprocess.run(
        [*unshare, sys.executable, "-c", FOREIGN_PROC], capture_output=True, text=True, check=False
    )
    assert ran.stdout.split() == ["False", "False", "False", "True"], ran.stderr


@pytest.mark.promise("alive-is-not-gone")
@pytest.mark.parametrize("hides", ["everything", "other users"])
def test_a_process_that_proc_does_not_show_is_not_called_gone(
    hides: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = f"{owner().rpartition('|')[0]}|{os.getppid()}@17"
    assert gone(parent), "it has not started then"
    if hides == "other users":  # as by the mount option hidepid=2
        (tmp_path / "self").mkdir()
        (tmp_path / "self" / "status").write_text(f"NSpid:\t{os.getpid()}\n")
    process._shows_our_namespace.cache_clear()
    monkeypatch.setattr(process, "PROC", tmp_path)
    assert not gone(parent)
    process._shows_our_namespace.cache_clear()


@pytest.mark.process
def test_a_forked_process_has_a_name_of_its_own() -> None:
    code = (
        "import os; from agentguard.enforcement.process import owner; before = owner(); child = os.fork();"
        " os.write(1, f'{before == owner()}\\n'.encode()); child and os.wait()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(ran.stdout.split()) == ["False", "True"]


NAMESPACE_OF_CHILDREN = """
import ctypes, os, sys, time
from agentguard.enforcement.process import gone, owner
owner()
if ctypes.CDLL(None).unshare(0x20000000):  # CLONE_NEWPID: of the children, and not of this process
    sys.exit("no right")
names_read, names = os.pipe()
release, held = os.pipe()
if os.fork() == 0:
    os.close(held)
    for _ in range(%d):
        if os.fork() == 0:
            os.write(names, (owner() + "\\n").encode())
            os.read(release, 1)
            os._exit(0)
    os.close(names)
    os.read(release, 1)
    os._exit(0)
os.close(names)
text = b""
while text.count(b"\\n") < %d:
    text += os.read(names_read, 65536)
print([name for name in text.decode().split() if gone(name)], len(set(text.decode().split())))
"""


@pytest.mark.process
@pytest.mark.promise("alive-is-not-gone")
def test_living_processes_in_a_new_namespace_of_a_process_that_was_named_before_are_not_called_gone() -> None:
    code = NAMESPACE_OF_CHILDREN % (60, 60)  # so many that some of their ids are no process's outside
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "no right" in ran.stderr:
        pytest.skip("this user may make no namespace of process ids")
    assert ran.stdout.split() == ["[]", "60"], ran.stderr


NAMED = "from agentguard.enforcement.process import owner; print(owner(), flush=True); input()"


def named_child() -> tuple[subprocess.Popen[str], str]:
    child = subprocess.Popen(
        [sys.executable, "-c", NAMED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    return child, child.stdout.readline().strip()


@pytest.mark.process
@pytest.mark.promise("alive-is-not-gone")
def test_a_process_is_not_called_gone_in_another_namespace_of_time() -> None:
    unshare = ["unshare", "-T", "--boottime", "100000"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may make no namespace of time")
    child, name = named_child()
    code = f"from agentguard.enforcement.process import gone; print(gone({name!r}))"
    ran = subprocess.run([*unshare, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    child.communicate("\n")
    assert ran.stdout.split() == ["False"], ran.stderr


@pytest.mark.process
@pytest.mark.promise("revoked-after-kill")
def test_a_process_that_was_killed_is_gone_before_its_parent_has_waited_for_it() -> None:
    child, name = named_child()
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert not gone(name), "it is stopped, and lives"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert gone(name)
    child.communicate()


@pytest.mark.process
@pytest.mark.promise("alive-is-not-gone")
def test_a_process_whose_first_thread_alone_has_ended_lives() -> None:
    code = (
        "import ctypes, threading, time; from agentguard.enforcement.process import owner;"
        " threading.Thread(target=time.sleep, args=(60,)).start(); print(owner(), flush=True);"
        " ctypes.CDLL(None).pthread_exit(None)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    name, until = child.stdout.readline().strip(), time.monotonic() + 5
    stat = Path(f"/proc/{child.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "Z" and time.monotonic() < until:
        time.sleep(0.01)
    assert not gone(name)
    child.kill()
    child.communicate()


# --- what is swept


@pytest.mark.promise("revoked-after-kill")
def test_what_a_process_that_is_gone_left_alive_is_revoked_and_recorded(mode: str) -> None:
    world = World()
    world.begin()
    left_behind(world)
    assert sweep(world, mode) == 0
    assert world.mint.revoked == ["h-dead"]
    assert world.store.live() == ()
    assert [record["call"] for record in world.log.written if record["event"] == "revocation"] == ["dead"]


@pytest.mark.promise("revoked-after-kill")
def test_a_living_process_keeps_what_it_holds_until_its_expiry(mode: str) -> None:
    world = World()
    world.begin()
    left_behind(world, owner="another machine|1@2")
    assert sweep(world, mode) == 1
    assert world.mint.revoked == []
    world.now += 61
    assert sweep(world, mode) == 0
    assert world.mint.revoked == ["h-dead"]


class Unsure(Mint):
    """A broker that does not know the handles of *unknown*, and says so until they have *ended*."""

    ended, unknown = False, frozenset({"planned", "dead"})

    def revoke(self, handle: str, expires_at: float) -> None:
        if handle in self.unknown and not self.ended:
            raise RevocationUnknown("a handle is unknown here")
        if handle == "never-named":
            return
        super().revoke(handle, expires_at)


def events(world: World) -> list[str]:
    return [r["event"] for r in world.log.written if r["event"] in {"revocation", "unrevoked"}]


@pytest.mark.promise("revocation-not-claimed")
def test_what_its_broker_does_not_know_is_not_known_to_be_revoked_until_it_ends_by_itself(mode: str) -> None:
    unsure = Unsure()
    world = World(brokers={(None, path): unsure for path in ToolPath})
    world.begin()
    left_behind(world, handle="planned")
    for _ in range(3):
        assert sweep(world, mode) == 1
    (record,) = world.log.written
    assert (record["event"], record["call"], record["until"]) == ("unrevoked", "dead", world.now + 60)
    world.now += 61
    unsure.ended = True
    assert sweep(world, mode) == 0
    assert events(world) == ["unrevoked"]
    assert world.store.live() == ()


@pytest.mark.promise("revocation-not-claimed")
@pytest.mark.parametrize("planned", ["dead", "h-planned", "never-named"])
def test_a_call_is_recorded_as_revoked_once_and_only_when_all_of_it_is(mode: str, planned: str) -> None:
    unsure = Unsure(fail="revoke")
    world = World(brokers={(None, path): unsure for path in ToolPath})
    world.begin()
    left_behind(world, handle=planned)
    left_behind(world, handle="h-real")
    for _ in range(3):
        assert sweep(world, mode) == 1
    assert events(world) == []
    unsure.fail = ""
    assert sweep(world, mode) == 0
    assert sweep(world, mode) == 0
    assert events(world) == ["revocation"]


@pytest.mark.promise("revocation-not-claimed")
@pytest.mark.parametrize("minted", ["planned", "a-first", "z-last"])
def test_a_plan_that_is_revoked_does_not_make_what_was_minted_revoked(mode: str, minted: str) -> None:
    unsure = Unsure()
    unsure.unknown = frozenset({minted})
    world = World(brokers={(None, path): unsure for path in ToolPath})
    world.begin()
    left_behind(world, handle="dead")
    left_behind(world, handle=minted)
    for _ in range(2):
        assert sweep(world, mode) == 1
    assert events(world) == ["unrevoked"]


@pytest.mark.promise("revocation-not-claimed")
def test_what_ended_by_itself_while_its_issuer_was_down_is_not_said_to_be_revoked(mode: str) -> None:
    world = World()
    world.begin()
    left_behind(world)
    world.mint.fail = "revoke"
    assert sweep(world, mode) == 1
    assert events(world) == []
    world.mint.fail = ""
    world.now += 61
    assert sweep(world, mode) == 0
    (record,) = world.log.written
    assert (record["event"], record["until"]) == ("unrevoked", world.now - 1)
    assert world.store.live() == ()


@pytest.mark.promise("revocation-not-claimed")
def test_what_may_outlive_its_grant_counts_as_alive_until_its_issuer_ends_it(mode: str) -> None:
    unsure = Unsure()
    unsure.traits = replace(unsure.traits, outlives=3600.0)
    world = World(brokers={(None, path): unsure for path in ToolPath})
    world.begin()
    left_behind(world, handle="dead")
    assert sweep(world, mode) == 1
    assert [record["until"] for record in world.log.written] == [world.now + 60 + 3600]
    world.now += 61
    unsure.unknown = frozenset()
    assert sweep(world, mode) == 0, "past its grant it was alive, and was revoked"
    assert events(world) == ["unrevoked", "revocation"]


@pytest.mark.promise("revocation-retried")
def test_what_an_ended_task_left_is_revoked(mode: str) -> None:
    world = World()
    world.begin()
    left_behind(world, owner="another machine|1@2")
    world.store.end_task("t1", TaskStatus.COMPLETED)
    assert sweep(world, mode) == 0
    assert world.mint.revoked == ["h-dead"]


def test_a_running_call_of_this_process_is_left_alone() -> None:
    world = World()
    world.begin()

    def body(_permit: Any) -> int:
        return sweep(world)

    assert world.call("sync", body) == 0
    assert len(world.mint.revoked) == 1  # by the call itself, at its end


@pytest.mark.promise("revocation-retried")
def test_one_whose_broker_is_no_longer_configured_stays_on_the_list(mode: str) -> None:
    world = World()
    world.begin()
    left_behind(world, broker="gone/write")
    assert sweep(world, mode) == 1
    assert len(world.store.live()) == 1


# --- a handle before the mint


class Careful(Mint):
    """A broker that names the handle before it mints."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**changes)
        self.store: Any = None
        self.on_record: list[str] = []

    def prepare(self, grant: Grant) -> str:
        if self.fail == "prepare":
            raise IssueError("the login was refused")
        return f"login-{grant.id}"

    def issue(self, grant: Grant) -> Credential:
        self.on_record = [held.handle for held in self.store.live()]
        if self.fail == "late":
            raise IssueError("answered 500")
        super().issue(grant)
        return Credential("s3cret", id=grant.id, expires_at=1e12, handle=f"login-{grant.id}")


def careful(**changes: Any) -> World:
    mint = Careful(**changes)
    world = World(brokers={(None, path): mint for path in ToolPath})
    world.mint, mint.store = mint, world.store
    world.begin()
    return world


@pytest.mark.promise("handle-before-minting")
def test_a_handle_is_on_record_before_anything_is_minted(mode: str) -> None:
    world = careful()
    world.call(mode)
    (grant,) = world.mint.issued
    assert f"login-{grant.id}" in world.mint.on_record  # type: ignore[attr-defined]  # Careful has it
    assert world.mint.revoked == [f"login-{grant.id}"]
    assert world.store.live() == ()


class Renaming(Careful):
    """Mints by another handle than it has named before."""

    def issue(self, grant: Grant) -> Credential:
        super().issue(grant)
        return Credential("s3cret", id=grant.id, expires_at=1e12, handle=f"token-{grant.id}")

    def revoke(self, handle: str, expires_at: float) -> None:
        if handle.startswith(self.fail or "-"):
            raise IssueError("down")
        super().revoke(handle, expires_at)


@pytest.mark.promise("handle-before-minting")
def test_what_was_prepared_is_revoked_too_where_something_else_was_minted(mode: str) -> None:
    mint = Renaming()
    world = World(brokers={(None, path): mint for path in ToolPath})
    world.mint, mint.store = mint, world.store
    world.begin()
    world.call(mode)
    (grant,) = mint.issued
    assert sorted(mint.revoked) == [f"login-{grant.id}", f"token-{grant.id}"]
    assert world.store.live() == ()


@pytest.mark.promise("handle-before-minting")
@pytest.mark.parametrize("prefix", ["login-", "token-"])
def test_a_call_of_which_one_of_two_handles_still_lives_is_not_recorded_as_revoked(
    mode: str, prefix: str
) -> None:
    mint = Renaming(fail=prefix)
    world = World(brokers={(None, path): mint for path in ToolPath})
    world.mint, mint.store = mint, world.store
    world.begin()
    world.call(mode)
    assert prefix in str([live.handle for live in world.store.live()])


@pytest.mark.promise("handle-before-minting", "issuer-failure-denies")
def test_what_was_prepared_is_revoked_although_nothing_was_minted(mode: str) -> None:
    world = careful(fail="late")
    denied = world.denied(mode)
    assert denied.code is DenialCode.NO_CREDENTIAL
    assert "answered 500" in denied.reason
    assert [handle.startswith("login-") for handle in world.mint.revoked] == [True]
    assert world.store.live() == ()


@pytest.mark.promise("handle-before-minting")
def test_a_broker_that_cannot_prepare_mints_nothing(mode: str) -> None:
    world = careful(fail="prepare")
    denied = world.denied(mode)
    assert "the login was refused" in denied.reason
    assert world.mint.issued == []
    assert world.ran == []
    assert world.store.live() == ()


@pytest.mark.promise("issuer-failure-denies")
def test_an_error_that_is_not_ours_is_named_and_not_quoted(mode: str) -> None:
    world = World()
    world.mint.fail = "issue"
    world.begin()
    denied = world.denied(mode)
    assert "ConnectionError" in denied.reason
    assert "s3cret" not in denied.reason


# --- again and again


class Stubborn:
    """A broker that revokes at the third attempt."""

    paths = frozenset(ToolPath)

    def __init__(self) -> None:
        self.attempts = 0
        self.revoked: list[str] = []

    def issue(self, grant: Grant) -> Credential:
        return Credential("s3cret", id=grant.id, expires_at=time.time() + 60)

    def revoke(self, handle: str, expires_at: float) -> None:
        self.attempts += 1
        if self.attempts < 3:
            raise IssueError("answered 503")
        self.revoked.append(handle)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Callable[[Any], Guard]]:
    made: list[Guard] = []

    def guard(broker: Any) -> Guard:
        made.append(
            Guard(
                catalog=Catalog([REFUND], [Resource(name="payments", origins=("https://pay.example",))]),
                policy=FixedPolicy(),
                identity=LocalIdentity("agent://a"),
                brokers={(None, path): broker for path in ToolPath},
                store=SqliteStore(tmp_path / "state.db"),
                audit=RecordingAudit(),
            )
        )
        return made[-1]

    yield guard
    for each in made:
        each.close()


def refund(order_id: str) -> str:
    """Refund an order."""
    return order_id


def until(true: Callable[[], bool], seconds: float = 15.0) -> bool:
    ends = time.monotonic() + seconds
    while not true() and time.monotonic() < ends:
        time.sleep(0.02)
    return true()


@pytest.mark.promise("revocation-retried")
def test_a_revocation_that_fails_is_tried_until_it_succeeds_without_another_call(
    guarded: Callable[[Any], Guard],
) -> None:
    broker = Stubborn()
    guard = guarded(broker)
    (tool,) = guard.wrap([refund])
    with guard.task("Refund", subject="alice", mandate={"tools": ["refund"]}):
        assert tool.invoke({"order_id": "4711"}) == "4711"
        assert until(lambda: len(broker.revoked) == 1)
        assert until(lambda: guard.enforcement.ports.store.live() == ())
    assert broker.attempts == 3


DIES = """
import os, signal, sys
from pathlib import Path
from tests.enforcement.test_outbox import *

class Dying(Stubborn):
    def issue(self, grant):
        made = super().issue(grant)
        Path(sys.argv[2]).write_text(made.handle)
        return made

guard = Guard(
    catalog=Catalog([REFUND], [Resource(name="payments", origins=("https://pay.example",))]),
    policy=FixedPolicy(), identity=LocalIdentity("agent://a"),
    brokers={(None, path): Dying() for path in ToolPath},
    store=SqliteStore(Path(sys.argv[1]) / "state.db"), audit=RecordingAudit(),
)

def refund(order_id: str) -> str:
    "Refund an order."
    os.kill(os.getpid(), signal.SIGKILL)

(tool,) = guard.wrap([refund])
with guard.task("Refund", subject="alice", mandate={"tools": ["refund"]}):
    tool.invoke({"order_id": "4711"})
"""


@pytest.mark.process
@pytest.mark.promise("revoked-after-kill")
def test_after_a_kill_between_issue_and_revoke_the_next_start_revokes(
    tmp_path: Path, guarded: Callable[[Any], Guard]
) -> None:
    minted = tmp_path / "minted"
    ran = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path), str(minted)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    broker = Stubborn()
    broker.attempts = 2
    guard = guarded(broker)
    assert [held.handle for held in guard.enforcement.ports.store.live()] == [minted.read_text()]
    with guard.task("Another", subject="alice", mandate={"tools": ["refund"]}):
        assert until(lambda: broker.revoked == [minted.read_text()])
    assert guard.recover() == 0


async def test_recovery_can_be_awaited(guarded: Callable[[Any], Guard]) -> None:
    guard = guarded(Stubborn())
    assert await guard.arecover() == 0


def test_closing_a_guard_ends_its_thread(guarded: Callable[[Any], Guard]) -> None:
    guard = guarded(Stubborn())
    guard.enforcement.outbox_thread.watch()
    guard.close()
    thread = guard.enforcement.outbox_thread._thread
    assert thread is None or not thread.is_alive()
    guard.enforcement.outbox_thread.watch()
    assert guard.enforcement.outbox_thread._thread is thread


def test_a_call_that_ended_keeps_no_place_among_those_that_run(mode: str) -> None:
    world = World()
    world.begin()
    world.call(mode)
    world.mint.fail = "issue"
    world.denied(mode, call_id="c2")
    world.begin(id="t2", budget=Budget(calls=0))
    world.denied(mode, named_task="t2", call_id="c3")
    assert world.flow.calls.running == {}
    assert world.store.live() == ()
    assert Outcome.DONE.value in {record.get("outcome") for record in world.log.written}
