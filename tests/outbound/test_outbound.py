"""What a service beyond this process does wrong costs a bounded time, one error, and no secret."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import socket
import ssl
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from agentguard.concurrency.deadline import within
from agentguard.concurrency.drive import drive, operation_pair
from agentguard.errors import IdentityError, IssueError
from agentguard.model import Grant
from agentguard.outbound.client import Answer, Limits, Outbound
from tests.conftest import Mode
from tests.doubles.loopback import Connection, Respond, certificate, response, serving

SECRET, QUERY = "secret-of-the-request", "query-of-the-request"
Make = Callable[..., Outbound]


def limited(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with those of `Limits` in one value."""
    limits = {name: options.pop(name) for name in Limits.__dataclass_fields__.keys() & options.keys()}
    return {**options, "limits": Limits(**{"timeout": 2.0, **limits})}


@pytest.fixture
def make() -> Iterator[Make]:
    """Make outbounds that are closed at the end."""
    outbounds: list[Outbound] = []

    def make(base_url: str, **options: Any) -> Outbound:
        outbounds.append(Outbound("issuer", base_url, **limited(options)))
        return outbounds[-1]

    yield make
    for outbound in outbounds:
        outbound.close()


class Service:
    """A service in this process: answers come from a list, the last one for ever."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.requests = list(answers), list[httpx.Request]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def outbound(self, **options: Any) -> Outbound:
        transport = httpx.MockTransport(self)
        options = {"transport": transport, "async_transport": transport, **options}
        return Outbound("issuer", "https://issuer.example", **limited(options))


async def ask(outbound: Outbound, mode: Mode, **options: Any) -> Answer:
    """POST a secret, and a query with one."""
    options = {"data": {"token": SECRET}, "headers": {"Authorization": f"Bearer {SECRET}"}, **options}
    url = f"/token?{QUERY}={QUERY}"
    if mode.asynchronous:
        answer: Answer = await outbound.ask.async_("POST", url, **options)
        return answer

    async def coroutine() -> Answer:
        answer: Answer = await outbound.ask.sync("POST", url, **options)
        return answer

    return drive(coroutine())


async def fails(outbound: Outbound, mode: Mode, reason: str, **options: Any) -> IssueError:
    """Ask; the error must be ours, say *reason*, and hold neither the request nor what led to it."""
    with pytest.raises(IssueError, match=f"^issuer: {reason}$") as raised:
        await ask(outbound, mode, **options)
    error = raised.value
    assert error.__cause__ is None
    assert error.__context__ is None
    text = f"{error!r} {''.join(traceback.format_exception(error))} {outbound!r}"
    assert SECRET not in text
    assert QUERY not in text
    return error


# --- connections


async def test_a_refused_connection_is_tried_again_and_then_an_error(make: Make, mode: Mode) -> None:
    with serving(lambda _connection: None) as server:
        url = server.url
    await fails(make(url), mode, r"no connection \(ConnectError\)")


@pytest.mark.promise("service-failures-bounded")
async def test_a_server_that_accepts_and_never_answers_is_given_up_in_time(make: Make, mode: Mode) -> None:
    def silent(connection: Connection) -> None:
        connection.request()
        connection.hold()

    with serving(silent) as server:
        outbound = make(server.url, timeout=0.4)
        for repeatable in (False, True):
            started = time.monotonic()
            await fails(outbound, mode, r"no answer \((ReadTimeout|TimeoutError)\)", repeatable=repeatable)
            assert 0.3 < time.monotonic() - started < 1.2
        assert len(server.requests) == 2, "what may have had an effect was sent again"


def drip(response: bytes, pause: float = 0.05) -> Respond:
    def respond(connection: Connection) -> None:
        connection.request()
        head, _, body = response.partition(b"\r\n\r\n")
        connection.send(head + b"\r\n\r\n")
        for byte in body:
            connection.send(bytes([byte]))
            if connection.hold(pause):
                return

    return respond


@pytest.mark.promise("service-failures-bounded")
async def test_a_body_that_drips_is_given_up_in_time(make: Make, mode: Mode) -> None:
    with serving(drip(response("200 OK", b"x" * 1000))) as server:
        started = time.monotonic()
        await fails(make(server.url, timeout=0.4), mode, r"no answer \((ReadTimeout|TimeoutError)\)")
        assert time.monotonic() - started < 1.2


async def test_a_body_that_stops_is_given_up_in_time(make: Make, mode: Mode) -> None:
    def stops(connection: Connection) -> None:
        connection.request()
        connection.hold(0.2)
        connection.send(response("200 OK", b"x" * 1000)[:-10])
        connection.hold()

    with serving(stops) as server:
        started = time.monotonic()
        await fails(make(server.url, timeout=0.4), mode, r"no answer \((ReadTimeout|TimeoutError)\)")
        assert time.monotonic() - started < 1.0


@pytest.mark.promise("service-failures-bounded")
async def test_headers_that_drip_hold_no_coroutine_and_no_thread(make: Make, mode: Mode) -> None:
    def endless(connection: Connection) -> None:
        connection.request()
        while not connection.hold(0.05):
            connection.send(b"H")

    with serving(endless) as server:
        started = time.monotonic()
        await fails(make(server.url, timeout=0.4), mode, r"no answer \((ReadTimeout|TimeoutError)\)")
        assert time.monotonic() - started < 1.2


@pytest.mark.promise("service-failures-bounded")
@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_interim_answers_without_end_hold_no_coroutine_and_no_thread(
    make: Make, mode: Mode, pause: float
) -> None:
    def endless(connection: Connection) -> None:
        connection.request()
        while not connection.hold(pause):
            connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")

    with serving(endless) as server:
        started = time.monotonic()
        await fails(make(server.url, timeout=0.3), mode, r"no answer \(\w+\)")
        assert time.monotonic() - started < 1.0


@pytest.mark.promise("service-failures-bounded")
async def test_a_service_that_takes_the_request_byte_by_byte_holds_no_thread(make: Make, mode: Mode) -> None:
    def deaf(connection: Connection) -> None:
        while not connection.hold(0.02):
            connection.stream.recv(65_536)

    with serving(deaf) as server:
        outbound = make(server.url, timeout=0.3, body=100_000_000)
        started = time.monotonic()
        await fails(outbound, mode, r"no answer \(\w+\)", data=None, content=b"x" * 30_000_000)
        assert time.monotonic() - started < 1.2


@pytest.mark.promise("service-failures-bounded")
async def test_a_handshake_that_drips_holds_no_thread(make: Make) -> None:
    def drips(connection: Connection) -> None:
        connection.stream.recv(65_536)
        connection.send(b"\x16\x03\x03\x40\x00")  # the head of a long handshake record
        while not connection.hold(0.05):
            connection.send(b"\x02")

    with serving(drips) as server:
        outbound = make(server.url.replace("http:", "https:"), timeout=0.3)
        started = time.monotonic()
        await fails(outbound, Mode("sync"), r"no (answer|connection) \(\w+\)")
        assert time.monotonic() - started < 1.2


@pytest.mark.promise("service-failures-bounded")
def test_a_name_whose_look_up_hangs_holds_no_thread(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    def hangs(*_arguments: object, **_options: object) -> list[Any]:
        end.wait(10)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    outbound = make("http://issuer.example", timeout=0.3)

    async def coroutine() -> None:
        await outbound.ask.sync("GET", "/")

    started = time.monotonic()
    with pytest.raises(IssueError, match="no connection"):
        drive(coroutine())
    assert time.monotonic() - started < 1.0
    end.set()


def test_a_request_waits_no_longer_than_its_caller(make: Make) -> None:
    def silent(connection: Connection) -> None:
        connection.request()
        connection.hold()

    async def coroutine(outbound: Outbound) -> None:
        await outbound.ask.sync("GET", "/")

    with serving(silent) as server:
        outbound = make(server.url, timeout=5.0)
        started = time.monotonic()
        with within(0.2), pytest.raises(IssueError):
            drive(coroutine(outbound))
        assert time.monotonic() - started < 1.0


@pytest.mark.parametrize("content", [b"garbage\r\n\r\n", b"\x00" * 100, b"", b"HTTP/1.1 999999 X\r\n\r\n"])
async def test_garbage_is_no_answer(make: Make, mode: Mode, content: bytes) -> None:
    def garbage(connection: Connection) -> None:
        connection.request()
        connection.send(content)

    with serving(garbage) as server:
        await fails(make(server.url), mode, r"no answer \(RemoteProtocolError\)")
        assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff\xfe", SECRET.encode()])
async def test_a_body_that_is_no_json_is_a_value_error_that_holds_none_of_it(mode: Mode, body: bytes) -> None:
    answer = await ask(Service(httpx.Response(200, content=body)).outbound(), mode)
    with pytest.raises(ValueError, match=r"^the answer is not JSON$") as raised:
        answer.json()
    assert not isinstance(raised.value, json.JSONDecodeError)
    assert raised.value.__context__ is None
    assert SECRET not in repr(answer)


# --- answers


async def test_a_status_is_the_caller_s_to_judge(mode: Mode) -> None:
    for status in (200, 201, 302, 400, 401, 403, 404):
        service = Service(httpx.Response(status, content=b'{"error": "x"}', headers={"DPoP-Nonce": "n"}))
        answer = await ask(service.outbound(), mode)
        assert (answer.status, answer.json(), answer.headers["dpop-nonce"]) == (status, {"error": "x"}, "n")
        assert len(service.requests) == 1


async def test_too_many_requests_is_tried_again_when_the_service_says(mode: Mode) -> None:
    service = Service(httpx.Response(429, headers={"Retry-After": "1"}), httpx.Response(200))
    started = time.monotonic()
    assert (await ask(service.outbound(timeout=3.0), mode)).status == 200
    assert time.monotonic() - started >= 1.0


@pytest.mark.parametrize("after", ["60", "9" * 400])
async def test_a_service_that_asks_for_more_patience_than_there_is_is_left(mode: Mode, after: str) -> None:
    service = Service(httpx.Response(429, headers={"Retry-After": after}))
    started = time.monotonic()
    await fails(service.outbound(), mode, "answered 429")
    assert time.monotonic() - started < 0.5
    assert len(service.requests) == 1


@pytest.mark.parametrize("after", ["soon", "-1", "²", "Fri, 31 Dec 2100 23:59:59 GMT", ""])
async def test_an_unreadable_patience_is_none(mode: Mode, after: str) -> None:
    headers = httpx.Headers([(b"Retry-After", after.encode())])
    service = Service(httpx.Response(429, headers=headers), httpx.Response(200))
    assert (await ask(service.outbound(), mode)).status == 200


async def test_unavailable_and_then_there_is_an_answer(mode: Mode) -> None:
    service = Service(httpx.Response(503), httpx.Response(503), httpx.Response(200))
    assert (await ask(service.outbound(), mode, repeatable=True)).status == 200
    assert len(service.requests) == 3


async def test_attempts_are_bounded(mode: Mode) -> None:
    service = Service(httpx.Response(503))
    await fails(service.outbound(attempts=3), mode, "answered 503", repeatable=True)
    assert len(service.requests) == 3
    service = Service(httpx.Response(429))
    await fails(service.outbound(attempts=3), mode, "answered 429")
    assert len(service.requests) == 3


@pytest.mark.promise("outbound-leaks-nothing")
@pytest.mark.parametrize(
    "failure",
    [
        httpx.Response(500),
        httpx.Response(502),
        httpx.Response(503),
        httpx.Response(503, headers={"Retry-After": "0"}),
        httpx.ReadError("x"),
        httpx.ReadTimeout("x"),
    ],
)
async def test_what_may_have_had_an_effect_is_sent_again_only_if_repeatable(
    mode: Mode, failure: httpx.Response | Exception
) -> None:
    service = Service(failure, httpx.Response(200))
    await fails(service.outbound(), mode, r"(answered 50[023]|no answer \(Read(Error|Timeout)\))")
    assert len(service.requests) == 1
    service = Service(failure, httpx.Response(200))
    assert (await ask(service.outbound(), mode, repeatable=True)).status == 200


@pytest.mark.promise("outbound-leaks-nothing")
async def test_no_redirect_is_followed(make: Make, mode: Mode) -> None:
    def elsewhere(connection: Connection) -> None:
        connection.request()
        connection.send(response("307 Temporary Redirect", b"", f"Location: {evil.url}/"))

    with (
        serving(lambda connection: connection.send(response("200 OK"))) as evil,
        serving(elsewhere) as server,
    ):
        assert (await ask(make(server.url), mode)).status == 307
        assert not evil.requests


@pytest.mark.promise("outbound-leaks-nothing")
async def test_no_cookie_is_left_by_one_call_to_another(make: Make, mode: Mode) -> None:
    def setting(connection: Connection) -> None:
        assert b"cookie" not in connection.request().lower()
        connection.send(response("200 OK", b"", "Set-Cookie: session=1; Path=/"))

    with serving(setting) as server:
        outbound = make(server.url)
        for _ in range(2):
            assert (await ask(outbound, mode)).headers["set-cookie"]


@pytest.mark.promise("service-failures-bounded")
async def test_too_long_an_answer_is_refused_without_holding_it(make: Make, mode: Mode) -> None:
    def endless(connection: Connection) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while not connection.hold(0):
            connection.send(b"x" * 65536)

    with serving(endless) as server:
        tracemalloc.start()
        try:
            await fails(make(server.url, size=100_000), mode, r"no answer \(ValueError\)")
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
        finally:
            tracemalloc.stop()


@pytest.mark.promise("service-failures-bounded")
async def test_a_compressed_answer_is_refused_before_it_unfolds(make: Make, mode: Mode) -> None:
    bomb = gzip.compress(bytes(50_000_000))

    def explode(connection: Connection) -> None:
        assert b"accept-encoding: identity" in connection.request().lower()
        connection.send(response("200 OK", bomb, "Content-Encoding: gzip"))

    with serving(explode) as server:
        tracemalloc.start()
        try:
            await fails(make(server.url), mode, r"no answer \(ValueError\)")
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
        finally:
            tracemalloc.stop()


# --- certificates


def tls(directory: Path, expires: timedelta) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's context, and a client's that trusts it."""
    file = certificate(directory, expires=expires)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=str(file))


