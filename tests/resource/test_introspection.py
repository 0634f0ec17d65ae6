"""An authorization server that answers slowly holds no request of the resource, on either path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from agentguard.errors import VerificationError
from agentguard.resource import Introspection
from tests.conftest import Mode
from tests.doubles.loopback import Connection, serving, trickle_body, trickle_header


@pytest.mark.promise("service-failures-bounded")
@pytest.mark.parametrize("respond", [trickle_header, trickle_body])
@pytest.mark.parametrize("native", [False, True], ids=["Client", "AsyncClient"])
async def test_a_server_that_never_comes_to_its_answer_is_an_unclear_answer_in_time(
    mode: Mode, respond: Callable[[Connection], None], native: bool
) -> None:
    if native and not mode.asynchronous:
        return
    with serving(respond) as server:
        client = httpx.AsyncClient(timeout=0.5) if native else httpx.Client(timeout=0.5)
        introspection = Introspection(f"{server.url}/introspect", client, timeout=0.2)
        began = time.monotonic()
        with pytest.raises(VerificationError, match="did not say") as caught:
            await mode.call(introspection, "claims", "token")
        assert time.monotonic() - began < 1.0
    assert caught.value.status == 503


def stalling(request: httpx.Request) -> httpx.Response:
    token = dict(httpx.QueryParams(request.content.decode()))["token"]
    if token.startswith("evil"):
        time.sleep(1.5)
    return httpx.Response(200, json={"active": True, "sub": "alice"})


@pytest.mark.promise("hung-adapters-stop-nobody")
@pytest.mark.parametrize("path", ["sync", "async"])
def test_tokens_at_which_the_server_stalls_take_no_places_of_another_token(path: str) -> None:
    client = httpx.Client(transport=httpx.MockTransport(stalling))
    introspection = Introspection("https://as.example/introspect", client, opaque=True, timeout=0.3)

    def ask(token: str) -> str:
        try:
            if path == "sync":
                claims = introspection.claims(token)
            else:
                claims = asyncio.run(introspection.aclaims(token))
        except VerificationError as error:
            return str(error.status)
        return str((claims or {}).get("sub"))

    with ThreadPoolExecutor(150) as threads:
        stalled = [threads.submit(ask, f"evil {number}") for number in range(150)]
        time.sleep(0.1)
        assert ask("alice's") == "alice", "while they wait"
        assert {future.result() for future in stalled} == {"503"}
    assert ask("alice's") == "alice", "when they were given up"


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (httpx.Response(307, headers={"Location": "/introspect/"}), "307"),
        (httpx.Response(200, json={"active": "true"}), "200"),
        (httpx.Response(200, text="<html>"), "200"),
        (httpx.ConnectError("no"), "ConnectError"),
    ],
)
async def test_an_unclear_answer_is_logged_once_with_the_url_and_the_status(
    mode: Mode, answer: httpx.Response | Exception, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    def respond(_request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = httpx.Client(transport=httpx.MockTransport(respond))
    introspection = Introspection("https://me:hunter2@as.example/introspect?key=hunter2", client)
    for _ in range(2):
        with pytest.raises(VerificationError, match="did not say"):
            await mode.call(introspection, "claims", "token")
    assert caplog.text.count(f"introspection at https://as.example/introspect answered {outcome}") == 1
    assert "hunter2" not in "".join(r.getMessage() for r in caplog.records if r.name == "agentguard")
