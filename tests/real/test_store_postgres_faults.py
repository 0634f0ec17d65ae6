"""The PostgreSQL store where the network, the server or its settings fail."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agentguard.concurrency.deadline import within
from agentguard.concurrency.drive import drive
from agentguard.errors import BudgetExhausted, ConfigurationError, StoreError
from agentguard.model import CHOICE_BITS, Budget, Outcome, Secret, TaskStatus
from agentguard.stores import _rules
from agentguard.stores.postgres import PostgresStore
from agentguard.stores.postgres._tables import VERSION
from agentguard.testing import sample_task
from agentguard.testing.scenarios import AwaitedPort
from agentguard.testing.scenes import call, live_credential
from tests.real.postgres_proxy import PostgresProxy
from tests.servers.server import free_port

SCHEMA = "faults"
Database = psycopg.Connection[psycopg.rows.TupleRow]
FAR = 4e9
"""A deadline that the real clock does not reach."""


@pytest.fixture(scope="module")
def superuser(postgres: str) -> Iterator[Database]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(b"DROP SCHEMA IF EXISTS faults CASCADE")
        PostgresStore(postgres, schema=SCHEMA, durability="lossy", timeout=30.0).check()
        yield connection
        connection.execute(b"DROP SCHEMA IF EXISTS faults CASCADE")


@pytest.fixture
def database(superuser: Database) -> Database:
    """Return a connection of the superuser, beside an empty store."""
    tables = ("tasks", "lineage", "labels", "calls", "credentials", "keys", "approvals")
    superuser.execute("; ".join(f"DELETE FROM {SCHEMA}.{table}" for table in tables).encode())  # noqa: S608  names of our own
    return superuser


@pytest.fixture
def empty(postgres: str, database: Database) -> Iterator[Database]:
    """Return a connection of the superuser to a database without a store."""
    database.execute(b"DROP SCHEMA faults CASCADE")
    yield database
    database.execute(b"DROP SCHEMA IF EXISTS faults CASCADE")
    PostgresStore(postgres, schema=SCHEMA, durability="lossy", timeout=30.0).check()


def through(url: str, proxy: PostgresProxy) -> str:
    changes: dict[str, Any] = {"host": "127.0.0.1", "port": proxy.port, "sslmode": "disable"}
    return make_conninfo("", **(conninfo_to_dict(url) | changes))


@pytest.fixture
def proxy(postgres: str) -> Iterator[PostgresProxy]:
    with PostgresProxy(int(conninfo_to_dict(postgres)["port"] or 0)) as proxy:
        yield proxy


@pytest.fixture
def make(postgres: str, proxy: PostgresProxy, database: Database) -> Iterator[Callable[..., PostgresStore]]:
    stores: list[PostgresStore] = []

    def make(url: str = through(postgres, proxy), **settings: Any) -> PostgresStore:
        store = PostgresStore(url, schema=SCHEMA, **({"durability": "lossy"} | settings))
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


class Path:
    """One of the two paths: how its scenario is run, and the store as it is called there."""

    def __init__(self, name: str) -> None:
        self.asynchronous = name == "async"
        self.run: Callable[..., Any] = asyncio.run if self.asynchronous else drive

    def of(self, store: PostgresStore) -> AwaitedPort:
        return AwaitedPort(store, asynchronous=self.asynchronous)


@pytest.fixture(params=["sync", "async"])
def path(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


async def failure(attempt: Any, kind: type[Exception] = StoreError) -> str:
    with pytest.raises(kind) as error:
        await attempt
    return f"{error.value} {getattr(error.value, 'hint', '')}"


def test_a_call_is_one_round_trip_when_it_begins_and_one_when_it_ends(
    make: Callable[..., PostgresStore], proxy: PostgresProxy, path: Path
) -> None:
    async def scenario() -> list[int]:
        store = path.of(make())
        await store.create_task(sample_task("child", deadline=FAR))
        for name in ("0", "1"):
            await store.begin_call(call(name), live_credential(name))
            await store.end_call(name, Outcome.DONE, revoked=True, remember=(name, FAR))
        counts = list[int]()
        for name in ("2", "3"):
            before = proxy.round_trips
            await store.begin_call(call(name), live_credential(name))
            between = proxy.round_trips
            await store.end_call(name, Outcome.DONE, revoked=True, remember=(name, FAR))
            counts += [between - before, proxy.round_trips - between]
        return counts

    assert path.run(scenario()) == [1, 1, 1, 1]


@pytest.mark.promise("lost-answer-not-guessed")
@pytest.mark.parametrize("loss", ["answer", "end of the answer"])
def test_a_call_whose_begin_was_not_answered_has_not_begun_for_its_caller_and_is_not_begun_twice(
    make: Callable[..., PostgresStore], proxy: PostgresProxy, path: Path, loss: Any
) -> None:
    async def scenario() -> None:
        store = path.of(make())
        await store.create_task(sample_task("child", deadline=FAR))
        await store.task("child")
        await store.begin_call(call("0"), live_credential("0"))  # prepared by now
        await store.forget("0")
        proxy.lose(loss)
        assert "may have been done or not" in await failure(store.begin_call(call("1"), live_credential("1")))
        assert (await store.task("child")).calls == 2, "the server has done it, and once"
        assert [live.call_id for live in await store.live()] == ["1"], "so the outbox knows of it"

    path.run(scenario())


@pytest.mark.promise("lost-answer-not-guessed")
@pytest.mark.parametrize("loss", ["answer", "end of the answer"])
def test_what_can_be_repeated_is_repeated_when_its_answer_was_lost(
    make: Callable[..., PostgresStore], proxy: PostgresProxy, path: Path, loss: Any
) -> None:
    async def scenario() -> None:
        store = path.of(make())
        await store.create_task(sample_task("child", deadline=FAR))
        for name in ("0", "1"):
            await store.begin_call(call(name), live_credential(name))
        await store.end_call("0", Outcome.DONE, revoked=True)
        await store.task("child")
        proxy.lose(loss)
        await store.end_call("1", Outcome.DONE, revoked=True, remember=("jti", FAR))
        assert await store.live() == ()
        assert await store.known("jti")
        proxy.lose(loss)
        assert (await store.task("child")).calls == 2

    path.run(scenario())


@pytest.mark.promise("lost-answer-not-guessed")
def test_an_end_whose_answer_was_lost_is_not_told_as_an_end_of_nothing(
    make: Callable[..., PostgresStore], proxy: PostgresProxy, path: Path
) -> None:
    async def scenario() -> None:
        store = path.of(make())
        for name in ("other", "child"):
            await store.create_task(sample_task(name, deadline=FAR))
        await store.end_task("other", TaskStatus.COMPLETED)
        assert await store.remember("key", FAR)
        proxy.lose("answer")
        await failure(store.end_task("child", TaskStatus.REVOKED))
        assert (await store.task("child")).status is TaskStatus.REVOKED
        assert not await store.remember("key", FAR)
        proxy.lose("answer")  # nobody knows whether it was new
        await failure(store.remember("other key", FAR))

    path.run(scenario())


def test_connections_that_were_cut_while_idle_are_not_used(
    make: Callable[..., PostgresStore], proxy: PostgresProxy, path: Path
) -> None:
    async def scenario() -> None:
        store = path.of(make())
        await store.create_task(sample_task("child", deadline=FAR))
        proxy.cut()
        time.sleep(0.05)  # noqa: ASYNC251  the end of the connection arrives meanwhile
        await store.begin_call(call("1"), None)
        assert (await store.task("child")).calls == 1

    path.run(scenario())


def test_a_server_that_hangs_holds_nobody_for_longer_than_the_timeout(
    make: Callable[..., PostgresStore], proxy: PostgresProxy, path: Path
) -> None:
    async def scenario() -> None:
        await path.of(make()).create_task(sample_task("child", deadline=FAR))
        store = path.of(make(timeout=0.5))
        await store.begin_call(call("0"), None)
        with proxy.standstill():
            began = time.monotonic()
            assert "no answer in time" in await failure(store.begin_call(call("1"), None))
            assert time.monotonic() - began < 1.5
        assert await store.task("child") is not None

    path.run(scenario())


@pytest.mark.promise("store-password-stays-secret")
def test_a_server_that_is_down_is_told_with_its_cause(path: Path) -> None:
    port = free_port()
    store = PostgresStore(f"postgresql://agentguard:hunter2@127.0.0.1:{port}/postgres", timeout=1.0)

    async def scenario() -> str:
        return await failure(path.of(store).task("x"))

    text = path.run(scenario())
    assert f"127.0.0.1:{port}" in text
    assert "efused" in text
    assert "start the server" in text
    assert "hunter2" not in text
    store.close()


@pytest.mark.promise("store-password-stays-secret")
def test_a_wrong_password_is_told_without_it_and_a_new_one_is_read(
    make: Callable[..., PostgresStore], postgres: str, database: Database, path: Path
) -> None:
    class Source:
        inline = True
        reads = ("wrong-hunter2", "wrong-hunter2", str(conninfo_to_dict(postgres)["password"] or "x"))

        def __init__(self) -> None:
            self.count = 0

        def read(self) -> Secret:
            self.count += 1
            return Secret(self.reads[min(self.count - 1, 2)])

    if "password" not in conninfo_to_dict(postgres):
        pytest.skip("this server asks for no password")
    parts = conninfo_to_dict(postgres)
    parts.pop("password")
    source = Source()
    store = make(make_conninfo("", **parts), password=source)

    async def scenario() -> None:
        text = await failure(path.of(store).task("x"))
        assert "password authentication failed" in text
        assert "correct the password" in text
        assert "hunter2" not in text
        assert await path.of(store).task("x") is None

    path.run(scenario())
    assert source.count == 3


def test_a_pool_has_an_end_and_says_so(make: Callable[..., PostgresStore], database: Database) -> None:
    make().create_task(sample_task("child", deadline=FAR))
    store = make(pool_size=1, timeout=1.0)
    assert store.task("child") is not None
    with database.transaction(), ThreadPoolExecutor(1) as threads:
        database.execute(b"LOCK TABLE faults.tasks")
        first = threads.submit(store.task, "child")
        time.sleep(0.3)
        with within(0.3), pytest.raises(StoreError, match="all 1 connections to the store are in use"):
            store.task("child")
        with pytest.raises(StoreError, match=r"statement timeout|no answer in time"):
            first.result()
    assert store.task("child") is not None


def test_loops_that_come_and_go_have_connections_of_their_own_and_leave_none(
    make: Callable[..., PostgresStore], database: Database
) -> None:
    store = make()

    async def scenario(number: int) -> None:
        await asyncio.gather(*(store.aremember(f"{number}-{key}", FAR) for key in range(4)))

    for number in range(5):
        asyncio.run(scenario(number))
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda number: asyncio.run(scenario(number)), range(10, 13)))
    assert all(store.known(f"{number}-0") for number in (0, 4, 10, 12))
    store.close()
    time.sleep(0.2)
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'agentguard'"
    assert database.execute(query).fetchone() == (0,)


def _in_child(store: PostgresStore, results: Any) -> None:
    async def both() -> None:
        answers = store.remember("child", FAR), await store.aremember("child's loop", FAR)
        at_end = store._operations._finalizer.peek()  # what is closed when nobody closes the store
        results.put((*answers, at_end is not None and at_end[2][0] is store._operations._pools))

    asyncio.run(both())
    store._operations._finalizer()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_uses_nothing_of_its_parents_pools(
    make: Callable[..., PostgresStore], proxy: PostgresProxy
) -> None:
    store = make()

    async def in_parent() -> int:
        await store.aremember("loop", FAR)
        store.remember("parent", FAR)
        opened = proxy.opened
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        child = context.Process(target=_in_child, args=(store, results))
        child.start()
        await asyncio.to_thread(child.join)
        assert child.exitcode == 0
        assert results.get() == (True, True, True)
        assert proxy.opened == opened + 2
        assert not await store.aremember("child", FAR)
        assert not store.remember("child's loop", FAR)
        return proxy.opened - opened

    assert asyncio.run(in_parent()) == 2, "the parent's own connections still serve it"


@pytest.mark.promise("postgres-keeps-revocations")
def test_a_server_that_may_lose_what_it_has_acknowledged_is_refused(
    make: Callable[..., PostgresStore], database: Database, path: Path
) -> None:
    if database.execute("SHOW fsync").fetchone() != ("off",):
        pytest.skip("this server keeps its promises")

    async def scenario() -> None:
        text = await failure(path.of(make(durability="checked")).task("x"), ConfigurationError)
        assert "fsync = off" in text

    path.run(scenario())


@pytest.mark.promise("postgres-keeps-revocations")
def test_a_session_waits_for_the_disk_although_its_role_would_not(
    make: Callable[..., PostgresStore], database: Database, path: Path
) -> None:
    database.execute("ALTER DATABASE postgres SET synchronous_commit = off")
    try:
        connector = make()._connector
        for _ in range(2):
            with connector.open(time.monotonic() + 5.0) as connection:
                row = connection.execute("SHOW synchronous_commit").fetchone()
            assert row == ("on",)
    finally:
        database.execute("ALTER DATABASE postgres RESET synchronous_commit")


def test_a_role_with_the_grants_of_the_docs_can_use_the_store_and_no_more(
    make: Callable[..., PostgresStore], postgres: str, empty: Database
) -> None:
    database = empty
    from agentguard.stores import postgres as package

    grants = [line.strip() for line in (package.__doc__ or "").splitlines() if " TO guard" in line]
    assert len(grants) == 3
    database.execute("DROP ROLE IF EXISTS guard")
    database.execute("CREATE ROLE guard LOGIN PASSWORD 'guard'")
    url = make_conninfo(postgres, user="guard", password="guard")
    with pytest.raises(ConfigurationError, match="may not make the store"):
        make(url).check()
    assert make(postgres).migrate() is None
    with pytest.raises(StoreError) as error:
        make(url).check()
    assert "grant the role" in error.value.hint
    try:
        for grant in grants:
            database.execute(grant.replace("agentguard", SCHEMA).encode())
        store = make(url)
        store.create_task(sample_task("child", deadline=FAR))
        store.begin_call(call("1"), live_credential("1"))
        store.end_call("1", Outcome.DONE, revoked=True, remember=("k", FAR))
        store._operations.run(store._statements.prune)
        with pytest.raises(ConfigurationError, match="may not make the store"):
            PostgresStore(url, schema="another", durability="lossy").check()
    finally:
        database.execute("DROP OWNED BY guard; DROP ROLE guard")


def test_another_version_is_refused_and_a_store_is_migrated_by_its_owner(
    make: Callable[..., PostgresStore], empty: Database, path: Path
) -> None:
    make().check()
    assert make().migrate() == VERSION

    async def texts() -> list[str]:
        return [await failure(path.of(make()).task("x"), ConfigurationError)]

    for version, hint in ((99, "upgrade agentguard"), (0, "agentguard store migrate")):
        empty.execute("UPDATE faults.version SET number = %s", (version,))
        assert hint in path.run(texts())[0]


VERSION_1 = """
DROP FUNCTION faults.create_task;
DROP FUNCTION faults.begin_call;
DROP FUNCTION faults.changed_basis;
DROP TABLE faults.counters;
ALTER TABLE faults.calls DROP COLUMN counted;
ALTER TABLE faults.tasks DROP COLUMN choice_bits, DROP COLUMN max_choice_bits;
CREATE FUNCTION faults.create_task(
    text, text[], text, text, text[], double precision, numeric, numeric, numeric, text, bigint, bigint,
    text[], boolean, integer, bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION faults.begin_call(
    text, text, text, text, text, boolean, text, double precision, text[], double precision)
    RETURNS json LANGUAGE sql AS 'SELECT NULL::json';
UPDATE faults.tasks SET fixed = replace(fixed, '"budget": [null, null, null, null]', '"budget": [9, 2, 3]');
UPDATE faults.version SET number = 1"""


@pytest.mark.promise("small-pieces-are-charged")
def test_a_store_of_version_1_counts_what_calls_say_after_its_migration(
    make: Callable[..., PostgresStore], empty: Database
) -> None:
    before = make()
    before.create_task(sample_task("child", deadline=FAR))
    columns = b"SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'faults'"
    newest = sorted(empty.execute(columns).fetchall())
    empty.execute(VERSION_1.encode())
    with pytest.raises(ConfigurationError, match="the store has version 1"):
        make().check()
    assert make().migrate() == 1
    assert sorted(empty.execute(columns).fetchall()) == newest
    names = empty.execute(
        b"SELECT proname FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace"
        b" WHERE nspname = 'faults' ORDER BY 1"
    ).fetchall()
    assert len(names) == len(set(names)), "no function of the version before is left"
    store = make()
    state = store.task("child")
    assert state is not None
    assert state.budget == Budget(calls=9, writes=2, questions=3, choice_bits=CHOICE_BITS)
    store.begin_call(call("1", choice_bits=CHOICE_BITS), None)
    with pytest.raises(BudgetExhausted, match="1024 of its 1024 choice bits"):
        store.begin_call(call("2", choice_bits=1), None)


def test_processes_that_meet_an_empty_database_make_one_store(
    make: Callable[..., PostgresStore], empty: Database
) -> None:
    stores = [make(timeout=20.0) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda store: store.check(), stores))
    assert [store.migrate() for store in stores] == [VERSION] * 4
    assert empty.execute(b"TABLE faults.version").fetchall() == [(VERSION,)]


@pytest.mark.parametrize(("failures", "answer"), [(2, "begun"), (1000, "StoreError")])
def test_what_the_server_has_rolled_back_is_run_again_a_few_times(
    make: Callable[..., PostgresStore], database: Database, path: Path, failures: int, answer: str
) -> None:
    database.execute(b"CREATE SEQUENCE faults.attempts")
    database.execute(
        f"""
        CREATE FUNCTION faults.fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('faults.attempts') <= {failures:d} THEN
                RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER fail BEFORE INSERT ON faults.calls FOR EACH ROW EXECUTE FUNCTION faults.fail()
        """.encode()
    )

    async def scenario() -> int:
        store = path.of(make(timeout=5.0))
        await store.create_task(sample_task("child", deadline=FAR))
        if answer == "begun":
            await store.begin_call(call("1"), None)
        else:
            assert "could not serialize" in await failure(store.begin_call(call("1"), None))
        count: int = (await store.task("child")).calls
        return count

    try:
        began = time.monotonic()
        assert path.run(scenario()) == (answer == "begun")
        assert time.monotonic() - began < 5.0
        row = database.execute(b"SELECT last_value FROM faults.attempts").fetchone()
        assert row is not None
        assert row[0] <= 6
    finally:
        database.execute(b"DROP FUNCTION faults.fail CASCADE; DROP SEQUENCE faults.attempts")


async def test_a_cancelled_operation_gives_its_place_back_and_its_answer_is_no_one_elses(
    make: Callable[..., PostgresStore], proxy: PostgresProxy
) -> None:
    store = make(pool_size=1)
    await store.acreate_task(sample_task("child", deadline=FAR))
    for _ in range(3):
        with proxy.standstill():
            waiting = asyncio.create_task(store.atask("child"))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert not await store.aknown("nobody has remembered this")
    store.close()


def test_a_pruning_that_fails_is_logged_and_denies_no_call(
    make: Callable[..., PostgresStore], path: Path, caplog: pytest.LogCaptureFixture, database: Database
) -> None:
    store = make()
    store._writes = _rules.PRUNE_EVERY - 1
    database.execute(b"ALTER TABLE faults.approvals RENAME TO hidden")
    try:

        async def scenario() -> bool:
            answer: bool = await path.of(store).remember("key", FAR)
            return answer

        assert path.run(scenario())
    finally:
        database.execute(b"ALTER TABLE faults.hidden RENAME TO approvals")
    assert "the store was not pruned" in caplog.text


def interrupted_at(line: int, store: PostgresStore) -> bool:
    """Remember a key, and raise KeyboardInterrupt at the n-th line that this runs in the store's rooms."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        # what is interrupted within a finalizer is lost, as CPython only prints it
        callers = (frame, frame.f_back)
        if any(caller and caller.f_code.co_name == "__del__" for caller in callers):
            return None
        if "/agentguard/stores/postgres/" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        if event == "line" and count == line:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        store.remember(f"key {line}", FAR)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def test_an_interrupt_at_any_line_of_a_write_takes_no_connection_away(
    make: Callable[..., PostgresStore], database: Database
) -> None:
    store = make(pool_size=1, timeout=5.0)
    store.check()

    def interrupt_many_lines() -> int:
        line = 1
        while interrupted_at(line, store):
            gc.collect()
            assert store.remember(f"after {line}", FAR)
            line += 2  # each takes a new connection
        return line

    # in a thread of its own: CPython's tracing leaves the thread with an exception that counts as handled
    with ThreadPoolExecutor(1) as threads, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a connection that the interrupt has let fall
        assert threads.submit(interrupt_many_lines).result() > 40
