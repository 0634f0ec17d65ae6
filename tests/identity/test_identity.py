"""An agent is what its platform says, and proves it to one audience at a time, while that lives."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
from collections.abc import Awaitable, Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from grpc._channel import _Rendezvous as Rendezvous  # type: ignore[import-untyped]  # what must be gone
from hypothesis import given
from hypothesis import strategies as st

from agentguard.concurrency.drive import operation_pair
from agentguard.errors import ConfigurationError, IdentityError
from agentguard.identity.file import FileIdentity
from agentguard.identity.github_actions import GitHubActionsIdentity
from agentguard.identity.local import LocalIdentity
from agentguard.identity.spiffe import SpiffeIdentity
from agentguard.identity.tokens import LIMIT, IdentityDenied, Token, Tokens
from agentguard.jose import Signer, b64url
from agentguard.model import Secret
from agentguard.ports import IdentitySource
from agentguard.testing.identities import IdentityContract
from tests.conftest import Mode
from tests.doubles.texts import texts
from tests.doubles.workload_api import AGENT, WorkloadApi, serving

ROOT = Path(__file__).parents[2]
NOW = 1_700_000_000.0
ONE, OTHER = "https://one.example", "https://other.example"
ACCOUNT = "system:serviceaccount:shop:agent"
KEY = Signer.generate()


def mint(**claims: Any) -> str:
    claims = {"iss": "https://platform", "sub": ACCOUNT, "aud": [ONE], "exp": NOW + 600, **claims}
    return KEY.sign(KEY.head(typ="JWT", kid=KEY.kid), claims)


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def error_text(error: BaseException) -> str:
    """Return all that a log would say of *error*."""
    return f"{error!r} {''.join(traceback.format_exception(error))}"


# --- the local one


class TestLocalIdentity(IdentityContract):
    def make(self) -> LocalIdentity:
        return LocalIdentity("agent://support", KEY)

    def broken(self) -> LocalIdentity:
        return LocalIdentity("agent://support")


class OneForAll(LocalIdentity):
    def token(self, audience: str) -> Secret:
        return super().token(ONE)


class Careless(LocalIdentity):
    def token(self, audience: str) -> Secret:
        return cast("Secret", super().token(audience).reveal())


class Fickle(LocalIdentity):
    def actor(self) -> str:
        return f"agent://{time.monotonic_ns()}"


class Loud(LocalIdentity):
    def token(self, audience: str) -> Secret:
        raise KeyError(audience)


@pytest.mark.parametrize("source", [OneForAll, Careless, Fickle, Loud])
def test_the_contract_catches_a_source_that_breaks_it(source: type[LocalIdentity]) -> None:
    class Contract(IdentityContract):
        def make(self) -> LocalIdentity:
            return source("agent://support", KEY)

        def broken(self) -> LocalIdentity:
            return source("agent://support")

    failed = []
    for name in dir(Contract):
        if name.startswith("test_"):
            try:
                getattr(Contract(), name)()
            except Exception:  # noqa: BLE001  whatever it is, the contract did not hold
                failed.append(name)
    assert failed


# --- reading a token that is not verified


@given(st.one_of(texts(), st.lists(st.binary(max_size=40), min_size=3, max_size=3)))
def test_whatever_a_platform_gives_is_a_token_or_refused_without_its_words(parts: str | list[bytes]) -> None:
    text = parts if isinstance(parts, str) else ".".join(map(b64url, parts))
    with pytest.raises(ValueError, match=r"^is not a signed JWT with sub, aud and exp$"):
        Token.read(text)


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": ""},
        {"sub": " "},
        {"sub": "a\nb"},
        {"sub": 1},
        {"exp": True},
        {"exp": "1700000600"},
        {"exp": None},
        {"aud": []},
        {"aud": [1]},
        {"aud": {"one": 1}},
        {"aud": ""},
    ],
)
def test_a_token_without_a_name_an_end_or_an_audience_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(is not a complete JWT|names no audience)$"):
        Token.read(mint(**claims))


@pytest.mark.parametrize(
    "head", [{"alg": "none"}, {"alg": "HS256"}, {"alg": ["ES256"]}, {"alg": None}, {}, []]
)
def test_a_token_of_an_unknown_algorithm_is_refused(head: Any) -> None:
    _, body, signature = mint().split(".")
    with pytest.raises(ValueError, match="is no"):
        Token.read(f"{b64url(json.dumps(head).encode())}.{body}.{signature}")


# --- keeping tokens


async def fetched(audience: str) -> Token:
    return Token.read(mint(aud=audience, exp=NOW + 60, jti=str(time.monotonic_ns())))


async def test_whoever_comes_as_a_token_lands_does_not_fetch_another(clock: Clock) -> None:
    tokens = Tokens("platform", clock=clock)

    async def late(audience: Hashable, make: Callable[[], Awaitable[Any]]) -> Any:
        landed = await tokens.get(str(audience), fetched, tokens.share.async_)
        assert await make() is landed

    await tokens.get(ONE, fetched, late)


async def test_a_denial_ends_all_tokens_also_the_one_that_it_does_not_renew(clock: Clock) -> None:
    tokens = Tokens("platform", clock=clock)

    async def denied(_audience: str) -> Token:
        raise IdentityDenied("no identity")

    for audience, later in ((OTHER, 0), (ONE, 31)):
        first = await tokens.get(ONE, fetched, tokens.share.async_)
        clock.now += later
        with pytest.raises(IdentityDenied):
            await tokens.get(audience, denied, tokens.share.async_)
        assert await tokens.get(ONE, fetched, tokens.share.async_) is not first


async def test_a_token_that_arrives_after_all_were_forgotten_is_not_kept(clock: Clock) -> None:
    tokens = Tokens("platform", clock=clock)

    async def revoked(audience: str) -> Token:
        tokens.forget()
        return await fetched(audience)

    former = await tokens.get(ONE, revoked, tokens.share.async_)
    assert await tokens.get(ONE, fetched, tokens.share.async_) is not former


async def test_a_token_that_was_forgotten_while_it_could_not_be_renewed_does_not_serve(clock: Clock) -> None:
    tokens = Tokens("platform", clock=clock)

    async def fails(_audience: str) -> Token:
        tokens.forget()
        raise IdentityError("no answer")

    await tokens.get(ONE, fetched, tokens.share.async_)
    clock.now += 31
    with pytest.raises(IdentityError, match="no answer"):
        await tokens.get(ONE, fails, tokens.share.async_)


# --- in a file


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Volume:
    """A projected volume, as a kubelet writes it: ``token`` → ``..data/token``, ``..data`` → a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.token = directory, directory / "token"
        self._versions = 0

    def write(self, text: str, mode: int = 0o600) -> None:
        self._versions += 1
        version = self.directory / f"..version_{self._versions}"
        version.mkdir()
        (version / "token").write_text(text)
        (version / "token").chmod(mode)
        (self.directory / "..data_tmp").symlink_to(version.name)
        (self.directory / "..data_tmp").rename(self.directory / "..data")
        if not self.token.is_symlink():
            self.token.symlink_to("..data/token")


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path)


