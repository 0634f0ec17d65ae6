"""What a server does to the store: it is killed, emptied, full, a replica, or badly configured."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis import Redis as Client

from agentguard.credentials.sources import EnvironmentSecret
from agentguard.errors import ConfigurationError, StoreError
from agentguard.jose import revocation_key
from agentguard.model import Outcome, Secret, TaskStatus
from agentguard.stores.redis import Durability, RedisStore
from agentguard.stores.redis.durability import check_server
from agentguard.testing import sample_task
from agentguard.testing.scenarios import AwaitedPort
from agentguard.testing.scenes import call, live_credential
from tests.conftest import Mode
from tests.real.proxy import Proxy
from tests.real.store_storm import Storm, storm
from tests.servers.redis import Redis
from tests.servers.server import ServerError, free_port

PASSWORD = "hunter2-öß"
FAR = 1e12


@dataclass
class Own:
    """A Redis of this test, and an operator's connection to it."""

    server: Redis
    port: int
    url: str
    client: Client

    def store(self, **options: Any) -> RedisStore:
        return RedisStore(self.url, **{"timeout": 1.0, **options})

    def kill(self) -> None:
        os.killpg(self.server.child.pid, signal.SIGKILL)
        self.server.child.wait()

    def start(self, **options: str) -> None:
        self.server.serve(self.port, **options)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Own]]:
    servers: list[Own] = []

    def start(name: str = "redis", **options: str) -> Own:
        server = Redis(tmp_path / name)
        server.make_home()
        try:
            server.install()
        except ServerError as error:
            pytest.skip(str(error))
        port = free_port()
        own = Own(server, port, server.serve(port, **options), Client(port=port))
        servers.append(own)
        return own

    yield start
    for own in servers:
        own.client.close()
        own.server.stop()


@pytest.fixture
def own(serve: Callable[..., Own]) -> Own:
    return serve()


def commands(client: Client) -> dict[str, int]:
    """Return how often clients and scripts have sent each command."""
    stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): facts["calls"] for name, facts in stats.items()}


# --- what a server must promise


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("maxmemory-policy", "allkeys-lru", "drops keys"),
        ("maxmemory-policy", "volatile-ttl", "drops keys"),
        ("appendonly", "no", "or everything"),
        ("appendfsync", "no", "leaves to the system"),
        ("no-appendfsync-on-rewrite", "yes", "30 seconds"),
    ],
)
@pytest.mark.promise("shared-store-keeps-revocations")
def test_a_server_that_may_lose_a_revocation_is_refused_unless_the_loss_is_accepted(
    own: Own, setting: str, value: str, words: str
) -> None:
    own.client.config_set(setting, value)
    store = own.store()
    with pytest.raises(ConfigurationError, match="hint") as error:
        store.remember("jti", time.time() + 60)
    assert f"{setting} is '{value}'" in str(error.value)
    assert words in str(error.value)
    with pytest.raises(ConfigurationError):
        asyncio.run(store.aremember("jti", time.time() + 60))
    store.close()
    lossy = own.store(durability="lossy")
    assert lossy.remember("jti", time.time() + 60)
    lossy.close()


@pytest.mark.promise("shared-store-keeps-revocations")
def test_a_server_that_hides_its_configuration_is_refused_unless_its_operator_vouches(own: Own) -> None:
    own.client.acl_setuser(
        "guard", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all", "-config"]
    )
    url = own.url.replace("//", "//guard@")
    strict = RedisStore(url, password=Secret(PASSWORD))
    with pytest.raises(ConfigurationError, match="CONFIG GET is forbidden"):
        strict.check()
    strict.close()
    vouched = RedisStore(url, password=Secret(PASSWORD), durability="vouched")
    assert vouched.remember("jti", time.time() + 60)
    vouched.close()
    own.client.config_set("maxmemory-policy", "allkeys-random")
    again = RedisStore(url, password=Secret(PASSWORD), durability="vouched")
    with pytest.raises(ConfigurationError, match="maxmemory-policy"):
        again.check()
    again.close()


def test_a_server_that_does_not_say_one_setting_is_refused() -> None:
    info = {"redis_version": "7.2.4", "role": "master"}
    with pytest.raises(ConfigurationError, match="does not say what its appendonly is"):
        check_server("redis", info, {"maxmemory-policy": "noeviction"}, "checked")
    with pytest.raises(ConfigurationError, match=r"version 6\.2\.1"):
        check_server("redis", {**info, "redis_version": "6.2.1"}, {}, "lossy")