def ok(connection: Connection) -> None:
    connection.request()
    connection.send(response("200 OK", b"{}"))


async def test_a_certificate_that_is_trusted_is(make: Make, mode: Mode, tmp_path: Path) -> None:
    server_side, client_side = tls(tmp_path, timedelta(days=1))
    with serving(ok, server_side) as server:
        assert (await ask(make(server.url, verify=client_side), mode)).status == 200


@pytest.mark.promise("outbound-leaks-nothing")
async def test_an_expired_certificate_is_told_and_nothing_is_sent(
    make: Make, mode: Mode, tmp_path: Path
) -> None:
    server_side, client_side = tls(tmp_path, timedelta(days=-1))
    with serving(ok, server_side) as server:
        reason = r"no connection \(its certificate is not trusted\)"
        started = time.monotonic()
        await fails(make(server.url, verify=client_side), mode, reason)
        assert time.monotonic() - started < 1.0
        assert not server.requests


async def test_an_unknown_authority_is_told_and_nothing_is_sent(
    make: Make, mode: Mode, tmp_path: Path
) -> None:
    server_side, _ = tls(tmp_path, timedelta(days=1))
    with serving(ok, server_side) as server:
        await fails(make(server.url), mode, r"no connection \(its certificate is not trusted\)")
        assert not server.requests


