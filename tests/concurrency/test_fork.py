"""A child that was forked while threads were at work waits for no lock, thread or connection of theirs."""

from __future__ import annotations

import ast
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import get_ident
from typing import Any

import httpx
import pytest

import agentguard
from agentguard.audit.jsonl import JsonLinesAudit
from agentguard.catalog import Catalog
from agentguard.concurrency import drive as driving
from agentguard.concurrency.drive import lift
from agentguard.concurrency.fork import ForkGate, ProcessLock, around_fork
from agentguard.concurrency.owned_lock import OwnedLock
from agentguard.concurrency.places import Places
from agentguard.concurrency.running import Owner
from agentguard.concurrency.single_flight import SingleFlight
from agentguard.credentials.revoked import RevokedHandles
from agentguard.enforcement.fact_cache import FactCache
from agentguard.enforcement.outbox import Orphans
from agentguard.enforcement.outbox_thread import OutboxThread
from agentguard.errors import StoreError
from agentguard.model import FactSpec, FactType
from agentguard.model.credential import DeferredSecret
from agentguard.outbound.client import Outbound
from agentguard.stores._database import Loan
from agentguard.stores.sqlite import SqliteStore
from tests.conftest import Kit
from tests.doubles.flow import LOOKUP

FAR = 1e12
FORKS = 50
SECONDS = 20  # after which a child that hangs is ended


def drive(awaitable: Any) -> Any:
    return driving.drive(awaitable)


def child_says(question: Callable[[], object]) -> str:
    """Return the text of what a forked child answers; a child that hangs says nothing."""
    answer, tell = os.pipe()
    with warnings.catch_warnings():
        # from 3.12 on Python warns of each fork beside threads: which is what these tests are about
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        try:
            text = str(question())
        except BaseException as error:  # noqa: BLE001  the parent reads what it was
            text = f"{type(error).__name__}: {error}"
        os.write(tell, text.encode()[:4000])
        os._exit(0)
    os.close(tell)
    with os.fdopen(answer, "rb") as file:
        text = file.read().decode()
    os.waitpid(pid, 0)
    return text


@contextmanager
def inside(block: Any, seconds: float) -> Iterator[None]:
    """Have another thread be inside of *block*, and leave it *seconds* later, or at the end."""
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        # a transaction is ended by a block of its own connection
        second = (lambda connection: connection) if isinstance(block, Loan) else (lambda _: nullcontext())
        with block as resource, second(resource):
            entered.set()
            leave.wait(seconds)

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait(5)
    yield
    leave.set()
    thread.join()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "state.db", busy_timeout=1.0)
    yield store
    store.close()


@pytest.mark.promise("fork-works")
def test_a_fork_waits_for_a_write_and_the_child_writes_too(store: SqliteStore) -> None:
    with inside(store._db.transaction(), 0.3):
        assert child_says(lambda: store.remember("child", FAR)) == "True"
    assert store.known("child")
    assert store.remember("parent", FAR)


@pytest.mark.process
@pytest.mark.promise("fork-works")
def test_a_store_and_a_new_guard_work_in_each_of_many_children(store: SqliteStore, tmp_path: Path) -> None:
    over = threading.Event()

    def work(name: str) -> None:
        number = 0
        while not over.is_set():
            number += 1
            assert store.remember(f"{name}-{number}", FAR)

    def question() -> object:
        kit = Kit()
        guard = kit.another(
            store=SqliteStore(tmp_path / "state.db"), audit=JsonLinesAudit(tmp_path / "audit.jsonl")
        )

        @guard.tool(path="read", resource="orders")
        def look(item: str) -> str:
            """Look."""
            return "seen"

        with guard.task("Look", subject="user:alice", mandate={"tools": "*"}):
            result = look.invoke({"item": "x"})
        return result, store.remember(f"child-{os.getpid()}", FAR)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    try:
        answers = [child_says(question) for _ in range(FORKS)]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert answers == ["('seen', True)"] * FORKS


