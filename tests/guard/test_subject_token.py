"""A user's token is taken as a text or as a `Secret`."""

from __future__ import annotations

from contextlib import closing

import pytest

from agentguard import Guard
from agentguard.catalog import Catalog
from agentguard.identity import LocalIdentity
from agentguard.model import Secret
from agentguard.stores import MemoryStore
from agentguard.testing import FixedPolicy, RecordingAudit


@pytest.mark.parametrize("token", ["user-token", Secret("user-token")])
def test_a_token_may_be_a_text_or_a_secret(token: str | Secret) -> None:
    identity = LocalIdentity("agent://desk")
    store, audit = MemoryStore(), RecordingAudit()
    guard = Guard(
        catalog=Catalog([]), policy=FixedPolicy(), identity=identity, brokers={}, store=store, audit=audit
    )
    with (
        closing(guard),
        guard.task("x", subject="user:1", mandate={"tools": "*"}, subject_token=token) as task,
    ):
        for known in (task, guard.find(task.id, subject_token=token)):
            secret = guard.enforcement.subject_tokens.of(known.state())
            assert secret is not None
            assert secret.reveal() == "user-token"