async def test_a_service_without_tls_is_not_said_to_have_a_bad_certificate(make: Make, mode: Mode) -> None:
    def plain(connection: Connection) -> None:
        connection.stream.recv(100)
        connection.send(response("400 Bad Request"))

    with serving(plain) as server:
        await fails(make(server.url.replace("http:", "https:")), mode, r"no connection \(ConnectError\)")


@pytest.mark.promise("outbound-leaks-nothing")
async def test_nothing_of_the_environment_chooses_a_proxy(
    make: Make, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(ok) as proxy, serving(ok) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert (await ask(make(server.url), mode)).status == 200
        assert not proxy.requests


# --- the circuit


NO_ANSWER = r"no answer \(ReadError\)"


@pytest.mark.promise("service-failures-bounded")
async def test_a_service_that_keeps_failing_is_left_alone_and_then_tried(mode: Mode) -> None:
    service = Service(httpx.ReadError("x"))
    outbound = service.outbound(threshold=3, cooldown=0.5)
    for _ in range(3):
        await fails(outbound, mode, NO_ANSWER)
    await fails(outbound, mode, r"not asked for \d s, after repeated failures")
    assert len(service.requests) == 3
    await asyncio.sleep(0.6)
    await fails(outbound, mode, NO_ANSWER)  # half open: one failure opens it again
    await fails(outbound, mode, "not asked for .*")
    assert len(service.requests) == 4
    await asyncio.sleep(0.6)
    service.answers[:] = [httpx.Response(200)]
    assert (await ask(outbound, mode)).status == 200
    service.answers[:] = [httpx.ReadError("x")]
    await fails(outbound, mode, NO_ANSWER)
    await fails(outbound, mode, NO_ANSWER)


@pytest.mark.promise("arguments-stop-nobody")
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_an_answer_is_no_failure_of_the_connection(mode: Mode, status: int) -> None:
    service = Service(httpx.Response(status))
    outbound = service.outbound(threshold=2)
    for _ in range(5):
        await fails(outbound, mode, f"answered {status}", repeatable=True)
    service.answers[:] = [httpx.Response(200)]
    assert (await ask(outbound, mode)).status == 200


@pytest.mark.promise("arguments-stop-nobody")
async def test_a_question_that_is_repeated_counts_once(mode: Mode) -> None:
    service = Service(httpx.ReadError("x"))
    outbound = service.outbound(threshold=3, attempts=3)
    for _ in range(2):
        await fails(outbound, mode, NO_ANSWER, repeatable=True)
    assert len(service.requests) == 6
    await fails(outbound, mode, NO_ANSWER)
    await fails(outbound, mode, "not asked for .*")


@pytest.mark.promise("arguments-stop-nobody")
async def test_what_gets_no_answer_stops_its_own_party_alone(mode: Mode) -> None:
    service = Service(httpx.ReadTimeout("x"))
    outbound = service.outbound(threshold=2)
    for _ in range(2):
        await fails(outbound, mode, "no answer .*", party="user:eve")
    await fails(outbound, mode, "not asked for .*", party="user:eve")
    service.answers[:] = [httpx.Response(200)]
    assert (await ask(outbound, mode, party="user:ada")).status == 200
    assert (await ask(outbound, mode)).status == 200
    await fails(outbound, mode, "not asked for .*", party="user:eve")


@pytest.mark.promise("arguments-stop-nobody")
async def test_too_little_time_to_connect_counts_for_its_party_alone(mode: Mode) -> None:
    """A service that drops the line late for some argument leaves a repetition too little time."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.extensions["timeout"]["connect"] < 0.2:
            raise httpx.ConnectTimeout("handshake")
        if b"bomb" in request.content:
            time.sleep(0.25)
            raise httpx.ReadError("dropped")
        return httpx.Response(200)

    transport = httpx.MockTransport(answer)
    outbound = Outbound(
        "issuer",
        "https://pdp.example",
        limits=Limits(timeout=0.4, threshold=2),
        transport=transport,
        async_transport=transport,
    )
    for _ in range(3):
        await fails(outbound, mode, ".*", party="user:eve", data={"q": "bomb"}, repeatable=True)
    assert (await ask(outbound, mode, party="user:ada")).status == 200


@pytest.mark.promise("arguments-stop-nobody")
async def test_no_connection_in_all_the_time_that_there_is_counts_for_all(mode: Mode) -> None:
    outbound = Service(httpx.ConnectTimeout("x")).outbound(threshold=2)
    for party in ("user:eve", "user:ada"):
        await fails(outbound, mode, "no connection .*", party=party)
    await fails(outbound, mode, "not asked for .*", party="user:bob")


@pytest.mark.promise("arguments-stop-nobody")
async def test_what_an_issuer_leaves_unanswered_for_one_user_stops_no_other(mode: Mode) -> None:
    service = Service(httpx.ReadTimeout("x"))
    outbound = service.outbound(threshold=2)

    class Broker:
        def issue(self, grant: Grant) -> Answer:
            question: Any = outbound.ask.sync("POST", "/token", data={"token": grant.identity.subject})
            answer: Answer = drive(question)
            return answer

        async def aissue(self, grant: Grant) -> Answer:
            answer: Answer = await outbound.ask.async_("POST", "/token")
            return answer

    pair = operation_pair(Broker(), "issue", timeout=2.0, delivers=True)
    issue, answers = pair.async_ if mode.asynchronous else pair.sync, list[Answer]()
    eve, ada = (SimpleNamespace(identity=SimpleNamespace(subject=name)) for name in ("user:eve", "user:ada"))
    for problem in ("no answer", "no answer", "not asked for"):
        with pytest.raises(IssueError, match=problem):
            await issue(answers.append, eve)
    service.answers[:] = [httpx.Response(200)]
    await issue(answers.append, ada)
    assert [answer.status for answer in answers] == [200]


@pytest.mark.promise("service-failures-bounded")
async def test_a_first_address_that_answers_nothing_keeps_nobody_from_the_second(
    make: Make, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(connection: Connection) -> None:
        connection.request()
        connection.send(response("200 OK"))

    with serving(answers) as server, full_listener(server.port) as dead:
        real = socket.getaddrinfo

        def look_up(host: Any, *arguments: Any, **options: Any) -> list[Any]:
            addresses = [dead, "127.0.0.1"] if host in ("two.example", b"two.example") else [host]
            return [info for address in addresses for info in real(address, *arguments, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        outbound = make(f"http://two.example:{server.port}", timeout=1.0)
        assert (await ask(outbound, mode)).status == 200


@pytest.mark.promise("hung-adapters-stop-nobody")
def test_names_whose_look_up_hangs_stop_no_other_service_on_an_event_loop(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, real = threading.Event(), socket.getaddrinfo

    def hangs(host: Any, *arguments: Any, **options: Any) -> list[Any]:
        if host in ("hung.example", b"hung.example"):
            end.wait(10)
            raise OSError("no such name")
        return real(host, *arguments, **options)

    def answers(connection: Connection) -> None:
        connection.request()
        connection.send(response("200 OK"))

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    hung = make("https://hung.example", timeout=0.2, threshold=1000)

    async def main(url: str) -> int:
        healthy = make(url.replace("127.0.0.1", "localhost"), timeout=2.0)
        questions = [hung.ask.async_("GET", "/", party=f"user:{number}") for number in range(40)]
        results = await asyncio.gather(*questions, return_exceptions=True)
        assert {type(result) for result in results} == {IssueError}
        return int((await healthy.ask.async_("GET", "/")).status)

    started = time.monotonic()
    with serving(answers) as server:
        assert asyncio.run(main(server.url)) == 200
    assert time.monotonic() - started < 3, "the end of the event loop waits for the look-ups"
    end.set()


@contextmanager
def full_listener(port: int) -> Iterator[str]:
    """Give an address of this machine at which *port* answers nothing: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.2", port))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.2", port))
        yield "127.0.0.2"