@pytest.mark.promise("fork-works")
def test_a_child_of_a_write_that_lasted_too_long_is_told_so(store: SqliteStore, tmp_path: Path) -> None:
    store._db.gate._seconds = 0.1

    def question() -> object:
        for use in (lambda: store.known("x"), lambda: SqliteStore(tmp_path / "state.db")):
            with pytest.raises(StoreError, match="forked while another thread") as refused:
                use()
            assert "spawn" in refused.value.hint
        return "refused"

    with inside(store._db.transaction(), 5):
        assert child_says(question) == "refused"
    assert store.remember("parent", FAR)
    assert child_says(lambda: store.known("parent")) == "True"


@pytest.mark.promise("fork-works")
def test_the_connections_of_a_parent_go_on_after_a_fork(store: SqliteStore) -> None:
    assert store.remember("one", FAR)
    child_says(lambda: store.remember("two", FAR))
    assert [store.known(key) for key in ("one", "two")] == [True, True]


def hanging_fetch(flight: SingleFlight) -> None:
    async def fetch() -> str:
        time.sleep(0.5)  # noqa: ASYNC251  it is driven by a thread
        return "of the parent"

    drive(flight.share.sync("key", fetch))


@pytest.mark.promise("fork-works")
def test_a_child_fetches_itself_what_a_thread_of_its_parent_was_fetching() -> None:
    flight = SingleFlight(timeout=5)
    thread = threading.Thread(target=hanging_fetch, args=(flight,))
    thread.start()
    while not flight._flights:
        time.sleep(0.01)
    began = time.monotonic()
    assert child_says(lambda: drive(flight.share.sync("key", lift(lambda: "its own")))) == "its own"
    assert time.monotonic() - began < 4
    thread.join()


def locked_things(tmp_path: Path) -> Iterator[tuple[object, Callable[[], object]]]:
    audit = JsonLinesAudit(tmp_path / "audit.jsonl")
    yield Taken(audit._appender()._lock), lambda: audit.append({"event": "x"})
    outbox = OutboxThread(_Empty())  # type: ignore[arg-type]  # it is only read
    yield outbox._lock, outbox.watch
    transport = httpx.MockTransport(lambda _request: httpx.Response(200))
    outbound = Outbound("service", "https://service.example", transport=transport)
    yield outbound._connections._lock, lambda: drive(outbound.ask.sync("GET", "/"))
    revoked = RevokedHandles()
    yield revoked._lock, lambda: revoked.add("h")
    catalog = Catalog()
    yield catalog._lock, lambda: catalog.add(LOOKUP)
    secret = DeferredSecret(lambda: "made")
    locks: dict[None, ProcessLock] = secret._DeferredSecret__locks  # type: ignore[attr-defined]  # its name is mangled
    yield locks.setdefault(None, ProcessLock()), secret.reveal
    flight = SingleFlight()
    yield flight._lock, lambda: drive(flight.share.sync("key", lift(lambda: "value")))


class Taken:
    """A block within which a lock is taken."""

    def __init__(self, lock: OwnedLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        assert self._lock.acquire((sys._getframe(1), get_ident()), lambda: 0.0)

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _Empty:
    async def collect(self, _known: object) -> Orphans:
        return Orphans([], 0)


@pytest.mark.promise("fork-works")
def test_no_lock_that_another_thread_holds_at_the_fork_is_taken_in_the_child(tmp_path: Path) -> None:
    for lock, use in locked_things(tmp_path):
        with inside(lock, 10):
            assert child_says(lambda use=use: (use(), "went on")[1]) == "went on", use  # type: ignore[misc]  # its default binds it


@pytest.mark.promise("fork-works")
def test_places_that_threads_of_the_parent_hold_are_free_in_the_child() -> None:
    places = Places(1)
    assert places.acquire(Owner(), 0)

    def question() -> bool:
        owner = Owner()
        place = places.acquire(owner, 0)
        places.release(owner)
        places.release(owner)
        return place

    assert child_says(question) == "True"
    assert not places.acquire(Owner(), 0)


@pytest.mark.promise("fork-works")
def test_a_thread_that_forks_inside_a_lock_leaves_it_in_both_processes() -> None:
    lock = ProcessLock()
    with lock:
        answer = child_says(lambda: lock.__exit__(None, None, None) or "left")  # type: ignore[func-returns-value]  # "left"
    assert answer == "left"
    with lock:
        pass


@pytest.mark.promise("fork-works")
def test_a_child_keeps_records_although_a_thread_of_its_parent_was_keeping_one() -> None:
    spec = FactSpec(name="order", keys={"refund": ("order_id",)}, type=FactType(str), lifetime=60.0)
    cache = FactCache(spec, lambda: 0.0)
    cache.keep(b"one", b"1", 0.0)

    def kept() -> object:
        cache.keep(b"two", b"2", 0.0)
        return cache.get(b"one"), cache.get(b"two")

    with inside(cache._lock, 5):
        assert child_says(kept) == "(b'1', b'2')"


@pytest.mark.promise("fork-works")
def test_a_child_sends_on_no_connection_of_its_parent() -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(200))
    outbound = Outbound("service", "https://service.example", transport=transport)
    drive(outbound.ask.sync("GET", "/"))
    client = outbound._connections.client()
    assert child_says(lambda: outbound._connections.client() is client) == "False"
    assert outbound._connections.client() is client
    assert not client.is_closed


