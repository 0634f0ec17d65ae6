"""`agentguard exec` and a command that turns against the vault, with all that its user's programs can do."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentguard.cli.exec.arguments import list_reachable
from agentguard.cli.exec.files import SecretFile
from agentguard.cli.exec.outbox import Outbox
from agentguard.credentials.sealing import SealingKey
from agentguard.enforcement.process import owner
from agentguard.errors import IssueError, TaskNotActive
from agentguard.model import LiveCredential, Secret
from agentguard.stores.sqlite import SqliteStore
from tests.cli.test_exec import LINUX, PAIR, PATIENT, Bao, Exec, _signal_handlers, bao, line, wrapped

__all__ = ["_signal_handlers", "bao", "wrapped"]  # fixtures

KV = ["--secret", "K=openbao:secret/data/api#key"]
REVOKE_SELF, REVOKE_ACCESSOR, LOOKUP = (
    f"auth/token/{name}" for name in ("revoke-self", "revoke-accessor", "lookup-accessor")
)
GONE = f"{owner().rpartition('|')[0]}|4194000@1"  # a process that runs no more, where we run


def start(wrapped: Exec) -> subprocess.Popen[str]:
    running = wrapped.start(*PAIR, "--", sys.executable, "-c", PATIENT)
    line(running)
    return running


def kill(running: subprocess.Popen[str]) -> None:
    running.kill()
    running.wait()


def entries(wrapped: Exec) -> list[LiveCredential]:
    with outbox_file(wrapped) as store:
        return list(store.live())


@contextmanager
def outbox_file(wrapped: Exec) -> Iterator[SqliteStore]:
    """Open the outbox as the command can, which may write every file of its user."""
    store = SqliteStore(wrapped.state / "exec.db")
    try:
        yield store
    finally:
        store.close()


def forge(wrapped: Exec, like: LiveCredential, **changes: Any) -> None:
    facts = {name: getattr(like, name) for name in LiveCredential.__slots__ if not name.startswith("_")}
    with outbox_file(wrapped) as store, suppress(TaskNotActive):
        store.track(LiveCredential(**{**facts, "call_id": "forged", "owner": GONE, **changes}))


# --- what it can read


@pytest.mark.process
@pytest.mark.promise("exec-vault-out-of-reach")
@pytest.mark.parametrize("given", [False, True])
def test_nothing_that_opens_the_vault_is_in_the_files_of_a_run(wrapped: Exec, bao: Bao, given: bool) -> None:
    if given:
        del wrapped.environ["BAO_JWT_FILE"]
        wrapped.environ["BAO_TOKEN"] = "given"
    start(wrapped)
    contents = [file.read_bytes() for file in wrapped.state.iterdir()]
    for secret in (b"token-1", b"given", b"password-"):
        assert not [content for content in contents if secret in content]
    handles = [entry.handle for entry in entries(wrapped)]
    assert len(handles) == 1
    if not given:
        assert handles == ["a-1"]
    keys = [content for content in contents if len(content) == 32]  # a sealing key beside what it has sealed
    assert not keys


# --- what it can forge


@pytest.mark.process
@pytest.mark.promise("exec-revokes-own-only")
@pytest.mark.parametrize(
    "facts",
    [
        {"entities": {"a-1": "somebody-else"}},
        {"entities": {"a-1": ""}},
        {"roles": {"a-1": "deploy"}},
    ],
)
def test_an_accessor_of_somebody_else_is_not_revoked(wrapped: Exec, bao: Bao, facts: dict[str, Any]) -> None:
    running = start(wrapped)  # it stands for the token of somebody else: OpenBao says whose it is
    bao.set(**facts)
    forge(wrapped, entries(wrapped)[0], expires_at=4e9, call_id="forged\nagentguard: all is well")
    later = wrapped.run(*KV, "--", "true")
    assert later.returncode == 0
    assert "left at OpenBao is the token of somebody else, and is left alone" in later.stderr
    assert "\nagentguard: all is well" not in later.stderr
    state = bao.state()
    assert state["tokens"] == ["token-1"]
    assert REVOKE_ACCESSOR not in state["asked"]
    assert "forged" not in wrapped.run(*KV, "--", "true").stderr  # it is told once
    running.terminate()
    running.wait(10)


@pytest.mark.process
@pytest.mark.promise("exec-revokes-own-only")
def test_a_lease_in_a_forged_entry_is_not_revoked(wrapped: Exec, bao: Bao) -> None:
    running = start(wrapped)
    (lease,) = bao.state()["leases"]
    for name in (lease, f"lease {lease}", "token token-1", f"accessor a-1\n{lease}"):
        forge(wrapped, entries(wrapped)[0], handle=name, expires_at=4e9, call_id=f"forged \x1b[2J{name}")
        later = wrapped.run(*KV, "--", "true")
        assert later.returncode == 0
        assert "\x1b" not in later.stderr
    state = bao.state()
    assert (state["tokens"], state["leases"]) == (["token-1"], [lease])
    running.terminate()
    running.wait(10)


@pytest.mark.process
@pytest.mark.promise("exec-revokes-own-only")
def test_an_entry_that_was_not_written_with_the_passed_token_is_left_alone(wrapped: Exec, bao: Bao) -> None:
    del wrapped.environ["BAO_JWT_FILE"]
    wrapped.environ["BAO_TOKEN"] = "given"
    running = start(wrapped)
    (entry,), (lease,) = entries(wrapped), bao.state()["leases"]
    forgeries: tuple[dict[str, Any], ...] = (
        {"handle": lease},
        {"handle": SealingKey(b"k" * 32).seal(lease, context=entry.broker)},
        {},  # the entry of a run that lives, and another owner
        {"call_id": entry.call_id},
    )
    for changes in forgeries:
        forge(wrapped, entry, expires_at=4e9, **changes)
        later = wrapped.run(*KV, "--", "true")
        assert "was not written with this BAO_TOKEN, and is left alone" in later.stderr
        assert bao.state()["leases"] == [lease]
    running.terminate()
    running.wait(10)


@pytest.mark.process
@pytest.mark.promise("exec-lease-ends")
def test_many_forged_entries_hold_up_no_run_and_hide_no_entry_for_long(wrapped: Exec, bao: Bao) -> None:
    kill(start(wrapped))
    (entry,) = entries(wrapped)
    for number in range(100, 170):
        forge(wrapped, entry, call_id=f"forged-{number}", handle=f"a-{number}", expires_at=4e9)
    assert "7 entries of killed runs are left to the next run" in wrapped.run(*KV, "--", "true").stderr
    assert bao.state()["asked"].count(LOOKUP) == 64
    wrapped.run(*KV, "--", "true")
    assert (bao.state()["tokens"], entries(wrapped)) == ([], [])


@pytest.mark.process
@pytest.mark.promise("exec-lease-ends", "exec-revokes-own-only")
def test_an_entry_of_our_own_is_obeyed_and_one_that_has_ended_costs_no_request(
    wrapped: Exec, bao: Bao
) -> None:
    kill(start(wrapped))
    (entry,) = entries(wrapped)
    forge(wrapped, entry, call_id="old", expires_at=1.0)
    forge(wrapped, entry, call_id="unknown", handle="a-77")
    assert wrapped.run(*KV, "--", "true").stderr.count("left at OpenBao") == 0
    state = bao.state()
    assert (state["tokens"], state["leases"], entries(wrapped)) == ([], [], [])
    assert state["asked"].count(LOOKUP) == 2
    assert state["asked"].count(REVOKE_ACCESSOR) == 1


# --- what is claimed of a revocation


@pytest.mark.process
@pytest.mark.promise("exec-lease-ends")
def test_a_login_that_may_not_revoke_itself_is_revoked_by_its_accessor(wrapped: Exec, bao: Bao) -> None:
    bao.set(forbidden=[REVOKE_SELF])
    wrapped.environment(*PAIR)
    state = bao.state()
    assert (state["tokens"], state["leases"]) == ([], [])
    assert wrapped.records()[-2]["what"] == "revoked"


@pytest.mark.process
@pytest.mark.promise("exec-revocation-not-claimed")
def test_a_refusal_is_no_revocation(wrapped: Exec, bao: Bao) -> None:
    bao.set(forbidden=[REVOKE_SELF, REVOKE_ACCESSOR])
    result = wrapped.run(*PAIR, "--", "true")
    assert "not known to be revoked; the next run tries it again" in result.stderr
    assert "403: permission denied" in result.stderr
    assert wrapped.records()[-2]["what"] == "not revoked"
    assert "token-1" in bao.state()["tokens"]
    later = wrapped.run(*KV, "--", "true")
    assert "is not revoked yet, and ends by itself at 2" in later.stderr
    bao.set(forbidden=[])
    assert "left at OpenBao" not in wrapped.run(*KV, "--", "true").stderr
    assert "token-1" not in bao.state()["tokens"]


@pytest.mark.process
@pytest.mark.promise("exec-revocation-not-claimed")
def test_what_a_killed_run_has_left_is_not_claimed_where_no_policy_permits_it(
    wrapped: Exec, bao: Bao
) -> None:
    bao.set(forbidden=[LOOKUP])
    kill(start(wrapped))
    later = wrapped.run(*KV, "--", "true")
    assert "is not revoked yet, and ends by itself at 2" in later.stderr
    assert "auth/token/lookup-accessor answered 403: permission denied" in later.stderr
    assert "token-1" in bao.state()["tokens"]
    assert len(entries(wrapped)) == 1


@pytest.mark.process
@pytest.mark.promise("exec-lease-ends")
def test_another_role_may_be_what_revokes(wrapped: Exec, bao: Bao) -> None:
    wrapped.environ["BAO_REVOKER_ROLE"] = "revoker"
    kill(start(wrapped))
    assert wrapped.run(*KV, "--", "true").returncode == 0
    state = bao.state()
    assert (state["tokens"], state["leases"]) == ([], [])
    assert "revoker" in state["roles"].values()


# --- what it can write


@LINUX
@pytest.mark.promise("exec-descriptor-unchanged")
def test_nobody_writes_into_the_file_of_a_secret() -> None:
    file = SecretFile()
    assert file.sealed
    file.put(Secret("value-1"))
    place = f"/proc/self/fd/{file.descriptor}"

    def write_by_path(flags: int) -> None:
        descriptor = os.open(place, flags)
        try:
            os.write(descriptor, b"forged")
        finally:
            os.close(descriptor)

    def map_memory() -> None:
        descriptor = os.open(place, os.O_RDWR)
        try:
            mmap.mmap(descriptor, 7)[0:6] = b"forged"
        finally:
            os.close(descriptor)

    attempts = [
        lambda: os.pwrite(file.descriptor, b"forged", 0),
        lambda: os.chmod(place, 0o600),
        lambda: write_by_path(os.O_WRONLY),
        lambda: write_by_path(os.O_RDWR | os.O_APPEND),
        map_memory,
    ]
    for attempt in attempts:
        with suppress(OSError):  # a chmod succeeds, and opens nothing
            attempt()
        assert os.pread(file.descriptor, 99, 0) == b"value-1"
    os.truncate(place, 0)  # that is what it can do
    for value in ("a" * 100_000, "", "value-2"):
        file.put(Secret(value))
        assert os.pread(file.descriptor, 200_000, 0).decode() == value
    with pytest.raises(IssueError, match="1 MiB"):
        file.put(Secret("x" * ((1 << 20) + 1)))
    file.close()


CUTTER = """
import os, sys, time
file, ends = os.open(f"/proc/self/fd/{sys.argv[1]}", os.O_RDWR), time.monotonic() + 1.0
while time.monotonic() < ends:
    os.ftruncate(file, 0)
