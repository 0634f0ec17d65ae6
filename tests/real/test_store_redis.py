"""A real Redis and a real Valkey hold the store: the contract, and what a network adds to it."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from langchain.agents import create_agent
from langchain_core.tools import tool
from redis import Redis as Client

import agentguard
from agentguard.concurrency.drive import drive
from agentguard.errors import BudgetExhausted, ConfigurationError, StoreError
from agentguard.model import Budget, Label, Login, Outcome, ReadEffects, TaskStatus, ToolPath
from agentguard.stores import MemoryStore, Retention, _rules
from agentguard.stores.redis import RedisStore, requests
from agentguard.testing import ConditionalStoreContract, sample_task
from agentguard.testing.scenarios import AwaitedPort
from agentguard.testing.scenes import call, live_credential, pending_approval
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call, tool_messages
from tests.real.conftest import needed
from tests.real.store_steps import Step, Watch, answers, require_ended_by_another_host, steps
from tests.stores.counter_reference import Step as CounterStep
from tests.stores.counter_reference import compare
from tests.stores.counter_reference import steps as counter_steps
from tests.tiers import examples

FAR = 1e12
PREFIXES = (f"test-{number}" for number in count())


class OnServer(ConditionalStoreContract):
    """The contract on the server whose URL stands in *variable*; each store has keys of its own."""

    variable: str

    def make(self, clock: Callable[[], float]) -> RedisStore:
        return RedisStore(self.url, prefix=next(PREFIXES), clock=clock)

    @pytest.fixture(autouse=True)
    def _server(self) -> None:
        self.url = needed(self.variable)


class TestRedis(OnServer):
    variable = "AGENTGUARD_TEST_REDIS"


class TestValkey(OnServer):
    variable = "AGENTGUARD_TEST_VALKEY"


@pytest.fixture(scope="module", params=["AGENTGUARD_TEST_REDIS", "AGENTGUARD_TEST_VALKEY"])
def url(request: pytest.FixtureRequest) -> str:
    return needed(request.param)


@pytest.fixture
def few_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_rules, requests):
        monkeypatch.setattr(module, "LABELS", 3)
        monkeypatch.setattr(module, "TRUSTED_LABELS", 2)


@pytest.mark.usefixtures("few_labels")
@settings(
    max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sequence=steps)
def test_each_operation_has_the_answer_and_the_error_that_the_store_in_memory_gives(
    url: str, mode: Mode, sequence: list[Step]
) -> None:
    def run(make: Callable[[Watch], Any]) -> list[Any]:
        watch = Watch()
        store = make(watch)
        port = AwaitedPort(store, asynchronous=mode.asynchronous)
        results: list[Any] = (asyncio.run if mode.asynchronous else drive)(answers(port, watch, sequence))
        getattr(store, "close", lambda: None)()
        return results

    expected = run(MemoryStore)
    assert run(lambda watch: RedisStore(url, prefix=next(PREFIXES), clock=watch)) == expected


@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sequence=counter_steps)
@pytest.mark.promise("done-is-counted")
def test_the_numbers_of_calls_are_those_of_the_reference(
    url: str, mode: Mode, sequence: list[CounterStep]
) -> None:
    store = RedisStore(url, prefix=next(PREFIXES), clock=lambda: 1000.0)
    port = AwaitedPort(store, asynchronous=mode.asynchronous)
    (asyncio.run if mode.asynchronous else drive)(compare(port, sequence))
    store.close()


def test_a_store_of_schema_1_is_refused_until_it_is_migrated(url: str, client: Client) -> None:
    prefix = next(PREFIXES)
    store = RedisStore(url, prefix=prefix)
    assert store.migrate() is None
    store.create_task(sample_task("child", deadline=1e12))
    client.hset(f"{{{prefix}}}:store", "schema", "1")
    older = RedisStore(url, prefix=prefix)
    with pytest.raises(ConfigurationError, match="agentguard store migrate"):
        older.task("child")
    assert (older.migrate(), older.migrate()) == (1, 2)
    task = older.task("child")
    assert task is not None
    assert task.counted == {}
    client.hset(f"{{{prefix}}}:store", "schema", "3")
    with pytest.raises(ConfigurationError, match="upgrade agentguard"):
        RedisStore(url, prefix=prefix).migrate()
    for one in (store, older):
        one.close()


# --- one script, one round trip, whatever else the store holds


@pytest.fixture
def store(url: str) -> Iterator[RedisStore]:
    store = RedisStore(url, prefix=next(PREFIXES))
    yield store
    store.close()


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """Return an operator's connection to the server."""
    with Client.from_url(url) as client:
        yield client


