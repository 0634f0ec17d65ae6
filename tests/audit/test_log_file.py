"""The file of the audit log under a guard: it is locked, slow, renamed, or deleted."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool
from typer.testing import CliRunner

from agentguard import Decision, Effect, Guard, Resource, ToolPath
from agentguard.audit import Head, JsonLinesAudit, verify
from agentguard.catalog import Catalog
from agentguard.cli import main
from agentguard.concurrency.drive import operation_pair
from agentguard.concurrency.worker import Worker
from agentguard.errors import AuditError
from agentguard.identity import LocalIdentity
from agentguard.model import ToolSpec
from agentguard.stores import MemoryStore, SqliteStore
from agentguard.testing import RecordingBroker

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


def guard_on(audit: JsonLinesAudit, mode: str) -> Guard:
    return Guard(
        catalog=Catalog(
            [ToolSpec(name="look", path=ToolPath.READ)],
            [Resource(name="api", origins=("https://a.example",))],
        ),
        policy=Rules(),
        identity=LocalIdentity("agent://desk"),
        brokers={(None, path): RecordingBroker() for path in ToolPath},
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


def append_many(path: Path, gate: Any, number: int) -> None:
    audit = JsonLinesAudit(path)
    audit.append({"event": "ready"})
    gate.wait()
    for index in range(100):
        audit.append({"event": "x", "id": f"{number}-{index}"})
    audit.close()


@pytest.mark.promise("audit-log-rotated")
def test_no_record_is_lost_or_written_twice_while_several_processes_write_and_the_log_rotates(
    path: Path,
) -> None:
    context = multiprocessing.get_context("spawn")
    gate = context.Event()
    processes = [context.Process(target=append_many, args=(path, gate, number)) for number in range(3)]
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
