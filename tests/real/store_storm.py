"""Many processes on one store, while its server restarts, connections are cut, and one process is killed.

`storm` starts worker processes, each with a store of its own from the same maker. They begin and end calls of
the same tasks. Each worker writes down what its store has acknowledged, and when. Afterwards the books of all
workers are compared with what the store says: no budget was overrun, no approval was used twice, no call
began after a revocation that was acknowledged, and no credential is alive but those of a killed worker.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from agentguard.concurrency.drive import drive
from agentguard.errors import ApprovalError, BudgetExhausted, StoreError, TaskNotActive
from agentguard.model import Budget, Call, LiveCredential, Outcome, TaskStatus, ToolPath
from agentguard.ports import Store
from agentguard.testing import sample_task
from agentguard.testing.scenarios import AwaitedPort
from agentguard.testing.scenes import pending_approval

__all__ = ["Report", "Storm", "storm"]

Maker = Callable[[], Store]
TOOL, BROKER = "pay", "broker"
PATIENCE = 20.0  # seconds for which a worker tries to record an end, as an outbox does
SPECIAL = 25  # one call in so many uses an approval, and one in so many remembers a key


@dataclass(frozen=True, kw_only=True)
class Storm:
    """What happens. `events` are run in the test's process when so much of all calls is made, 0 to 1.

    `kill` is when one worker is killed (SIGKILL), and another takes its place; `revoke` is when a tenth of
    the tasks is revoked. None is never. With `asynchronous`, each worker awaits `concurrency` calls at once
    on an event loop; without, it has as many threads.
    """

    tasks: int = 200
    calls: int = 20_000
    workers: int = 4
    concurrency: int = 4
    asynchronous: bool = False
    kill: float | None = 0.6
    revoke: float | None = 0.4
    events: Mapping[float, Callable[[], None]] = field(default_factory=dict)
    seconds: float = 60.0

    @property
    def budget(self) -> int:
        """The calls that each task may make: less than what is tried in all."""
        return max(1, self.calls * 9 // (10 * self.tasks))


class Entry(NamedTuple):
    """One line of a worker's book: what it has asked of the store, from when to when, and how that ended."""

    verb: str
    name: str
    task: str
    start: float
    stop: float
    result: str

    @classmethod
    def of(cls, line: str) -> Entry:
        """Read a line."""
        verb, name, task, start, stop, result = line.split("\t")
        return cls(verb, name, task, float(start), float(stop), result)


@dataclass
class Report:
    """What came of it; `problems` says which promise was broken."""

    calls: int
    seconds: float
    latencies: list[float]
    results: Counter[str]
    left_by_killed: int
    problems: list[str]

    def __str__(self) -> str:
        if not self.latencies:
            return f"no call began; {dict(self.results)}"
        rate = self.calls / self.seconds
        p50, p99 = (self.latencies[int(part * (len(self.latencies) - 1))] * 1000 for part in (0.5, 0.99))
        return (
            f"{self.calls} calls in {self.seconds:.1f} s: {rate:.0f}/s; begin and end together p50"
            f" {p50:.1f} ms, p99 {p99:.1f} ms; {dict(self.results)}; {self.left_by_killed} credentials left"
            " by the killed worker"
        )


def storm(make: Maker, folder: Path, plan: Storm) -> Report:
    """Let it happen to the store that *make* opens, which is empty; *make* is pickled for the workers."""
    store = make()
    try:
        _prepare(store, plan)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # each worker would take seconds to import it
        counts = context.RawArray("i", plan.workers + 1)
        crew = _Crew(make, plan, folder, counts, context)
        revoked = _watch(store, plan, crew)
        problems = [f"worker {number} ended with {code}" for number, code in crew.failures()]
        return _compare(store, plan, crew, revoked, problems)
    finally:
        getattr(store, "close", lambda: None)()


class _Crew:
    """The worker processes; the last number is that of the one that takes a killed one's place."""

    def __init__(self, make: Maker, plan: Storm, folder: Path, counts: Any, context: Any) -> None:
        # the events are the test's own, and cannot be pickled
        arguments = (make, replace(plan, events={}), folder, counts)
        self._context, self._arguments = context, arguments
        self.plan, self.folder, self.counts = plan, folder, counts
        self.killed: int | None = None
        self.processes: dict[int, BaseProcess] = {n: self._start(n, 0) for n in range(plan.workers)}

    def _start(self, number: int, first: int) -> BaseProcess:
        arguments = (*self._arguments, number, first)
        process: BaseProcess = self._context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        return process

    @property
    def share(self) -> int:
        """How many calls one worker makes."""
        return self.plan.calls // self.plan.workers

    @property
    def progress(self) -> float:
        count: int = sum(self.counts)
        return count / (self.share * self.plan.workers)

    def kill_one(self) -> None:
        """Kill the first worker, and start another one for the calls that are still to make."""
        victim, self.killed = self.processes[0], 0
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        self.processes[self.plan.workers] = self._start(self.plan.workers, self.counts[0])

    def is_busy(self) -> bool:
        return any(process.is_alive() for process in self.processes.values())

    def failures(self) -> Iterator[tuple[int, int | None]]:
        for number, process in self.processes.items():
            if process.is_alive():
                process.kill()
            process.join()
            if process.exitcode and number != self.killed:
                yield number, process.exitcode

    def book(self, number: int) -> list[Entry]:
        path = _book(self.folder, number)
        if not path.exists():
            return []
        return [Entry.of(line) for line in path.read_text().split("\n")[:-1]]


