"""The audit log is rotated by its writers, at a limit or by command, and stays one chain."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import multiprocessing
import os
import stat
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agentguard.audit import Head, JsonLinesAudit, Limits, verify
from agentguard.audit.file_set import verify_files
from agentguard.audit.files import history
from agentguard.audit.rotation import Rotation
from agentguard.errors import AuditError
from tests.audit.test_log_file import NativeAudit, call_in, guard_on
from tests.doubles.writers import append_by_limits

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def files(path: Path) -> list[Path]:
    """Return the files of the log in their order, each of them sound."""
    ordered = history(path)
    for file in ordered:
        with file.open("rb") as lines:
            report = verify(lines)
        assert report.sound, (file, report.faults)
    assert {file for file in path.parent.iterdir() if file.suffix != ".lock"} == set(ordered)
    return ordered


def write(audit: JsonLinesAudit, mode: str, **record: Any) -> None:
    if mode == "sync":
        audit.append({"event": "x", **record})
    else:
        asyncio.run(audit.aappend({"event": "x", **record}))


MODES = pytest.mark.parametrize("mode", ["sync", "async"])


@MODES
@pytest.mark.promise("audit-log-rotated")
def test_a_new_file_begins_with_the_head_and_the_name_of_the_old_one(
    path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    audit, other = (JsonLinesAudit(path, clock=clock, limits=Limits(max_size=1_000)) for _ in range(2))
    heads: list[Head] = []
    for number in range(30):
        write((audit, other)[number % 2], mode, number=number)
        heads.append(audit.head())
    ordered = files(path)
    assert len(ordered) > 3
    assert ordered[0].name == "audit.jsonl.20231114T221320Z"
    assert ordered[1].name == "audit.jsonl.20231114T221320Z.1"
    for old, new in pairwise(ordered):
        first, last = records(new)[0], records(old)[-1]
        assert first["event"] == "continued"
        assert first["continues"] == f"{last['seq']}:{last['hash']}"
        assert first["file"] == old.name
        assert Head(last["seq"], last["hash"]) in heads
        assert 1_000 <= old.stat().st_size < 1_300
        assert not any(record["event"] == "continued" for record in records(new)[1:])
    assert [record["number"] for record in audit.records() if "number" in record] == list(range(30))
    assert "moved or deleted" not in caplog.text, "no warning tells of what the log does by itself"


@MODES
@pytest.mark.promise("audit-log-rotated")
def test_a_log_is_rotated_once_its_first_record_is_old(path: Path, mode: str) -> None:
    clock = Clock()
    write(JsonLinesAudit(path, clock=clock), mode, number=0)
    clock.now += 50
    audit = JsonLinesAudit(path, clock=clock, limits=Limits(max_age=100))  # a guard that was restarted
    write(audit, mode, number=1)
    clock.now += 49
    write(audit, mode, number=2)
    assert len(files(path)) == 1
    clock.now += 2
    write(audit, mode, number=3)
    clock.now += 99
    write(audit, mode, number=4)
    assert [len(records(file)) for file in files(path)] == [3, 3]
    clock.now += 2
    write(audit, mode, number=5)
    assert len(files(path)) == 3


@pytest.mark.promise("audit-log-rotated")
def test_a_log_is_rotated_by_command_beside_its_writers_and_keeps_its_mode(path: Path) -> None:
    audit, command = JsonLinesAudit(path), JsonLinesAudit(path)
    assert command.rotate() is None, "there is nothing to rotate"
    audit.append({"event": "one"})
    path.chmod(0o640)
    old = command.rotate()
    assert old is not None
    audit.append({"event": "two"})
    assert files(path) == [old, path]
    assert [record["event"] for record in records(path)] == ["continued", "two"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_to_the_log_stays_a_link(path: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    path.symlink_to(tmp_path / "disk" / "log")
    audit = JsonLinesAudit(path)
    audit.append({"event": "one"})
    old = audit.rotate()
    audit.append({"event": "two"})
    assert old is not None
    assert path.is_symlink()
    assert old.parent == tmp_path / "disk"
    assert [record["event"] for record in audit.records()] == ["one", "continued", "two"]


@pytest.mark.promise("audit-log-rotated")
def test_a_writer_that_slept_through_two_rotations_goes_on_in_the_newest_file(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    idle, busy = JsonLinesAudit(path), JsonLinesAudit(path)
    idle.append({"event": "one"})
    for _ in range(3):
        busy.append({"event": "busy"})
        busy.rotate()
    idle.append({"event": "two"})
    assert len(files(path)) == 4
    assert [record["event"] for record in records(path)] == ["continued", "two"]
    assert caplog.text == ""


@pytest.mark.promise("audit-log-deleted")
def test_only_files_beyond_the_number_are_deleted_and_the_log_says_so(path: Path) -> None:
    limits = Limits(max_size=600, keep_files=2)
    foreign = path.with_name("audit.jsonl.20000101T000000Z")
    JsonLinesAudit(foreign).append({"event": "foreign"})
    audit = JsonLinesAudit(path, limits=limits)
    heads: dict[str, str] = {}
    for number in range(40):
        audit.append({"event": "x", "number": number})
        heads |= {file.name: f"{(last := records(file)[-1])['seq']}:{last['hash']}" for file in history(path)}
    assert len(history(path)) == 3
    assert foreign.exists(), "no file of this log holds its head"
    deleted = [record for record in audit.records() if record["event"] == "deleted"]
    assert deleted
    assert all(heads[record["file"]] == record["head"] for record in deleted)


@pytest.mark.promise("audit-log-deleted")
@pytest.mark.parametrize("attack", ["cut", "grown", "replaced"])
def test_a_file_whose_successor_does_not_hold_its_head_is_not_deleted(path: Path, attack: str) -> None:
    audit = JsonLinesAudit(path)
    rotated = []
    for number in range(3):
        audit.append({"event": "x", "number": number})
        audit.append({"event": "y", "number": number})
        rotated.append(audit.rotate())
    victim = rotated[1]
    assert victim is not None
    lines = victim.read_bytes().splitlines(keepends=True)
    if attack == "cut":
        victim.write_bytes(b"".join(lines[:-1]))
    elif attack == "grown":
        JsonLinesAudit(victim).append({"event": "more"})
    else:
        victim.unlink()
        JsonLinesAudit(victim).append({"event": "another"})
    limited = JsonLinesAudit(path, limits=Limits(keep_files=1))
    limited.append({"event": "z"})
    assert limited.rotate() is not None
    assert all(file is not None and file.exists() for file in rotated[:2]), "the chain ends at the victim"


def test_nothing_is_deleted_unless_told(path: Path) -> None:
    audit = JsonLinesAudit(path, limits=Limits(max_size=300))
    for number in range(60):
        audit.append({"event": "x", "number": number})
    assert len(files(path)) > 25


@MODES
@pytest.mark.promise("audit-log-rotated")
@pytest.mark.parametrize("refused", ["link", "write", "replace"])
def test_a_rotation_that_fails_is_told_and_the_log_goes_on_in_the_old_file(
    path: Path, mode: str, refused: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    audit = JsonLinesAudit(path, clock=clock, limits=Limits(max_size=300))
    write(audit, mode, number=0)
    real_write, error = os.write, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(*args: Any, **_kwargs: Any) -> int:
        if refused != "write" or b'"continued"' in args[1]:
            raise error
        return real_write(*args)

    with monkeypatch.context() as patch:
        if refused == "replace":
            patch.setattr(Path, "replace", full)
        else:
            patch.setattr(os, refused, full)
        for number in range(1, 6):
            write(audit, mode, number=number)
        assert caplog.text.count("was not rotated, and is written on: No space left on device") == 1
        with pytest.raises(AuditError, match="No space left"):
            audit.rotate()
    assert len(records(path)) == 6
    clock.now += 61
    write(audit, mode, number=6)
    assert [len(records(file)) for file in files(path)] == [6, 2]
    assert [record["number"] for record in audit.records() if "number" in record] == list(range(7))


@pytest.mark.promise("audit-log-rotated")
@pytest.mark.parametrize("step", ["before the link", "after the link", "after the replacement"])
def test_a_rotation_that_was_killed_in_the_middle_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException):
        pass

    replace = Path.replace

    def die(*args: Any) -> None:
        if step == "after the replacement":
            replace(*args)
        raise Killed

    audit = JsonLinesAudit(path)
    audit.append({"event": "one"})
    with monkeypatch.context() as patch:
        patch.setattr(*((os, "link", die) if step == "before the link" else (Path, "replace", die)))
        with pytest.raises(Killed):
            audit.rotate()
    writer = JsonLinesAudit(path)
    writer.append({"event": "two"})
    writer.rotate()
    writer.append({"event": "three"})
    files(path)
    events = [record["event"] for record in writer.records()]
    assert [event for event in events if event != "continued"] == ["one", "two", "three"]


def run_load(path: Path, limits: Limits, count: int, meanwhile: Callable[[], None] = lambda: None) -> None:
    gate = SPAWN.Event()
    writers = [
        SPAWN.Process(target=append_by_limits, args=(path, limits, gate, number, count, mode))
        for number, mode in enumerate(("sync", "async"))
    ]
    for writer in writers:
        writer.start()
    gate.set()
    meanwhile()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0


def ids(path: Path) -> list[str]:
    return [record["id"] for record in JsonLinesAudit(path).records() if "id" in record]


@pytest.mark.process
@pytest.mark.promise("audit-log-rotated")
def test_20000_records_of_two_processes_stay_one_chain_over_all_files(path: Path) -> None:
    run_load(path, Limits(max_size=200_000), 10_000)
    ordered = files(path)
    report = verify_files(path.parent.iterdir(), JsonLinesAudit(path).head())
    assert report.sound, report.problems
    assert [file.path for file in report.files] == ordered
    assert len(ordered) > 15
    assert sorted(ids(path)) == sorted(f"{number}-{index}" for number in range(2) for index in range(10_000))
    firsts = [records(file)[0] for file in ordered[1:]]
    assert all(record["event"] == "continued" for record in firsts), "no process began a file of its own"


@pytest.mark.process
@pytest.mark.promise("audit-log-rotated")
def test_a_log_that_is_rotated_by_command_under_load_loses_nothing(path: Path) -> None:
    def rotate() -> None:
        command = JsonLinesAudit(path, timeout=60)
        for part in (1, 2):
            while len(ids(path)) < 300 * part:
                time.sleep(0.01)
            assert command.rotate() is not None

    run_load(path, Limits(), 2_000, rotate)
    assert len(files(path)) == 3
    assert verify_files(path.parent.iterdir()).sound
    assert sorted(ids(path)) == sorted(f"{number}-{index}" for number in range(2) for index in range(2_000))


@pytest.mark.parametrize("limit", ["max_size", "max_age", "keep_files"])
def test_a_limit_is_at_least_one(limit: str) -> None:
    with pytest.raises(ValueError, match=f"{limit} is at least 1, and not 0"):
        Limits(**{limit: 0})


def test_a_rotation_that_another_has_overtaken_takes_nothing_of_it(path: Path, tmp_path: Path) -> None:
    audit = JsonLinesAudit(path)
    audit.append({"event": "one"})
    with path.open("rb+") as old:
        size = path.stat().st_size
        path.rename(tmp_path / "elsewhere")
        other = JsonLinesAudit(path)
        other.append({"event": "another"})
        assert Rotation(path).rotate(old.fileno(), size, "2026-01-01T00:00:00Z") is None
    assert [record["event"] for record in records(path)] == ["another"]
    assert not list(tmp_path.glob("audit.jsonl.*"))


def test_a_rotation_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audit = JsonLinesAudit(path)
    audit.append({"event": "one"})
    with caplog.at_level(logging.INFO, "agentguard"):
        audit.rotate()
    assert "was rotated: what was written up to 1:" in caplog.text


@pytest.mark.promise("audit-log-rotated")
def test_a_file_that_comes_to_have_the_name_is_not_replaced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, link = JsonLinesAudit(path), os.link
    audit.append({"event": "one"})
    foreign = list[Path]()

    def overtaken(source: Path, target: Path) -> None:
        if not foreign:
            foreign.append(target)
            target.write_text("somebody's")
        link(source, target)

    monkeypatch.setattr(os, "link", overtaken)
    assert audit.rotate() is None
    audit.append({"event": "two"})
    assert [record["event"] for record in records(path)] == ["one", "two"], "the log stays where it is"
    assert foreign[0].read_text() == "somebody's"
    assert audit.rotate() is not None
    assert foreign[0].read_text() == "somebody's"


@pytest.mark.promise("audit-log-rotated")
def test_a_rotated_log_of_others_at_the_path_does_not_pass_for_the_next_file(
    path: Path, tmp_path: Path
) -> None:
    audit = JsonLinesAudit(path)
    audit.append({"event": "one"})
    head = audit.head()
    other = JsonLinesAudit(tmp_path / "other.jsonl")
    other.append({"event": "another"})
    other.rotate()
    path.rename(tmp_path / "kept")
    other.path.rename(path)
    audit.append({"event": "two"})
    last = records(path)[-2:]
    assert [record["event"] for record in last] == ["continued", "two"]
    assert (last[0]["continues"], last[0]["file"]) == (str(head), "kept")


@pytest.mark.promise("audit-log-rotated")
@pytest.mark.parametrize(
    ("mode", "kind"), [("sync", JsonLinesAudit), ("worker", JsonLinesAudit), ("native", NativeAudit)]
)
def test_the_calls_of_a_guard_are_in_one_chain_whose_files_turn_in_the_middle_of_calls(
    path: Path, mode: str, kind: type[JsonLinesAudit]
) -> None:
    audit = kind(path, limits=Limits(max_size=900))
    guard = guard_on(audit, mode)
    for _ in range(6):
        assert call_in(mode, guard)[0] == "seen"
    guard.close()
    report = verify_files(history(path))
    assert report.sound, report.problems
    assert len(report.files) > 4
    assert any(file.report.earlier for file in report.files), "a call began in one file and ended in the next"
    assert report.unfinished == []
    effects = [record["effect"] for record in audit.records() if record["event"] == "decision"]
    assert effects == ["permit"] * 6
