"""Keys are replaced while two processes sign, and verify each other's tokens, without a pause."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from queue import Empty, Full
from typing import Any

import pytest

from agentguard.credentials.key_folder import KeyFolder
from agentguard.credentials.key_ring import KeyRing
from agentguard.credentials.keyfile import read_key
from agentguard.credentials.local_issuer import LocalIssuer
from agentguard.errors import VerificationError
from agentguard.jose.key_source import FILE_REFRESH, KeySource
from agentguard.model import ToolPath
from agentguard.resource import Verifier
from agentguard.stores.memory import MemoryStore
from tests.credentials.test_key_folder import ISSUER, NOW, RESOURCE, URL, headers, kid

SPAWN = get_context("spawn")
LIFETIME, NOTICE, STEP = 90.0, 60.0, 3.0
VALID, STOLEN = "valid", "signed with a key that was retired"


def work(place: Path, moment: Any, inbox: Any, outbox: Any, reports: Any, ended: Any) -> None:
    """Sign for the other worker, and verify what came in, until the end; the clock is the test's."""

    def clock() -> float:
        return float(moment.value)

    ring = KeyRing(KeyFolder(place / "keys"), ToolPath.READ)
    issuer = LocalIssuer(ToolPath.READ, issuer=ISSUER, store=MemoryStore(), key=ring, clock=clock)
    keys = KeySource(place / "jwks.json", ISSUER, clock=clock)
    verifier = Verifier(issuer=ISSUER, keys=keys, resource=RESOURCE, store=None, clock=clock)
    while not ended.is_set():
        with suppress(Full):  # the other one is slower: what waits for long expires by the test's clock
            outbox.put_nowait((VALID, headers(issuer)))
        try:
            kind, presented = inbox.get(timeout=0.2)
        except Empty:
            continue
        try:
            verifier.verify("GET", URL, presented, path=ToolPath.READ)
        except VerificationError as error:
            reports.put((kind, kid(presented), str(error)))
        else:
            reports.put((kind, kid(presented), "accepted"))


class Workers:
    """Two workers, and how often they have said what of which kind of token."""

    def __init__(self, place: Path) -> None:
        self.place, self.folder = place, KeyFolder(place / "keys", jwks=place / "jwks.json")
        self.results = Counter[tuple[str, str]]()
        self.moment, self.ended = SPAWN.Value("d", NOW), SPAWN.Event()
        self.inboxes, self.reports = [SPAWN.Queue(2), SPAWN.Queue(2)], SPAWN.Queue()
        self.processes = [
            SPAWN.Process(
                target=work,
                args=(
                    place,
                    self.moment,
                    self.inboxes[number],
                    self.inboxes[1 - number],
                    self.reports,
                    self.ended,
                ),
            )
            for number in range(2)
        ]

    @property
    def now(self) -> float:
        return float(self.moment.value)

    def read(self, count: int) -> list[tuple[str, str, str]]:
        reports = [self.reports.get(timeout=60) for _ in range(count)]
        self.results.update((kind, result) for kind, _, result in reports)
        return reports

    def go_on(self, seconds: float) -> None:
        """Let time pass, while the workers sign and verify."""
        for _ in range(int(seconds / STEP)):
            self.moment.value += STEP
            self.read(4)

    def kids(self) -> set[str]:
        """Return the keys that sign now."""
        self.read(self.reports.qsize() + 4)
        return {kid for kind, kid, _ in self.read(20) if kind == VALID}

    def offer(self, thief: LocalIssuer) -> set[str]:
        """Return what both workers say of a token that was signed by a retired key."""
        for inbox in self.inboxes:
            inbox.put((STOLEN, headers(thief)))
        answers: list[str] = []
        while len(answers) < 2:
            answers += [result for kind, _, result in self.read(1) if kind == STOLEN]
        return set(answers)


@contextmanager
def running(place: Path) -> Iterator[Workers]:
    (place / "keys").mkdir(mode=0o700)
    workers = Workers(place)
    workers.folder.prepare()
    for process in workers.processes:
        process.start()
    try:
        yield workers
    finally:
        workers.ended.set()
        for process in workers.processes:
            process.kill()
            process.join()


@pytest.mark.process
@pytest.mark.promise("rotation-refuses-nothing")
def test_while_keys_rotate_no_worker_refuses_a_token_of_another_and_none_takes_a_retired_key(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as workers:
        workers.go_on(30)
        for _ in range(2):
            [old] = workers.kids()
            stolen = shutil.copy(workers.folder.files(ToolPath.READ)[-1].file, tmp_path / "stolen.pem")
            thief = LocalIssuer(
                ToolPath.READ, issuer=ISSUER, store=MemoryStore(), key=read_key(Path(stolen)),
                clock=lambda: workers.now,
            )  # fmt: skip
            workers.folder.rotate(workers.now + NOTICE, now=workers.now)
            workers.go_on(NOTICE + 30)
            assert old not in workers.kids()
            assert workers.offer(thief) == {"accepted"}  # tokens of it may still live
            workers.go_on(LIFETIME)
            assert len(workers.folder.prune(now=workers.now, lifetime=LIFETIME)) == len(ToolPath)
            workers.go_on(FILE_REFRESH.age + STEP)
            [refusal] = workers.offer(thief)
            assert "key" in refusal
        said_of_valid = {result for kind, result in workers.results if kind == VALID}
    assert said_of_valid == {"accepted"}
