"""An answer that a real server streams: its task is held by the generator that the server steps."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from langchain.agents import create_agent
from langchain_core.tools import tool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from agentguard import Guard
from agentguard.model import TaskStatus
from agentguard.stores.sqlite import SqliteStore
from agentguard.tasks.task import Task
from agentguard.testing import ScriptedChatModel
from tests.conftest import FACTS, Kit

STEPS = 25
PAUSE = 0.02  # seconds that each call of the tool takes
SECONDS = 10  # in which everything is over after the client has gone


class Service:
    """An agent behind a real server. It streams one answer for each request, in one of two ways."""

    def __init__(self, guard: Guard) -> None:
        self.guard, self.tasks, self.ran = guard, list[Task](), list[str]()

        @tool
        def look(item: str) -> str:
            """Look."""
            time.sleep(PAUSE)
            self.ran.append(item)
            return f"seen {item}"

        guard.tool(**FACTS)(look)
        script: list[Any] = [*([("look", {"item": str(step)})] for step in range(STEPS)), "done"]
        self.agent: Any = create_agent(
            ScriptedChatModel(script=script), [look], middleware=[guard.middleware()]
        )
        ways = {
            "sync": lambda user: guard.stream(self.sync(user)),
            "async": self.async_,
            "config": self.by_config,  # read to its end only: nobody closes it when its client has gone
        }
        routes = [Route(f"/{way}", self.stream(answer)) for way, answer in ways.items()]
        self.app = Starlette(routes=routes)

    def stream(self, answer: Callable[[str], Any]) -> Any:
        async def endpoint(request: Request) -> StreamingResponse:
            return StreamingResponse(answer(request.query_params["user"]), media_type="text/plain")

        return endpoint

    def task(self, user: str) -> Task:
        task = self.guard.task("Look", subject=user, mandate={"tools": ["look"]})
        self.tasks.append(task)
        return task

    def sync(self, user: str) -> Generator[str, None, None]:
        with self.task(user):
            for step in self.agent.stream(self.question, {"recursion_limit": 200}):
                yield f"{step}\n"

    def by_config(self, user: str) -> Iterator[str]:
        with self.task(user) as task:
            for step in self.agent.stream(self.question, {**task.config, "recursion_limit": 200}):
                yield f"{step}\n"

    async def async_(self, user: str) -> AsyncIterator[str]:
        async with self.task(user):
            async for step in self.agent.astream(self.question, {"recursion_limit": 200}):
                yield f"{step}\n"

    @property
    def question(self) -> dict[str, Any]:
        return {"messages": [("user", "look")]}

    def is_over(self, store: SqliteStore) -> bool:
        return all(task.state().status is not TaskStatus.ACTIVE for task in self.tasks) and not store.live()


@contextmanager
def serving(app: Any) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(SECONDS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "state.db")
    yield store
    store.close()


@pytest.fixture
def service(store: SqliteStore) -> Service:
    return Service(Kit().another(store=store))


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.process
@pytest.mark.promise("leaving-ends", "streamed-answers")
@pytest.mark.parametrize("way", ["sync", "async", "config"])
def test_a_streamed_answer_that_its_client_reads_runs_whole_and_ends_its_task(
    way: str, service: Service, store: SqliteStore
) -> None:
    with serving(service.app) as url:
        text = httpx.get(f"{url}/{way}", params={"user": "alice"}, timeout=SECONDS).text
        assert text.count("seen") == STEPS, text
        assert wait_until(lambda: service.is_over(store))
    assert [str(task.state().status) for task in service.tasks] == ["completed"]
    assert len(service.ran) == STEPS


@pytest.mark.process
@pytest.mark.promise("leaving-ends", "streamed-answers")
@pytest.mark.parametrize("way", ["sync", "async"])
def test_after_its_client_has_gone_no_task_of_a_streamed_answer_is_active_and_nothing_runs(
    way: str, service: Service, store: SqliteStore
) -> None:
    with serving(service.app) as url:
        with httpx.stream("GET", f"{url}/{way}", params={"user": "alice"}, timeout=SECONDS) as response:
            next(line for line in response.iter_lines() if "seen" in line)
        assert wait_until(lambda: service.is_over(store)), service.tasks[0].state().status
        ran = len(service.ran)
        time.sleep(10 * PAUSE)
        assert len(service.ran) <= ran + 1  # the call that was under way
        assert ran < STEPS
        # what comes next in these threads and contexts is another user's, and acts for her alone
        text = httpx.get(f"{url}/{way}", params={"user": "bob"}, timeout=SECONDS).text
        assert text.count("seen") == STEPS
    assert [str(task.state().status) for task in service.tasks] == ["revoked", "completed"]
    assert [task.state().identity.subject for task in service.tasks] == ["alice", "bob"]
    assert store.live() == ()