async def test_a_service_that_cannot_be_reached_is_left_alone_by_all(mode: Mode) -> None:
    service = Service(httpx.ConnectError("x"))
    outbound = service.outbound(threshold=2)
    for party in ("user:eve", "user:ada"):
        await fails(outbound, mode, "no connection .*", party=party)
    await fails(outbound, mode, "not asked for .*", party="user:bob")


@pytest.mark.promise("arguments-stop-nobody")
async def test_a_body_that_is_too_long_is_not_sent_and_counts_for_nobody(mode: Mode) -> None:
    service = Service(httpx.Response(200))
    outbound = service.outbound(body=1000, threshold=1)
    for options in ({"json": {"a": "x" * 1000}}, {"content": b"x" * 1001}, {"data": {"a": "x" * 1000}}):
        await fails(
            outbound, mode, "not asked: the request has more than 1000 bytes", **{"data": None, **options}
        )
    assert not service.requests
    assert (await ask(outbound, mode)).status == 200


async def test_a_refusal_is_no_failure(mode: Mode) -> None:
    outbound = Service(httpx.Response(400)).outbound(threshold=2)
    for _ in range(5):
        assert (await ask(outbound, mode)).status == 400


@pytest.mark.promise("outbound-leaks-nothing")
async def test_the_circuit_keeps_nothing_of_a_request_that_failed(mode: Mode) -> None:
    class Body(dict[str, str]):
        """One that can be found."""

    outbound = Service(httpx.Response(500)).outbound()
    await fails(outbound, mode, "answered 500", data=Body(token=SECRET))
    gc.collect()
    assert not [body for body in gc.get_objects() if isinstance(body, Body)]


