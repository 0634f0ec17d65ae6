"""The file of the audit log under a guard: it is locked, slow, renamed, or deleted."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool
from typer.testing import CliRunner

from agentguard import Decision, Effect, Guard, Resource, ToolPath
from agentguard.audit import Head, JsonLinesAudit, appending, jsonl, verify
from agentguard.catalog import Catalog
from agentguard.cli import main
from agentguard.concurrency.drive import operation_pair
from agentguard.concurrency.worker import Worker
from agentguard.errors import AuditError, IssueError
from agentguard.identity import LocalIdentity
from agentguard.model import ToolSpec
from agentguard.stores import MemoryStore, SqliteStore
from agentguard.testing import RecordingBroker
from tests.doubles.writers import append_at_once

TIMEOUT = 0.3
PERMIT = {"event": "decision", "effect": "permit"}


class Rules:
    inline, version = True, "1"

    def decide(self, request: Any) -> Decision:
        return Decision(effect=Effect.PERMIT, policy_ids=("allow",))


class NativeAudit(JsonLinesAudit):
    blocking = False  # so that a guard awaits `aappend` itself, and not `append` in its own thread


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def guard_on(audit: JsonLinesAudit, mode: str, broker: Any = None) -> Guard:
    return Guard(
        catalog=Catalog(
            [ToolSpec(name="look", path=ToolPath.READ, resource=None if broker is None else "api")],
            [Resource(name="api", origins=("https://a.example",))],
        ),
        policy=Rules(),
        identity=LocalIdentity("agent://desk"),
        brokers=dict.fromkeys([(None, path) for path in ToolPath], broker or RecordingBroker()),
        # a store that blocks lets the guard write from a thread of its own
        store=SqliteStore(audit.path.with_suffix(".db")) if mode == "worker" else MemoryStore(),
        audit=audit,
        timeout=TIMEOUT,
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        yield


def texts(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def decisions(path: Path) -> list[str]:
    return [record["effect"] for record in texts(path) if record["event"] == "decision"]


def call_in(mode: str, guard: Guard) -> tuple[str, float]:
    """Make one call on a path, and return what the model is told and the seconds that it took."""

    @tool
    def look(item: str) -> str:
        """Look."""
        return "seen"

    (guarded,) = guard.wrap([look])
    call: Any = {"type": "tool_call", "name": "look", "id": "c1", "args": {"item": "x"}}
    task = guard.task("Look", subject="user:alice", mandate={"tools": "*"}).begin()

    async def run() -> str:
        with task.active():
            return str((await guarded.ainvoke(call)).text)

    started = time.monotonic()
    if mode == "sync":
        with task.active():
            text = guarded.invoke(call).text
    else:
        text = asyncio.run(run())
    return text, time.monotonic() - started


MODES = pytest.mark.parametrize(
    ("mode", "kind"), [("sync", JsonLinesAudit), ("worker", JsonLinesAudit), ("native", NativeAudit)]
)


@pytest.mark.exhaustive(1)  # each waits for seconds
@MODES
@pytest.mark.promise("audit-log-lock")
def test_a_call_does_not_wait_for_a_locked_log_and_its_denial_is_written_late(
    path: Path, mode: str, kind: type[JsonLinesAudit]
) -> None:
    audit = kind(path)
    guard = guard_on(audit, mode)
    holder = threading.Event()

    def hold() -> None:
        with locked(path):
            holder.set()
            time.sleep(2.0)

    thread = threading.Thread(target=hold)
    thread.start()
    holder.wait()
    text, seconds = call_in(mode, guard)
    assert thread.is_alive(), f"the call waited {seconds} s"
    assert text != "seen"
    thread.join()
    time.sleep(0.2)
    audit.close()
    assert decisions(path) == ["deny"]
    assert verify(path.read_bytes().splitlines(keepends=True)).sound


@pytest.mark.exhaustive(1)  # each waits for seconds
@MODES
@pytest.mark.promise("audit-log-lock")
def test_the_last_word_about_a_call_is_its_denial_also_if_its_permit_was_written_too_slowly(
    path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, kind: type[JsonLinesAudit]
) -> None:
    audit = kind(path, fsync=True)
    guard = guard_on(audit, mode)
    monkeypatch.setattr(os, "fsync", lambda _file: time.sleep(3 * TIMEOUT))
    text, _ = call_in(mode, guard)
    assert text != "seen"
    time.sleep(6 * TIMEOUT)
    audit.close()
    assert decisions(path) == ["permit", "deny"]


@pytest.mark.promise("audit-log-lock")
def test_a_permit_whose_caller_was_cancelled_is_not_written_and_other_records_are(path: Path) -> None:
    audit = JsonLinesAudit(path)

    async def run() -> None:
        with locked(path):
            for record in (PERMIT, {"event": "outcome"}):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await audit.aappend(record)

    asyncio.run(run())
    audit.close()
    assert [record["event"] for record in texts(path)] == ["outcome"]


@pytest.mark.promise("audit-log-lock")
@pytest.mark.parametrize("extra", [{}, {"effect": "deny", "observed": True}])
def test_a_permit_that_timed_out_at_the_lock_is_never_written(path: Path, extra: dict[str, Any]) -> None:
    audit = JsonLinesAudit(path, timeout=0.05)
    with locked(path):
        for record in ({**PERMIT, **extra}, {"event": "decision", "effect": "deny"}):
            with pytest.raises(AuditError, match="locked for too long"):
                audit.append(record)
    audit.close()
    assert decisions(path) == ["deny"]


@pytest.mark.promise("audit-log-rotated")
@pytest.mark.parametrize("way", ["renamed", "deleted", "replaced", "replaced by another log"])
def test_a_log_that_was_moved_is_continued_at_its_path(
    path: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    audit = JsonLinesAudit(path)
    audit.append({"event": "one"})
    head = audit.head()
    path.rename(path.with_suffix(".1"))
    if way == "deleted":
        path.with_suffix(".1").unlink()
    elif way == "replaced":
        path.touch(0o600)
    elif way == "replaced by another log":
        JsonLinesAudit(path).append({"event": "foreign"})
    with caplog.at_level(logging.WARNING, "agentguard"):
        asyncio.run(audit.aappend({"event": "two"}))
        audit.append({"event": "three"})
    assert [r.message for r in caplog.records if "moved or deleted" in r.message] != []
    records = [record for record in texts(path) if record["event"] != "foreign"]
    assert [record["event"] for record in records] == ["continued", "two", "three"]
    assert records[0]["continues"] == str(head)
    with path.open("rb") as file:
        report = verify(file)
    assert (report.sound, report.continues) == (True, [head])
    result = CliRunner().invoke(main, ["audit", "verify", str(path)])
    assert result.exit_code == 0
    assert f"--head{head}" in "".join(result.output.split())


@pytest.mark.process
@pytest.mark.promise("audit-log-rotated")
def test_no_record_is_lost_or_written_twice_while_several_processes_write_and_the_log_rotates(
    path: Path,
) -> None:
    context = multiprocessing.get_context("spawn")
    gate = context.Event()
    processes = [context.Process(target=append_at_once, args=(path, gate, number)) for number in range(3)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 30
    while (not path.exists() or path.read_bytes().count(b"\n") < 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    gate.set()
    parts = []
    for number in range(4):
        time.sleep(0.005)
        if path.exists():
            parts.append(path.rename(path.with_suffix(f".{number}")))
    for process in processes:
        process.join()
        assert process.exitcode == 0
    heads: list[Head] = [Head(0, "")]
    ids: list[str] = []
    for part in [*parts, *([path] if path.exists() else [])]:
        with part.open("rb") as file:
            report = verify(file)
        assert report.sound
        assert set(report.continues) <= set(heads)
        heads.append(report.head)
        ids += [record["id"] for record in texts(part) if "id" in record]
    assert sorted(ids) == sorted(f"{number}-{index}" for number in range(3) for index in range(100))


@pytest.mark.promise("audit-log-lock")
def test_a_thread_that_its_caller_gave_up_before_writes_no_permit_but_other_records(path: Path) -> None:
    audit, worker = JsonLinesAudit(path), Worker("slow", 0.1)
    append = operation_pair(audit, "append", timeout=0.1).sync

    async def steps() -> None:
        time.sleep(0.2)  # noqa: ASYNC251  the steps run in a thread, where blocking is the attack
        with pytest.raises(AuditError, match="locked for too long"):
            await append(PERMIT)
        await append({"event": "outcome"})

    with pytest.raises(TimeoutError):
        asyncio.run(worker.run(steps()))
    worker.close()
    audit.close()
    assert [record["event"] for record in texts(path)] == ["outcome"]


# --- a log that cannot be written for a time


class FailingBroker(RecordingBroker):
    """A broker that breaks the log at the moment when a permit has been written, and issues nothing."""

    def __init__(self, fault: Callable[[], None]) -> None:
        super().__init__()
        self.fault = fault

    def issue(self, grant: Any) -> Any:
        self.fault()
        raise IssueError("the issuer is down")


class Disk:
    """The disk below a log: it can be full, and its fsync can fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = self.broken = False
        self._write, self._fsync = os.write, os.fsync
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fill(self) -> None:
        self.full = True

    def write(self, file: int, data: bytes) -> int:
        if self.full and data.startswith((b"{", b"\n{")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(file, data)

    def fsync(self, file: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._fsync(file)


def events(path: Path) -> list[str]:
    return [record.get("effect") or record["event"] for record in texts(path)]


@MODES
@pytest.mark.promise("audit-log-last-word")
@pytest.mark.parametrize("end", ["the next call", "the end of the log"])
def test_a_denial_that_a_full_disk_refused_is_written_when_there_is_room(
    path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, kind: type[JsonLinesAudit], end: str
) -> None:
    disk, audit = Disk(monkeypatch), kind(path)
    guard = guard_on(audit, mode, FailingBroker(disk.fill))
    text, _ = call_in(mode, guard)
    assert text != "seen"
    assert events(path) == ["permit"], "the attack: the last word is a permit of a call that was denied"
    with path.open("rb") as file:
        assert verify(file).unfinished == [1]
    result = CliRunner().invoke(main, ["audit", "verify", str(path)])
    assert "permit without an outcome" in " ".join(result.output.split())
    disk.full = False
    if end == "the next call":
        asyncio.run(audit.aappend({"event": "later"}))
    audit.close()
    assert events(path)[:3] == ["permit", "outcome", "deny"]
    with path.open("rb") as file:
        report = verify(file)
    assert (report.sound, report.unfinished) == (True, [])


@MODES
@pytest.mark.promise("audit-log-last-word")
def test_a_denial_is_written_also_after_a_lock_that_outlasts_every_wait(
    path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, kind: type[JsonLinesAudit]
) -> None:
    monkeypatch.setattr(jsonl, "LATE", 0.1)
    audit, other = kind(path), path.open("ab")
    guard = guard_on(audit, mode, FailingBroker(lambda: fcntl.flock(other, fcntl.LOCK_EX)))
    text, _ = call_in(mode, guard)
    assert text != "seen"
    time.sleep(0.5)  # the thread of the log has given up too
    assert events(path) == ["permit"]
    other.close()
    audit.append({"event": "later"})
    audit.close()
    assert events(path)[:3] == ["permit", "outcome", "deny"]
    assert "later" in events(path)[3:]


@MODES
@pytest.mark.promise("audit-log-last-word")
def test_a_permit_that_did_not_reach_the_disk_is_followed_by_its_denial(
    path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, kind: type[JsonLinesAudit]
) -> None:
    disk, audit = Disk(monkeypatch), kind(path, fsync=True)
    guard = guard_on(audit, mode)
    disk.broken = True
    text, _ = call_in(mode, guard)
    assert text != "seen"
    disk.broken = False
    audit.close()
    decided = [event for event in events(path) if event in ("permit", "deny")]
    assert decided[0] == "permit"
    assert decided[-1] == "deny"
    with path.open("rb") as file:
        assert verify(file).unfinished == []


@pytest.mark.promise("audit-log-last-word")
def test_of_records_that_cannot_be_kept_the_number_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "OWED", 3)
    disk, audit = Disk(monkeypatch), JsonLinesAudit(path)
    disk.full = True
    for number in range(5):
        with pytest.raises(AuditError):
            audit.append({"event": "outcome", "call": str(number)})
    disk.full = False
    audit.append({"event": "later"})
    assert [record["event"] for record in texts(path)] == ["outcome"] * 3 + ["lost", "later"]
    with path.open("rb") as file:
        assert verify(file).lost == 2
    result = CliRunner().invoke(main, ["audit", "verify", str(path)])
    assert result.exit_code == 2
    assert "2 records were never written" in " ".join(result.output.split())


def test_records_that_can_never_be_written_are_told_when_the_log_is_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk, audit = Disk(monkeypatch), JsonLinesAudit(path)
    disk.full = True
    with pytest.raises(AuditError):
        audit.append({"event": "outcome"})
    audit.close()
    assert "1 records were never written and are lost: No space left on device" in caplog.text


# --- a log that is cut in its place


def copytruncate(path: Path) -> None:
    """Do what logrotate does with this option."""
    path.with_suffix(".1").write_bytes(path.read_bytes())
    os.truncate(path, 0)


def cut_to_two(path: Path) -> None:
    os.truncate(path, len(b"".join(path.read_bytes().splitlines(keepends=True)[:2])))


def cut_and_grown_by_another(path: Path) -> None:
    os.truncate(path, 0)
    other = JsonLinesAudit(path)
    for number in range(9):
        other.append({"event": "other", "number": number})
    other.close()


def restored_in_place(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, 0)
    with path.open("ab") as file:
        file.write(b"x" * (size + 10) + b"\n")


@pytest.mark.promise("audit-log-cut")
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("cut", [copytruncate, cut_to_two, cut_and_grown_by_another, restored_in_place])
def test_a_log_that_was_cut_under_its_writer_does_not_verify_as_sound(
    path: Path, cut: Callable[[Path], None], asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    audit = JsonLinesAudit(path)
    for number in range(5):
        audit.append({"event": "before", "number": number})
    head = audit.head()
    cut(path)
    for number in range(2):
        record = {"event": "after", "number": number}
        if asynchronous:
            asyncio.run(audit.aappend(record))
        else:
            audit.append(record)
    audit.close()
    with path.open("rb") as file:
        report = verify(file)
    assert not report.sound
    assert [fault.kind for fault in report.faults if str(head) in fault.detail] == ["cut"]
    assert f"{path} was cut under this process, which had written up to {head}" in caplog.text
    result = CliRunner().invoke(main, ["audit", "verify", str(path)])
    assert result.exit_code == 1
    assert "was cut under its writer" in " ".join(result.output.split())


@pytest.mark.promise("audit-log-cut")
def test_a_log_that_was_cut_and_then_moved_continues_what_was_written_before_the_cut(path: Path) -> None:
    audit = JsonLinesAudit(path)
    for number in range(3):
        audit.append({"event": "before", "number": number})
    head = audit.head()
    os.truncate(path, 0)
    path.rename(path.with_suffix(".1"))
    audit.append({"event": "after"})
    assert texts(path)[0]["continues"] == str(head)
    with path.with_suffix(".1").open("rb") as file:
        assert not verify(file, head).sound


@pytest.mark.promise("audit-log-cut")
def test_a_log_that_other_processes_write_is_not_told_as_cut(path: Path) -> None:
    logs = [JsonLinesAudit(path) for _ in range(3)]
    for number in range(30):
        logs[number % 3].append({"event": "x", "number": number})
    with path.open("rb") as file:
        report = verify(file)
    assert (report.sound, report.records) == (True, 30)


@pytest.mark.promise("audit-log-cut")
def test_a_log_that_was_replaced_by_a_copy_which_lacks_nothing_goes_on(path: Path) -> None:
    audit = JsonLinesAudit(path)
    audit.append({"event": "before"})
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)
    audit.append({"event": "after"})
    with path.open("rb") as file:
        assert verify(file).sound


@pytest.mark.promise("audit-log-cut")
@pytest.mark.parametrize("records", [1, 500])
def test_a_log_that_was_replaced_by_an_older_copy_does_not_verify_as_sound(
    path: Path, records: int, caplog: pytest.LogCaptureFixture
) -> None:
    audit = JsonLinesAudit(path)
    for number in range(records):
        audit.append({"event": "before", "number": number, "text": "x" * 200})
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    audit.append({"event": "lost with the copy"})
    head = audit.head()
    copy.replace(path)
    audit.append({"event": "after"})
    with path.open("rb") as file:
        report = verify(file)
    assert [fault.kind for fault in report.faults] == ["cut"]
    assert str(head) in report.faults[0].detail
    assert f"replaced by an older copy, which lacks what was written up to {head}" in caplog.text
