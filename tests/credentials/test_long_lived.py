"""A long-lived key stays inside the guard: attached for one call, towards its own origins, by nobody else."""

from __future__ import annotations

import asyncio
import base64
import copy
import logging
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.tools import tool

import agentguard
from agentguard import Resource, ToolPath
from agentguard.catalog import Catalog
from agentguard.credentials.long_lived import LegacySecret
from agentguard.credentials.sources import FileSecret
from agentguard.errors import (
    ConfigurationError,
    CredentialUnavailable,
    DestinationRefused,
    IssueError,
    RevocationUnknown,
)
from agentguard.lease import Lease
from agentguard.model import Credential, Grant, Secret
from agentguard.testing import BrokerContract, sample_grant
from tests.conftest import Kit

KEY = "sk-live-0123456789abcdef"
URL = "https://payments.example.test/refunds"
GRANT = sample_grant()


class Source:
    """Holds a key, counts how often it is read, and can be made to do worse."""

    name = "file:key"

    def __init__(self, key: str = KEY) -> None:
        self.key, self.reads = key, 0
        self.fails: Exception | None = None
        self.delay = 0.0

    def read(self) -> Secret:
        self.reads += 1
        time.sleep(self.delay)
        if self.fails is not None:
            raise self.fails
        return Secret(self.key)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def broker(source: Any = None, **options: Any) -> LegacySecret:
    return LegacySecret(source or Source(), **{"paths": [ToolPath.WRITE], "clock": Clock(), **options})


@pytest.fixture(params=["sync", "async"])
def issued(request: pytest.FixtureRequest) -> Callable[[LegacySecret, Grant], Credential]:
    def issue(by: LegacySecret, grant: Grant) -> Credential:
        return by.issue(grant) if request.param == "sync" else asyncio.run(by.aissue(grant))

    return issue


class TestContract(BrokerContract):
    """It passes unchanged: `reveal` gives a stand-in, which is another for each grant."""

    def make(self) -> LegacySecret:
        return broker(paths=[ToolPath.WRITE, ToolPath.READ])


# --- the key is attached, and not handed out


def test_the_key_is_attached_to_a_request_of_the_call(issued: Any) -> None:
    credential = issued(broker(), GRANT)
    assert credential.headers("POST", URL, None) == {"Authorization": f"Bearer {KEY}"}
    plain = issued(broker(header="X-Api-Key", scheme=""), GRANT)
    assert plain.headers("GET", f"{URL}?q=1", None) == {"X-Api-Key": KEY}
    assert (credential.legacy, credential.expires_at, credential.handle) == (True, 1060.0, GRANT.id)


@pytest.mark.promise("long-lived-key-never-handed")
def test_nothing_hands_the_key_to_the_tool() -> None:
    credential = broker().issue(GRANT)
    lease = Lease("refund", GRANT.resource, credential)
    token = lease.open()
    for ask in (lease.reveal, lease.env, lambda: lease.username, lambda: lease.headers("POST", URL)):
        with pytest.raises(CredentialUnavailable, match="never handed out"):
            ask()
    lease.release(token)
    for text in (credential.reveal(), repr(credential), str(credential.fields()), str(credential.env())):
        assert KEY not in text
    assert KEY in credential.secrets()  # so that it is redacted wherever it turns up


def test_nothing_around_it_shows_or_copies_the_key() -> None:
    by = broker()
    credential = by.issue(GRANT)
    for thing in (by, credential, credential.headers):
        assert KEY not in f"{thing!r}{getattr(thing, '__dict__', '')}"
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(credential.headers)


# --- anomalies: what no honest call does


@pytest.mark.promise("long-lived-key-never-handed")
def test_after_the_call_the_key_is_attached_to_nothing(issued: Any) -> None:
    anomalies: list[str] = []
    by = broker(on_anomaly=anomalies.append)
    credential = issued(by, GRANT)
    by.revoke(credential.handle, credential.expires_at)
    for _ in range(2):
        with pytest.raises(CredentialUnavailable, match="over") as caught:
            credential.headers("POST", URL, None)
        assert KEY not in str(traceback.format_exception(caught.value))
    assert by.anomalies == {"late": 2}
    assert anomalies == ["late", "late"]


