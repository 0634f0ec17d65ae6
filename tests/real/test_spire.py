"""A real SPIRE says who a process is, by its uid; the process proves it to one audience at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest

from agentguard.errors import IdentityError
from agentguard.identity.spiffe import SpiffeIdentity
from agentguard.testing.identities import IdentityContract
from tests.real.conftest import Spire
from tests.servers.spire import SUPPORT, THIEF, TRUST_DOMAIN, public_keys

ROOT = Path(__file__).parents[2]
ONE, OTHER = "https://one.example", "https://other.example"
PATIENCE = 20.0  # seconds: SPIRE's server and agent each look for new entries every five
UID = 54321  # of nobody on this machine, for a workload whose entry comes and goes


@pytest.fixture
def source(spire: Spire) -> Iterator[SpiffeIdentity]:
    source = SpiffeIdentity(spire.socket, timeout=PATIENCE)
    yield source
    source.close()


def verified(token: str, audience: str) -> dict[str, Any]:
    """Verify a JWT-SVID as whoever receives it does, by SPIRE's own keys."""
    for key in public_keys():
        try:
            claims: dict[str, Any] = jwt.decode(token, key, algorithms=["ES256"], audience=audience)
        except jwt.InvalidSignatureError:
            continue
        return claims
    raise AssertionError("no key of the trust domain has signed it")


class Workload:
    """A child process that asks the agent in its own name."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, audience: str = "") -> str:
        """Return its actor, or with *audience* a token; or what was refused, with the reason."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{audience}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextmanager
def workload(spire: Spire, uid: int) -> Iterator[Workload]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.real.spire_workload", str(uid)],
        cwd=ROOT,
        env={"SPIFFE_ENDPOINT_SOCKET": spire.socket},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Workload(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0


class Entry:
    """The registration of `UID`, of which an administrator disposes."""

    def __init__(self, spire: Spire) -> None:
        self._admin = spire.admin
        self.id = ""

    def _run(self, *command: str) -> Any:
        program = os.environ["AGENTGUARD_TEST_SPIRE_PROGRAM"]
        full = (program, "entry", *command, "-output", "json", "-socketPath", self._admin)
        return json.loads(subprocess.run(full, check=True, capture_output=True, text=True).stdout)

    def _facts(self, name: str) -> tuple[str, ...]:
        parent_id = self._run("show", "-spiffeID", SUPPORT)["entries"][0]["parent_id"]
        parent = f"spiffe://{parent_id['trust_domain']}{parent_id['path']}"
        ttl = ("-jwtSVIDTTL", "8", "-x509SVIDTTL", "60")
        return ("-parentID", parent, "-spiffeID", name, "-selector", f"unix:uid:{UID}", *ttl)

    def create(self, name: str) -> None:
        self.id = self._run("create", *self._facts(name))["results"][0]["entry"]["id"]

    def rename(self, name: str) -> None:
        self._run("update", "-entryID", self.id, *self._facts(name))

    def delete(self) -> None:
        if self.id:
            self._run("delete", "-entryID", self.id)
        self.id = ""


@pytest.fixture
def entry(spire: Spire, nobody: int) -> Iterator[Entry]:
    entry = Entry(spire)
    yield entry
    entry.delete()


def within(seconds: float, holds: Callable[[], bool]) -> float:
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, "it did not happen"
        time.sleep(0.1)
    return time.monotonic() - started


class TestSpire(IdentityContract):
    @pytest.fixture(autouse=True)
    def _socket(self, spire: Spire, tmp_path: Path) -> None:
        self._address, self._absent = spire.socket, f"unix://{tmp_path}/absent.sock"

    def make(self) -> SpiffeIdentity:
        return SpiffeIdentity(self._address, timeout=PATIENCE)

    def broken(self) -> SpiffeIdentity:
        return SpiffeIdentity(self._absent, timeout=0.5)


def test_a_process_is_who_spire_says_and_proves_it_by_spire_s_key(source: SpiffeIdentity) -> None:
    assert source.actor() == SUPPORT
    claims = verified(source.token(ONE).reveal(), ONE)
    assert (claims["sub"], claims["aud"]) == (SUPPORT, [ONE])


@pytest.mark.promise("proof-to-own-audience")
def test_a_token_for_one_audience_is_refused_by_another(source: SpiffeIdentity) -> None:
    with pytest.raises(jwt.InvalidAudienceError):
        verified(source.token(ONE).reveal(), OTHER)


@pytest.mark.promise("spiffe-rotation")
def test_another_user_is_another_workload_and_cannot_be_this_one(
    spire: Spire, nobody: int, source: SpiffeIdentity
) -> None:
    with workload(spire, nobody) as thief:
        within(PATIENCE, lambda: thief.ask() == THIEF)
        assert verified(thief.ask(ONE), ONE)["sub"] == THIEF
    assert source.actor() == SUPPORT


@pytest.mark.promise("spiffe-rotation")
def test_a_user_without_an_entry_has_no_identity(spire: Spire, nobody: int) -> None:
    with workload(spire, UID) as stranger:
        for answer in (stranger.ask(), stranger.ask(ONE)):
            assert answer == "IdentityError: the SPIFFE agent gave no identity (PERMISSION_DENIED)"


@pytest.mark.promise("spiffe-rotation")
def test_an_identity_that_is_not_one_s_own_cannot_be_chosen(spire: Spire, source: SpiffeIdentity) -> None:
    assert source.actor() == SUPPORT
    thief = SpiffeIdentity(spire.socket, spiffe_id=THIEF, timeout=0.5)
    with pytest.raises(IdentityError, match="did not give"):
        thief.token(ONE)
    thief.close()


@pytest.mark.promise("spiffe-rotation")
def test_an_entry_that_comes_changes_and_goes_is_noticed_and_short_tokens_are_renewed(
    spire: Spire, entry: Entry
) -> None:
    first, second = f"{TRUST_DOMAIN}/agent/first", f"{TRUST_DOMAIN}/agent/second"
    with workload(spire, UID) as agent:
        entry.create(first)
        within(30, lambda: agent.ask() == first)
        token = agent.ask(ONE)
        assert agent.ask(ONE) == token, "it was not kept"
        claims = verified(token, ONE)
        assert claims["exp"] - time.time() < 9
        renewed = within(9, lambda: agent.ask(ONE) != token)
        assert renewed > 2
        assert verified(agent.ask(ONE), ONE)["exp"] > claims["exp"]

        entry.rename(second)
        within(30, lambda: agent.ask() == second)
        assert verified(agent.ask(ONE), ONE)["sub"] == second

        entry.delete()
        within(30, lambda: agent.ask().startswith("IdentityError"))
        assert agent.ask(ONE) == "IdentityError: the SPIFFE agent gave no identity (PERMISSION_DENIED)"