def test_the_least_rights_that_the_store_needs_are_enough(own: Own, mode: Mode) -> None:
    rights = ["-@all", "+info", "+config|get", "+eval", "+evalsha", "+select"]
    rights += ["+@hash", "+@string", "+@sortedset", "+exists", "+del", "+pexpire", "+pttl"]
    own.client.acl_setuser(
        "guard", enabled=True, passwords=[f"+{PASSWORD}"], keys=["{agentguard}:*"], commands=rights
    )
    store = RedisStore(own.url.replace("//", "//guard@"), password=Secret(PASSWORD))
    port = AwaitedPort(store, asynchronous=mode.asynchronous)

    async def use() -> None:
        await port.create_task(sample_task("child", deadline=FAR))
        await port.begin_call(call("1"), live_credential("1"))
        await port.end_call("1", Outcome.DONE, revoked=True, remember=("jti", FAR))
        await port.end_task("child", TaskStatus.REVOKED)

    asyncio.run(use())
    store.close()


@pytest.mark.promise("shared-store-keeps-revocations")
def test_a_replica_is_refused_and_a_primary_that_became_one_too(serve: Callable[..., Own]) -> None:
    primary, other = serve("primary"), serve("other")
    store = other.store()
    store.create_task(sample_task(deadline=FAR))
    other.client.replicaof("127.0.0.1", str(primary.port))
    for attempt in (lambda: store.task("task-1"), lambda: store.remember("k", FAR)):
        with pytest.raises(StoreError):
            attempt()
    late = other.store()
    with pytest.raises(ConfigurationError, match="is a replica"):
        late.check()
    store.close()
    late.close()


def test_a_write_waits_for_its_replicas_and_fails_without_them(serve: Callable[..., Own], mode: Mode) -> None:
    primary, replica = serve("primary", repl_diskless_sync_delay="0"), serve("replica")
    replica.client.replicaof("127.0.0.1", str(primary.port))
    _until(lambda: primary.client.info("replication").get("slave0", {}).get("state") == "online")
    _until(lambda: replica.client.info("replication")["master_link_status"] == "up")
    store = primary.store(durability=Durability("checked", replicas=1), timeout=2.0)
    port = AwaitedPort(store, asynchronous=mode.asynchronous)

    async def use() -> None:
        await port.create_task(sample_task(deadline=FAR))
        assert replica.client.exists("{agentguard}:task:task-1")
        os.killpg(replica.server.child.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreError, match="0 of 1 replicas"):
                await port.end_task("task-1", TaskStatus.REVOKED)
            assert (await port.task("task-1")).status is TaskStatus.REVOKED
        finally:
            os.killpg(replica.server.child.pid, signal.SIGCONT)

    asyncio.run(use())
    store.close()


def test_all_keys_are_in_one_slot_of_a_cluster(serve: Callable[..., Own]) -> None:
    # its own choice, the port and 10,000, may be none
    node = serve("node", cluster_enabled="yes", cluster_port=str(free_port()))
    node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)  # type: ignore[no-untyped-call]  # redis-py
    _until(lambda: node.client.cluster("info")["cluster_state"] == "ok")
    store = node.store()
    store.create_task(sample_task("child", deadline=FAR))
    store.begin_call(call("1"), live_credential("1"))
    store.end_call("1", Outcome.DONE, remember=("jti", FAR))
    assert store.end_task("child", TaskStatus.REVOKED) == ("child",)
    slots = {node.client.cluster("keyslot", key) for key in node.client.scan_iter()}
    assert len(slots) == 1
    store.close()


# --- full, emptied, killed


def test_a_full_server_denies_calls_and_still_ends_tasks(own: Own) -> None:
    store = own.store()
    store.create_task(sample_task("child", deadline=FAR))
    store.begin_call(call("1"), live_credential("1"))
    own.client.config_set("maxmemory", "1")
    for attempt in (
        lambda: store.begin_call(call("2"), None),
        lambda: store.create_task(sample_task("other", deadline=FAR)),
        lambda: store.remember("k", FAR),
    ):
        with pytest.raises(StoreError, match="memory is full"):
            attempt()
    store.end_call("1", Outcome.DONE, revoked=True, remember=("jti", FAR))
    assert store.remember(revocation_key("https://issuer.example", "call-1"), FAR)
    assert store.end_task("child", TaskStatus.REVOKED) == ("child",)
    own.client.config_set("maxmemory", "0")
    state = store.task("child")
    assert state is not None
    assert (state.calls, state.status) == (1, TaskStatus.REVOKED)
    assert store.known("jti")
    assert store.known(revocation_key("https://issuer.example", "call-1"))
    store.close()