class TestFileIdentity(IdentityContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self._directory = tmp_path
        Volume(tmp_path).write(mint())

    def make(self) -> FileIdentity:
        return FileIdentity(self._directory / "token", clock=Clock())

    def broken(self) -> FileIdentity:
        return FileIdentity(self._directory / "absent", clock=Clock())


def test_a_file_is_an_identity_source_without_waiting(volume: Volume) -> None:
    source = FileIdentity(volume.token)
    assert isinstance(source, IdentitySource)
    pair = operation_pair(source, "token")
    assert pair.sync is pair.async_


@pytest.mark.promise("broken-token-file")
def test_a_rotated_token_is_read_again(volume: Volume, clock: Clock) -> None:
    volume.write(mint())
    source = FileIdentity(volume.token, clock=clock)
    assert source.actor() == ACCOUNT
    rotated = mint(sub="system:serviceaccount:shop:other", exp=NOW + 1200)
    volume.write(rotated + "\n")
    assert source.actor() == "system:serviceaccount:shop:other"
    assert source.token(ONE).reveal() == rotated


def test_an_unchanged_file_is_neither_opened_nor_parsed_twice(
    volume: Volume, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original = os.open

    def counting(path: Any, *rest: Any) -> int:
        opened.append(str(path))
        return original(path, *rest)

    monkeypatch.setattr(os, "open", counting)
    source = FileIdentity(volume.token, clock=clock)
    for text in (mint(), "garbage"):
        volume.write(text)
        opened.clear()
        for _ in range(5):
            source.actor()
            source.token(ONE)
        assert len(opened) == 1


@pytest.mark.promise("broken-token-file")
def test_a_half_written_file_never_replaces_the_last_good_token(tmp_path: Path, clock: Clock) -> None:
    good, other = mint(), mint(sub="system:serviceaccount:shop:other", exp=NOW + 1200)
    file = tmp_path / "token"
    file.write_text(good)
    source = FileIdentity(file, clock=clock)
    assert source.token(ONE).reveal() == good
    for end in range(len(other)):
        file.write_text(other[:end])
        assert source.token(ONE).reveal() == good, end
    file.write_text(other)
    assert source.token(ONE).reveal() == other


@pytest.mark.promise("broken-token-file")
def test_when_the_file_vanishes_the_last_good_token_serves_while_it_lives(
    volume: Volume, clock: Clock
) -> None:
    volume.write(mint())
    source = FileIdentity(volume.token, leeway=5.0, clock=clock)
    source.actor()
    volume.token.unlink()
    clock.now = NOW + 594.9
    assert source.actor() == ACCOUNT
    assert source.token(ONE)
    clock.now = NOW + 595
    for attempt in (source.actor, lambda: source.token(ONE)):
        with pytest.raises(IdentityError, match="cannot be read"):
            attempt()


@pytest.mark.promise("broken-token-file")
def test_an_expired_token_is_no_identity(volume: Volume, clock: Clock) -> None:
    volume.write(mint(exp=NOW + 5))
    source = FileIdentity(volume.token, leeway=5.0, clock=clock)
    with pytest.raises(IdentityError, match="its token has expired"):
        source.actor()
    with pytest.raises(IdentityError, match="its token has expired"):
        source.token(ONE)


@pytest.mark.promise("proof-to-own-audience")
@pytest.mark.parametrize("audience", [OTHER, ONE + "/", "", "HTTPS://ONE.EXAMPLE", "https"])
def test_a_file_s_token_is_never_sent_to_another_audience(
    volume: Volume, clock: Clock, audience: str
) -> None:
    token = mint()
    volume.write(token)
    with pytest.raises(IdentityError, match="is not for the audience") as raised:
        FileIdentity(volume.token, clock=clock).token(audience)
    assert not any(part in error_text(raised.value) for part in token.split("."))


def test_a_token_for_several_audiences_is_refused_where_one_is_demanded(volume: Volume, clock: Clock) -> None:
    volume.write(mint(aud=[ONE, OTHER]))
    assert FileIdentity(volume.token, clock=clock).token(OTHER)
    demanding = FileIdentity(volume.token, audience=ONE, clock=clock)
    with pytest.raises(IdentityError, match=f"is not for the audience {ONE} alone"):
        demanding.actor()
    volume.write(mint(aud=ONE))
    assert demanding.token(ONE)


@pytest.mark.promise("actor-file-protected")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_token_file_that_others_may_write_is_refused(volume: Volume, clock: Clock, mode: int) -> None:
    volume.write(mint(), mode)
    source = FileIdentity(volume.token, clock=clock)
    with pytest.raises(IdentityError, match="others may write it"):
        source.actor()
    volume.write(mint(), 0o640)
    assert source.actor() == ACCOUNT


@pytest.mark.promise("actor-file-protected")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_token_file_of_another_user_is_refused(volume: Volume, clock: Clock) -> None:
    volume.write(mint(), 0o644)
    os.chown(volume.token, 12345, -1)
    with pytest.raises(IdentityError, match="others may write it"):
        FileIdentity(volume.token, clock=clock).actor()


@pytest.mark.promise("actor-file-protected")
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, clock: Clock) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    for place in (fifo, Path("/dev/null")):
        with pytest.raises(IdentityError, match="is not a regular file"):
            FileIdentity(place, clock=clock).actor()
    with pytest.raises(IdentityError, match="cannot be read"):
        FileIdentity(tmp_path, clock=clock).actor()


@pytest.mark.promise("actor-file-protected")
def test_a_huge_file_is_refused_without_reading_it_all(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "token"
    with file.open("wb") as stream:
        stream.truncate(1 << 30)
    source = FileIdentity(file, clock=clock)
    tracemalloc.start()
    try:
        with pytest.raises(IdentityError, match="is not a text, or is too long"):
            source.actor()
        assert tracemalloc.get_traced_memory()[1] < 16 * LIMIT
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", ["", "garbage", "ü.ü.ü", "a.b.c", mint()[:-9], mint() + "A" * LIMIT])
def test_what_is_no_token_is_refused_and_not_repeated(tmp_path: Path, clock: Clock, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(IdentityError, match="its token is no") as raised:
        FileIdentity(file, clock=clock).actor()
    assert len(content) < 6 or content not in error_text(raised.value)


# --- GitHub Actions

REQUEST_TOKEN = "request-token-of-the-job"
SUBJECT = "repo:org/name:ref:refs/heads/main"
URL = "https://actions.example//idtoken/1?api-version=2.0"


class GitHub:
    """GitHub's side; `answer` may be exchanged for another one."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.asked, self.claims = clock, list[httpx.Request](), dict[str, Any]()
        self.answer: Callable[[httpx.Request], httpx.Response] = self.token
        self.slow = False

    def token(self, request: httpx.Request) -> httpx.Response:
        audience = request.url.params.get_list("audience")
        claims = {"sub": SUBJECT, "aud": audience[-1], "exp": self.clock() + 300, "n": len(self.asked)}
        return httpx.Response(200, json={"count": 1, "value": mint(**{**claims, **self.claims})})

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if self.slow:
            time.sleep(0.1)
        return self.answer(request)

    async def ahandle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        await asyncio.sleep(0.1 if self.slow else 0)
        return self.answer(request)

    def source(self, **env: str) -> GitHubActionsIdentity:
        variables = {"ACTIONS_ID_TOKEN_REQUEST_URL": URL, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN}
        return GitHubActionsIdentity(
            {**variables, **env},
            clock=self.clock,
            transport=httpx.MockTransport(self.handle),
            async_transport=httpx.MockTransport(self.ahandle),
        )


@pytest.fixture
def github(clock: Clock) -> GitHub:
    return GitHub(clock)


class TestGitHubActionsIdentity(IdentityContract):
    def make(self) -> GitHubActionsIdentity:
        return GitHub(Clock()).source()

    def broken(self) -> GitHubActionsIdentity:
        github = GitHub(Clock())
        source = github.source()
        github.answer = lambda _request: httpx.Response(403)
        return source


def test_the_job_is_asked_for_by_its_request_token_for_nobody_s_audience(github: GitHub) -> None:
    source = github.source()
    assert source.actor() == SUBJECT
    (request,) = github.asked
    assert request.headers["authorization"] == f"Bearer {REQUEST_TOKEN}"
    assert str(request.url) == f"{URL}&audience=urn%3Aagentguard%3Anobody"
    assert REQUEST_TOKEN not in f"{source!r} {vars(source)!r}"


@pytest.mark.promise("proof-to-own-audience")
@pytest.mark.parametrize("audience", ["a&audience=b", "a#b", "a b?c=d", "ü%20"])
async def test_an_audience_cannot_change_the_question(github: GitHub, mode: Mode, audience: str) -> None:
    await mode.call(github.source(), "token", audience)
    assert github.asked[-1].url.params.get_list("audience") == [audience]
    assert github.asked[-1].url.params["api-version"] == "2.0"


@pytest.mark.promise("github-request-token")
def test_no_child_process_inherits_the_request_token(github: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", URL)
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", REQUEST_TOKEN)
    GitHubActionsIdentity(clock=github.clock, transport=httpx.MockTransport(github.handle))
    code = "import os; print(dict(os.environ))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ACTIONS_ID_TOKEN_REQUEST_URL" in child.stdout
    assert REQUEST_TOKEN not in child.stdout


def test_a_request_token_that_gave_no_identity_stays_where_it_was(github: GitHub) -> None:
    env = {"ACTIONS_ID_TOKEN_REQUEST_URL": URL, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN}
    refuses = httpx.MockTransport(lambda _request: httpx.Response(401))
    with pytest.raises(IdentityError, match="answered 401"):
        GitHubActionsIdentity(env, transport=refuses)
    assert env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] == REQUEST_TOKEN


@pytest.mark.promise("github-request-token")
@pytest.mark.parametrize(
    "url",
    ["http://actions.example/", "http://127.0.0.1.evil.example/", "ftp://a/", "//a/", "a", "http://[::"],
)
def test_the_request_token_is_sent_by_https_alone(github: GitHub, url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an https URL"):
        github.source(ACTIONS_ID_TOKEN_REQUEST_URL=url)
    assert not github.asked


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_loopback_may_do_without_https(github: GitHub, host: str) -> None:
    assert github.source(ACTIONS_ID_TOKEN_REQUEST_URL=f"http://{host}:1/?a=b").actor() == SUBJECT


@pytest.mark.parametrize("name", ["ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"])
def test_a_job_without_the_permission_is_told_of_it(github: GitHub, name: str) -> None:
    with pytest.raises(ConfigurationError, match="id-token: write"):
        github.source(**{name: ""})


@pytest.mark.promise("github-request-token")
async def test_the_request_token_is_not_sent_across_a_redirect(github: GitHub, mode: Mode) -> None:
    source = github.source()
    github.answer = lambda _request: httpx.Response(302, headers={"location": "https://evil.example/"})
    with pytest.raises(IdentityError, match="answered 302"):
        await mode.call(source, "token", ONE)
    assert {request.url.host for request in github.asked} == {"actions.example"}


@pytest.mark.promise("proof-to-own-audience")
@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": OTHER}, "is not for the requested audience alone"),
        ({"aud": [ONE, OTHER]}, "is not for the requested audience alone"),
        ({"exp": NOW}, "has expired"),
        ({"sub": "repo:evil/name:ref:refs/heads/main"}, "is for another subject than before"),
        ({"exp": "soon"}, "holds no token"),
    ],
)
async def test_a_token_that_was_not_asked_for_is_refused(
    github: GitHub, mode: Mode, claims: dict[str, Any], reason: str
) -> None:
    source = github.source()
    github.claims = claims
    with pytest.raises(IdentityError, match=reason):
        await mode.call(source, "token", ONE)


@pytest.mark.parametrize("body", [b"", b"garbage", b"[]", b"{}", b'{"value": 1}', b"[" * 100_000, b"\xff"])
async def test_an_answer_that_holds_no_token_is_refused_and_not_repeated(
    github: GitHub, mode: Mode, body: bytes
) -> None:
    source = github.source()
    github.answer = lambda _request: httpx.Response(200, content=body)
    with pytest.raises(IdentityError, match=r"^GitHub Actions: its answer holds no token$") as raised:
        await mode.call(source, "token", ONE)
    assert REQUEST_TOKEN not in error_text(raised.value)
    assert "api-version" not in error_text(raised.value)


async def test_a_token_is_kept_for_its_audience_until_half_of_its_life(
    github: GitHub, mode: Mode, clock: Clock
) -> None:
    source = github.source()
    one = (await mode.call(source, "token", ONE)).reveal()
    other = (await mode.call(source, "token", OTHER)).reveal()
    assert one != other
    clock.now += 149.9
    assert (await mode.call(source, "token", ONE)).reveal() == one
    assert len(github.asked) == 3
    clock.now += 0.2
    assert (await mode.call(source, "token", ONE)).reveal() != one
    assert len(github.asked) == 4


@pytest.mark.promise("platform-down")
async def test_a_token_that_cannot_be_renewed_serves_while_it_lives(
    github: GitHub, mode: Mode, clock: Clock
) -> None:
    source = github.source()
    one = (await mode.call(source, "token", ONE)).reveal()
    github.answer = lambda _request: httpx.Response(403)
    clock.now += 200
    for _ in range(5):
        assert (await mode.call(source, "token", ONE)).reveal() == one
    assert len(github.asked) == 3, "asked again and again"
    clock.now += 99.5
    assert (await mode.call(source, "token", ONE)).reveal() == one
    clock.now += 0.6
    with pytest.raises(IdentityError, match="answered 403"):
        await mode.call(source, "token", ONE)


def test_of_many_threads_one_asks(github: GitHub) -> None:
    source = github.source()
    github.slow = True
    with ThreadPoolExecutor(20) as threads:
        tokens = {token.reveal() for token in threads.map(source.token, [ONE] * 20)}
    assert len(tokens) == 1
    assert len(github.asked) == 2


async def test_of_many_coroutines_one_asks(github: GitHub) -> None:
    source = github.source()
    github.slow = True
    tokens = {token.reveal() for token in await asyncio.gather(*(source.atoken(ONE) for _ in range(20)))}
    assert len(tokens) == 1
    assert len(github.asked) == 2


# --- SPIFFE


@pytest.fixture
def api() -> WorkloadApi:
    return WorkloadApi()


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


@pytest.fixture
def make(api: WorkloadApi, socket: Path) -> Iterator[Callable[..., SpiffeIdentity]]:
    """Make identities of a running agent; all of them are closed, and then the agent."""
    with ExitStack() as stack:
        address = stack.enter_context(serving(api, socket))

        def make(**options: Any) -> SpiffeIdentity:
            source = SpiffeIdentity(address, **{"timeout": 2.0, "pause": 0.05, **options})
            stack.callback(source.close)
            return source

        yield make


def eventually(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.01)


def known(source: SpiffeIdentity) -> str | None:
    try:
        return source.actor()
    except IdentityError:
        return None


class TestSpiffeIdentity(IdentityContract):
    @pytest.fixture(autouse=True)
    def _agents(self, tmp_path: Path) -> Iterator[None]:
        denying = WorkloadApi()
        denying.change(spiffe_id=None)
        with serving(WorkloadApi(), tmp_path / "a") as self._address, serving(denying, tmp_path / "d") as d:
            self._denying = d
            yield

    def make(self) -> SpiffeIdentity:
        return SpiffeIdentity(self._address)

    def broken(self) -> SpiffeIdentity:
        return SpiffeIdentity(self._denying, timeout=0.3)


@pytest.mark.process
def test_only_its_own_room_imports_grpc() -> None:
    code = "import sys, agentguard.identity.file; print({'grpc', 'spiffe'} & {*sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"


def test_the_address_is_the_environment_s_unless_given(
    api: WorkloadApi, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPIFFE_ENDPOINT_SOCKET", raising=False)
    for wrong in (None, "tcp://127.0.0.1:1", "/agent.sock", "unix:"):
        with pytest.raises(ConfigurationError, match="is not the address of a SPIFFE agent"):
            SpiffeIdentity(wrong)
    with serving(api, socket) as address:
        monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", address)
        source = SpiffeIdentity()
        assert source.actor() == AGENT
        source.close()


@pytest.mark.promise("spiffe-closes")
def test_a_closed_identity_leaves_no_call_to_the_interpreters_end(
    api: WorkloadApi, make: Callable[..., SpiffeIdentity], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There its finalizer can wait for ever, for a lock of a thread that is no more."""

    def calls() -> set[int]:
        return {id(entry) for entry in gc.get_objects() if isinstance(entry, Rendezvous)}

    closed = threading.Event()

    def slow(_context: object) -> None:
        closed.set()
        time.sleep(0.3)

    gc.collect()
    gc.disable()
    try:
        before = calls()
        source = make()
        source.token(ONE)
        monkeypatch.setattr(source, "_update", slow)
        api.change(spiffe_id="spiffe://td.example/other")
        assert closed.wait(5)
        assert calls() - before
        source.close()  # while the stream's thread is about to tell of a change
        assert not calls() - before
    finally:
        gc.enable()


async def test_a_jwt_svid_is_kept_for_its_audience_until_half_of_its_life(
    api: WorkloadApi, make: Callable[..., SpiffeIdentity], mode: Mode
) -> None:
    clock = Clock(time.time())
    source = make(clock=clock)
    token = (
        operation_pair(source, "token").async_ if mode.asynchronous else operation_pair(source, "token").sync
    )
    one, other = (await token(ONE)).reveal(), (await token(OTHER)).reveal()
    clock.now += 29
    assert ((await token(ONE)).reveal(), (await token(OTHER)).reveal()) == (one, other)
    assert api.fetched == [ONE, OTHER]
    clock.now += 2
    assert (await token(ONE)).reveal() != one
    assert api.fetched == [ONE, OTHER, ONE]


def test_of_many_threads_one_asks_the_agent(api: WorkloadApi, make: Callable[..., SpiffeIdentity]) -> None:
    source = make()
    with ThreadPoolExecutor(20) as threads:
        assert len({token.reveal() for token in threads.map(source.token, [ONE] * 20)}) == 1
    assert api.fetched == [ONE]


@pytest.mark.promise("spiffe-rotation")
def test_another_identity_is_noticed_and_the_tokens_of_the_former_are_forgotten(
    api: WorkloadApi, make: Callable[..., SpiffeIdentity]
) -> None:
    source = make()
    former = source.token(ONE).reveal()
    api.change(spiffe_id="spiffe://td.example/other")
    eventually(lambda: source.actor() == "spiffe://td.example/other")
    token = source.token(ONE).reveal()
    assert token != former
    assert Token.read(token).subject == "spiffe://td.example/other"


@pytest.mark.promise("spiffe-rotation")
def test_a_revoked_identity_is_noticed_though_its_tokens_live(
    api: WorkloadApi, make: Callable[..., SpiffeIdentity]
) -> None:
    source = make()
    source.token(ONE)
    api.change(spiffe_id=None)
    eventually(lambda: known(source) is None)
    with pytest.raises(IdentityError, match=r"gave no identity \(PERMISSION_DENIED\)"):
        source.actor()
    with pytest.raises(IdentityError, match="PERMISSION_DENIED"):
        source.token(ONE)
    api.change(spiffe_id=AGENT)
    eventually(lambda: known(source) == AGENT)
    assert source.token(ONE)


def test_a_denied_token_ends_the_others(api: WorkloadApi, make: Callable[..., SpiffeIdentity]) -> None:
    source = make(pause=60.0)
    source.token(ONE)
    api.spiffe_id = "spiffe://td.example/unsaid"  # and no stream tells of it
    with pytest.raises(IdentityError, match="PERMISSION_DENIED"):
        source.token(OTHER)
    eventually(lambda: known(source) != AGENT)


def test_one_of_several_identities_is_chosen(api: WorkloadApi, make: Callable[..., SpiffeIdentity]) -> None:
    assert make(spiffe_id=AGENT).actor() == AGENT
    with pytest.raises(IdentityError, match="did not give spiffe:"):
        make(spiffe_id="spiffe://td.example/absent", timeout=0.3).actor()


@pytest.mark.promise("proof-to-own-audience")
@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": [ONE, OTHER]}, "not for the requested audience alone"),
        ({"aud": [OTHER]}, "gave no identity"),
        ({"sub": "spiffe://td.example/another"}, "is for another identity"),
        ({"sub": "user:ada"}, "gave no identity"),
        ({"exp": 1}, "gave no identity"),
    ],
)
def test_a_jwt_svid_that_was_not_asked_for_is_refused(
    api: WorkloadApi, make: Callable[..., SpiffeIdentity], claims: dict[str, Any], reason: str
) -> None:
    source = make()
    api.claims = claims
    with pytest.raises(IdentityError, match=reason):
        source.token(ONE)


@pytest.mark.promise("platform-down")
def test_when_the_agent_is_down_what_lives_serves_and_nothing_after(api: WorkloadApi, socket: Path) -> None:
    clock = Clock(time.time())
    with serving(api, socket) as address:
        source = SpiffeIdentity(address, timeout=1.0, pause=0.05, clock=clock)
        token = source.token(ONE).reveal()
    clock.now += 45
    assert source.token(ONE).reveal() == token
    with pytest.raises(IdentityError, match="gave no identity"):
        source.token(OTHER)
    clock.now += 16
    with pytest.raises(IdentityError, match="gave no identity"):
        source.token(ONE)
    assert source.actor() == AGENT
    clock.now += 3600
    with pytest.raises(IdentityError):
        source.actor()
    clock.now = time.time()
    with serving(api, socket):
        api.change(spiffe_id="spiffe://td.example/after")
        eventually(lambda: known(source) == "spiffe://td.example/after")
        source.close()


def test_an_agent_that_starts_later_is_found(api: WorkloadApi, socket: Path) -> None:
    source = SpiffeIdentity(f"unix://{socket}", timeout=0.3, pause=0.05)
    with pytest.raises(IdentityError, match="gave no identity"):
        source.actor()
    with serving(api, socket):
        eventually(lambda: known(source) == AGENT)
        source.close()


def test_an_identity_that_is_registered_while_one_waits_is_waited_for(
    api: WorkloadApi, make: Callable[..., SpiffeIdentity]
) -> None:
    api.change(spiffe_id=None)
    registered = threading.Timer(0.3, api.change, kwargs={"spiffe_id": AGENT})
    registered.start()
    assert make(timeout=5.0).actor() == AGENT
    registered.join()


def test_an_agent_that_never_answers_delays_no_longer_than_told(
    api: WorkloadApi, make: Callable[..., SpiffeIdentity]
) -> None:
    api.silent.set()
    started = time.monotonic()
    source = make(timeout=0.3)
    assert time.monotonic() - started < 1.5
    with pytest.raises(IdentityError):
        source.actor()
    api.silent.clear()
    eventually(lambda: known(source) == AGENT)


@pytest.mark.promise("platform-down")
async def test_an_agent_that_never_answers_blocks_no_event_loop(
    api: WorkloadApi, make: Callable[..., SpiffeIdentity]
) -> None:
    source = await asyncio.to_thread(make, timeout=0.5)
    api.silent.set()
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            started = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - started)

    ticking = asyncio.create_task(tick())
    with pytest.raises(IdentityError, match="DEADLINE_EXCEEDED"):
        await operation_pair(source, "token").async_(ONE)
    ticking.cancel()
    api.silent.clear()
    assert longest < 0.3


