"""Revocation of AWS sessions: an inline policy on their role denies them everything.

AWS cannot invalidate the keys of a session, but it evaluates the role's policies at each request. The
denial applies to a request whose ``aws:userid`` (the role's id, a colon, the session's name) ends in a
revoked name, and whose ``aws:TokenIssueTime`` is before the revocation plus *skew*. The skew allows for
clocks that differ, and for a session whose answer has not arrived yet.

IAM has no conditional write, and its reads may be stale for seconds. If several processes read, changed
and wrote one policy, revocations would be lost. So no process reads a policy in order to change it. Each
process writes its own policies: one for each role and span of time, with all its revocations in that
span. Only one write for a role is under way at a time; revocations that arrive meanwhile share the next
write. A write without an answer may still take effect later, so the process then continues in another
policy. A policy's name says until when its sessions can live; after that, any process deletes it.

All inline policies of a role together may have 10,240 characters: about 370 revoked sessions, of all
processes, in the last two spans. If that is not enough, a process denies *every* session of the role
that was issued before now plus *skew*, also those of calls that still run or start within these seconds.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Any

from agentguard.concurrency.fork import ProcessLock, in_child
from agentguard.concurrency.owned_lock import Owner, owner_here
from agentguard.concurrency.running import is_running
from agentguard.credentials.aws.api import Refusal
from agentguard.credentials.aws.policy import INLINE_LIMIT, denial_policy
from agentguard.errors import IssueError

__all__ = ["Revocations"]

Ask = Callable[..., Mapping[str, Any]]
_POLICY = re.compile(r"agentguard-revoked-([0-9]{1,12})-[0-9a-f]+")
_FULL = "LimitExceeded"
log = logging.getLogger("agentguard")


class _Batch(Future[None]):
    """A write for all callers whose sessions it denies, by the caller who has begun it."""

    def __init__(self, writer: Owner) -> None:
        super().__init__()
        self.writer = writer

    def is_over(self) -> bool:
        """Return whether it has an answer, or never will: something like Ctrl-C has ended its writer."""
        return self.done() or not is_running(*self.writer)


class _RoleState:
    """The sessions of one role that this process has revoked in the current span of time."""

    def __init__(self, author: str) -> None:
        self.author = author
        self.names: dict[str, None] = {}
        self.until = 0
        self.everyone_until: float | None = None
        self.queue: list[str] = []
        self.next: _Batch | None = None
        self.current: _Batch | None = None


class Revocations:
    """Denies everything to sessions of roles. Its methods block; threads may share it.

    *ask* calls IAM (``PutRolePolicy``, ``ListRolePolicies``, ``DeleteRolePolicy``). *longest* is the
    longest life of a session, *skew* the largest difference of clocks, and *patience* how long a caller
    waits for another caller's write; all in seconds.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        longest: int,
        skew: float,
        patience: float,
        clock: Callable[[], float],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._ask, self._clock = ask, clock
        self._longest, self._skew, self._patience = longest, skew, patience
        self._author: Callable[[], str] = lambda: entropy(8).hex()
        self._begin()
        in_child(self._begin)

    def _begin(self) -> None:
        # a child writes policies of its own, and waits for no write of a thread of its parent
        self._roles: dict[str, _RoleState] = {}
        self._lock = ProcessLock()

    def deny(self, role: str, name: str) -> None:
        """Deny everything to the session *name* of the role that is called *role*.

        Raises:
            IssueError: The session is not known to be denied.
        """
        writer = owner_here()
        with self._lock:
            state = self._roles.setdefault(role, _RoleState(self._author()))
            state.queue.append(name)
            batch = state.next
            if batch is None or batch.is_over():  # the names of an interrupted writer are still in the queue
                batch = state.next = _Batch(writer)
            previous = state.current
        if batch.writer is writer:
            self._write_batch(role, state, batch, previous)
        try:
            batch.result(2 * self._patience)
        except TimeoutError:
            raise IssueError(f"aws: {role}: a revocation has no answer yet") from None

    def _write_batch(self, role: str, state: _RoleState, batch: _Batch, previous: _Batch | None) -> None:
        try:
            if previous is not None and not previous.is_over() and wait([previous], self._patience).not_done:
                raise IssueError(f"aws: {role}: an earlier revocation has no answer yet")
            with self._lock:
                state.next, state.current = None, batch
                names, state.queue = state.queue, []
            self._write(role, state, names)
        except Exception as error:  # noqa: BLE001  every waiter gets the error, this caller too
            batch.set_exception(error)
        except BaseException:
            batch.set_exception(IssueError(f"aws: {role}: a revocation was interrupted"))
            raise
        else:
            batch.set_result(None)
        finally:
            with self._lock:
                if state.next is batch:
                    state.next = None

    def _write(self, role: str, state: _RoleState, names: list[str]) -> None:
        now = self._clock()
        is_new_span = self._begin_span(state, now)
        state.names.update(dict.fromkeys(names))
        document = denial_policy(state.names, now + self._skew, state.everyone_until)
        try:
            if len(document) > INLINE_LIMIT:
                raise Refusal("iam", "put_role_policy", _FULL)
            self._put(role, state, document)
        except Refusal as refusal:
            if refusal.code != _FULL:
                raise
            self._deny_everyone(role, state, now)
        if is_new_span:
            self._prune(role, now)

    def _begin_span(self, state: _RoleState, now: float) -> bool:
        """Begin a new policy if the span of the last one is over. Return whether a new one has begun."""
        end = (now // self._longest + 1) * self._longest
        until = int(end + self._longest + self._skew) + 1
        if until == state.until:
            return False
        state.names, state.until, state.everyone_until = {}, until, None
        return True

    def _deny_everyone(self, role: str, state: _RoleState, now: float) -> None:
        log.warning("aws: too many revocations on %s: all its sessions until now are denied", role)
        state.names, state.everyone_until = {}, now + self._skew
        self._prune(role, now)
        self._put(role, state, denial_policy((), now, state.everyone_until))

    def _put(self, role: str, state: _RoleState, document: str) -> None:
        # with the process id, since a forked process has the same state
        policy = f"agentguard-revoked-{state.until}-{state.author}{os.getpid():x}"
        is_certain = False
        try:
            answer = self._ask("put_role_policy", RoleName=role, PolicyName=policy, PolicyDocument=document)
            is_certain = not answer.get("ResponseMetadata", {}).get("RetryAttempts")
        except Refusal as refusal:
            is_certain = refusal.code == _FULL
            raise
        finally:
            if not is_certain:
                state.author = self._author()

    def _prune(self, role: str, now: float) -> None:
        """Delete the policies whose sessions have all expired. A failure is logged, and tried again later."""
        try:
            names = self._ask("list_role_policies", RoleName=role, MaxItems=1000).get("PolicyNames", ())
            for policy in names:
                match = _POLICY.fullmatch(policy)
                if match and int(match[1]) < now:
                    self._ask("delete_role_policy", RoleName=role, PolicyName=policy)
        except IssueError as error:
            log.warning("old revocations on %s are not deleted: %s", role, error)