@pytest.mark.promise("long-lived-key-never-handed")
@pytest.mark.parametrize(
    "url",
    [
        "https://payments.example.test.evil/",
        "https://payments.example.test:8443/",
        "http://payments.example.test/",
        "https://payments.example.test@evil.example/",
        "https://evil.example/?https://payments.example.test/",
        "//payments.example.test/",
        "file:///etc/passwd",
        "",
    ],
)
def test_for_another_origin_the_key_is_not_attached_even_if_it_is_asked_for_directly(url: str) -> None:
    anomalies: list[str] = []
    by = broker(on_anomaly=anomalies.append)
    with pytest.raises(DestinationRefused):
        by.issue(GRANT).headers("POST", url, None)
    assert by.anomalies == {"destination": 1}
    assert anomalies == ["destination"]


def test_a_grant_for_another_path_is_refused_before_the_key_is_read(issued: Any) -> None:
    source = Source()
    by = broker(source)
    with pytest.raises(IssueError, match="read path"):
        issued(by, replace(GRANT, path=ToolPath.READ))
    assert by.anomalies == {"path": 1}
    assert source.reads == 0


def test_a_refusal_stands_whatever_the_listener_does() -> None:
    def broken(_kind: str) -> None:
        raise RuntimeError("the alarm is out of order")

    by = broker(on_anomaly=broken)
    with pytest.raises(DestinationRefused):
        by.issue(GRANT).headers("POST", "https://evil.example/", None)


def test_a_call_that_outlives_its_credential_is_refused_and_no_anomaly() -> None:
    clock = Clock()
    by = broker(clock=clock)
    credential = by.issue(GRANT)
    clock.now += 60.0
    with pytest.raises(CredentialUnavailable, match="longer"):
        credential.headers("POST", URL, None)
    assert by.anomalies == {}


@pytest.mark.promise("revocation-not-claimed")
def test_the_use_of_a_key_in_another_process_is_not_said_to_be_ended() -> None:
    clock = Clock()
    one, other = (LegacySecret(Source(), paths=[ToolPath.READ], clock=clock) for _ in range(2))
    credential = one.issue(replace(GRANT, path=ToolPath.READ))
    with pytest.raises(RevocationUnknown):
        other.revoke(credential.handle, credential.expires_at)
    one.revoke(credential.handle, credential.expires_at)
    one.revoke(credential.handle, credential.expires_at)
    clock.now = credential.expires_at
    other.revoke(credential.handle, credential.expires_at)


@pytest.mark.promise("revocation-not-claimed")
def test_nothing_lives_under_a_handle_whose_key_was_not_read() -> None:
    source = Source()
    source.fails = OSError("the vault is down")
    broker = LegacySecret(source, paths=[ToolPath.READ])
    grant = replace(GRANT, path=ToolPath.READ)
    with pytest.raises(IssueError):
        broker.issue(grant)
    broker.revoke(grant.id, time.time() + 60)


def test_one_calls_end_is_not_anothers() -> None:
    by = broker()
    one, two = by.issue(replace(GRANT, id="one")), by.issue(replace(GRANT, id="two"))
    by.revoke(one.handle, one.expires_at)
    assert two.headers("POST", URL, None)["Authorization"].endswith(KEY)


def test_what_nobody_revoked_is_forgotten_when_it_is_over() -> None:
    clock = Clock()
    by = broker(clock=clock)
    for number in range(100):
        by.issue(replace(GRANT, id=str(number)))
        clock.now += 30.0
    assert len(by._live) == 2


# --- where the key comes from


def test_the_key_is_read_when_it_is_needed_and_again_when_it_is_no_longer_fresh(issued: Any) -> None:
    clock, source = Clock(), Source()
    by = broker(source, clock=clock, refresh=10.0)
    assert source.reads == 0
    for _ in range(3):
        issued(by, GRANT)
    assert source.reads == 1
    clock.now, source.key = clock.now + 10.0, "rotated"
    assert issued(by, GRANT).headers("POST", URL, None) == {"Authorization": "Bearer rotated"}