def test_what_was_acknowledged_survives_the_death_of_the_server_and_the_next_call_needs_no_restart(
    own: Own, mode: Mode
) -> None:
    store = own.store()
    port = AwaitedPort(store, asynchronous=mode.asynchronous)

    async def use() -> None:
        await port.create_task(sample_task("child", deadline=FAR))
        await port.remember("jti", FAR)
        own.kill()
        with pytest.raises(StoreError):
            await port.begin_call(call("1"), None)
        own.start()
        await port.begin_call(call("1"), None)
        assert await port.known("jti")
        assert (await port.task("child")).calls == 1

    asyncio.run(use())
    store.close()


@pytest.mark.promise("shared-store-keeps-revocations")
def test_a_server_that_was_emptied_or_has_forgotten_writes_is_noticed_and_refused_for_good(own: Own) -> None:
    losses: tuple[Callable[[], object], ...] = (
        lambda: own.client.flushall(),
        lambda: own.client.hincrby("{agentguard}:store", "n", -2),
    )
    for lose in losses:
        store = own.store()
        store.remember("jti", FAR)
        store.remember("jti-2", FAR)
        lose()
        for _ in range(2):
            with pytest.raises(StoreError, match="has lost what it had acknowledged"):
                store.begin_call(call("1"), None)
        store.close()
    lossy = own.store(durability="lossy")
    lossy.remember("jti", FAR)
    own.client.flushall()
    with pytest.raises(StoreError, match="lost"):
        lossy.known("jti")
    assert lossy.remember("jti", FAR)
    lossy.close()


def test_a_store_of_another_schema_is_refused(own: Own) -> None:
    own.client.hset("{agentguard}:store", mapping={"schema": "7", "id": "x", "n": "0"})
    store = own.store()
    with pytest.raises(ConfigurationError, match="schema 7, not 2"):
        store.task("task-1")
    store.close()


def test_a_script_that_the_server_has_forgotten_is_sent_again_and_runs_once(own: Own) -> None:
    store = own.store()
    store.create_task(sample_task("child", deadline=FAR))
    store.begin_call(call("1"), None)
    own.client.script_flush()
    store.begin_call(call("2"), None)
    state = store.task("child")
    assert state is not None
    assert state.calls == 2
    store.close()


# --- a connection that is cut


def test_an_operation_whose_answer_was_lost_is_an_error_and_is_not_repeated(own: Own, mode: Mode) -> None:
    proxy = Proxy(own.port)
    store = RedisStore(own.url.replace(str(own.port), str(proxy.port)), timeout=1.0)
    port = AwaitedPort(store, asynchronous=mode.asynchronous)

    async def use() -> None:
        await port.create_task(sample_task("child", deadline=FAR))
        await port.begin_call(call("1"), None)
        before = commands(own.client)["evalsha"]
        proxy.trigger = b"lost-call"
        with pytest.raises(StoreError, match="is not known, and it is not repeated"):
            await port.begin_call(call("lost-call"), None)
        await _done(own, before + 1)
        assert commands(own.client)["evalsha"] == before + 1
        assert (await port.task("child")).calls == 2, "it was done, and its answer was lost"
        await port.begin_call(call("3"), None)

    asyncio.run(use())
    store.close()
    proxy.close()