def _book(folder: Path, number: int) -> Path:
    return folder / f"worker-{number}.tsv"


def _prepare(store: Store, plan: Storm) -> None:
    """Make the tasks, a quarter of them children of others, and for each an approval that a person gave."""
    ends = time.time() + 3600.0
    for number in range(plan.tasks):
        parent = number - plan.tasks * 3 // 4
        lineage = (_task(parent),) if parent >= 0 else ()
        budget = Budget(calls=plan.budget)
        store.create_task(sample_task(_task(number), lineage=lineage, budget=budget, deadline=ends))
        name = f"approval-{number}"
        question = replace(
            pending_approval(name, task_id=_task(number), call_key=name, tool=TOOL, shown_digest=name),
            expires_at=ends,
        )
        store.save_approval(question)
        store.answer_approval(question.answered(approved=True, approver="user:eve"))


def _task(number: int) -> str:
    return f"task-{number}"


def _watch(store: Store, plan: Storm, crew: _Crew) -> dict[str, float]:
    """Wait for the workers and let things happen; return when which revocation was acknowledged."""
    began = time.monotonic()
    revoked: dict[str, float] = {}
    events = sorted(plan.events.items(), key=lambda event: event[0])
    while crew.is_busy() and time.monotonic() - began < plan.seconds:
        progress = crew.progress
        if plan.revoke is not None and not revoked and progress >= plan.revoke:
            for number in range(0, plan.tasks, 10):
                for task_id in _surely(partial(_end, store, _task(number))):
                    revoked[task_id] = time.monotonic()
        if plan.kill is not None and crew.killed is None and progress >= plan.kill:
            crew.kill_one()
        while events and progress >= events[0][0]:
            events.pop(0)[1]()
        time.sleep(0.01)
    return revoked


def _end(store: Store, task_id: str) -> tuple[str, ...]:
    """End a task; what a lost answer has ended counts, too."""
    return (task_id, *store.end_task(task_id, TaskStatus.REVOKED))


def _surely(operation: Callable[[], Any]) -> Any:
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            return operation()
        except StoreError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)


def _work(make: Maker, plan: Storm, folder: Path, counts: Any, number: int, first: int) -> None:
    """Make the calls of one worker. This is a process of its own."""
    with _book(folder, number).open("ab", buffering=0) as book:
        store = make()
        worker = _Worker(AwaitedPort(store, asynchronous=plan.asynchronous), plan, number, book)
        share = plan.calls // plan.workers

        async def lane(offset: int) -> None:
            for index in range(first + offset, share, plan.concurrency):
                await worker.call(index)
                counts[number] += 1

        if plan.asynchronous:

            async def together() -> None:
                await asyncio.gather(*map(lane, range(plan.concurrency)))

            asyncio.run(together())
        else:
            with ThreadPoolExecutor(plan.concurrency) as threads:
                list(threads.map(lambda offset: drive(lane(offset)), range(plan.concurrency)))
        getattr(store, "close", lambda: None)()


class _Worker:
    """Makes calls, and writes down what the store has acknowledged."""

    def __init__(self, store: AwaitedPort, plan: Storm, number: int, book: Any) -> None:
        self._plan, self._number, self._book = plan, number, book
        self._begin, self._end = store.begin_call, store.end_call
        self._remember, self._forget = store.remember, store.forget
        self._asynchronous = plan.asynchronous

    async def call(self, index: int) -> None:
        """Begin a call and end it, if it began."""
        chance = random.Random(f"{self._number}-{index}")  # noqa: S311  no secret
        number = chance.randrange(self._plan.tasks)
        name, task_id = f"call-{self._number}-{index}", _task(number)
        approval = f"approval-{number}" if index % SPECIAL == 0 else None
        if index % SPECIAL == 1:
            # all workers try the same keys
            await self._note("remember", f"key-{index}", task_id, self._new_key(f"key-{index}"))
        call = Call(
            id=name,
            key=approval or name,
            task_id=task_id,
            tool=TOOL,
            path=ToolPath.READ,
            at=time.time(),
            approval_id=approval,
        )
        credential = LiveCredential(
            call_id=name,
            task_id=task_id,
            broker=BROKER,
            handle=f"jti-{name}",
            expires_at=time.time() + 600.0,
            owner=str(self._number),
        )
        if await self._note(f"begin {approval or ''}".strip(), name, task_id, self._begin(call, credential)):
            await self._until_done(name, task_id, lambda: self._ended(name))
        else:  # it may have begun all the same
            await self._until_done(name, task_id, lambda: self._forget(name), "forget")

    async def _new_key(self, key: str) -> None:
        if not await self._remember(key, time.time() + 600.0):
            raise ApprovalError("the key is known")

    def _ended(self, name: str) -> Awaitable[None]:
        ended: Awaitable[None] = self._end(
            name, Outcome.DONE, revoked=True, remember=(f"jti-{name}", time.time() + 600.0)
        )
        return ended

    async def _until_done(
        self, name: str, task_id: str, operation: Callable[[], Awaitable[Any]], verb: str = "end"
    ) -> None:
        ends = time.monotonic() + PATIENCE
        while not await self._note(verb, name, task_id, operation()) and time.monotonic() < ends:
            if self._asynchronous:
                await asyncio.sleep(0.05)
            else:
                time.sleep(0.05)  # noqa: ASYNC251  this is the path of threads

    async def _note(self, verb: str, name: str, task_id: str, operation: Awaitable[Any]) -> bool:
        start, result = time.monotonic(), "ok"
        try:
            await operation
        except (ApprovalError, BudgetExhausted, StoreError, TaskNotActive) as error:
            result = type(error).__name__
        line = "\t".join((verb, name, task_id, repr(start), repr(time.monotonic()), result))
        self._book.write(f"{line}\n".encode())
        return result == "ok"