@pytest.mark.promise("service-failures-bounded")
async def test_a_cancellation_neither_opens_nor_closes_the_circuit() -> None:
    async def answer(_request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60 if hanging else 0)
        raise httpx.ReadError("x")

    transport = httpx.MockTransport(answer)
    outbound = Outbound(
        "issuer", "https://issuer.example", limits=Limits(threshold=2), async_transport=transport
    )
    hanging = False
    await fails(outbound, Mode("async"), NO_ANSWER)
    hanging = True
    for _ in range(5):
        asking = asyncio.create_task(ask(outbound, Mode("async")))
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    hanging = False
    await fails(outbound, Mode("async"), NO_ANSWER)
    await fails(outbound, Mode("async"), "not asked for .*")


# --- event loops


@pytest.mark.promise("service-failures-bounded")
async def test_a_service_that_is_slow_blocks_no_event_loop(make: Make) -> None:
    def slow(connection: Connection) -> None:
        connection.request()
        connection.hold(0.5)
        connection.send(response("503 Service Unavailable"))

    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            started = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - started)

    with serving(slow) as server:
        outbound = make(server.url)
        ticking = asyncio.create_task(tick())
        await fails(outbound, Mode("async"), "(answered 503|no answer .*)")
        ticking.cancel()
    assert longest < 0.3


