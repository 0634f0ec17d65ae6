"""A resource reads the issuer's keys from a file or a URL, and nobody can make it read them too often."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentguard.credentials.local_issuer import LocalIssuer, jwks
from agentguard.errors import ConfigurationError, VerificationError
from agentguard.jose import Signer
from agentguard.model import Arguments, Grant, Identity, Resource, ToolPath
from agentguard.resource import KeySource, Refresh, Verifier
from agentguard.stores.memory import MemoryStore
from tests.conftest import Mode
from tests.doubles.loopback import serving, trickle_body

NOW = 1_700_000_000.0
ISSUER = "https://guard.example"
KEYS_URL = "https://guard.example/jwks.json"
RESOURCE = Resource(name="orders", origins=("https://api.example",))
URL = "https://api.example/orders/4711"
GRANT = Grant(
    id="call-1",
    task_id="task-1",
    identity=Identity(subject="user:4", actor="agent://support"),
    tool="get_order",
    path=ToolPath.READ,
    resource=RESOURCE,
    scopes=frozenset({"orders:read"}),
    digest=Arguments.of({"order_id": "4711"}).digest,
    lifetime=60.0,
)


def issuer(key: Signer | None = None) -> LocalIssuer:
    return LocalIssuer(
        ToolPath.READ, issuer=ISSUER, store=MemoryStore(), key=key or Signer.generate(), clock=lambda: NOW
    )


def presented(by: LocalIssuer) -> dict[str, str]:
    return dict(by.issue(GRANT).headers("GET", URL, None))


class Place:
    """A place on the network where keys are, a clock, and what was asked of it."""

    def __init__(self, *issuers: LocalIssuer) -> None:
        self.now = 1000.0
        self.answers: dict[str, Callable[[], httpx.Response]] = {}
        self.requests: list[str] = []
        self.publish(*issuers)

    def publish(self, *issuers: LocalIssuer, at: str = KEYS_URL) -> None:
        content = jwks(*issuers)
        self.answers[at] = lambda: httpx.Response(200, json=content)

    def respond(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(str(request.url))
        return self.answers[str(request.url)]()

    def source(self, location: str = KEYS_URL, **changes: Any) -> KeySource:
        transport = httpx.MockTransport(self.respond)
        return KeySource(location, ISSUER, transport=transport, clock=lambda: self.now, **changes)

    def fail(self) -> None:
        def answer() -> httpx.Response:
            raise httpx.ConnectError("down")

        self.answers = dict.fromkeys(self.answers, answer)


def verifier(keys: Any, **changes: Any) -> Verifier:
    return Verifier(issuer=ISSUER, keys=keys, resource=RESOURCE, store=None, clock=lambda: NOW, **changes)


async def verify(mode: Mode, at: Verifier, by: LocalIssuer) -> bool:
    """Return whether a token of the issuer is accepted; another failure than an unknown key is raised."""
    try:
        await mode.call(at, "verify", "GET", URL, presented(by), path=ToolPath.READ)
    except VerificationError as error:
        if error.status == 401 and "not signed with a key of this endpoint" in str(error):
            return False
        raise
    return True


async def test_keys_at_a_url_are_fetched_when_they_are_needed_and_kept(mode: Mode) -> None:
    guard = issuer()
    place = Place(guard)
    api = verifier(place.source())
    assert place.requests == []
    for _ in range(5):
        assert await verify(mode, api, guard)
    assert place.requests == [KEYS_URL]
    place.now += 301
    assert await verify(mode, api, guard)
    assert len(place.requests) == 2


async def test_a_new_key_is_fetched_for_the_first_token_that_names_it(mode: Mode) -> None:
    old, new = issuer(), issuer()
    place = Place(old)
    api = verifier(place.source())
    assert await verify(mode, api, old)
    place.publish(old, new)
    place.now += 11
    assert await verify(mode, api, new)
    assert await verify(mode, api, old)
    assert len(place.requests) == 2


@pytest.mark.promise("keys-fetched-at-a-bounded-rate")
async def test_random_key_ids_cause_one_fetch_in_ten_seconds(mode: Mode) -> None:
    guard = issuer()
    place = Place(guard)
    api = verifier(place.source())
    for number in range(100):
        assert not await verify(mode, api, issuer())
        assert await verify(mode, api, guard)
        place.now = 1000 + number / 5
    assert len(place.requests) == 2  # in 20 seconds


@pytest.mark.promise("keys-fetched-at-a-bounded-rate")
async def test_a_place_that_is_down_is_asked_once_in_ten_seconds_although_nothing_is_known_yet(
    mode: Mode,
) -> None:
    guard = issuer()
    place = Place(guard)
    place.fail()
    api = verifier(place.source())
    for number in range(50):
        with pytest.raises(VerificationError) as caught:
            await verify(mode, api, guard)
        assert caught.value.status == 503
        place.now = 1000 + number / 5
    assert len(place.requests) == 1


@pytest.mark.promise("removed-key-refused")
async def test_a_key_that_the_set_no_longer_has_is_refused_after_the_refresh(mode: Mode) -> None:
    old, new = issuer(), issuer()
    place = Place(old, new)
    api = verifier(place.source())
    assert await verify(mode, api, old)
    place.publish(new)
    place.now += 299
    assert await verify(mode, api, old)
    place.now += 2
    assert not await verify(mode, api, old)
    assert await verify(mode, api, new)


@pytest.mark.promise("removed-key-refused")
async def test_while_the_place_is_down_the_last_keys_are_valid_for_a_bounded_time(mode: Mode) -> None:
    guard = issuer()
    place = Place(guard)
    api = verifier(place.source())
    assert await verify(mode, api, guard)
    place.fail()
    place.now += 3_599
    assert await verify(mode, api, guard)
    assert not await verify(mode, api, issuer())
    place.now += 2
    with pytest.raises(VerificationError) as caught:
        await verify(mode, api, guard)
    assert caught.value.status == 503
    place.publish(guard)
    place.now += 11
    assert await verify(mode, api, guard)


def redirect() -> httpx.Response:
    return httpx.Response(302, headers={"location": "https://evil.example/jwks.json"})


ANSWERS: dict[str, Callable[[], httpx.Response]] = {
    "a redirect": redirect,
    "an error": lambda: httpx.Response(404, json={"keys": []}),
    "too long": lambda: httpx.Response(200, content=b'{"keys": [' + b" " * 300_000 + b"]}"),
    "compressed": lambda: httpx.Response(200, content=b"x", headers={"content-encoding": "gzip"}),
    "no JSON": lambda: httpx.Response(200, content=b"<html>"),
    "no set": lambda: httpx.Response(200, json=[]),
    "keys that are no list": lambda: httpx.Response(200, json={"keys": {}}),
    "a name twice": lambda: httpx.Response(200, content=b'{"keys": [], "keys": []}'),
    "nested": lambda: httpx.Response(200, content=b'{"keys": ' + b"[" * 100_000),
}


@pytest.mark.promise("keys-of-the-issuer-alone")
@pytest.mark.parametrize("name", ANSWERS)
async def test_what_is_no_key_set_of_the_place_itself_is_not_used(mode: Mode, name: str) -> None:
    guard, evil = issuer(), issuer()
    place = Place(guard)
    place.publish(evil, at="https://evil.example/jwks.json")
    place.answers[KEYS_URL] = ANSWERS[name]
    api = verifier(place.source())
    with pytest.raises(VerificationError) as caught:
        await verify(mode, api, evil)
    assert caught.value.status == 503
    assert place.requests == [KEYS_URL]


DISCOVERY = "https://guard.example/.well-known/oauth-authorization-server"


async def test_a_discovery_document_leads_to_the_keys(mode: Mode) -> None:
    guard = issuer()
    place = Place()
    place.answers[DISCOVERY] = lambda: httpx.Response(200, json={"issuer": ISSUER, "jwks_uri": KEYS_URL})
    place.publish(guard)
    assert await verify(mode, verifier(place.source(DISCOVERY)), guard)
    assert place.requests == [DISCOVERY, KEYS_URL]


@pytest.mark.promise("keys-of-the-issuer-alone")
@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example", "jwks_uri": KEYS_URL},
        {"jwks_uri": KEYS_URL},
        {"issuer": ISSUER, "jwks_uri": "http://guard.example/jwks.json"},
        {"issuer": ISSUER, "jwks_uri": "http://127.0.0.1:8200/v1/secret"},
        {"issuer": ISSUER, "jwks_uri": "HTTP://127.0.0.1:8200/v1/secret"},
        {"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"},
        {"issuer": ISSUER, "jwks_uri": ["https://guard.example/jwks.json"]},
        {"issuer": ISSUER, "jwks_uri": None},
    ],
)
async def test_a_discovery_document_leads_nowhere_else(mode: Mode, document: dict[str, Any]) -> None:
    place = Place(issuer())
    place.answers[DISCOVERY] = lambda: httpx.Response(200, json=document)
    with pytest.raises(VerificationError) as caught:
        await verify(mode, verifier(place.source(DISCOVERY)), issuer())
    assert caught.value.status == 503
    assert place.requests == [DISCOVERY]


@pytest.mark.promise("keys-of-the-issuer-alone")
async def test_a_location_in_capitals_leads_to_no_service_of_this_machine_either(mode: Mode) -> None:
    place = Place(issuer())
    place.answers[DISCOVERY] = lambda: httpx.Response(
        200, json={"issuer": ISSUER, "jwks_uri": "http://127.0.0.1:8200/v1/secret"}
    )
    with pytest.raises(VerificationError):
        await verify(mode, verifier(place.source(DISCOVERY.replace("https", "HTTPS"))), issuer())
    assert place.requests == [DISCOVERY]


@pytest.mark.promise("keys-of-the-issuer-alone")
@pytest.mark.parametrize(
    "url",
    [
        "http://guard.example/jwks.json",
        "ftp://guard.example/jwks.json",
        "https://",
        "https://me:secret@guard.example/jwks.json",
        "http://127.0.0.1.evil.example/",
    ],
)
def test_keys_are_fetched_by_https_alone(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not fetched from"):
        verifier(url)


def test_a_source_of_another_issuer_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match=r"the keys are those of https://other\.example"):
        verifier(KeySource(KEYS_URL, "https://other.example"))


async def test_an_unusable_key_of_a_fetched_set_verifies_nothing_and_stops_no_other(mode: Mode) -> None:
    guard = issuer()
    place = Place(guard)
    twice = issuer().public_jwk
    other = {**issuer().public_jwk, "kid": twice["kid"]}
    content = {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "x"}, 7, *jwks(guard)["keys"], twice, other]}
    place.answers[KEYS_URL] = lambda: httpx.Response(200, json=content)
    api = verifier(place.source())
    assert await verify(mode, api, guard)


@pytest.mark.parametrize("form", [str, Path])
async def test_keys_in_a_file_are_read_again_when_it_has_changed(
    mode: Mode, tmp_path: Path, form: Callable[[Path], Any]
) -> None:
    old, new = issuer(), issuer()
    file = tmp_path / "jwks.json"
    api = verifier(form(file))
    with pytest.raises(VerificationError, match="cannot be read"):
        await verify(mode, api, old)
    file.write_text(json.dumps(jwks(old)))
    file.chmod(0o644)
    source = KeySource(file, ISSUER, refresh=Refresh(age=0.2, pause=0.0))
    api = verifier(source)
    assert await verify(mode, api, old)
    file.write_text(json.dumps(jwks(new)))
    await asyncio.sleep(0.25)
    assert await verify(mode, api, new)
    assert not await verify(mode, api, old)


@pytest.mark.promise("keys-of-the-issuer-alone")
async def test_a_file_of_keys_that_others_may_write_is_not_believed(mode: Mode, tmp_path: Path) -> None:
    evil = issuer()
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(jwks(evil)))
    file.chmod(0o646)
    with pytest.raises(VerificationError, match="cannot be read"):
        await verify(mode, verifier(file), evil)


@pytest.mark.promise("keys-fetched-at-a-bounded-rate")
@pytest.mark.parametrize("pause", [10.0, 0.0])
async def test_all_callers_sync_and_async_wait_for_one_fetch(pause: float) -> None:
    guard = issuer()
    place = Place(guard)
    arrived, go, plain = threading.Event(), threading.Event(), place.answers[KEYS_URL]

    def slow() -> httpx.Response:
        arrived.set()
        go.wait(3)
        return plain()

    place.answers[KEYS_URL] = slow
    api = verifier(place.source(refresh=Refresh(pause=pause)))
    results: list[bool] = []

    def call() -> None:
        api.verify("GET", URL, presented(guard), path=ToolPath.READ)
        results.append(True)

    async def acall() -> None:
        await api.averify("GET", URL, presented(guard), path=ToolPath.READ)
        results.append(True)

    threads = [threading.Thread(target=call) for _ in range(4)]
    tasks = [asyncio.create_task(acall()) for _ in range(4)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(arrived.wait, 3)
    tasks.append(asyncio.create_task(acall()))
    await asyncio.sleep(0.05)
    tasks[0].cancel()  # the others wait on
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert results == [True] * 8
    assert len(place.requests) == 1


async def test_a_sync_caller_in_the_thread_of_the_loop_waits_for_the_fetch_of_an_async_one() -> None:
    guard = issuer()
    place = Place(guard)
    plain = place.answers[KEYS_URL]

    def slow() -> httpx.Response:
        time.sleep(0.1)
        return plain()

    place.answers[KEYS_URL] = slow
    api = verifier(place.source())
    waiting = asyncio.create_task(api.averify("GET", URL, presented(guard), path=ToolPath.READ))
    await asyncio.sleep(0.02)
    api.verify("GET", URL, presented(guard), path=ToolPath.READ)
    await waiting
    assert len(place.requests) == 1


async def test_who_has_valid_keys_waits_once_for_a_place_that_stalls(mode: Mode) -> None:
    signer, over = issuer(), threading.Event()
    place = Place(signer)
    source = place.source(refresh=Refresh(age=10, pause=1, timeout=0.1))
    verifying = verifier(source)
    await verify(mode, verifying, signer)
    content = jwks(signer)

    def stall() -> httpx.Response:
        over.wait(5)
        return httpx.Response(200, json=content)

    place.answers[KEYS_URL] = stall
    place.now += 20
    times = list[float]()
    for _ in range(3):
        began = time.monotonic()
        await verify(mode, verifying, signer)
        times.append(time.monotonic() - began)
    over.set()
    assert times[0] >= 0.5
    assert max(times[1:]) < 0.5


class Panic(BaseException):
    """As the library pyo3 raises it."""


async def test_keys_are_read_again_after_a_panic_while_they_were_read(mode: Mode) -> None:
    signer = issuer()
    place = Place(signer)
    answer = place.answers[KEYS_URL]

    def panic() -> httpx.Response:
        raise Panic

    place.answers[KEYS_URL] = panic
    verifying = verifier(place.source())
    with pytest.raises(VerificationError):
        await verify(mode, verifying, signer)
    place.answers[KEYS_URL] = answer
    place.now += 20
    await verify(mode, verifying, signer)


@pytest.mark.promise("keys-fetched-at-a-bounded-rate")
async def test_a_server_that_never_comes_to_its_answer_is_given_up_in_time(mode: Mode) -> None:
    guard = issuer()
    with serving(trickle_body) as server:
        source = KeySource(f"{server.url}/jwks.json", ISSUER, refresh=Refresh(timeout=0.3))
        began = time.monotonic()
        with pytest.raises(VerificationError) as caught:
            await verify(mode, verifier(source), guard)
        assert time.monotonic() - began < 2.0
    assert caught.value.status == 503
