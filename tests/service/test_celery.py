"""The example for Celery: each call is its user's, and the end of a worker leaves nothing alive."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.example import USERS, Example
from tests.service.orders_api import OrdersApi, orders_api


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Example]:
    example = Example(tmp_path)
    yield example
    example.kill()


# a sender that imports no agent, and awaits no answer
SENDER = """
import sys
from celery import Celery
app = Celery(broker="filesystem://")
folders = "data_folder_in", "data_folder_out", "control_folder"
app.conf.broker_transport_options = dict.fromkeys(folders, ".queue")
app.send_task("celery_tasks.answer", sys.argv[1:])
"""


def start(example: Example, processes: int) -> subprocess.Popen[bytes]:
    return example.start("-m", "celery", "-A", "celery_tasks", "worker", f"--concurrency={processes}")


def send(example: Example, user: str, order: str) -> None:
    assert example.start("-c", SENDER, user, order).wait(60) == 0, example.output


@pytest.mark.process
@pytest.mark.promise("service-keeps-users-apart")
@pytest.mark.promise("closing-leaves-nothing-alive")
def test_celerys_workers_act_for_each_tasks_user_and_leave_nothing_alive(example: Example) -> None:
    with orders_api(example.home) as api:
        example.use(api.origin)
        example.replace("workers/celery_tasks.py", "timeout=10", "timeout=60")
        worker = start(example, 2)
        orders = [(user, f"{user}-{number}") for number in (1, 2) for user in USERS]
        words = [word for order in (*orders, ("ada", "bob-1")) for word in order]
        assert example.start("celery_tasks.py", *words).wait(120) == 0, example.output
        answers = [
            ast.literal_eval(line) for line in example.output.splitlines() if line.startswith("{'pid'")
        ]
        expected = [{"order": order, "subject": f"user://{user}"} for user, order in orders]
        assert [ast.literal_eval(answer["answer"]) for answer in answers[:-1]] == expected
        assert answers[-1]["answer"].startswith("Denied")
        assert len({answer["pid"] for answer in answers}) == 2
        _stop_in_a_call(example, api, worker)
        _kill_in_a_call(example, api)
    assert example.outcomes() == [("done", True)] * (len(orders) + 2)
    assert example.revocations() == 1  # of the call of the worker that was killed
    assert (example.denials(), example.live()) == (1, 0)


def _stop_in_a_call(example: Example, api: OrdersApi, worker: subprocess.Popen[bytes]) -> None:
    """Stop a worker, which waits for the call, as Celery does, and then ends."""
    send(example, "ada", "ada-3")
    assert api.hangs.wait(60)
    worker.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(1)
    api.released.set()
    worker.wait(60)
    assert example.live() == 0


def _kill_in_a_call(example: Example, api: OrdersApi) -> None:
    """Kill a worker, and let the next one serve another user: it revokes what the first one has left."""
    api.hangs.clear()
    api.released.clear()
    worker = start(example, 1)
    send(example, "ada", "ada-3")
    assert api.hangs.wait(60)
    os.killpg(worker.pid, signal.SIGKILL)
    assert example.live() == 1
    next_worker = start(example, 1)
    count = len(example.outcomes())
    send(example, "bob", "bob-1")
    example.wait(lambda: len(example.outcomes()) > count)
    next_worker.terminate()
    next_worker.wait(60)