def keeping(connection: Connection) -> None:
    """Answer many requests on one connection."""
    while connection.request():
        connection.send(response("200 OK", b"{}").replace(b"Connection: close\r\n", b""))


def test_two_event_loops_one_after_the_other_leave_no_socket_behind() -> None:
    with serving(keeping) as server:
        outbound = Outbound("issuer", server.url)
        for _ in range(3):
            assert asyncio.run(ask(outbound, Mode("async"))).status == 200
        gc.collect()  # an unclosed socket or loop is an error (filterwarnings)


def test_a_closed_outbound_leaves_no_socket_behind_and_opens_anew() -> None:
    with serving(keeping) as server:
        outbound = Outbound("issuer", server.url)
        for _ in range(2):
            assert drive(outbound.ask.sync("GET", "/")).status == 200  # type: ignore[arg-type]  # a coroutine
            outbound.close()
            outbound.close()
        gc.collect()


@pytest.mark.promise("interrupt-locks-nobody-out")
def test_a_signals_handler_that_closes_while_the_client_is_made_waits_for_nobody() -> None:
    """As that of SIGTERM, which closes a guard in the thread that is about to ask."""

    class Closing(httpx.MockTransport):
        def __bool__(self) -> bool:  # asked while the client is made
            outbound.close()
            return True

    transport = Closing(lambda _request: httpx.Response(200))
    outbound = Outbound("issuer", "https://issuer.example", transport=transport)
    answers = list[Answer]()
    thread = threading.Thread(
        target=lambda: answers.append(drive(outbound.ask.sync("GET", "/"))),  # type: ignore[arg-type]  # a coroutine
        daemon=True,
    )
    thread.start()
    thread.join(5.0)
    assert [answer.status for answer in answers] == [200]
    outbound.close()


