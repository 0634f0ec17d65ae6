"""The audit log shows every alteration, and continues after a crash."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import multiprocessing
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard.audit import Head, JsonLinesAudit, Report, verify
from agentguard.errors import AuditError
from agentguard.testing import AuditContract, RecordingAudit
from tests.doubles.writers import append_numbers

SPAWN = multiprocessing.get_context("spawn")
FORK = multiprocessing.get_context("fork")
Lines = list[bytes]


class TestJsonLinesAudit(AuditContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path
        self.count = 0

    def make(self) -> JsonLinesAudit:
        self.count += 1
        return JsonLinesAudit(self.directory / f"{self.count}.jsonl")


class TestRecordingAudit(AuditContract):
    def make(self) -> RecordingAudit:
        return RecordingAudit()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "audit.jsonl"


@pytest.fixture
def audit(path: Path) -> Iterator[JsonLinesAudit]:
    audit = JsonLinesAudit(path, clock=lambda: 1_700_000_000.25)
    yield audit
    audit.close()


@pytest.fixture
def lines(path: Path, audit: JsonLinesAudit) -> Lines:
    for number in range(1, 9):
        audit.append({"event": "decision", "task": "t", "effect": "deny", "number": number})
    return path.read_bytes().splitlines(keepends=True)


def fault_kinds(report: Report) -> list[tuple[int, str]]:
    return [(fault.line, fault.kind) for fault in report.faults]


def rehashed(line: bytes, **changes: Any) -> bytes:
    record = {**json.loads(line), **changes}
    del record["hash"]
    body = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return f'{body[:-1]},"hash":"{hashlib.sha256(body.encode()).hexdigest()}"}}\n'.encode()


def test_a_sound_chain_is_sound_and_ends_in_its_head(lines: Lines, audit: JsonLinesAudit) -> None:
    report = verify(lines, audit.head())
    assert report.sound
    assert (report.records, report.torn, report.head) == (8, [], audit.head())
    assert report.head.seq == 8
    assert verify([]) == Report()


def test_the_format_can_be_verified_by_cutting_text(lines: Lines) -> None:
    before = "0" * 64
    for number, line in enumerate(lines, 1):
        text = line.decode().removesuffix("\n")
        body, _, rest = text.rpartition(',"hash":"')
        record = json.loads(text)
        assert rest == record["hash"] + '"}'
        assert hashlib.sha256(f"{body}}}".encode()).hexdigest() == record["hash"]
        assert (record["seq"], record["prev"]) == (number, before)
        assert record["at"] == "2023-11-14T22:13:20.250000Z"
        before = record["hash"]


@pytest.mark.promise("audit-chain")
def test_any_changed_byte_is_found_on_its_line(lines: Lines) -> None:
    rng = random.Random(1)  # noqa: S311  the same places each time
    for line in range(7):
        for _ in range(25):
            place = rng.randrange(len(lines[line]) - 1)
            changed = bytearray(lines[line])
            changed[place] ^= 1 << rng.randrange(7)
            if changed[place] == ord("\n"):
                continue
            report = verify([*lines[:line], bytes(changed), *lines[line + 1 :]])
            assert (line + 1, "changed") in fault_kinds(report), changed
            assert {number for number, _ in fault_kinds(report)} == {line + 1}


@pytest.mark.parametrize("line", range(7))
def test_a_record_changed_with_its_hash_is_found_by_the_next(lines: Lines, line: int) -> None:
    lines[line] = rehashed(lines[line], effect="permit")
    assert fault_kinds(verify(lines)) == [(line + 1, "changed")]


@pytest.mark.promise("audit-chain")
@pytest.mark.parametrize("line", range(7))
def test_a_removed_record_is_found(lines: Lines, line: int) -> None:
    del lines[line]
    assert fault_kinds(verify(lines)) == [(line + 1, "removed")]


def test_several_removed_records_are_found_where_they_were(lines: Lines) -> None:
    del lines[5], lines[1:3]
    assert fault_kinds(verify(lines)) == [(2, "removed"), (4, "removed")]


def test_a_repeated_record_is_found(lines: Lines) -> None:
    lines.insert(5, lines[2])
    assert fault_kinds(verify(lines)) == [(6, "inserted")]


@pytest.mark.promise("audit-chain")
def test_a_forged_record_is_found(lines: Lines) -> None:
    last = json.loads(lines[3])
    forged = rehashed(lines[4], effect="permit", seq=5, prev=last["hash"])
    lines.insert(4, forged)
    assert {kind for _, kind in fault_kinds(verify(lines))} >= {"inserted"}
    assert min(fault_kinds(verify(lines)))[0] in (5, 6)


def test_garbage_between_records_is_found(lines: Lines) -> None:
    for garbage in (b"garbage\n", b"{}\n", b"\n", b'{"seq":5}\n', b"[" * 100_000 + b"\n", b"\xff\xfe\n"):
        assert fault_kinds(verify([*lines[:4], garbage, *lines[4:]])) == [(5, "changed")]


@pytest.mark.promise("audit-chain")
@pytest.mark.parametrize(("one", "two"), [(0, 1), (3, 4), (2, 5)])
def test_reordered_records_are_found(lines: Lines, one: int, two: int) -> None:
    lines[one], lines[two] = lines[two], lines[one]
    kinds = fault_kinds(verify(lines))
    assert {kind for _, kind in kinds} == {"reordered"}
    assert kinds[0][0] == one + 1


def test_a_huge_number_does_not_exhaust_the_verifier(lines: Lines) -> None:
    lines[3] = rehashed(lines[3], seq=10**18)
    assert not verify(lines).sound


@pytest.mark.promise("audit-chain")
def test_a_cut_end_is_found_by_a_head_that_was_kept_and_only_so(lines: Lines, audit: JsonLinesAudit) -> None:
    head = Head.of(str(audit.head()))
    assert verify(lines[:6]).sound
    assert fault_kinds(verify(lines[:6], head)) == [(6, "cut")]
    assert fault_kinds(verify([], head)) == [(0, "cut")]
    audit.append({"event": "later"})
    assert verify(audit.path.read_bytes().splitlines(keepends=True), head).sound


def test_a_chain_written_anew_is_found_by_a_head_that_was_kept(tmp_path: Path, audit: JsonLinesAudit) -> None:
    audit.append({"event": "real"})
    forgery = JsonLinesAudit(tmp_path / "other")
    forgery.append({"event": "forged"})
    with forgery.path.open("rb") as file:
        assert fault_kinds(verify(file, audit.head())) == [(1, "cut")]
    forgery.close()


@pytest.mark.parametrize("text", ["", "1", "1:ab", "x:" + "0" * 64, "1:" + "0" * 64 + "\n", "-1:" + "0" * 64])
def test_a_malformed_head_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="head"):
        Head.of(text)


@pytest.mark.promise("audit-chain")
def test_every_way_to_tear_the_last_line_is_torn_and_no_tampering(lines: Lines, path: Path) -> None:
    for length in range(1, len(lines[-1])):
        torn = [*lines[:-1], lines[-1][:length]]
        report = verify(torn)
        assert report.sound
        assert report.torn == [8]
        path.write_bytes(b"".join(torn))
        audit = JsonLinesAudit(path)
        audit.append({"event": "next"})
        audit.append({"event": "after"})
        audit.close()
        with path.open("rb") as file:
            report = verify(file)
        assert report.sound, (length, report)
        assert report.torn == [8]
        events = [record["event"] for record in audit.records()][7 if length < len(lines[-1]) - 1 else 8 :]
        assert events == ["torn", "next", "after"]


def test_a_last_line_that_is_whole_but_no_record_is_not_torn(lines: Lines) -> None:
    for line in (b"{}\n", b"7\n", b'{"seq":9,"prev":"x"}\n', b"{}"):
        report = verify([*lines, line])
        assert (fault_kinds(report), report.torn) == ([(9, "changed")], [])


def test_tearing_does_not_launder_a_changed_record(lines: Lines, path: Path) -> None:
    for changed in (lines[-1].replace(b"deny", b"none"), b"{}\n", b'"text"\n'):
        path.write_bytes(b"".join([*lines[:-1], changed]))
        audit = JsonLinesAudit(path)
        audit.append({"event": "next"})
        audit.close()
        with path.open("rb") as file:
            assert (8, "changed") in fault_kinds(verify(file))


def test_a_file_that_was_torn_in_its_first_line_goes_on(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"at":"2')
    audit = JsonLinesAudit(path)
    audit.append({"event": "first"})
    audit.close()
    with path.open("rb") as file:
        report = verify(file)
    assert report.sound
    assert (report.torn, report.records) == ([1], 2)


def test_a_long_torn_line_is_found_beyond_the_first_block(lines: Lines, path: Path) -> None:
    path.write_bytes(b"".join(lines) + b'{"text":"' + b"x" * 300_000)
    audit = JsonLinesAudit(path)
    audit.append({"event": "next", "text": "y" * 300_000})
    audit.close()
    again = JsonLinesAudit(path)
    again.append({"event": "after"})
    again.close()
    with path.open("rb") as file:
        report = verify(file)
    assert report.sound
    assert (report.torn, report.records) == ([9], 11)


@pytest.fixture
def full_disk(path: Path, audit: JsonLinesAudit) -> Iterator[Callable[[int | None], None]]:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def leave(room: int | None) -> None:
        limit = before[0] if room is None else path.stat().st_size + room
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    yield leave
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_refuses_the_record_and_is_survived(
    path: Path, audit: JsonLinesAudit, full_disk: Callable[[int | None], None]
) -> None:
    audit.append({"event": "before"})
    for room in (0, 40, 1, 70, 500):
        full_disk(room)
        for _ in range(4):
            with pytest.raises(AuditError):
                audit.append({"event": "lost", "text": "x" * 600})
    full_disk(None)
    audit.append({"event": "after"})
    with path.open("rb") as file:
        report = verify(file)
    assert report.sound, report
    assert report.torn
    events = [record["event"] for record in audit.records()]
    assert "lost" not in events
    assert (events[0], events[-1]) == ("before", "after")


def test_the_file_belongs_to_its_owner_alone(path: Path, audit: JsonLinesAudit) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_place_that_cannot_be_written_is_an_audit_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(AuditError, match=str(place)):
            JsonLinesAudit(place)


@pytest.mark.promise("audit-log-rotated")
def test_a_deleted_log_is_no_silent_loss(path: Path, audit: JsonLinesAudit) -> None:
    audit.append({"event": "one"})
    path.unlink()
    with pytest.raises(AuditError, match=os.strerror(errno.ENOENT)):
        list(audit.records())
    audit.append({"event": "two"})
    assert [record["event"] for record in audit.records()] == ["continued", "two"]


def test_a_record_cannot_forge_its_place_in_the_chain(path: Path, audit: JsonLinesAudit) -> None:
    for key in ("seq", "prev", "hash"):
        with pytest.raises(AuditError, match="chain"):
            audit.append({"event": "x", key: "1"})
    audit.append({"event": "x", "at": "2020-01-01T00:00:00Z", "text": '\n","hash":"' + "0" * 64 + '"}\n'})
    assert path.read_bytes().count(b"\n") == 1
    with path.open("rb") as file:
        assert verify(file).records == 1
    assert next(iter(audit.records()))["at"] == "2020-01-01T00:00:00Z"


def test_records_are_read_as_a_stream(lines: Lines, audit: JsonLinesAudit) -> None:
    records = iter(audit.records("t"))
    assert next(records)["number"] == 1
    audit.append({"event": "decision", "task": "t", "number": 9})
    assert [record["number"] for record in records][-1] == 9


async def test_appends_that_were_abandoned_keep_the_chain_and_the_order(
    path: Path, audit: JsonLinesAudit
) -> None:
    for number in range(60):
        task = asyncio.ensure_future(audit.aappend({"number": number}))
        await asyncio.sleep(0 if number % 2 else 0.0005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await asyncio.gather(*(audit.aappend({"number": number}) for number in range(60, 90)))
    with path.open("rb") as file:
        assert verify(file).sound
    numbers = [record["number"] for record in audit.records()]
    assert numbers == sorted(numbers)
    assert numbers[-30:] == list(range(60, 90))


@pytest.mark.process
def test_two_processes_write_one_chain(path: Path) -> None:
    writers = [SPAWN.Process(target=append_numbers, args=(path, name, 200)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    with path.open("rb") as file:
        report = verify(file)
    assert report.sound
    assert (report.records, report.torn) == (400, [])
    audit = JsonLinesAudit(path)
    for name in "ab":
        assert [record["number"] for record in audit.records(name)] == list(range(200))
    audit.close()


def _append(audit: JsonLinesAudit, name: str) -> None:
    for number in range(100):
        audit.append({"task": name, "number": number})


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns, and this is the point
def test_a_forked_child_and_threads_write_the_same_chain(path: Path, audit: JsonLinesAudit) -> None:
    audit.append({"task": "first"})
    child = FORK.Process(target=_append, args=(audit, "child"))
    child.start()
    _append(audit, "parent")
    child.join(30)
    assert child.exitcode == 0
    with path.open("rb") as file:
        report = verify(file)
    assert report.sound
    assert report.records == 201


@pytest.mark.process
@pytest.mark.promise("audit-chain")
def test_a_log_that_was_killed_in_the_middle_goes_on(path: Path) -> None:
    program = (
        "import sys\n"
        "from agentguard.audit import JsonLinesAudit\n"
        "audit = JsonLinesAudit(sys.argv[1])\n"
        "number = 0\n"
        "while True:\n"
        "    audit.append({'number': number, 'text': 'x' * 20000})\n"
        "    print(number, flush=True)\n"
        "    number += 1\n"
    )
    acknowledged = -1
    for delay in (0.0, 0.01):
        writer = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(20):
            acknowledged = int(writer.stdout.readline())
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    audit = JsonLinesAudit(path)
    audit.append({"number": "after"})
    with path.open("rb") as file:
        assert verify(file).sound
    numbers = [record["number"] for record in audit.records() if record.get("event") != "torn"]
    assert numbers.count(acknowledged) == 2, "what was acknowledged is there, from both runs"
    assert numbers[-1] == "after"
    audit.close()
