"""Adapters for tests, which keep the requests that they received."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from agentguard.errors import AuditError, IssueError
from agentguard.model import AccessRequest, Credential, Decision, Effect, Grant, ToolPath
from agentguard.ports import Policy

__all__ = ["FixedPolicy", "RecordingAudit", "RecordingBroker", "RecordingPolicy"]


class RecordingBroker:
    """A `Broker` that mints fake credentials: ``test-secret-1``, ``test-secret-2`` and so on.

    `issued` holds the grants and `revoked` the handles, in order. Set `issue_error` or `revoke_error` to
    an exception, and the next calls raise it.
    """

    inline = True

    def __init__(
        self, paths: Iterable[ToolPath | str] = tuple(ToolPath), *, clock: Callable[[], float] = time.time
    ) -> None:
        self.paths = frozenset(ToolPath(path) for path in paths)
        self.issued: list[Grant] = []
        self.revoked: list[str] = []
        self.issue_error: Exception | None = None
        self.revoke_error: Exception | None = None
        self._clock = clock
        self._numbers = itertools.count(1)

    @property
    def live(self) -> tuple[str, ...]:
        """The handles that were issued and are not revoked."""
        return tuple(grant.id for grant in self.issued if grant.id not in self.revoked)

    def issue(self, grant: Grant) -> Credential:
        """Mint a fake bearer token."""
        if self.issue_error is not None:
            raise self.issue_error
        if grant.path not in self.paths:
            raise IssueError(f"this broker does not serve {grant.path}")
        secret = f"test-secret-{next(self._numbers)}"
        self.issued.append(grant)
        return Credential(
            secret,
            id=grant.id,
            expires_at=grant.ends_at(self._clock()),
            headers=lambda _method, _url, _nonce: {"Authorization": f"Bearer {secret}"},
        )

    def revoke(self, handle: str, expires_at: float) -> None:
        """Record the handle as revoked."""
        if self.revoke_error is not None:
            raise self.revoke_error
        self.revoked.append(handle)


class FixedPolicy:
    """A `Policy` that always returns the same decision; by default it permits."""

    inline = True

    def __init__(self, answer: Decision | Effect | str = Effect.PERMIT, *, version: str = "fixed") -> None:
        self.version = version
        self._answer = (
            answer
            if isinstance(answer, Decision)
            else Decision(effect=Effect(answer), policy_ids=("fixed",), policy_version=version)
        )

    def decide(self, request: AccessRequest) -> Decision:
        """Answer the request."""
        return self._answer


class RecordingPolicy:
    """A `Policy` that asks another policy, and keeps the `requests` in order."""

    inline = True

    def __init__(self, policy: Policy | None = None) -> None:
        self.requests: list[AccessRequest] = []
        self._policy = FixedPolicy() if policy is None else policy

    @property
    def version(self) -> str:
        """The version of the other policy."""
        return self._policy.version

    def decide(self, request: AccessRequest) -> Decision:
        """Answer the request."""
        self.requests.append(request)
        return self._policy.decide(request)


class RecordingAudit:
    """An `AuditLog` in memory. It refuses the same records as one in a file, but does not chain them.

    Set `error` to an exception, and the next appends raise it.
    """

    inline = True

    def __init__(self) -> None:
        self.error: Exception | None = None
        self._lines: list[str] = []

    def append(self, record: Mapping[str, Any]) -> None:
        """Keep a copy of one record."""
        if self.error is not None:
            raise self.error
        try:
            self._lines.append(json.dumps(dict(record), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise AuditError(f"the record cannot be written as JSON: {error}") from error

    def records(self, task_id: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the records in order: those of one task and its descendants, or all."""
        for line in tuple(self._lines):
            record = json.loads(line)
            if task_id is None or record.get("task") == task_id or task_id in (record.get("lineage") or ()):
                yield record
