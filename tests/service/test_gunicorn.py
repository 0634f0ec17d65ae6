"""The examples for gunicorn: each call is its user's, and SIGTERM leaves nothing alive, whatever hangs."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import httpx
import pytest

from tests.servers.server import free_port
from tests.service.example import USERS, Example
from tests.service.orders_api import orders_api


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Example]:
    example = Example(tmp_path)
    yield example
    example.kill()


@pytest.mark.process
@pytest.mark.promise("service-keeps-users-apart")
@pytest.mark.promise("closing-leaves-nothing-alive")
@pytest.mark.parametrize("kind", ["sync", "asgi"])
def test_gunicorns_workers_act_for_each_requests_user_and_leave_nothing_alive(
    example: Example, kind: str
) -> None:
    example.replace(f"workers/{kind}.conf.py", "grace = 20", "grace = 1")
    with orders_api(example.home) as api:
        example.use(api.origin)
        port = free_port()
        process = example.start(
            "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-c", f"{kind}.conf.py", f"{kind}_app:app"
        )
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            example.wait(lambda: _listens(port))

            def ask(user: str, order: str) -> tuple[int, str]:
                answer = client.get(f"/orders/{order}", headers={"X-User": user}).json()
                return answer["pid"], answer["answer"]

            orders = [(user, f"{user}-{number}") for number in (1, 2) for user in USERS]
            with ThreadPoolExecutor(4) as threads:
                answers = list(threads.map(ask, *zip(*orders, strict=True)))
            expected = [{"order": order, "subject": f"user://{user}"} for user, order in orders]
            assert [json.loads(answer) for _, answer in answers] == expected
            # the API awaits two sync workers at once
            assert kind == "asgi" or len({pid for pid, _ in answers}) == 2
            assert ask("ada", "bob-1")[1].startswith("Denied")
            hanging = Thread(target=_hang, args=(client,))
            hanging.start()
            assert api.hangs.wait(30)
            process.terminate()
            example.wait(lambda: example.live() == 0)  # while the tool still hangs
            api.released.set()
            process.wait(60)
            hanging.join()
    assert example.outcomes() == [("done", True)] * len(orders) + [("cancelled", True)]
    assert (example.denials(), example.live()) == (1, 0)


def _hang(client: httpx.Client) -> None:
    with pytest.raises(httpx.HTTPError):
        client.get("/orders/ada-3", headers={"X-User": "ada"}).raise_for_status()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