def prefix_of(store: RedisStore) -> str:
    return store._session._key.decode().removesuffix("store")


def sent(client: Client) -> dict[str, int]:
    """Return how often clients and scripts have sent each command since the counts were reset."""
    names = {name: facts["calls"] for name, facts in client.info("commandstats").items()}
    return {name.removeprefix("cmdstat_"): calls for name, calls in names.items() if "info" not in name}


@pytest.mark.promise("call-independent-of-others")
def test_a_call_costs_two_scripts_and_the_same_commands_however_much_other_tasks_hold(
    store: RedisStore, client: Client, mode: Mode
) -> None:
    port = AwaitedPort(store, asynchronous=mode.asynchronous)

    async def one_call(name: str) -> dict[str, int]:
        client.config_resetstat()
        await port.begin_call(call(name, path=ToolPath.WRITE), live_credential(name))
        await port.end_call(name, Outcome.DONE, revoked=True, remember=(name, FAR))
        return sent(client)

    async def use() -> None:
        await port.create_task(sample_task("child", deadline=FAR))
        await one_call("first")
        alone = await one_call("alone")
        assert alone["evalsha"] == 2
        assert alone.get("eval", 0) == 0
        for number in range(300):
            other = f"other-{number}"
            await port.create_task(sample_task(other, deadline=FAR))
            await port.begin_call(call(other, task=other), live_credential(other, task=other))
            await port.remember(other, FAR)
        assert await one_call("crowded") == alone
        assert sum(alone.values()) < 40

    asyncio.run(use())


def test_counts_stay_exact_beyond_the_numbers_of_lua(store: RedisStore) -> None:
    budget = Budget(calls=2**53 + 1, writes=10**30)
    store.create_task(sample_task("child", deadline=FAR, budget=budget, calls=2**53, writes=2**53 + 2))
    store.begin_call(call("1", path=ToolPath.WRITE), None)
    with pytest.raises(BudgetExhausted, match="has used its 9007199254740993 calls"):
        store.begin_call(call("2"), None)
    state = store.task("child")
    assert state is not None
    assert (state.calls, state.writes, state.budget) == (2**53 + 1, 2**53 + 3, budget)
    with pytest.raises(ValueError, match="count"):
        store.create_task(sample_task("other", calls=2**62))
    until = 2**53 + 1.5
    assert store.remember("k", until)
    assert not store.remember("k", 1.0)


@pytest.mark.promise("parallel-budget")
def test_of_calls_of_many_threads_and_processes_as_many_begin_as_the_budget_says(
    store: RedisStore, url: str
) -> None:
    store.create_task(sample_task("child", deadline=FAR, budget=Budget(calls=50)))
    prefix = prefix_of(store).strip("{}:")
    context = multiprocessing.get_context("fork")
    with context.Pool(3, _open_store, (url, prefix)) as pool:
        begun = pool.map(_begin_many, [f"p{number}" for number in range(3)])
    assert sum(begun) == 50
    state = store.task("child")
    assert state is not None
    assert state.calls == 50


_of_child: list[RedisStore] = []


def _open_store(url: str, prefix: str) -> None:
    _of_child.append(RedisStore(url, prefix=prefix))


def _begin_many(name: str) -> int:
    def begin(number: int) -> bool:
        try:
            _of_child[0].begin_call(call(f"{name}-{number}"), None)
        except BudgetExhausted:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        return sum(threads.map(begin, range(40)))


# --- processes and event loops


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_uses_no_connection_of_its_parent(store: RedisStore, client: Client) -> None:
    store.create_task(sample_task("child", deadline=FAR))
    before = {one["id"] for one in client.client_list()}
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            for number in range(20):
                store.begin_call(call(f"c{number}"), None)
            os.write(write, b"done")
        finally:
            os._exit(0)
    os.close(write)
    for number in range(20):
        store.begin_call(call(f"p{number}"), None)
    assert os.read(read, 4) == b"done"
    os.close(read)
    os.waitpid(pid, 0)
    state = store.task("child")
    assert state is not None
    assert state.calls == 40
    assert before <= {one["id"] for one in client.client_list()}, "the parent's connections are open"