class Panic(BaseException):
    """As a library in Rust raises it."""


@pytest.mark.promise("spiffe-rotation")
def test_a_panic_does_not_end_the_watch(
    api: WorkloadApi, make: Callable[..., SpiffeIdentity], monkeypatch: pytest.MonkeyPatch
) -> None:
    panics, follow = [1], SpiffeIdentity._follow

    def panic_once(self: SpiffeIdentity) -> None:
        if panics:
            panics.clear()
            raise Panic
        follow(self)

    monkeypatch.setattr(SpiffeIdentity, "_follow", panic_once)
    source = make(pause=0.01)
    eventually(lambda: known(source) == AGENT)
    assert not panics
    api.change(spiffe_id=None)
    eventually(lambda: known(source) is None)


def test_an_interrupt_while_the_agent_is_waited_for_leaves_one_thread_and_the_next_caller_waits(
    api: WorkloadApi, make: Callable[..., SpiffeIdentity], monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads() -> int:
        return sum(thread.name == "agentguard-spiffe" for thread in threading.enumerate())

    class Interrupting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    before, source = threads(), make()
    source._has_begun, event = False, source._has_identity  # as before its first answer
    monkeypatch.setattr(source, "_has_identity", Interrupting())
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            source.actor()
    monkeypatch.setattr(source, "_has_identity", event)
    assert source.actor() == AGENT
    assert threads() == before + 1


def test_a_closed_source_has_no_thread_and_no_identity(make: Callable[..., SpiffeIdentity]) -> None:
    before = {thread for thread in threading.enumerate() if thread.name == "agentguard-spiffe"}
    source = make()
    source.token(ONE)
    source.close()
    source.close()
    assert {thread for thread in threading.enumerate() if thread.name == "agentguard-spiffe"} == before
    with pytest.raises(IdentityError, match="is closed"):
        source.actor()
    with pytest.raises(IdentityError, match="is closed"):
        source.token(ONE)