def test_a_server_that_hangs_is_given_up_after_the_time_out(own: Own, mode: Mode) -> None:
    store = own.store(timeout=0.3)
    port = AwaitedPort(store, asynchronous=mode.asynchronous)

    async def use() -> None:
        await port.create_task(sample_task("child", deadline=FAR))
        os.killpg(own.server.child.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(StoreError, match="no answer in time"):
                await port.begin_call(call("1"), None)
            assert time.monotonic() - began < 3.0
        finally:
            os.killpg(own.server.child.pid, signal.SIGCONT)
        await port.begin_call(call("2"), None)

    asyncio.run(use())
    store.close()


def test_no_more_connections_than_said_are_opened_and_who_waits_too_long_is_told(own: Own) -> None:
    store = own.store(pool_size=2, timeout=0.3)
    store.create_task(sample_task("child", deadline=FAR))
    os.killpg(own.server.child.pid, signal.SIGSTOP)
    errors: list[str] = []

    def ask() -> None:
        try:
            store.task("child")
        except StoreError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.killpg(own.server.child.pid, signal.SIGCONT)
    assert len(errors) == 5
    assert any("all 2 connections are in use" in error for error in errors)
    assert own.client.info("clients")["connected_clients"] <= 3
    store.close()


# --- passwords and TLS


@pytest.mark.promise("store-password-stays-secret")
def test_a_password_is_read_for_each_connection_and_stands_in_no_error(
    own: Own, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    own.client.config_set("requirepass", PASSWORD)
    own.client.auth(PASSWORD)
    store = own.store(password=EnvironmentSecret("REDIS_PASSWORD"))
    port = AwaitedPort(store, asynchronous=mode.asynchronous)
    errors: list[BaseException] = []

    async def refused() -> str:
        with pytest.raises(StoreError) as failure:
            await port.task("task-1")
        errors.append(failure.value)
        return str(failure.value)

    async def use() -> None:
        monkeypatch.delenv("REDIS_PASSWORD", raising=False)
        assert "there is no password: env:REDIS_PASSWORD" in await refused()
        monkeypatch.setenv("REDIS_PASSWORD", f"not-{PASSWORD}")
        assert "refuses the user or the password" in await refused()
        monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)
        assert await port.task("task-1") is None

    asyncio.run(use())
    store.close()
    nobody = own.store()
    with pytest.raises(StoreError, match="refuses the user or the password"):
        nobody.check()
    nobody.close()
    for error in errors:
        chain: BaseException | None = error
        while chain is not None:
            assert PASSWORD not in f"{chain!r}{chain.__dict__}"
            chain = chain.__cause__ or chain.__context__


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``ca.pem``, which signs ``localhost.pem``, and ``other.pem``."""
    folder = tmp_path_factory.mktemp("tls")
    authority = _certificate(folder, "ca", None)
    _certificate(folder, "other", None)
    _certificate(folder, "localhost", authority)
    return folder


def _certificate(folder: Path, name: str, authority: Any) -> tuple[x509.Certificate, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer = (authority[0].subject, authority[1]) if authority else (subject, key)
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.9"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .sign(signer, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, key


def test_a_certificate_of_another_authority_or_for_another_name_is_refused(
    serve: Callable[..., Own], certificates: Path, mode: Mode
) -> None:
    port = free_port()
    serve(
        tls_port=str(port),
        tls_cert_file=str(certificates / "localhost.pem"),
        tls_key_file=str(certificates / "localhost.key"),
        tls_ca_cert_file=str(certificates / "ca.pem"),
        tls_auth_clients="no",
    )

    def known(host: str, ca: str) -> bool:
        store = RedisStore(f"rediss://{host}:{port}", ca=certificates / ca, timeout=1.0)
        try:
            awaited = AwaitedPort(store, asynchronous=mode.asynchronous).known("jti")
            return bool(asyncio.run(awaited))
        finally:
            store.close()

    assert known("localhost", "ca.pem") is False
    for host, ca in (("localhost", "other.pem"), ("127.0.0.1", "ca.pem")):
        with pytest.raises(StoreError, match="the connection failed"):
            known(host, ca)


def _until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


async def _done(own: Own, count: int) -> None:
    """Wait until the server has run so many scripts, and a moment longer."""
    await asyncio.to_thread(_until, lambda: commands(own.client)["evalsha"] >= count)
    await asyncio.sleep(0.2)


# --- all of it at once


@pytest.mark.promise("parallel-budget")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["threads", "loop"])
def test_what_many_processes_were_told_holds_although_the_server_dies_and_connections_are_cut(
    own: Own, tmp_path: Path, asynchronous: bool
) -> None:
    proxy = Proxy(own.port)

    def restart() -> None:
        own.kill()
        own.start()

    plan = Storm(
        asynchronous=asynchronous,
        calls=5_000 if asynchronous else 20_000,
        events={0.2: proxy.cut, 0.5: restart, 0.8: proxy.cut},
        seconds=60.0,
    )
    make = partial(RedisStore, own.url.replace(str(own.port), str(proxy.port)), timeout=5.0)
    try:
        report = storm(make, tmp_path, plan)
    finally:
        proxy.close()
    print(f"\nRedis, {'loops' if asynchronous else 'threads'}: {report}")  # noqa: T201  the figures of the run
    assert report.problems == []
    assert report.results["ok"] > plan.calls // 2