@pytest.mark.promise("fork-works")
def test_a_child_holds_no_lock_of_the_log_of_a_parent_that_died(tmp_path: Path) -> None:
    audit = JsonLinesAudit(tmp_path / "audit.jsonl")
    audit.append({"event": "x"})
    file = audit._appender()._file
    assert file is not None

    def closed() -> bool:
        try:
            os.fstat(file.descriptor)
        except OSError:
            return True
        return False

    assert child_says(closed) == "True"
    audit.append({"event": "y"})


@pytest.mark.promise("fork-works")
def test_who_comes_while_a_fork_is_under_way_waits_for_it(store: SqliteStore) -> None:
    gate, user, hooks = ForkGate(5), Loan(store._db, writes=False), Hooks()
    entered, times = threading.Event(), dict[str, float]()

    def work() -> None:
        hooks.closed.wait(5)
        gate.enter(user)
        times["entered"] = time.monotonic()
        entered.set()

    hooks.before_end = lambda: time.sleep(0.1)
    hooks.after = lambda: times.setdefault("forked", time.monotonic())
    thread = threading.Thread(target=work)
    thread.start()
    assert child_says(lambda: "forked") == "forked"
    assert entered.wait(5)
    thread.join()
    assert times["entered"] >= times["forked"]
    gate.leave(user)


class Hooks:
    """What a test does within a fork, once the gates are closed, and before they are opened."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.before_end: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None
        around_fork(before=self._before, in_parent=self._in_parent)

    def _before(self) -> None:
        self.closed.set()
        self.before_end()

    def _in_parent(self) -> None:
        self.after()


PRIMITIVES = {
    "Lock",
    "RLock",
    "Condition",
    "Semaphore",
    "BoundedSemaphore",
    "Event",
    "Thread",
    "ThreadPoolExecutor",
}
REASONS = {
    "agentguard/audit/appending.py": "`JsonLinesAudit` in jsonl.py makes a child an appender of its own",
    "agentguard/concurrency/abandonable_tasks.py": "its semaphore belongs to an event loop, not to a process",
    "agentguard/concurrency/together.py": "its threads end with the one call that started them",
    "agentguard/credentials/sources/keychain.py": "each question has a thread of its own",
    "agentguard/guard/life.py": "its thread closes one guard, and a child closes its own",
    "agentguard/policies/_remote.py": "its semaphore belongs to an event loop, and a child has another loop",
    "agentguard/policies/function.py": "its threads hold nothing that a child waits for",
    "agentguard/redaction/objects.py": "it asks for their classes",
    "agentguard/stores/postgres/_pool.py": "its semaphore belongs to an event loop, not to a process",
    "agentguard/stores/server_upkeep.py": "its `Condition` is that of a store",
    "agentguard/stores/sqlite_upkeep.py": "the same",
}


@pytest.mark.promise("fork-works")
def test_each_room_that_makes_a_lock_or_a_thread_says_what_a_child_does() -> None:
    root = Path(agentguard.__file__).parent
    silent = list[str]()
    for file in sorted(root.rglob("*.py")):
        name = file.relative_to(root.parent).as_posix()
        if name.startswith(("agentguard/cli/", "agentguard/testing/")) or name in REASONS:
            continue
        text = file.read_text("utf-8")
        calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        names = {getattr(call, "id", getattr(call, "attr", "")) for call in calls}
        if names & PRIMITIVES and not ("in_child" in names or "getpid" in names or "around_fork" in names):
            silent.append(name)
    assert silent == []