def _compare(
    store: Store, plan: Storm, crew: _Crew, revoked: Mapping[str, float], problems: list[str]
) -> Report:
    books = {number: crew.book(number) for number in range(plan.workers + 1)}
    entries = [entry for book in books.values() for entry in book]
    begun = [entry for entry in entries if entry.verb.startswith("begin") and entry.result == "ok"]
    ended = {entry.name: entry for entry in entries if entry.verb == "end" and entry.result == "ok"}
    if plan.revoke is not None and not revoked:
        problems.append("no task was revoked")
    problems += _budgets(store, plan, entries, begun)
    problems += _single_uses(entries)
    problems += [
        f"{entry.name} began {entry.start - revoked[entry.task]:.3f} s after {entry.task} was revoked"
        for entry in begun
        if entry.start > revoked.get(entry.task, float("inf"))
    ]
    problems += _credentials(store, begun, ended, crew.killed)
    left = len(store.live())
    for credential in store.live():  # what the outbox of another process would do
        store.forget(credential.call_id)
    if store.live():
        problems.append(f"{len(store.live())} credentials stay alive")
    attempts = [entry for entry in entries if entry.verb.startswith("begin")]
    latencies = sorted(
        entry.stop - entry.start + ended[entry.name].stop - ended[entry.name].start
        for entry in begun
        if entry.name in ended
    )
    results = Counter(entry.result for entry in attempts)
    seconds = max(entry.stop for entry in entries) - min(entry.start for entry in entries)
    return Report(len(attempts), seconds, latencies, results, left, problems)


def _budgets(store: Store, plan: Storm, entries: list[Entry], begun: list[Entry]) -> Iterator[str]:
    """Compare the counts of the tasks with the budgets and with what was acknowledged."""
    acknowledged, unknown = Counter(entry.task for entry in begun), Counter[str]()
    for entry in entries:
        if entry.verb.startswith("begin") and entry.result == "StoreError":
            unknown[entry.task] += 1
    for number in range(plan.tasks):
        state = store.task(_task(number))
        if state is None:
            yield f"{_task(number)} is lost"
            continue
        if state.calls > plan.budget:
            yield f"{state.id} overran its budget: {state.calls} > {plan.budget}"
        children = [_task(number + plan.tasks * 3 // 4)] if number < plan.tasks // 4 else []
        least = sum(acknowledged[name] for name in (state.id, *children))
        # a killed worker may not have written down its last calls
        most = least + sum(unknown[name] for name in (state.id, *children)) + plan.concurrency
        if not least <= state.calls <= most:
            yield f"{state.id} counts {state.calls} calls, and {least} to {most} were made"


def _single_uses(entries: list[Entry]) -> Iterator[str]:
    """Look for an approval that served two calls, and a key that was new twice."""
    uses = defaultdict[str, list[str]](list)
    for entry in entries:
        verb, _, approval = entry.verb.partition(" ")
        if entry.result == "ok" and (approval or verb == "remember"):
            uses[approval or entry.name].append(entry.name)
    return (f"{name} was used {len(names)} times: {names}" for name, names in uses.items() if len(names) > 1)


def _credentials(
    store: Store, begun: list[Entry], ended: Mapping[str, Entry], killed: int | None
) -> Iterator[str]:
    """Compare what is alive with the calls that have ended, and the revocations with what is known."""
    alive = {credential.call_id: credential for credential in store.live()}
    prefix = f"call-{killed}-"
    for entry in begun:
        # the end of a killed worker's call may be done, and not be written down
        if entry.name not in ended and entry.name not in alive and not entry.name.startswith(prefix):
            yield f"the credential of {entry.name} is lost"
    for name in alive:
        if name in ended:
            yield f"{name} has ended, and its credential is alive"
        elif not name.startswith(prefix):
            yield f"the credential of {name} is alive, and its worker was not killed"
    for name in list(ended)[:: max(1, len(ended) // 500)]:
        if not store.known(f"jti-{name}"):
            yield f"the revocation of {name} is forgotten"