def test_each_event_loop_has_connections_of_its_own_and_leaves_none_open(
    store: RedisStore, client: Client
) -> None:
    async def begin(name: str) -> None:
        await asyncio.gather(*(store.abegin_call(call(f"{name}-{number}"), None) for number in range(20)))

    store.create_task(sample_task("child", deadline=FAR))
    before = len(client.client_list())
    asyncio.run(begin("one"))
    asyncio.run(begin("two"))
    threads = [threading.Thread(target=asyncio.run, args=(begin(f"thread-{n}"),)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = store.task("child")
    assert state is not None
    assert state.calls == 100
    ends = time.monotonic() + 5
    while len(client.client_list()) > before and time.monotonic() < ends:
        time.sleep(0.02)
    assert len(client.client_list()) == before


def test_no_event_loop_is_kept_and_a_store_that_is_closed_says_so(store: RedisStore, client: Client) -> None:
    loops = weakref.WeakSet[asyncio.AbstractEventLoop]()

    async def ask() -> None:
        loops.add(asyncio.get_running_loop())
        # more at once than there are connections
        await asyncio.gather(*(store.aknown(f"{number}") for number in range(30)))

    for _ in range(5):
        asyncio.run(ask())
    gc.collect()
    assert len(loops) == 0
    before = len(client.client_list())

    async def close() -> None:
        await store.aknown("x")
        await store.aclose()
        assert len(client.client_list()) == before
        with pytest.raises(StoreError, match="closed"):
            await store.aknown("x")

    asyncio.run(close())
    with pytest.raises(StoreError, match="closed"):
        store.known("x")


async def test_a_cancelled_operation_spoils_no_connection(store: RedisStore) -> None:
    await store.acreate_task(sample_task("child", deadline=FAR))
    for number in range(50):
        attempt = asyncio.ensure_future(store.abegin_call(call(f"{number}"), None))
        await asyncio.sleep(0.0001 * (number % 10))
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        state, other = await asyncio.gather(store.atask("child"), store.atask("unknown"))
        assert state is not None
        assert other is None


# --- what disappears, and when


def expiries(client: Client, prefix: str) -> dict[str, float]:
    """Return for each key of a store after how many seconds it is gone; -0.001 is never."""
    keys = [key.decode() for key in client.scan_iter(f"{prefix}*")]
    return {key.removeprefix(prefix): client.pttl(key) / 1000 for key in keys}


@pytest.mark.promise("revoked-stays-revoked")
def test_each_key_disappears_later_than_it_matters(url: str, client: Client) -> None:
    now, keep = time.time(), 7 * 86_400.0
    store = RedisStore(url, prefix=next(PREFIXES), retention=Retention(keep))
    login = Login(issuer="https://idp.example", subject="4711", session="s", jti="t")
    store.create_task(sample_task("root", deadline=now + 1000, login=login))
    store.create_task(sample_task("child", deadline=now + 500, lineage=("root",)))
    store.begin_call(call("1"), live_credential("1"))
    store.track(replace(live_credential("1"), handle="late", expires_at=now + 2000))
    store.begin_call(call("2", task="root"), None)
    label = Label("d", "get", trusted=False)
    store.end_call("2", Outcome.SUSPENDED, effects=ReadEffects(labels=(label,)))
    for name in ("no", "yes"):
        question = replace(pending_approval(name, call_key=name), expires_at=now + 300, shown_digest=name)
        store.save_approval(question)
        store.answer_approval(question.answered(approved=name == "yes", approver="user:eve"))
    store.remember("jti", now + 5000)

    def near(name: str, seconds: float) -> None:
        assert expiries(client, prefix)[name] == pytest.approx(seconds, abs=20)

    prefix = prefix_of(store)
    found = expiries(client, prefix)
    assert [name for name, seconds in found.items() if seconds < keep] == [
        name for name in found if name in ("store", "key:jti", "live")
    ]
    near("key:jti", 5000 + _rules.KEEP_KEYS)
    near("task:root", 1000 + keep)
    near("task:child", 2000 + keep)  # as long as what it owes
    near("credentials:1", 2000 + keep)
    near("descendants:root", 2000 + keep)
    near("labels:root", 1000 + keep)
    near("active:session:19:https://idp.example:s", 1000 + keep)
    near("approval:yes", 300 + keep)
    near("approval:no", 1000 + keep)  # as long as the oldest task of its family
    assert store.end_task("root", TaskStatus.COMPLETED) == ("root", "child")
    near("task:root", keep)
    near("task:child", 2000 + keep)
    assert [name for name in expiries(client, prefix) if name.startswith("active:")] == []
    store.forget("1")
    assert not [name for name in expiries(client, prefix) if name.startswith(("credentials", "owes", "live"))]
    store.close()


@pytest.mark.promise("logout-ends-tasks")
def test_a_host_whose_clock_is_ahead_ends_what_still_runs_on_another_host(url: str) -> None:
    now = time.time()
    prefix = next(PREFIXES)
    store, ahead = RedisStore(url, prefix=prefix), RedisStore(url, prefix=prefix, clock=lambda: now + 1e6)
    require_ended_by_another_host(store, ahead, now)
    store.close()
    ahead.close()


def test_the_lists_of_a_subject_and_of_a_family_lose_what_is_long_over(url: str, client: Client) -> None:
    watch = Watch()
    store = RedisStore(url, prefix=next(PREFIXES), clock=watch)
    store.create_task(sample_task("root", deadline=FAR))
    for number in range(20):
        store.create_task(sample_task(f"{number}", deadline=watch.now + 10, lineage=("root",)))
        store.track(replace(live_credential(f"{number}", task=f"{number}"), expires_at=watch.now + 10))
        watch.now += 86_400.0
    prefix = prefix_of(store)
    subject = sample_task().identity.subject
    sizes = [
        client.zcard(f"{prefix}{name}") for name in ("descendants:root", f"active:subject:{subject}", "live")
    ]
    assert max(sizes) < 5
    store.close()


# --- a guard


async def test_each_call_of_an_agent_costs_two_scripts_though_its_task_reads_and_gets_labels(
    url: str, client: Client, mode: Mode
) -> None:
    kit = Kit()
    store = RedisStore(url, prefix=next(PREFIXES))
    guard = kit.another(store=store)

    @tool
    def find(customer: str) -> str:
        """Return what a customer has ordered."""
        return f"order-of-{customer} written by anybody"

    @tool
    def look(order: str) -> str:
        """Look at an order."""
        return order

    tools = [classified(find, path="read", untrusted=True, sensitivity="internal"), classified(look)]
    steps = [
        tool_call(name, f"{name}{number}", **{argument: f"{value}{number}"})
        for number in range(4)
        for name, argument, value in (("find", "customer", "c"), ("look", "order", "order-of-c"))
    ]
    agent = create_agent(scripted(*steps), tools, middleware=[guard.middleware()])
    with guard.task("support", subject="alice", mandate={"tools": "*"}) as task:
        client.config_resetstat()
        result = await mode.invoke(agent, GO)
        counts = sent(client)
        state = store.task(task.id)
    assert [message.status for message in tool_messages(result)] == ["success"] * 8
    assert state is not None
    assert (state.calls, state.untrusted, state.labels > 7) == (8, True, True)
    assert counts["evalsha"] == 16, counts
    store.close()


@pytest.mark.promise("store-failure-denies")
async def test_a_guard_keeps_its_state_there(url: str, client: Client, mode: Mode) -> None:
    kit = Kit()
    store = RedisStore(url, prefix=next(PREFIXES))
    guard = kit.another(store=store)

    @tool
    def look(order: str) -> str:
        """Look at an order."""
        assert agentguard.credential("orders")
        return f"order {order} is here"

    wrapped = guard.wrap(classified(look))[0]
    with guard.task("support", subject="alice", mandate={"tools": "*"}, calls=3) as task:
        assert "order 1" in str(await mode.invoke(wrapped, tool_call("look", order="1")))
        client.config_resetstat()
        assert "order 2" in str(await mode.invoke(wrapped, tool_call("look", order="2")))
        counts = sent(client)
        state = store.task(task.id)
        assert state is not None
        assert (state.calls, state.history) == (2, ("look",))
        assert store.live() == ()
        client.config_set("maxmemory", "1")
        try:
            denied = await mode.invoke(wrapped, tool_call("look", order="3"))
        finally:
            client.config_set("maxmemory", "0")
        assert denied.status == "error"
    assert kit.decisions() == ["permit", "permit", "store_error"]
    ended = store.task(task.id)
    assert ended is not None
    assert ended.status is TaskStatus.COMPLETED
    assert counts["evalsha"] == 2, counts
    store.close()
