"""A log that others rename, more than once, while a process that writes it is quiet stays one chain."""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from agentguard.audit import JsonLinesAudit, succession
from agentguard.audit.file_set import verify_files
from agentguard.cli import main
from agentguard.errors import AuditError
from tests.tiers import sample

Pair = tuple[JsonLinesAudit, JsonLinesAudit]


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.jsonl"


@pytest.fixture
def writers(path: Path) -> Iterator[Pair]:
    """Two writers of one log, each with an open file of its own, as two processes have them."""
    quiet, busy = JsonLinesAudit(path), JsonLinesAudit(path)
    yield quiet, busy
    quiet.close()
    busy.close()


def write(audit: JsonLinesAudit, number: int, mode: str = "sync") -> None:
    record: dict[str, Any] = {"event": "x", "n": number}
    audit.append(record) if mode == "sync" else asyncio.run(audit.aappend(record))


def rename(path: Path, name: str) -> Path:
    return path.rename(path.with_name(f"{path.name}{name}"))


def numbers(path: Path) -> list[int]:
    return [record["n"] for record in JsonLinesAudit(path).records() if "n" in record]


def problems(path: Path) -> list[str]:
    report = verify_files([file for file in path.parent.iterdir() if not file.name.startswith(".")])
    return [problem.kind for problem in report.problems] if not report.sound else []


def renamed_twice(path: Path, writers: Pair) -> tuple[JsonLinesAudit, Path]:
    """Rename the log twice, with a record in each; return the quiet process's log and the newer file."""
    quiet, busy = writers
    write(quiet, 0)
    rename(path, "-1")
    write(busy, 1)
    return quiet, rename(path, "-2")


# --- renamed


@pytest.mark.promise("audit-log-rotated")
@pytest.mark.parametrize("renames", [1, 2, 5])
@pytest.mark.parametrize("names", ["-{}", ".{}"])
def test_what_was_renamed_while_a_process_was_quiet_is_one_chain_with_nothing_left_out(
    path: Path, writers: Pair, mode: str, renames: int, names: str
) -> None:
    quiet, busy = writers
    write(quiet, 0, mode)
    for number in range(1, renames + 1):
        write(busy, number, mode)
        rename(path, names.format(number if names == "-{}" else 10 - number))
    write(quiet, renames + 1, mode)
    write(busy, renames + 2, mode)
    assert numbers(path) == list(range(renames + 3))
    assert problems(path) == []


@pytest.mark.promise("audit-log-rotated")
def test_a_file_between_that_was_compressed_meanwhile_is_continued(path: Path, writers: Pair) -> None:
    quiet, older = renamed_twice(path, writers)
    older.with_name(f"{older.name}.gz").write_bytes(gzip.compress(older.read_bytes()))
    older.unlink()
    write(quiet, 2)
    assert numbers(path) == [0, 1, 2]
    assert problems(path) == []


@pytest.mark.promise("audit-log-rotated")
def test_a_damaged_or_foreign_file_beside_the_log_keeps_no_process_from_writing(
    path: Path, writers: Pair
) -> None:
    quiet, _ = renamed_twice(path, writers)
    path.with_name("a.jsonl-3.gz").write_bytes(b"\x1f\x8b\x08 no gzip")
    path.with_name("a.jsonl-4").write_bytes(b"no record\n")
    path.with_name("a.jsonl-5").mkdir()
    write(quiet, 2)
    for name in ("-3.gz", "-4"):
        path.with_name(f"a.jsonl{name}").unlink()
    path.with_name("a.jsonl-5").rmdir()
    assert numbers(path) == [0, 1, 2]
    assert problems(path) == []


@pytest.mark.promise("audit-log-rotated")
def test_a_record_that_is_being_written_to_a_renamed_file_comes_before_the_next_file(
    path: Path, writers: Pair
) -> None:
    quiet, older = renamed_twice(path, writers)
    with older.open("ab") as file:  # as a process that has looked before the rename
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = Thread(target=write, args=(quiet, 3))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        assert not path.exists() or not path.stat().st_size
        fcntl.flock(file, fcntl.LOCK_UN)
    thread.join(5)
    assert numbers(path) == [0, 1, 3]
    assert problems(path) == []


@pytest.mark.promise("audit-log-rotated")
@pytest.mark.parametrize("seed", sample(range(6)))
def test_renames_and_rotations_in_any_order_leave_one_chain(path: Path, seed: int) -> None:
    order, now = random.Random(seed), [1e9]  # noqa: S311  no secret

    def clock() -> float:
        now[0] += 1
        return now[0]

    audits = [JsonLinesAudit(path, clock=clock) for _ in range(3)]
    for number in range(60):
        audit = order.choice(audits)
        if order.random() < 0.15 and path.exists() and path.stat().st_size:
            rename(path, f"-{number:02}")
        if order.random() < 0.1:
            audit.rotate()
        write(audit, number)
    for audit in audits:
        audit.close()
    assert numbers(path) == list(range(60))
    assert problems(path) == []


# --- names


@pytest.mark.promise("audit-files")
def test_a_file_that_was_renamed_by_hand_before_a_rotation_of_ours_is_no_disorder(path: Path) -> None:
    audit = JsonLinesAudit(path)
    for number, name in enumerate(("-old", ".20200101", ".bak")):
        write(audit, number)
        rename(path, name)
        write(audit, number)
        audit.rotate()
    write(audit, 9)
    audit.close()
    assert problems(path) == []


