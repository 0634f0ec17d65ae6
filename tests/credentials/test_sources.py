"""A source gives its secret and nothing else: not to errors, logs, tracebacks, nor other users."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import keyring
import keyring.backend
import keyring.errors
import pytest

from agentguard.concurrency.drive import Operation, drive, operation_pair
from agentguard.credentials.openbao.session import OpenBaoSession
from agentguard.credentials.sources import FileSecret, Reference, SecretSource, pick, source
from agentguard.credentials.sources.aws import AwsSecret
from agentguard.credentials.sources.azure import AzureSecret
from agentguard.credentials.sources.gcp import GcpSecret
from agentguard.credentials.sources.keychain import KeyringSecret
from agentguard.errors import AgentGuardError, ConfigurationError, IssueError
from agentguard.model import Secret
from agentguard.outbound.client import Outbound
from tests.doubles import clouds

VALUE = "s3cr3t-of-the-source"
OBJECT = json.dumps(
    {"db": {"user": "ada", "port": 5432, "on": True, "none": None, "list": [VALUE]}, "key": VALUE}
)
ARN = "arn:aws:secretsmanager:eu-west-1:1:secret:a=b-XY"


def private(path: Path, content: bytes | str = VALUE) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def leaks(error: BaseException | None) -> bool:
    """Whether an error, what it came from, or a frame that it passed, holds the secret."""
    while error is not None:
        frames = traceback.walk_tb(error.__traceback__)
        frame_locals = [frame.f_locals for frame, _ in frames if "agentguard" in frame.f_code.co_filename]
        if VALUE in f"{error}{error!r}{vars(error)}{frame_locals}":
            return True
        error = error.__cause__ or error.__context__
    return False


# --- imports


@pytest.mark.process
def test_a_source_imports_no_broker_and_no_library_of_one() -> None:
    code = "import sys, agentguard.credentials.sources.aws; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(result.stdout.split())
    brokers = {f"agentguard.credentials.{name}" for name in ("aws", "github", "oauth", "openbao")}
    assert "boto3" in modules
    assert not modules & {*brokers, "agentguard.credentials.long_lived", "circuitbreaker", "grpc"}


# --- names


@pytest.mark.parametrize(
    ("text", "kind", "id", "path"),
    [
        ("aws:prod/api", "aws", "prod/api", None),
        (f"aws:{ARN}#k.l", "aws", ARN, "k.l"),
        ("file:/a b#c#d", "file", "/a b#c", "d"),
        ("openbao:database/creds/ro#username", "openbao", "database/creds/ro", "username"),
    ],
)
def test_a_reference_keeps_every_sign_of_an_id(text: str, kind: str, id: str, path: str | None) -> None:
    assert Reference.of(text) == Reference(kind, id, path)
    assert str(Reference.of(text)) == text


@pytest.mark.parametrize(
    "text", ["", "aws", "aws:", ":x", "aws:#x", "aws:x#", "aws:x#.a", "aws:x#a.", "aws:x#a..b"]
)
def test_what_names_no_secret_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Reference.of(text)


@pytest.mark.parametrize(
    "text", ["ftp:x", "openbao:secret/data/x", "gcp:short/name", "keyring:alone", "azure:x"]
)
def test_a_source_that_cannot_be_is_a_configuration_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_KEYVAULT_URL", raising=False)
    with pytest.raises(ConfigurationError):
        source(text)


@pytest.mark.process
def test_naming_sources_imports_no_vendors_library() -> None:
    modules = "agentguard.credentials.long_lived, agentguard.credentials.sources"
    code = f"import sys, {modules}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"boto3", "google.cloud", "azure", "keyring", "circuitbreaker"} & set(result.stdout.split())


@pytest.mark.process
def test_reading_a_variable_imports_no_http_client_and_no_issuer() -> None:
    read = "from agentguard.credentials.sources import source; print(source('env:HOME').read().reveal())"
    program = f"import sys; {read}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    home, modules = result.stdout.splitlines()
    assert home == os.environ["HOME"]
    assert not {"httpx", "jwt", "agentguard.credentials.local_issuer"} & set(modules.split())


# --- JSON paths


@pytest.mark.parametrize(
    ("path", "expected"), [("db.user", "ada"), ("db.port", "5432"), ("db.on", "true"), ("key", VALUE)]
)
def test_a_json_path_gives_texts_numbers_and_booleans(path: str, expected: str) -> None:
    assert pick(Secret(OBJECT), path, "x").reveal() == expected


def test_a_number_keeps_the_digits_that_it_was_written_with() -> None:
    assert pick(Secret('{"n": 1.10000000000000000001}'), "n", "x").reveal() == "1.10000000000000000001"


@pytest.mark.promise("source-failure-silent")
@pytest.mark.parametrize("path", ["db", "db.none", "db.list", "db.list.0", "absent", "key.more", "db.user.0"])
def test_a_json_error_names_no_key_of_the_secret_and_no_value(path: str) -> None:
    with pytest.raises(IssueError) as caught:
        pick(Secret(OBJECT), path, f"aws:x#{path}")
    assert not leaks(caught.value)
    for name in {"db", "user", "port", "none", "list", "key"} - set(path.split(".")):
        assert name not in str(caught.value).partition(": ")[2].split()


@pytest.mark.parametrize(
    "text", [VALUE, f'["{VALUE}"]', f'{{"key": NaN, "a": "{VALUE}"}}', f'{{"{VALUE}"', "[" * 99_999 + VALUE]
)
def test_what_is_no_json_object_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(IssueError) as caught:
        pick(Secret(text), "key", "x")
    assert not leaks(caught.value)


# --- this machine


def test_a_file_is_read_without_its_last_newline(tmp_path: Path) -> None:
    for content, read in ((f"{VALUE}\n", VALUE), (f"{VALUE}\r\n", VALUE), (f" {VALUE}\n\n", f" {VALUE}\n")):
        assert source(f"file:{private(tmp_path / 'key', content)}").read().reveal() == read
    assert source(f"file:{private(tmp_path / 'o', OBJECT)}#db.user").read().reveal() == "ada"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o611])
def test_a_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    private(tmp_path / "key").chmod(mode)
    with pytest.raises(IssueError, match="chmod 600"):
        FileSecret(tmp_path / "key").read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(private(tmp_path / "key"), 65534, 65534)
    with pytest.raises(IssueError, match="another user"):
        FileSecret(tmp_path / "key").read()


def test_what_is_no_private_text_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "directory").mkdir(mode=0o700)
    for name, content in {
        "empty": b"",
        "line": b"\n",
        "large": b"x" * 1_048_577,
        "bytes": b"\xff" + VALUE.encode(),
    }.items():
        private(tmp_path / name, content)
    started = time.monotonic()
    for name in ("pipe", "directory", "absent", "empty", "line", "large", "bytes"):
        with pytest.raises(IssueError) as caught:
            FileSecret(tmp_path / name).read()
        assert not leaks(caught.value)
    assert time.monotonic() - started < 1


def test_a_variable_is_read_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    environment_source = source("env:API_KEY")
    for unset in (None, ""):
        if unset is not None:
            monkeypatch.setenv("API_KEY", unset)
        with pytest.raises(IssueError, match="not set"):
            environment_source.read()
    monkeypatch.setenv("API_KEY", VALUE)
    assert environment_source.read().reveal() == VALUE


class Keyring(keyring.backend.KeyringBackend):
    priority = 1.0

    def __init__(self, get: Callable[[str, str], str | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # it has no types
        self._get = get

    def get_password(self, service: str, username: str) -> str | None:
        return self._get(service, username)

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError


@pytest.fixture
def keys() -> Iterator[Callable[[Callable[[str, str], str | None]], None]]:
    before = keyring.get_keyring()
    yield lambda get: keyring.set_keyring(Keyring(get))
    keyring.set_keyring(before)


def _locked(_service: str, _name: str) -> str:
    raise keyring.errors.KeyringLocked(VALUE)


def test_a_keyring_is_asked_by_service_and_name(keys: Any) -> None:
    keys(
        {("https://api.example/v1", "ada"): VALUE}.get
        if False
        else lambda *key: {("https://api.example/v1", "ada"): VALUE}.get(key)
    )
    assert source("keyring:https://api.example/v1/ada").read().reveal() == VALUE
    for refuses in ("keyring:https://api.example/v1/bob", "keyring:other/ada"):
        with pytest.raises(IssueError, match="no such entry"):
            source(refuses).read()
    keys(_locked)
    with pytest.raises(IssueError, match="KeyringLocked") as caught:
        source("keyring:a/b").read()
    assert VALUE not in str(caught.value)


def test_a_locked_keyring_is_not_waited_for(keys: Any) -> None:
    keys(lambda *_asked: time.sleep(0.5))
    with pytest.raises(IssueError, match="locked"):
        KeyringSecret("a/b", timeout=0.05).read()


# --- clouds: the shape of what is sent and read, against a local server


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[clouds.Cloud]:
    cloud_double = clouds.Cloud()
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    with clouds.running(cloud_double, tmp_path, monkeypatch) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        yield cloud_double


@pytest.fixture(scope="module")
def account() -> str:
    return clouds.service_account()


@pytest.fixture(params=["aws", "gcp", "azure"])
def vault(request: pytest.FixtureRequest, cloud: clouds.Cloud, account: str) -> Callable[..., SecretSource]:
    """Return a function that makes the source of one cloud, for a secret that the cloud then has."""
    settings = {
        "aws": {"accesskeyid": "AKIA", "secretaccesskey": "k"},
        "gcp": {"credentials": account},
        "azure": {"vaultname": "vault-1", "tenantid": "t", "clientid": "c", "clientsecret": "k"},
    }[request.param]
    id = {
        "aws": "arn:aws:secretsmanager:eu-west-1:1:secret:a=b",
        "gcp": "projects/p/secrets/api",
        "azure": "api/7",
    }
    key = {"gcp": "projects/p/secrets/api/versions/latest"}.get(request.param, id[request.param])

    def make(value: str | None = VALUE, path: str = "") -> SecretSource:
        if value is not None:
            cloud.secrets[key] = value
        return source(f"{request.param}:{id[request.param]}{path}", settings)

    return make


@pytest.fixture(params=["sync", "async"])
def read(request: pytest.FixtureRequest) -> Callable[[SecretSource], str]:
    def ask(secret_source: SecretSource) -> str:
        pair = operation_pair(secret_source, "read")

        async def reveal(operation: Operation) -> str:
            return str((await operation()).reveal())

        return drive(reveal(pair.sync)) if request.param == "sync" else asyncio.run(reveal(pair.async_))

    return ask


def test_a_cloud_gives_its_secret_on_both_paths(vault: Any, read: Callable[[SecretSource], str]) -> None:
    assert read(vault()) == VALUE
    assert read(vault(OBJECT, "#db.port")) == "5432"


def test_what_a_cloud_refuses_is_told_in_our_words(vault: Any) -> None:
    with pytest.raises(IssueError, match="gave") as caught:
        vault(None).read()
    assert "secrets-list" not in str(caught.value)


@pytest.mark.promise("source-failure-silent")
def test_no_log_at_any_level_has_what_a_cloud_answered(vault: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in [*logging.root.manager.loggerDict]:
        caplog.set_level(logging.DEBUG, logger=name)
    assert vault().read().reveal() == VALUE
    assert caplog.records
    for record in caplog.records:
        assert VALUE not in f"{record.getMessage()}{vars(record)}"


@pytest.mark.parametrize(
    "stalls",
    [
        "aws.test",
        "secretmanager.googleapis.com",
        "oauth2.googleapis.com",
        clouds.AZURE,
        "login.microsoftonline.com",
    ],
)
def test_a_cloud_that_does_not_answer_is_not_waited_for(
    cloud: clouds.Cloud, account: str, stalls: str
) -> None:
    cloud.stalls = stalls
    azure = {"vaultname": "vault-1", "tenantid": "t", "clientid": "c", "clientsecret": "k"}
    aws = {"accesskeyid": "AKIA", "secretaccesskey": "k", "region": "eu-west-1"}
    sources: dict[str, SecretSource] = {
        "aws": AwsSecret("x", aws, timeout=0.2),
        "goo": GcpSecret("projects/p/secrets/x", {"credentials": account}, timeout=0.2),
        "azu": AzureSecret("x", azure, timeout=0.2),
    }
    stalled = sources["aws" if "aws" in stalls else "goo" if "google" in stalls else "azu"]
    started = time.monotonic()
    with pytest.raises(IssueError, match="gave"):
        stalled.read()
    assert time.monotonic() - started < 5


def test_the_local_aws_defaults_are_used_where_no_setting_is_given(
    cloud: clouds.Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.secrets["prod/api"] = VALUE
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "k")
    with pytest.raises(IssueError, match="NoRegion"):
        source("aws:prod/api").read()
    assert source("aws:prod/api", {"region": "eu-west-1"}).read().reveal() == VALUE
    with pytest.raises(IssueError, match="ProfileNotFound"):
        source("aws:prod/api", {"region": "eu-west-1", "profile": "absent"}).read()


# --- OpenBao


def bao(answers: dict[str, Any], requests: list[tuple[str, str]]) -> OpenBaoSession:
    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1/")
        requests.append((request.method, path))
        members = answers.get(path)
        if isinstance(members, httpx.Response):
            return members
        return (
            httpx.Response(404, json={"errors": []}) if members is None else httpx.Response(200, json=members)
        )

    class Nobody:
        def actor(self) -> str:
            return "nobody"

        def token(self, audience: str) -> Secret:
            return Secret("jwt")

    login = {"auth": {"client_token": "t", "accessor": "a", "lease_duration": 60}}
    answers = {"auth/jwt/login": login, **answers}
    address = "http://127.0.0.1:1"
    http = Outbound("openbao", f"{address}/v1", transport=httpx.MockTransport(answer))
    return OpenBaoSession(address, identity=Nobody(), role="r", audience="a", http=http)


@pytest.mark.parametrize("kind", ["openbao", "vault", "hashicorp"])
def test_openbao_gives_what_is_stored_in_either_version_of_its_engine(kind: str) -> None:
    two = {
        "data": {"data": {"key": {"path": VALUE}}, "metadata": {"version": 3}},
        "lease_id": "",
        "lease_duration": 0,
    }
    one = {"data": {"key": {"path": VALUE}, "data": {}, "metadata": {}}, "lease_id": "", "lease_duration": 9}
    session = bao({"secret/data/api": two, "kv/api": one}, [])
    for path in ("secret/data/api", "kv/api"):
        assert source(f"{kind}:{path}#key.path", session=session).read().reveal() == VALUE
    assert json.loads(source(f"{kind}:secret/data/api", session=session).read().reveal()) == {
        "key": {"path": VALUE}
    }
    for refused in ("secret/data/api#metadata.version", "secret/data/absent"):
        with pytest.raises(IssueError):
            source(f"{kind}:{refused}", session=session).read()
    session.close()


def test_what_is_minted_for_a_reader_who_would_not_end_it_is_revoked_and_refused() -> None:
    requests: list[tuple[str, str]] = []
    minted = {
        "lease_id": "database/creds/ro/1",
        "lease_duration": 60,
        "data": {"username": "u", "password": VALUE},
    }
    session = bao({"database/creds/ro": minted, "sys/leases/revoke": {}}, requests)
    with pytest.raises(IssueError, match="a dynamic secret") as caught:
        source("openbao:database/creds/ro#password", session=session).read()
    assert ("POST", "sys/leases/revoke") in requests
    assert not leaks(caught.value)
    session.close()


@pytest.mark.parametrize("permitted", ["revoke-self", "revoke-accessor"])
def test_where_the_policy_permits_no_revocation_the_login_ends_with_what_was_minted(permitted: str) -> None:
    requests: list[tuple[str, str]] = []
    data = {"username": "u", "password": VALUE}
    minted = {"lease_id": "database/creds/ro/1", "lease_duration": 60, "data": data}
    denied = {f"auth/token/{name}": httpx.Response(403) for name in ("revoke-self", "revoke-accessor")}
    answers = {**denied, "database/creds/ro": minted, f"auth/token/{permitted}": {}}  # else 404
    session = bao(answers, requests)
    with pytest.raises(IssueError, match="a dynamic secret; use"):
        source("openbao:database/creds/ro#password", session=session).read()
    assert requests[-1] == ("POST", f"auth/token/{permitted}")
    assert session.shared_login is None
    session.close()


def test_every_source_is_named_without_its_secret(tmp_path: Path) -> None:
    secret_source = source(f"file:{private(tmp_path / 'key', OBJECT)}#key")
    assert secret_source.name == f"file:{tmp_path / 'key'}#key"
    assert VALUE not in f"{secret_source!r}{vars(secret_source)}{secret_source.read()!r}"
    assert issubclass(IssueError, AgentGuardError)
