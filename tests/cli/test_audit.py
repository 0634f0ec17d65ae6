"""`agentguard audit` rotates, verifies and shows the files of a log."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agentguard.audit import Head, JsonLinesAudit, Limits
from agentguard.audit.chain import parse
from agentguard.audit.files import history
from agentguard.audit.reading import Selection, follow, lines_of
from agentguard.cli import main
from agentguard.config import build, load

Run = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `agentguard audit` beside a configuration that names the log."""
    (tmp_path / "agentguard.toml").write_text('[audit]\npath = "audit.jsonl"\nkeep_files = 2\n')
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, ["audit", *args])

    return run


# --- rotate


def test_the_log_of_a_configuration_is_rotated_and_its_oldest_files_deleted(run: Run, path: Path) -> None:
    audit = JsonLinesAudit(path)
    for number in range(4):
        audit.append({"event": "x", "number": number})
        result = run("rotate")
        assert result.exit_code == 0
        assert f"{path.name}.2" in result.output
    assert len(history(path)) == 3


def test_a_log_that_is_named_is_rotated_and_nothing_of_it_is_deleted(run: Run, path: Path) -> None:
    audit = JsonLinesAudit(path)
    for number in range(4):
        audit.append({"event": "x", "number": number})
        assert run("rotate", str(path)).exit_code == 0
    assert len(history(path)) == 5


def test_a_log_that_is_not_there_is_not_made(run: Run, path: Path) -> None:
    result = run("rotate")
    assert result.exit_code == 2
    assert "there is no such file" in result.output
    assert not path.exists()


def test_a_log_without_a_record_stays_as_it_is(run: Run, path: Path) -> None:
    path.touch()
    result = run("rotate")
    assert result.exit_code == 0
    assert "holds no record yet" in result.output


def test_the_limits_of_a_configuration_are_those_of_its_log(tmp_path: Path) -> None:
    config = tmp_path / "agentguard.toml"
    config.write_text('[audit]\npath = "audit.jsonl"\nmax_size = "100KB"\nmax_age = "36h"\n')
    assert load(config).audit.limits() == Limits(max_size=100_000, max_age=36 * 3_600)
    audit = build(load(config)).ports.audit
    for number in range(120):
        audit.append({"event": "x", "number": number, "text": "x" * 1_000})
    assert len(history(tmp_path / "audit.jsonl")) == 2
    audit.close()  # type: ignore[attr-defined]  # it is a file


@pytest.mark.parametrize(
    "line", ['max_size = "99KB"', 'max_size = "1 MB"', 'max_age = "0d"', "keep_files = 0"]
)
def test_a_limit_that_is_none_is_an_error_with_its_line(tmp_path: Path, line: str, run: Run) -> None:
    (tmp_path / "agentguard.toml").write_text(f"[audit]\n{line}\n")
    result = run("rotate")
    assert result.exit_code == 2
    assert "agentguard.toml:2" in "".join(result.output.split())


