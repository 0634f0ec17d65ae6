"""Ctrl-C while a record is appended: every process can write the next one, and the log is sound."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from threading import Thread

import pytest

from agentguard.audit import JsonLinesAudit
from agentguard.audit.file_set import verify_files
from agentguard.concurrency.owned_lock import OwnedLock, Owner, owner_here
from tests.doubles.interrupts import broken_by_interrupts

RECORD = {"event": "decision", "effect": "permit"}
PARTS = ("/agentguard/audit/", "/agentguard/concurrency/")


def append(log: JsonLinesAudit) -> None:
    log.append(RECORD)


def append_to_a_new_file(log: JsonLinesAudit) -> None:
    log.path.rename(log.path.with_name(f"{log.path.name}.old"))
    log.append(RECORD)


def require_free_for_others(log: JsonLinesAudit) -> None:
    """Require it though this process writes nothing more; `flock` takes another open file for a process."""
    for path in log.path.parent.glob(f"{log.path.name}*"):
        if path.suffix == ".jsonl" or path.suffix == ".old":
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                os.close(file)


def require_free_here(log: JsonLinesAudit) -> None:
    for _ in range(2):
        log.append(RECORD)
    other = JsonLinesAudit(log.path, timeout=0.3)
    other.append(RECORD)
    other.close()
    log.append(RECORD)
    files = log.path.parent.glob(f"{log.path.name}*")
    assert verify_files(files).sound


@pytest.mark.exhaustive
@pytest.mark.promise("interrupt-locks-nobody-out")
@pytest.mark.parametrize("operation", [append, append_to_a_new_file])
@pytest.mark.parametrize("check", [require_free_for_others, require_free_here])
def test_an_interrupt_at_any_line_of_an_append_locks_nobody_out(
    tmp_path: Path, operation: Callable[[JsonLinesAudit], None], check: Callable[[JsonLinesAudit], None]
) -> None:
    names = count()
    logs = list[JsonLinesAudit]()  # kept, as by a notebook

    def make() -> JsonLinesAudit:
        log = JsonLinesAudit(tmp_path / f"{next(names)}.jsonl", timeout=0.5)
        log.append(RECORD)
        logs.append(log)
        return log

    assert broken_by_interrupts(make, operation, check, PARTS) == []


# --- the lock


def test_the_lock_is_not_taken_from_an_owner_that_runs() -> None:
    lock, owner = OwnedLock(), owner_here()
    assert lock.acquire(owner, lambda: 0.0)
    answers = list[bool]()
    thread = Thread(target=lambda: answers.append(_get(lock, 0.2)))
    thread.start()
    thread.join()
    assert answers == [False]
    lock.release()
    assert _get(lock, 0.0)


@pytest.mark.promise("interrupt-locks-nobody-out")
def test_the_lock_is_taken_from_an_owner_that_runs_no_more() -> None:
    lock, kept = OwnedLock(), list[Owner]()

    def interrupted() -> None:
        kept.append(owner_here())
        assert lock.acquire(kept[0], lambda: 0.0)

    interrupted()
    assert _get(lock, 2.0)


def test_who_runs_within_the_block_of_its_own_thread_does_not_wait() -> None:
    lock, owner = OwnedLock(), owner_here()
    assert lock.acquire(owner, lambda: 0.0)
    began = time.monotonic()
    assert not _get(lock, 5.0)
    assert time.monotonic() - began < 1
    lock.release()


def test_of_many_threads_one_at_a_time_has_the_lock() -> None:
    lock, inside, most = OwnedLock(), list[int](), list[int]()

    def work() -> None:
        for _ in range(200):
            owner = owner_here()
            assert lock.acquire(owner, lambda: 5.0)
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            lock.release()

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 800
    assert set(most) == {1}


def _get(lock: OwnedLock, seconds: float) -> bool:
    owner, end = owner_here(), time.monotonic() + seconds
    if not lock.acquire(owner, lambda: end - time.monotonic()):
        return False
    lock.release()
    return True
