"""Keys are replaced while both the old and the new one are trusted, and no worker's token is refused."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentguard.credentials import key_folder
from agentguard.credentials.key_folder import KeyFolder
from agentguard.credentials.key_ring import LOOK, KeyRing
from agentguard.credentials.local_issuer import LocalIssuer, load_key
from agentguard.errors import ConfigurationError
from agentguard.jose import unverified_parts
from agentguard.model import Arguments, Grant, Identity, Resource, ToolPath
from agentguard.resource import Verifier
from agentguard.stores.memory import MemoryStore
from tests.conftest import Mode

NOW = 1_700_000_000.0
ISSUER = "https://guard.example"
RESOURCE = Resource(name="orders", origins=("https://api.example",))
ARGUMENTS = {"order_id": "4711"}
URL = "https://api.example/orders/4711"
GRANT = Grant(
    id="call-1",
    task_id="task-1",
    identity=Identity(subject="user:4", actor="agent://support"),
    tool="get_order",
    path=ToolPath.READ,
    resource=RESOURCE,
    scopes=frozenset({"orders:read"}),
    digest=Arguments.of(ARGUMENTS).digest,
    lifetime=60.0,
)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o700)
    folder = KeyFolder(directory, jwks=tmp_path / "jwks.json")
    folder.prepare()
    return folder


def worker(folder: KeyFolder, clock: Clock) -> LocalIssuer:
    ring = KeyRing(folder, ToolPath.READ)
    return LocalIssuer(ToolPath.READ, issuer=ISSUER, store=MemoryStore(), key=ring, clock=clock)


def headers(issuer: LocalIssuer) -> dict[str, str]:
    return dict(issuer.issue(GRANT).headers("GET", URL, None))


def kid(presented: dict[str, str]) -> str:
    parts = unverified_parts(presented["Authorization"].removeprefix("DPoP "))
    assert parts is not None
    return str(parts[0]["kid"])


def published(folder: KeyFolder) -> dict[str, str]:
    """Return the path of each published key, by its kid."""
    assert folder._jwks is not None
    keys = json.loads(folder._jwks.read_text())["keys"]
    return {key["kid"]: key["agentguard_path"] for key in keys}


async def accepted(mode: Mode, folder: KeyFolder, presented: dict[str, str], clock: Clock) -> bool:
    """Return whether an API that has read the keys as they are now accepts the request."""
    assert folder._jwks is not None
    keys = json.loads(folder._jwks.read_text())
    verifier = Verifier(issuer=ISSUER, keys=keys, resource=RESOURCE, store=None, clock=clock)
    claims = await mode.call(verifier, "verify", "GET", URL, presented, path=ToolPath.READ)
    return bool(claims.id == "call-1")


@pytest.mark.promise("rotation-refuses-nothing")
async def test_a_new_key_is_published_before_it_signs_and_taken_over_without_a_restart(
    folder: KeyFolder, clock: Clock, mode: Mode
) -> None:
    guard = worker(folder, clock)
    old = kid(headers(guard))
    folder.rotate(NOW + 600, now=NOW)
    assert len(published(folder)) == 6
    clock.now = NOW + 599
    assert kid(headers(guard)) == old
    clock.now = NOW + 600
    presented = headers(guard)
    assert kid(presented) != old
    assert kid(presented) in published(folder)
    assert old in published(folder)
    assert await accepted(mode, folder, presented, clock)


@pytest.mark.promise("rotation-refuses-nothing")
async def test_a_token_of_the_old_key_is_accepted_to_its_end(
    folder: KeyFolder, clock: Clock, mode: Mode
) -> None:
    guard = worker(folder, clock)
    folder.rotate(NOW + 600, now=NOW)
    clock.now = NOW + 599
    presented = headers(guard)
    clock.now = NOW + 658
    assert folder.prune(now=clock.now, lifetime=120.0) == []
    assert await accepted(mode, folder, presented, clock)
    removed = folder.prune(now=NOW + 721, lifetime=120.0)
    assert {key.file.name for key in removed} == {"read.pem", "write.pem", "escalation.pem"}
    assert kid(presented) not in published(folder)
    assert len(published(folder)) == 3


@pytest.mark.promise("rotation-refuses-nothing")
def test_the_key_that_signs_is_never_removed(folder: KeyFolder) -> None:
    assert folder.prune(now=NOW * 2, lifetime=0.0) == []
    folder.rotate(NOW + 600, now=NOW)
    assert folder.prune(now=NOW + 599, lifetime=0.0) == []


@pytest.mark.promise("rotation-refuses-nothing")
def test_a_restarted_and_a_second_worker_sign_with_the_same_key_at_each_moment(
    folder: KeyFolder, clock: Clock
) -> None:
    first = worker(folder, clock)
    folder.rotate(NOW + 600, now=NOW)
    for moment in (NOW, NOW + 599.9, NOW + 600, NOW + 10_000):
        clock.now = moment
        assert kid(headers(first)) == kid(headers(worker(folder, clock)))
    folder.prune(now=NOW + 10_000, lifetime=60.0)
    folder.prepare()  # a worker starts when the first key is gone
    clock.now += 10
    assert kid(headers(first)) == kid(headers(worker(folder, clock)))
    assert {key.file.name for key in folder.files(ToolPath.READ)} == {f"read.{int(NOW) + 600}.pem"}


def test_a_key_that_is_to_sign_at_once_does_so_in_each_worker_after_the_next_look(
    folder: KeyFolder, clock: Clock
) -> None:
    guard = worker(folder, clock)
    old = kid(headers(guard))
    folder.rotate(NOW, now=NOW)
    clock.now = NOW + LOOK
    assert kid(headers(guard)) != old


def test_a_second_rotation_waits_for_the_first_and_one_at_once_does_not(folder: KeyFolder) -> None:
    folder.rotate(NOW + 600, now=NOW)
    with pytest.raises(ConfigurationError, match="waits for its time already"):
        folder.rotate(NOW + 700, now=NOW)
    folder.rotate(NOW, now=NOW)
    folder.rotate(NOW, now=NOW)  # in the same second
    assert len(folder.files(ToolPath.READ)) == 3


@pytest.mark.promise("removed-keys-verify-nothing")
def test_a_key_that_waited_in_a_stolen_folder_never_signs(folder: KeyFolder) -> None:
    folder.rotate(NOW + 600, now=NOW)
    stolen = {folder.read(key).kid for key in folder.all_files()}
    folder.rotate(NOW, now=NOW)
    signing = {KeyRing(folder, path).signer(NOW + seconds).kid for path in ToolPath for seconds in (1, 5_000)}
    assert len(signing) == len(ToolPath)
    assert not signing & stolen


def test_a_guard_does_not_look_at_the_folder_for_each_call(
    folder: KeyFolder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, looks = worker(folder, clock), 0
    files = KeyFolder.all_files

    def count(self: KeyFolder) -> list[key_folder.KeyFile]:
        nonlocal looks
        looks += 1
        return files(self)

    monkeypatch.setattr(KeyFolder, "all_files", count)
    for _ in range(1_000):
        headers(guard)
        clock.now += LOOK / 500
    assert looks <= 3


@pytest.mark.promise("rotation-refuses-nothing")
def test_a_folder_that_cannot_be_read_leaves_the_guard_its_key(
    folder: KeyFolder, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    guard = worker(folder, clock)
    old = kid(headers(guard))
    folder.directory.rename(folder.directory.with_name("elsewhere"))
    clock.now += LOOK
    assert kid(headers(guard)) == old
    assert "the issuer's keys stay as they are" in caplog.text


@pytest.mark.promise("private-keys-own")
@pytest.mark.parametrize("fault", ["readable", "writable", "folder", "no key"])
def test_a_key_that_another_user_could_have_put_there_never_signs(
    folder: KeyFolder, clock: Clock, fault: str
) -> None:
    guard = worker(folder, clock)
    old = kid(headers(guard))
    foreign = folder.directory / f"read.{int(NOW)}.pem"
    load_key(foreign)
    match fault:
        case "readable":
            foreign.chmod(0o640)
        case "writable":
            foreign.chmod(0o602)
        case "folder":
            folder.directory.chmod(0o777)
        case "no key":
            foreign.write_text("-----BEGIN PRIVATE KEY-----")
    clock.now += LOOK
    assert kid(headers(guard)) == old
    with pytest.raises(ConfigurationError):
        KeyRing(folder, ToolPath.READ)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone gives files away")
@pytest.mark.promise("rotation-refuses-nothing")
def test_root_rotates_and_prunes_the_keys_of_the_user_of_a_guard(folder: KeyFolder) -> None:
    for file in (folder.directory, *folder.directory.iterdir()):
        os.chown(file, 65534, 65534)
    folder.rotate(NOW, now=NOW)
    assert {key.file.stat().st_uid for key in folder.all_files()} == {65534}
    assert len(folder.prune(now=NOW + 100, lifetime=10)) == 3
    with pytest.raises(ConfigurationError, match="another user"):  # a guard of root would trust that user
        folder.prepare()


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone gives files away")
@pytest.mark.promise("private-keys-own")
def test_root_gives_no_file_away_that_the_owner_of_the_folder_puts_in_place_of_a_key(
    folder: KeyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "shadow"
    victim.touch(0o600)
    os.chown(folder.directory, 65534, 65534)
    link = os.link

    def race(temporary: str, file: Path) -> None:
        link(temporary, file)
        file.unlink()
        file.symlink_to(victim)

    monkeypatch.setattr(os, "link", race)
    folder.rotate(NOW, now=NOW)
    assert victim.stat().st_uid == 0


def test_two_files_with_one_key_are_refused(folder: KeyFolder) -> None:
    (folder.directory / "write.pem").write_bytes((folder.directory / "read.pem").read_bytes())
    with pytest.raises(ConfigurationError, match="same key"):
        folder.prepare()


def test_what_is_not_named_as_a_key_is_none(folder: KeyFolder) -> None:
    for name in ("read.pem~", "read.0.pem", "read.01.pem", "read..pem", "admin.pem", ".read.pem.x", "notes"):
        (folder.directory / name).write_text("nothing")
    assert len(folder.all_files()) == 3


@pytest.fixture
def starters(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    code = (
        "import sys; from pathlib import Path; from agentguard.config import build, load\n"
        "settings = load('agentguard.toml'); print('ready', flush=True); sys.stdin.readline()\n"
        "print([b.public_jwk['kid'] for b in build(settings).ports.brokers.values()])"
    )
    (tmp_path / "agentguard.toml").write_text('[issuer]\njwks = "jwks.json"\n[store]\nkind = "memory"\n')
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    processes = [
        subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdin=-1, stdout=-1, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(4)
    ]
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.process
@pytest.mark.promise("published-keys-last")
def test_four_processes_that_start_at_once_make_one_set(
    tmp_path: Path, starters: list[subprocess.Popen[str]]
) -> None:
    for process in starters:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in starters:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = {process.communicate(timeout=60)[0] for process in starters}
    assert len(outputs) == 1
    kids = {key["kid"] for key in json.loads((tmp_path / "jwks.json").read_text())["keys"]}
    (output,) = outputs
    assert len(kids) == 3
    assert all(kid in output for kid in kids)
    assert sorted(file.name for file in (tmp_path / ".agentguard/keys").iterdir()) == [
        "escalation.pem",
        "read.pem",
        "write.pem",
    ]


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def test_a_folder_that_another_process_keeps_locked_is_not_changed(
    folder: KeyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_folder, "_WAIT", 0.05)
    before = os.listdir(folder.directory)
    with locked(folder.directory), pytest.raises(ConfigurationError, match="changing the keys for too long"):
        folder.rotate(NOW, now=NOW)
    assert os.listdir(folder.directory) == before
    assert len(folder.rotate(NOW, now=NOW)) == len(ToolPath), "it is changed once the other process is done"