async def test_a_connection_is_used_again(make: Make, mode: Mode) -> None:
    accepted: list[int] = []

    def counting(connection: Connection) -> None:
        accepted.append(1)
        keeping(connection)

    with serving(counting) as server:
        outbound = make(server.url)
        for _ in range(3):
            assert (await ask(outbound, mode)).status == 200
        outbound.close()
        if mode.asynchronous:
            await asyncio.sleep(0.05)  # the event loop closes its own connections
    assert len(accepted) == 1


async def test_a_cancelled_question_is_cancelled_at_once(make: Make) -> None:
    def silent(connection: Connection) -> None:
        connection.request()
        connection.hold()

    with serving(silent) as server:
        asking = asyncio.create_task(ask(make(server.url), Mode("async")))
        await asyncio.sleep(0.1)
        started = time.monotonic()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert time.monotonic() - started < 0.3


async def test_a_cancellation_while_it_waits_to_try_again_is_at_once() -> None:
    service = Service(httpx.Response(429, headers={"Retry-After": "1"}))
    asking = asyncio.create_task(ask(service.outbound(), Mode("async")))
    await asyncio.sleep(0.1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(service.requests) == 1


async def test_the_error_is_of_the_kind_that_its_owner_wants(mode: Mode) -> None:
    outbound = Service(httpx.Response(500)).outbound(error=IdentityError)
    with pytest.raises(IdentityError, match=r"^issuer: answered 500$"):
        await ask(outbound, mode)
