"""Revocation of AWS sessions: an inline policy on their role denies them everything.

AWS cannot take back the keys of a session; what it evaluates at each request is the role's policies.
The denial holds for a request whose ``aws:userid`` (the role's id, a colon, the session's name) ends in
a revoked name, and whose ``aws:TokenIssueTime`` is before the revocation, plus *skew* for clocks that
differ and for an answer that is still on its way.

IAM has no conditional write, and its reads may be stale for seconds, so a policy that several processes
read, changed and wrote would lose revocations. Here nothing is ever read to be written again: each
process writes policies of its own, one for a role and a span of time, with all that it has revoked in
it. One write is on its way at a time; who comes meanwhile shares the next. After one without an answer,
which may yet take effect, the process goes on in another policy. A policy's name says until when
sessions that it names can live; after that anybody deletes it.

All inline policies of a role may have 10,240 characters together: about 370 revoked sessions, of all
processes, in the last two spans. Beyond that, a process denies *every* session of the role that was
issued before now (plus *skew*), those of calls that still run and of the next seconds included.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from threading import Lock
from typing import Any

from agentguard.credentials.aws.api import Refusal
from agentguard.credentials.aws.policy import INLINE_LIMIT, denial_policy
from agentguard.errors import IssueError

__all__ = ["Revocations"]

Ask = Callable[..., Mapping[str, Any]]
_POLICY = re.compile(r"agentguard-revoked-([0-9]{1,12})-[0-9a-f]+")
_FULL = "LimitExceeded"
log = logging.getLogger("agentguard")


class _Ledger:
    """What this process has revoked of one role in the current span of time."""

    def __init__(self, author: str) -> None:
        self.author = author
        self.names: dict[str, None] = {}
        self.until = 0
        self.everyone_until: float | None = None
        self.waiting: list[str] = []
        self.next: Future[None] | None = None
        self.running: Future[None] | None = None


class Revocations:
    """Denies sessions of roles. Blocks; threads may share it.

    *ask* calls IAM (``PutRolePolicy``, ``ListRolePolicies``, ``DeleteRolePolicy``). *longest* is how
    long a session can live, *skew* how far clocks may differ, *patience* how long one waits for
    another's write; all in seconds.
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
        self._ledgers: dict[str, _Ledger] = {}
        self._lock = Lock()

    def deny(self, role: str, name: str) -> None:
        """Deny everything to the session *name* of *role*, by the role's name.

        Raises:
            IssueError: It is not known to be denied.
        """
        with self._lock:
            ledger = self._ledgers.setdefault(role, _Ledger(self._author()))
            ledger.waiting.append(name)
            leads = ledger.next is None
            batch = ledger.next = ledger.next or Future()
            before = ledger.running
        if leads:
            self._lead(role, ledger, batch, before)
        try:
            batch.result(2 * self._patience)
        except TimeoutError:
            raise IssueError(f"aws: {role}: a revocation has no answer yet") from None

    def _lead(self, role: str, ledger: _Ledger, batch: Future[None], before: Future[None] | None) -> None:
        try:
            if before is not None and wait([before], self._patience).not_done:
                raise IssueError(f"aws: {role}: an earlier revocation has no answer yet")
            with self._lock:
                ledger.next, ledger.running = None, batch
                waiting, ledger.waiting = ledger.waiting, []
            self._write(role, ledger, waiting)
        except Exception as error:  # noqa: BLE001  all who wait for it are told, this one among them
            batch.set_exception(error)
        except BaseException:
            batch.set_exception(IssueError(f"aws: {role}: a revocation was interrupted"))
            raise
        else:
            batch.set_result(None)
        finally:
            with self._lock:
                if ledger.next is batch:
                    ledger.next = None

    def _write(self, role: str, ledger: _Ledger, names: list[str]) -> None:
        now = self._clock()
        fresh = self._turn(ledger, now)
        ledger.names.update(dict.fromkeys(names))
        document = denial_policy(ledger.names, now + self._skew, ledger.everyone_until)
        try:
            if len(document) > INLINE_LIMIT:
                raise Refusal("iam", "put_role_policy", _FULL)
            self._put(role, ledger, document)
        except Refusal as refusal:
            if refusal.code != _FULL:
                raise
            self._deny_everyone(role, ledger, now)
        if fresh:
            self._prune(role, now)

    def _turn(self, ledger: _Ledger, now: float) -> bool:
        """Begin a new policy, if the span of the last one is over."""
        end = (now // self._longest + 1) * self._longest
        until = int(end + self._longest + self._skew) + 1
        if until == ledger.until:
            return False
        ledger.names, ledger.until, ledger.everyone_until = {}, until, None
        return True

    def _deny_everyone(self, role: str, ledger: _Ledger, now: float) -> None:
        log.warning("aws: too many revocations on %s: all its sessions until now are denied", role)
        ledger.names, ledger.everyone_until = {}, now + self._skew
        self._prune(role, now)
        self._put(role, ledger, denial_policy((), now, ledger.everyone_until))

    def _put(self, role: str, ledger: _Ledger, document: str) -> None:
        # the process too, for one that was forked has the same ledger
        policy = f"agentguard-revoked-{ledger.until}-{ledger.author}{os.getpid():x}"
        certain = False
        try:
            done = self._ask("put_role_policy", RoleName=role, PolicyName=policy, PolicyDocument=document)
            certain = not done.get("ResponseMetadata", {}).get("RetryAttempts")
        except Refusal as refusal:
            certain = refusal.code == _FULL
            raise
        finally:
            if not certain:
                ledger.author = self._author()

    def _prune(self, role: str, now: float) -> None:
        """Delete what names no session that can still live; what fails here is done another time."""
        try:
            listed = self._ask("list_role_policies", RoleName=role, MaxItems=1000).get("PolicyNames", ())
            for policy in listed:
                found = _POLICY.fullmatch(policy)
                if found and int(found[1]) < now:
                    self._ask("delete_role_policy", RoleName=role, PolicyName=policy)
        except IssueError as error:
            log.warning("old revocations on %s are not deleted: %s", role, error)