# --- verify


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Four files of a log in their order, with 3, 4, 4 and 3 records, in a folder that holds more."""
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "state.db").write_bytes(b"SQLite format 3\0\n")
    audit = JsonLinesAudit(folder / "audit.jsonl")
    files = []
    for part in range(4):
        for number in range(3 if part < 3 else 2):
            audit.append({"event": "x", "part": part, "number": number})
        files.append(audit.rotate() if part < 3 else audit.path)
    audit.close()
    return [file for file in files if file is not None]


def verified(run: Run, *files: Path | str) -> tuple[int, str]:
    result = run("verify", *map(str, files))
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.promise("audit-files")
@pytest.mark.parametrize("form", ["folder", "pattern", "files", "files backwards", "compressed"])
def test_all_files_of_a_log_are_verified_in_the_order_of_their_heads(
    run: Run, parts: list[Path], form: str
) -> None:
    folder = parts[0].parent
    head = JsonLinesAudit(parts[-1]).head()
    if form == "compressed":
        for part in parts[:2]:
            packed = part.with_name(f"{part.name}.gz")
            packed.write_bytes(gzip.compress(part.read_bytes()))
            part.unlink()
    names = {
        "pattern": [folder / "audit*"],
        "files": parts,
        "files backwards": parts[::-1],
    }.get(form, [folder])
    code, text = verified(run, *names)
    assert code == 0, text
    assert f"4 files, 14 records, none altered; head {head}" in text
    places = [
        text.index(part.name + end) for part in parts for end in (":", ".gz:") if part.name + end in text
    ]
    assert places == sorted(places)


@pytest.mark.promise("audit-files")
@pytest.mark.parametrize("which", [1, 2])
def test_a_missing_file_is_named_with_the_number_of_its_records(
    run: Run, parts: list[Path], which: int
) -> None:
    head = JsonLinesAudit(parts[which]).head()
    parts[which].unlink()
    code, text = verified(run, parts[0].parent)
    assert code == 1
    missing = f"continues the file {parts[which].name} with 4 records, which is not here (head {head})"
    assert f"missing {parts[which + 1]} {missing}" in text


@pytest.mark.promise("audit-files")
def test_the_first_and_the_last_file_are_missed_too(run: Run, parts: list[Path]) -> None:
    head = JsonLinesAudit(parts[-1]).head()
    code, text = verified(run, *parts[1:])
    assert code == 1
    assert f"continues the file {parts[0].name} with 3 records" in text
    code, text = verified(run, *parts[:-1])
    assert code == 0, "the newest file says nothing of itself"
    code, text = verified(run, *parts[:-1], "--head", str(head))
    assert code == 1
    assert "record 3, whose head was given, is in none of the files" in text
    assert verified(run, *parts, "--head", str(head))[0] == 0
    middle = JsonLinesAudit(parts[1]).head()
    assert verified(run, *parts, "--head", str(middle))[0] == 0, "an old head is still in the log"


@pytest.mark.promise("audit-files")
@pytest.mark.parametrize("renamed", [False, True])
def test_a_file_that_was_cut_at_its_end_is_named_with_both_numbers(
    run: Run, parts: list[Path], renamed: bool
) -> None:
    lines = parts[1].read_bytes().splitlines(keepends=True)
    parts[1].write_bytes(b"".join(lines[:-2]))
    code, text = verified(run, parts[0].parent)
    assert code == 1
    assert f"cut {parts[1]} has 2 of the 4 records that {parts[2]} continues" in text
    if renamed:  # logrotate calls it by a number
        parts[1] = parts[1].rename(parts[1].with_name("audit.jsonl.7"))
        code, text = verified(run, parts[0].parent)
        assert code == 1
        assert "4 records, which is not here" in text


@pytest.mark.promise("audit-files")
def test_a_file_that_was_extended_after_its_rotation_is_named(run: Run, parts: list[Path]) -> None:
    forger = JsonLinesAudit(parts[1])
    forger.append({"event": "forged"})
    forger.append({"event": "forged"})
    code, text = verified(run, parts[0].parent)
    assert code == 1
    assert f"extended {parts[1]} has 2 records after the 4 that {parts[2]} continues" in text


@pytest.mark.promise("audit-files")
def test_a_doubled_file_and_a_part_of_one_are_named(run: Run, parts: list[Path]) -> None:
    shutil.copy(parts[1], copy := parts[1].with_name("audit.jsonl.copy"))
    code, text = verified(run, parts[0].parent)
    assert code == 1
    assert f"doubled {copy} holds 4 of the 4 records of {parts[1]}" in text
    copy.write_bytes(b"".join(copy.read_bytes().splitlines(keepends=True)[:2]))
    assert f"doubled {copy} holds 2 of the 4 records of {parts[1]}" in verified(run, parts[0].parent)[1]


def test_two_names_of_one_file_are_no_fault(run: Run, parts: list[Path]) -> None:
    os.link(parts[3], alias := parts[3].with_name("audit.jsonl.link"))
    code, text = verified(run, parts[0].parent)
    assert code == 0
    assert f"{alias} is a second name" in text


@pytest.mark.promise("audit-files")
def test_files_whose_names_were_exchanged_are_named(run: Run, parts: list[Path]) -> None:
    one, two = parts[1].read_bytes(), parts[2].read_bytes()
    parts[1].write_bytes(two)
    parts[2].write_bytes(one)
    code, text = verified(run, parts[0].parent)
    assert code == 1
    assert f"reordered {parts[1]} continues {parts[2]}, although its name is that of an older file" in text


@pytest.mark.promise("audit-files")
def test_two_files_that_continue_one_are_named(run: Run, parts: list[Path]) -> None:
    audit = JsonLinesAudit(other := parts[0].with_name("audit.jsonl.other"))
    first = json.loads(parts[2].read_bytes().splitlines()[0])
    audit.append({"event": "continued", "continues": first["continues"], "file": first["file"]})
    code, text = verified(run, parts[0].parent)
    assert code == 1
    assert "forked" in text
    assert f"{parts[2]} and {other} continue {parts[1]}" in text


@pytest.mark.promise("audit-files")
def test_a_log_that_begins_anew_among_the_files_is_named(run: Run, parts: list[Path]) -> None:
    JsonLinesAudit(other := parts[0].with_name("audit.jsonl.other")).append({"event": "forged"})
    code, text = verified(run, parts[0].parent)
    assert code == 1
    assert f"apart {other} with 1 records continues no file" in text


@pytest.mark.promise("audit-files")
def test_a_changed_record_is_found_in_each_file(run: Run, parts: list[Path]) -> None:
    for part in parts:
        before = part.read_bytes()
        part.write_bytes(before.replace(b'"number":1', b'"number":7'))
        code, text = verified(run, parts[0].parent)
        assert code == 1
        assert f"changed {part}:" in text
        part.write_bytes(before)
    assert verified(run, parts[0].parent)[0] == 0


@pytest.mark.promise("audit-log-deleted")
def test_a_file_that_the_log_has_deleted_itself_is_no_fault_and_each_other_is(run: Run, path: Path) -> None:
    audit = JsonLinesAudit(path, limits=Limits(max_size=600, keep_files=3))
    for number in range(30):
        audit.append({"event": "x", "number": number})
    code, text = verified(run, f"{path}*")
    assert code == 0, text
    assert "the log says that [audit] keep_files deleted it" in text
    history(path)[0].unlink()
    assert verified(run, f"{path}*")[0] == 1


def test_a_call_that_ends_in_the_next_file_is_finished(run: Run, path: Path) -> None:
    audit = JsonLinesAudit(path)
    for call in ("ends later", "never ends"):
        audit.append({"event": "decision", "effect": "permit", "call": call})
    old = audit.rotate()
    audit.append({"event": "outcome", "call": "ends later"})
    code, text = verified(run, f"{path}*")
    assert code == 0
    assert f"{old}:2: a permit without an outcome, the last of 1" in text


def test_a_torn_file_and_one_that_cannot_be_read_are_told(run: Run, parts: list[Path]) -> None:
    with parts[1].open("ab") as file:
        file.write(b'{"half":')
    code, text = verified(run, parts[0].parent)
    assert code == 2
    assert f"torn {parts[1]}:5" in text
    packed = parts[0].with_name("audit.jsonl.1.gz")
    packed.write_bytes(gzip.compress(parts[0].read_bytes())[:-20])
    code, text = verified(run, parts[0].parent)
    assert code == 2
    assert verified(run, parts[0].with_name("nothing"), parts[0])[0] == 2
    assert verified(run, parts[0].with_name("*.nothing"))[0] == 2


def test_a_single_file_is_verified_with_the_head_that_the_next_holds(run: Run, parts: list[Path]) -> None:
    first = json.loads(parts[2].read_bytes().splitlines()[0])
    head = Head.of(first["continues"])
    assert run("verify", str(parts[1]), "--head", str(head)).exit_code == 0
    result = run("verify", str(parts[2]))
    assert result.exit_code == 0
    assert f"--head{head}" in "".join(result.output.split())


# --- show


CALLS: list[dict[str, object]] = [
    {
        "event": "decision",
        "effect": "permit",
        "tool": "look",
        "subject": "user:alice",
        "task": "t1",
        "call": "c1",
    },
    {"event": "outcome", "outcome": "done", "tool": "look", "task": "t1", "call": "c1", "seconds": 0.1},
    {
        "event": "decision",
        "effect": "deny",
        "tool": "pay",
        "subject": "user:alice",
        "task": "t1",
        "code": "policy",
    },
    {
        "event": "decision",
        "effect": "permit",
        "tool": "pay",
        "subject": "user:bob",
        "task": "t2",
        "call": "c2",
    },
    {
        "event": "decision",
        "effect": "deny",
        "tool": "look",
        "task": "t3",
        "lineage": ["t2"],
        "code": "mandate",
    },
    {"event": "outcome", "outcome": "failed", "tool": "pay", "task": "t2", "call": "c2", "seconds": 0.2},
    {"event": "revocation", "task": "t2", "call": "c2", "broker": "b"},
    {"event": "task", "task": "t1", "status": "done"},
]


def number_of(line: str) -> int:
    record = json.loads(line)
    return CALLS.index({name: record[name] for name in record if name not in {"at", "seq", "prev", "hash"}})


@pytest.fixture
def log(path: Path) -> Path:
    """A log of three files, of which one is compressed, with a call a minute."""
    now = [1_700_000_000.0]
    audit = JsonLinesAudit(path, clock=lambda: now[0])
    for number, call in enumerate(CALLS):
        if number in (2, 5):
            audit.rotate()
        audit.append(call)
        now[0] += 60
    audit.close()
    first = history(path)[0]
    first.with_name(f"{first.name}.gz").write_bytes(gzip.compress(first.read_bytes()))
    first.unlink()
    return path


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ([], range(8)),
        (["--task", "t1"], [0, 1, 2, 7]),
        (["--task", "t2"], [3, 4, 5, 6]),
        (["--subject", "user:bob"], [3, 5, 6]),
        (["--tool", "look"], [0, 1, 4]),
        (["--decision", "deny"], [2, 4]),
        (["--decision", "permit", "--tool", "pay"], [3, 5, 6]),
        (["--code", "policy"], [2]),
        (["--since", "2023-11-14T22:15:20Z"], range(2, 8)),
        (["--since", "2023-11-14T22:15:20", "--until", "2023-11-14T22:18:20+00:00"], [2, 3, 4]),
        (["--until", "2023-11-14T22:15:20Z", "--subject", "user:alice"], [0, 1]),
        (["--since", "1h"], []),
        (["--tool", "nothing"], []),
    ],
)
def test_the_records_that_somebody_looks_for_are_shown_in_their_order(
    run: Run, log: Path, options: list[str], numbers: list[int]
) -> None:
    result = run("show", "--json", *options)
    assert result.exit_code == 0
    lines = [line for line in result.output.splitlines() if '"continued"' not in line]
    assert [number_of(line) for line in lines] == list(numbers)


def test_the_records_of_files_that_are_named_are_shown_as_they_stand_in_them(run: Run, log: Path) -> None:
    files = history(log)
    text = "".join(
        (gzip.decompress(data) if file.suffix == ".gz" else data).decode()
        for file, data in ((file, file.read_bytes()) for file in files)
    )
    assert run("show", "--json", *map(str, reversed(files))).output == text
    assert run("show", "--json").output == text


def test_a_record_is_a_line_that_a_person_can_read(run: Run, log: Path) -> None:
    lines = run("show", "--task", "t1").output.splitlines()
    assert lines[0].startswith("2023-11-14T22:13:20.000000Z  permit      look  for user:alice")
    assert lines[2].endswith("deny        pay  for user:alice  policy: None  task t1")
    assert lines[3].endswith("task        status done  task t1")


def test_what_a_model_has_named_moves_no_cursor(run: Run, path: Path) -> None:
    JsonLinesAudit(path).append(
        {"event": "decision", "effect": "deny", "tool": "x\x1b[2J\u202e\n", "code": "y"}
    )
    for option in ([], ["--json"]):
        assert all(line.isprintable() for line in run("show", *option).output.splitlines())
    assert len(run("show").output.splitlines()) == 1


@pytest.mark.parametrize("time", ["yesterday", "2h3m", "2023-13-01"])
def test_a_time_that_is_none_is_refused(run: Run, log: Path, time: str) -> None:
    result = run("show", "--since", time)
    assert result.exit_code == 2
    assert "a time is as in" in " ".join(result.output.split())


def test_a_log_that_cannot_be_read_is_told(run: Run, path: Path) -> None:
    result = run("show")
    assert result.exit_code == 2
    assert "No such file" in result.output
    assert run("show", "a", "b", "--follow").exit_code == 2


# --- follow


def followed(path: Path, steps: list[Callable[[], None]], gaps: list[str]) -> list[int]:
    """Return the numbers of the records that are seen while the steps are taken, one at each pause."""

    def pause() -> bool:
        if not steps:
            return False
        steps.pop(0)()
        return True

    records = map(parse, follow(path, pause=pause, on_gap=gaps.append))
    return [record["number"] for record in records if record is not None and "number" in record]


def test_a_log_is_followed_through_its_rotations(path: Path) -> None:
    audit, gaps, numbers = JsonLinesAudit(path), list[str](), count()

    def write(times: int = 1) -> None:
        for _ in range(times):
            audit.append({"event": "x", "number": next(numbers)})

    def rotate(times: int = 1) -> None:
        for _ in range(times):
            write()
            audit.rotate()

    def rename() -> None:
        path.rename(path.with_name("audit.jsonl.old"))

    def write_half() -> None:
        with path.open("ab") as file:
            file.write(b'{"half":')

    write(3)
    rotate()
    steps = [
        write,
        rotate,
        write,
        lambda: rotate(3),
        lambda: write(2),
        rename,
        lambda: None,
        write,
        write_half,
    ]
    seen = followed(path, [*steps, write, lambda: rotate(2)], gaps)
    assert seen == list(range(next(numbers)))
    assert gaps == []


def test_a_follower_tells_where_it_may_miss_records(path: Path) -> None:
    audit, gaps = JsonLinesAudit(path), list[str]()
    for number in range(3):
        audit.append({"event": "x", "number": number})

    def cut() -> None:
        os.truncate(path, 0)

    def replace() -> None:
        path.rename(path.with_name("elsewhere"))
        JsonLinesAudit(path).append({"event": "x", "number": 8})

    assert followed(path, [cut, replace, lambda: None], gaps) == [0, 1, 2, 8]
    assert ["was cut" in gap for gap in gaps] == [True, False]
    assert "does not continue the one that was read" in gaps[1]


def test_a_record_that_is_written_just_before_a_rotation_is_followed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, stat, armed = JsonLinesAudit(path), os.stat, [True]
    audit.append({"event": "x", "number": 0})

    def late(place: Any, **options: Any) -> os.stat_result:
        if place is path and armed:
            armed.clear()
            audit.append({"event": "x", "number": 1})
            audit.rotate()
        return stat(place, **options)

    monkeypatch.setattr(os, "stat", late)
    gaps = list[str]()
    assert followed(path, [lambda: None, lambda: None], gaps) == [0, 1]
    assert gaps == []


def test_files_that_logrotate_has_numbered_and_compressed_are_read_in_order(run: Run, path: Path) -> None:
    audit = JsonLinesAudit(path)
    for number in range(4):
        audit.append({"event": "x", "number": number})
        for place in (3, 2, 1):
            if (file := path.with_name(f"audit.jsonl.{place}.gz")).exists():
                file.rename(path.with_name(f"audit.jsonl.{place + 1}.gz"))
        path.with_name("audit.jsonl.1.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    audit.append({"event": "x", "number": 4})
    lines = map(json.loads, run("show", "--json").output.splitlines())
    assert [record["number"] for record in lines if "number" in record] == list(range(5))
    assert verified(run, f"{path}*")[0] == 0


@pytest.mark.process
def test_following_prints_what_another_process_writes_and_ends_with_an_interrupt(
    run: Run, path: Path
) -> None:
    audit = JsonLinesAudit(path)
    audit.append({"event": "one"})
    command = [sys.executable, "-c", "from agentguard.cli import main; main()", "audit", "show", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "one" in process.stdout.readline()
        audit.rotate()
        audit.append({"event": "two"})
        assert "continued" in process.stdout.readline()
        assert "two" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


def test_showing_needs_no_more_memory_for_more_records(path: Path) -> None:
    audit = JsonLinesAudit(path)
    for number in range(3_000):
        call = {"event": "decision", "effect": "permit", "tool": "look", "call": f"c{number}"}
        audit.append({**call, "text": "x" * 500})
    selection = Selection(tool="look")
    tracemalloc.start()
    taken = sum(selection.takes(json.loads(line)) for line in lines_of([path]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken == 3_000
    assert peak < path.stat().st_size / 2