@pytest.mark.promise("source-failure-silent")
def test_a_source_that_fails_when_the_key_is_no_longer_fresh_means_no_credential(issued: Any) -> None:
    clock, source = Clock(), Source()
    by = broker(source, clock=clock, refresh=10.0)
    issued(by, GRANT)
    source.fails = IssueError("file:key: no such file")
    issued(by, GRANT)
    clock.now += 10.0
    with pytest.raises(IssueError, match="no such file"):
        issued(by, GRANT)


@pytest.mark.parametrize("failure", [ValueError(KEY), OSError(5, KEY), KeyError(KEY)])
def test_whatever_a_source_raises_is_told_without_its_message(issued: Any, failure: Exception) -> None:
    source = Source()
    source.fails = failure
    with pytest.raises(IssueError, match=type(failure).__name__) as caught:
        issued(broker(source), GRANT)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["", " ", f"{KEY}\nX-Evil: 1", f"{KEY}\r\n\r\n", "schl\u00fcssel", f"{KEY} ", "\x00"]
)
def test_a_key_that_cannot_stand_in_a_header_is_refused_without_showing_it(issued: Any, key: str) -> None:
    with pytest.raises(IssueError, match="cannot stand in a header") as caught:
        issued(broker(Source(key)), GRANT)
    assert KEY not in str(caught.value)


def test_a_source_that_takes_too_long_means_no_credential(issued: Any) -> None:
    source = Source()
    source.delay = 0.2
    with pytest.raises(IssueError, match="TimeoutError"):
        issued(broker(source, timeout=0.05), GRANT)


def test_one_read_serves_all_who_wait_for_it() -> None:
    source = Source()
    source.delay = 0.1
    by = broker(source)
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda n: by.issue(replace(GRANT, id=str(n))).id, range(8)))) == 8
    assert source.reads == 1


async def test_reading_the_key_does_not_block_the_event_loop() -> None:
    where: list[int] = []

    class Slow(Source):
        def read(self) -> Secret:
            where.append(threading.get_ident())
            return super().read()

    await broker(Slow()).aissue(GRANT)
    assert where != [threading.get_ident()]


@pytest.mark.parametrize(
    "options", [{"paths": []}, {"header": "X Y"}, {"header": ""}, {"header": "X:"}, {"scheme": "a\n"}]
)
def test_a_header_that_cannot_be_sent_is_a_configuration_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="legacy key"):
        broker(**options)


# --- behind a guard


