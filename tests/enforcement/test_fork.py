"""What a forked child has of its parent's credentials and locks: nothing."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from agentguard.enforcement.task_credentials import ReusableCredentials, SubjectTokens
from agentguard.errors import CredentialUnavailable
from agentguard.lease import Lease
from agentguard.model import Credential, Identity, Mandate, Secret, TaskState
from agentguard.stores.memory import MemoryStore

# from Python 3.12 on; that a child of a process with threads works is what these tests are about
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
CREDENTIAL = Credential("s3cret", id="1", expires_at=1e12, headers=lambda *_: {}, handle="h")


def in_child(question: Callable[[], bool]) -> bool:
    """Return what a forked child answers."""
    if (pid := os.fork()) == 0:
        status = 1
        try:
            status = 0 if question() else 1
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.promise("fork-holds-nothing")
def test_a_lease_is_dead_in_a_child_and_alive_in_the_parent() -> None:
    lease = Lease("t", None, CREDENTIAL)
    token = lease.open()

    def dead() -> bool:
        try:
            lease.reveal()
        except CredentialUnavailable:
            return True
        return False

    assert in_child(dead)
    assert lease.reveal() == "s3cret"
    lease.release(token)


@pytest.mark.promise("fork-holds-nothing")
def test_a_child_reuses_no_credential_and_no_users_token_and_waits_for_no_lock() -> None:
    reuse, tokens = ReusableCredentials(lambda: 0.0, timeout=1.0), SubjectTokens(lambda: 0.0)
    state = TaskState(
        id="t",
        purpose="p",
        identity=Identity(subject="a", actor="b"),
        mandate=Mandate.of({"tools": "*"}),
        deadline=1e12,
    )
    reuse.keep("key", "t", CREDENTIAL, 1e12)
    tokens.keep("t", Secret("s3cret"), 1e12)
    with reuse._lock, tokens._lock:
        assert in_child(lambda: reuse.find("key", 1e12) is None and tokens.of(state) is None)
    store = MemoryStore()
    with store._lock:
        assert in_child(lambda: store.create_task(state) is None)  # type: ignore[func-returns-value]  # it returns at all
    assert reuse.find("key", 1e12) is CREDENTIAL