@pytest.mark.promise("audit-files")
def test_the_log_and_a_rotated_file_whose_names_were_exchanged_are_in_disorder(path: Path) -> None:
    audit = JsonLinesAudit(path)
    write(audit, 0)
    older = audit.rotate()
    write(audit, 1)
    audit.close()
    assert older is not None
    content = path.read_bytes()
    path.write_bytes(older.read_bytes())
    older.write_bytes(content)
    assert problems(path) == ["reordered"]


# --- damaged


@pytest.fixture
def damaged(path: Path) -> Path:
    """A rotated file that was compressed, and then damaged so that its stream cannot be read."""
    audit, noise = JsonLinesAudit(path), random.Random(1)  # noqa: S311  no secret
    for number in range(100):
        audit.append({"event": "x", "n": number, "text": str(number * 7919)})
    older = audit.rotate()
    write(audit, 1)
    audit.close()
    assert older is not None
    whole = gzip.compress(older.read_bytes())
    packed = older.with_name(f"{older.name}.gz")
    older.unlink()
    while True:
        data = bytearray(whole)
        data[noise.randrange(20, len(data) - 20)] ^= 1 << noise.randrange(8)
        try:
            gzip.decompress(bytes(data))
        except zlib.error:
            packed.write_bytes(data)
            return packed
        except OSError:
            pass


@pytest.mark.promise("audit-files")
def test_a_damaged_compressed_file_is_named_by_each_way_of_reading(
    path: Path, damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OSError, match=damaged.name):
        verify_files([path, damaged])
    with pytest.raises(AuditError):
        list(JsonLinesAudit(path).records())
    with pytest.raises(SystemExit) as ended:
        main(["audit", "verify", str(path.parent)])
    assert ended.value.code == 2
    assert damaged.name in capsys.readouterr().err


@pytest.mark.promise("audit-log-rotated")
def test_a_damaged_compressed_file_keeps_nobody_from_writing(path: Path, damaged: Path) -> None:
    audit = JsonLinesAudit(path)
    write(audit, 2)
    os.rename(path, path.with_name("a.jsonl-1"))
    damaged.touch()
    write(audit, 3)
    audit.close()
    assert path.stat().st_size


# --- renamed while no process ran


def after_a_run(path: Path, *texts: int) -> None:
    """Write records in a process of its own, which ends."""
    audit = JsonLinesAudit(path)
    for number in texts:
        write(audit, number)
    audit.close()


def compressed(file: Path) -> None:
    file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()


@pytest.mark.promise("audit-log-rotated")
@pytest.mark.parametrize("names", ["-2026010{}", ".{}", "-{}.gz"])
def test_a_log_that_was_renamed_while_no_process_ran_is_one_chain(path: Path, mode: str, names: str) -> None:
    for number in range(3):
        audit = JsonLinesAudit(path)
        write(audit, number, mode)
        audit.close()
        renamed = rename(path, names.format(number).removesuffix(".gz"))
        os.utime(renamed, (number, number))
        if names.endswith(".gz"):
            compressed(renamed)
            os.utime(f"{renamed}.gz", (number, number))
    after_a_run(path, 3)
    assert problems(path) == []
    report = verify_files(list(path.parent.iterdir()))
    assert (len(report.files), len(report.begun_anew)) == (4, 3)
    assert numbers(path) == [0, 1, 2, 3]
    shown = CliRunner().invoke(main, ["audit", "verify", str(path.parent)])
    assert shown.exit_code == 0
    assert shown.output.count("more may have been written between") == 3


@pytest.mark.promise("audit-log-rotated")
def test_a_new_log_continues_no_other_log_and_no_damaged_file_beside_it(path: Path) -> None:
    after_a_run(path.with_name("a.jsonl.worker"), 1)
    path.with_name("a.jsonl.1").write_text("no record\n")
    path.with_name("a.jsonl.2.gz").write_bytes(b"no gzip")
    path.with_name("a.jsonl.3").mkdir()
    after_a_run(path, 2)
    assert JsonLinesAudit(path).head().seq == 1


@pytest.mark.promise("audit-log-rotated")
def test_of_two_processes_that_begin_a_renamed_log_one_continues_it(path: Path) -> None:
    after_a_run(path, 0)
    rename(path, ".1")
    one, other = JsonLinesAudit(path), JsonLinesAudit(path)
    write(one, 1)
    write(other, 2)
    one.close()
    other.close()
    assert (problems(path), numbers(path)) == ([], [0, 1, 2])


def test_a_process_that_had_the_renamed_file_open_goes_on_in_the_new_one(path: Path, writers: Pair) -> None:
    quiet, _ = writers
    write(quiet, 0)
    rename(path, ".1")
    after_a_run(path, 1)
    write(quiet, 2)
    assert (problems(path), numbers(path)) == ([], [0, 1, 2])


@pytest.mark.promise("audit-log-rotated")
def test_a_record_that_is_being_written_at_the_rename_comes_before_the_new_log(path: Path) -> None:
    after_a_run(path, 0, 1)
    renamed = rename(path, ".1")
    whole = renamed.read_bytes()
    first, _, last = whole.partition(b"\n")
    renamed.write_bytes(first + b"\n")
    with renamed.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        beginning = Thread(target=after_a_run, args=(path, 2))
        beginning.start()
        beginning.join(0.1)
        file.write(last)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_UN)
        beginning.join()
    assert (problems(path), numbers(path)) == ([], [0, 1, 2])


@pytest.mark.promise("audit-log-rotated")
def test_a_process_that_waits_for_the_new_log_holds_up_the_one_that_begins_it_for_a_moment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(succession, "_LAST_RECORD", 0.05)
    after_a_run(path, 0)
    with rename(path, ".1").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # and waits for the new file
        after_a_run(path, 1)
    assert (problems(path), numbers(path)) == ([], [0, 1])