class Payments:
    """An API that answers with what it was sent, as a careless one does."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request.headers.get("x-api-key", ""))
        if request.url.path == "/away":
            return httpx.Response(307, headers={"Location": "https://evil.example/"})
        return httpx.Response(200, text=f"echo {self.sent[-1]}")


@pytest.fixture
def behind() -> tuple[Kit, LegacySecret, Payments]:
    kit, by = Kit(), broker(paths=list(ToolPath), header="X-Api-Key", scheme="", clock=time.time)
    catalog = Catalog(resources=[Resource(name="orders", origins=("https://orders.example",))])
    kit.guard = kit.another(catalog=catalog, brokers=dict.fromkeys([(None, path) for path in ToolPath], by))
    return kit, by, Payments()


@pytest.mark.promise("long-lived-key-never-handed")
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_guarded_tool_uses_the_key_that_it_never_sees(behind: Any, asynchronous: bool, caplog: Any) -> None:
    kit, _, api = behind
    caplog.set_level(logging.DEBUG)
    leases: list[Any] = []

    @tool
    def charge() -> str:
        """Charge."""
        leases.append(agentguard.credential("orders"))
        with httpx.Client(transport=httpx.MockTransport(api)) as client:
            answer = client.get("https://orders.example/x", auth=agentguard.auth("orders"))
        with pytest.raises(CredentialUnavailable):
            leases[0].reveal()
        return answer.text

    guarded = kit.wrap(charge)
    with kit.guard.task("t", subject="user:1", mandate={"tools": ["charge"]}):
        result = asyncio.run(guarded.ainvoke({})) if asynchronous else guarded.invoke({})
    assert api.sent == [KEY]
    everything = f"{result}{list(kit.audit.records())}{caplog.text}"
    assert KEY not in everything
    assert base64.b64encode(KEY.encode()).decode() not in everything
    with pytest.raises(CredentialUnavailable):
        leases[0].transport_headers("GET", "https://orders.example/x")


def test_a_redirect_away_carries_no_key(behind: Any) -> None:
    kit, _, api = behind

    @tool
    def charge() -> str:
        """Charge."""
        with httpx.Client(transport=httpx.MockTransport(api), follow_redirects=True) as client:
            with pytest.raises(DestinationRefused):
                client.get("https://orders.example/away", auth=agentguard.auth("orders"))
            with pytest.raises(DestinationRefused):
                client.get("https://evil.example/", auth=agentguard.auth("orders"))
        return "done"

    with kit.guard.task("t", subject="user:1", mandate={"tools": ["charge"]}):
        assert kit.wrap(charge).invoke({}) == "done"


class HungOnce:
    """A source whose first reading hangs, as that of a library without time-outs does."""

    name = "vault:key"

    def __init__(self) -> None:
        self.end, self.reads = threading.Event(), 0

    def read(self) -> Secret:
        self.reads += 1
        if self.reads == 1:
            self.end.wait(10)
        return Secret(KEY)


@pytest.mark.promise("secret-source-bounded")
def test_a_source_that_hangs_once_costs_one_call_its_time_out(
    issued: Callable[[LegacySecret, Grant], Credential],
) -> None:
    source = HungOnce()
    by = broker(source, timeout=0.2)
    started = time.monotonic()
    with pytest.raises(IssueError, match=r"vault:key: no key \(TimeoutError\)"):
        issued(by, GRANT)
    assert time.monotonic() - started < 1.0
    assert issued(by, GRANT).headers("GET", URL, None)["Authorization"].endswith(KEY)
    source.end.set()


@pytest.mark.promise("secret-source-bounded")
def test_a_file_on_a_mount_that_hangs_is_given_up(
    issued: Callable[[LegacySecret, Grant], Credential], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, end = tmp_path / "key", threading.Event()
    file.write_text(KEY)
    file.chmod(0o600)
    read = os.read

    def hangs(descriptor: int, size: int) -> bytes:
        # the descriptors of event loops are read as before
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(file):
            end.wait(10)
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", hangs)
    by = broker(FileSecret(file), timeout=0.2)
    started = time.monotonic()
    with pytest.raises(IssueError, match=r"no key \(TimeoutError\)"):
        issued(by, GRANT)
    assert time.monotonic() - started < 1.0
    end.set()


@pytest.mark.promise("secret-source-bounded")
def test_a_call_whose_secret_hangs_is_denied_in_time_and_the_denial_is_on_record(kit: Kit) -> None:
    source = HungOnce()
    by = broker(source, timeout=0.2, paths=list(ToolPath))
    kit.guard = kit.another(brokers=dict.fromkeys([(None, path) for path in ToolPath], by))

    @tool
    def read_orders() -> str:
        """Read the orders."""
        return "read"

    guarded = kit.wrap(read_orders)
    call: Any = {"type": "tool_call", "name": "read_orders", "id": "1", "args": {}}
    started = time.monotonic()
    with kit.guard.task("Read", subject="user:ada", mandate={"tools": "*"}):
        assert guarded.invoke(call).text != "read"
        assert time.monotonic() - started < 1.5
        source.end.set()
        assert guarded.invoke(call | {"id": "2"}).text == "read"
    effects = [record.get("effect") or record["event"] for record in kit.audit.records()]
    assert effects[:3] == ["permit", "outcome", "deny"]