"""
WRITER = """
import os, subprocess, sys
from contextlib import suppress
from agentguard.cli.exec.files import SecretFile
from agentguard.errors import IssueError
from agentguard.model import Secret
file = SecretFile()
argv = [sys.executable, "-c", sys.argv[1], str(file.descriptor)]
with subprocess.Popen(argv, pass_fds=[file.descriptor]) as cutter:
    while cutter.poll() is None:
        with suppress(IssueError):
            file.put(Secret("x" * 500_000))
file.put(Secret("at last"))
print(os.pread(file.descriptor, 99, 0).decode())
"""


@LINUX
@pytest.mark.process
@pytest.mark.promise("exec-descriptor-unchanged")
def test_who_cuts_the_file_while_it_is_written_ends_nobody() -> None:
    """A write into memory whose file was cut is a SIGBUS, by which `exec` would die and revoke nothing."""
    result = subprocess.run([sys.executable, "-c", WRITER, CUTTER], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "at last\n"), result.stderr


# --- what it can see of us


EARLY = """
import ctypes, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("httpx", "pydantic", "typer", "langchain_core", "cedarpy"):
            print(name, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
            sys.stdout.flush()
            raise SystemExit
sys.meta_path.insert(0, Watch())
sys.argv = sys.argv[1:]
from agentguard.cli import main
"""


@LINUX
@pytest.mark.process
@pytest.mark.promise("exec-vault-out-of-reach")
@pytest.mark.parametrize(
    ("argv", "dumpable"),
    [
        (["/usr/bin/agentguard", "exec", "--", "true"], "0"),
        (["agentguard.exe", "exec"], "0"),
        (["agentguard", "lint"], "1"),
        (["manage.py", "exec"], "1"),
        (["agentguard"], "1"),
    ],
)
def test_our_environment_is_hidden_before_anything_slow_is_imported(argv: list[str], dumpable: str) -> None:
    result = subprocess.run([sys.executable, "-c", EARLY, *argv], capture_output=True, text=True)
    assert result.stdout.split()[1:] == [dumpable], result.stderr


@pytest.mark.process
@pytest.mark.promise("exec-vault-out-of-reach")
def test_a_token_can_be_passed_by_a_descriptor_which_the_child_does_not_get(wrapped: Exec, bao: Bao) -> None:
    del wrapped.environ["BAO_JWT_FILE"]
    reader, writer = os.pipe()
    os.write(writer, b"given\n")
    os.close(writer)
    wrapped.environ["BAO_TOKEN_FD"] = str(reader)
    program = (
        "import os; print(os.environ['PGUSER'], 'BAO_TOKEN_FD' in os.environ, os.listdir('/proc/self/fd'))"
    )
    result = wrapped.run(*PAIR, "--", sys.executable, "-c", program, pass_fds=[reader])
    os.close(reader)
    assert result.stdout.startswith("user-"), result.stderr
    assert "False" in result.stdout
    assert str(reader) not in result.stdout.partition("[")[2]
    for wrong in ("999", "x", "-1"):
        wrapped.environ["BAO_TOKEN_FD"] = wrong
        assert "no token can be read" in wrapped.run(*PAIR, "--", "true").stderr


@pytest.mark.process
@pytest.mark.promise("exec-vault-out-of-reach")
def test_what_the_command_can_read_itself_is_told(wrapped: Exec, bao: Bao, tmp_path: Path) -> None:
    result = wrapped.run(*KV, "--", "true")
    assert f"can read what opens the vault: {tmp_path / 'jwt'}" in result.stderr
    (tmp_path / ".vault-token").write_text("x")
    assert f"{tmp_path / '.vault-token'}, {tmp_path / 'jwt'}" in wrapped.run(*KV, "--", "true").stderr


def test_only_files_of_the_vaults_that_are_used_are_told(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    for name in (".aws/credentials", ".vault-token"):
        (tmp_path / name).touch()
    assert list_reachable(frozenset({"file"}), {}, tmp_path) == []
    assert list_reachable(frozenset({"aws"}), {}, tmp_path) == [str(tmp_path / ".aws/credentials")]
    assert list_reachable(frozenset({"vault"}), {"jwtfile": "absent"}, tmp_path) == [
        str(tmp_path / ".vault-token")
    ]


# --- the outbox itself


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are of a process that runs no more."""
    monkeypatch.setattr("agentguard.cli.exec.outbox.owner", lambda: GONE)


@pytest.mark.usefixtures("dead")
@pytest.mark.promise("exec-revokes-own-only")
def test_an_entry_is_read_only_where_it_was_written_for(tmp_path: Path) -> None:
    places = [
        ("https://a ns jwt/exec", None),
        ("https://a ns jwt/other", None),
        ("https://b ns jwt/exec", None),
        ("https://a ns", Secret("one")),
        ("https://a ns", Secret("two")),
        ("https://a ns jwt/exec", Secret("one")),
    ]
    for number, (place, token) in enumerate(places):
        outbox = Outbox(tmp_path, place, token)
        outbox.put(f"id-{number}", f"name-{number}", 4e9)
        outbox.put(f"id-{number}", f"name-{number}", 5e9)  # as after an extension
        outbox.close()
    for number, (place, token) in enumerate(places):
        outbox = Outbox(tmp_path, place, token)
        names = {entry.name for entry in outbox.orphans()} - {None}
        outbox.close()
        assert names == {f"name-{number}"}


@pytest.mark.usefixtures("dead")
@pytest.mark.promise("exec-revokes-own-only")
def test_an_entry_that_was_moved_to_another_place_does_not_open(tmp_path: Path) -> None:
    here, there = (Outbox(tmp_path, place, Secret("one")) for place in ("https://a", "https://b"))
    here.put("id", "name", 4e9)
    store = SqliteStore(tmp_path / "exec.db")
    (entry,) = store.live()
    with suppress(TaskNotActive):
        store.track(replace(entry, call_id="moved", broker=entry.broker.replace("//a", "//b")))
    assert [(entry.id, entry.name) for entry in there.orphans()] == [("moved", None)]
    assert [(entry.id, entry.name) for entry in here.orphans()] == [("id", "name")]
    for closable in (here, there, store):
        closable.close()
