"""The store of one process, in its memory: for tests, notebooks, and applications of one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from threading import RLock

from agentguard.concurrency.fork import in_child
from agentguard.errors import StoreError
from agentguard.model import (
    NO_READ_EFFECTS,
    Approval,
    Call,
    CallKey,
    Cell,
    Label,
    LiveCredential,
    Login,
    LoginName,
    Outcome,
    ReadEffects,
    TaskState,
    TaskStatus,
)
from agentguard.stores import _rules
from agentguard.stores._memory_approvals import ApprovalTable
from agentguard.stores._memory_counters import CounterTable
from agentguard.stores._memory_labels import LabelTable
from agentguard.stores._nesting import Change
from agentguard.stores._rules import DEFAULT_RETENTION, Retention

__all__ = ["MemoryStore"]

Clock = Callable[[], float]
_OfCall = dict[tuple[str, str], LiveCredential]  # by broker and handle


class MemoryStore:
    """A `Store` in the memory of its process, safe for several threads.

    Other processes do not see it, and a forked child begins without tasks. *retention* is for what is over.
    """

    inline = True

    def __init__(self, clock: Clock = time.time, *, retention: Retention = DEFAULT_RETENTION) -> None:
        self._clock, self._retention = clock, retention
        self._keys: dict[str, float] = {}
        self._begin()
        in_child(self._begin)

    def _begin(self) -> None:
        """Be empty, but for the keys.

        A forked child has a copy of the parent's tasks that nobody ends, so it must not go on with them. A
        key only refuses what came before.
        """
        # an `RLock` since a signal's handler may read within a change; the parent's may be held
        self._lock, self._change = RLock(), Change()
        self._writes, self._next_pruning = 0, _rules.PRUNE_EVERY
        self._tasks: dict[str, TaskState] = {}
        self._over: dict[str, float] = {}  # the latest time at which each task ends
        self._descendants: dict[str, set[str]] = {}
        self._running: dict[str, Call] = {}
        self._suspended: dict[CallKey, Call] = {}
        self._credentials: dict[str, _OfCall] = {}
        self._labels, self._approvals, self._counters = LabelTable(), ApprovalTable(), CounterTable()

    def create_task(self, state: TaskState) -> None:
        """Record a new task; a StoreError says that one of this id exists."""
        with self._lock, self._change:
            self._prune()
            if state.id in self._tasks:
                raise StoreError(f"task {state.id} exists")
            self._tasks[state.id] = state
            self._over[state.id] = state.deadline
            for ancestor in state.lineage:
                self._descendants.setdefault(ancestor, set()).add(state.id)

    def task(self, task_id: str) -> TaskState | None:
        """Return the task as it is now, or None."""
        return self._tasks.get(task_id)

    def begin_call(self, call: Call, credential: LiveCredential | None) -> None:
        """Count the call and record the credential that is about to be minted (see `ports.Store`)."""
        with self._lock, self._change:
            self._prune()
            now, prior = self._clock(), self._suspended.get(same := call.same)
            states = _rules.admit(call, self._family(call.task_id), now, resumed=prior is not None)
            if call.id in self._running:
                raise StoreError(f"call {call.id} has begun before")
            additions = () if prior is None else prior.additions
            if counts := bool(call.numbers or call.additions):
                self._counters.check(call, additions)
            if call.approval_id is not None:
                self._approvals.use(call, call.approval_id, None if prior is None else prior.approval_id, now)
            if counts:
                self._counters.begin(call, additions)
            if prior is None:
                for state in states:
                    self._tasks[state.id] = state.after(call)
            else:
                del self._suspended[same]
            self._running[call.id] = call
            if credential is not None:
                self._track(credential)

    def track(self, credential: LiveCredential) -> None:
        """Record a credential whose handle is known only after issue."""
        with self._lock, self._change:
            self._track(credential)
            _rules.active(self._family(credential.task_id), self._clock())

    def end_call(
        self,
        call_id: str,
        outcome: Outcome,
        *,
        effects: ReadEffects = NO_READ_EFFECTS,
        revoked: bool = False,
        remember: tuple[str, float] | None = None,
        undo: bool = False,
    ) -> None:
        """Record how the call ended; if it is not running, *effects* and *undo* are ignored."""
        with self._lock, self._change:
            if revoked:
                self._credentials.pop(call_id, None)
            if remember is not None:
                self._remember(*remember)
            call = self._running.pop(call_id, None)
            if call is None:
                return
            if undo:
                self._counters.remove(call.additions)
                call = replace(call, additions=())
            if outcome is Outcome.SUSPENDED:
                self._suspended[call.same] = call
            if effects != NO_READ_EFFECTS:
                self._note_read(call.task_id, effects)

    def counted(self, cells: Sequence[Cell], resumes: CallKey | None = None) -> tuple[int, ...]:
        """Return these numbers, without what the suspended call *resumes* has added to them."""
        with self._lock:
            before = self._suspended[resumes].additions if resumes in self._suspended else ()
            return tuple(self._counters.value(cell, before) for cell in cells)

    def labels(self, family: str, digests: Collection[str]) -> tuple[Label, ...]:
        """Return the labels of values that the family's tasks have read, for these digests."""
        with self._lock:
            return self._labels.find(family, digests)

    def forget(self, call_id: str) -> None:
        """Record that the call's credentials are revoked."""
        with self._lock, self._change:
            self._credentials.pop(call_id, None)

    def live(self, task_id: str | None = None) -> tuple[LiveCredential, ...]:
        """Return the credentials not known to be revoked, of the task and its descendants, or all."""
        with self._lock:
            credentials = [c for of_call in self._credentials.values() for c in of_call.values()]
            if task_id is None:
                return tuple(credentials)
            tasks = {task_id, *self._descendants.get(task_id, ())}
            return tuple(credential for credential in credentials if credential.task_id in tasks)

    def end_task(
        self, task_id: str, status: TaskStatus, notices: Iterable[LiveCredential] = ()
    ) -> tuple[str, ...]:
        """End the task and all its descendants; return the ids of the tasks that ended now."""
        notices = tuple(notices)
        with self._lock, self._change:
            now, ended_ids = self._clock(), []
            for id_ in (task_id, *sorted(self._descendants.get(task_id, ()))):
                state = self._tasks.get(id_)
                if state is not None and state.status is TaskStatus.ACTIVE:
                    self._tasks[id_] = replace(state, status=_rules.end(state, status, now))
                    self._over[id_] = min(now, state.deadline)
                    for notice in notices:
                        self._track(_rules.notice_of(notice, id_))
                    ended_ids.append(id_)
            return tuple(ended_ids)

    def revise_task(self, task_id: str, revise: Callable[[TaskState], TaskState]) -> TaskState:
        """Replace the words and the mandate of an active task (see `ports.Store`)."""
        with self._lock, self._change:
            state = _rules.revised(task_id, self._tasks.get(task_id), revise, self._clock())
            self._tasks[task_id] = state
            return state

    def active(self, subject: str, *, without: LoginName = "", folded: bool = False) -> tuple[str, ...]:
        """Return the ids of the active tasks of *subject*, or of those whose login has no name *without*."""
        with self._lock:
            now, states = self._clock(), list(self._tasks.values())
        is_named = _rules.subject_matcher(subject, folded=folded)
        return _rules.active_ids((one for one in states if is_named(one.identity.subject)), without, now)

    def active_in(self, login: Login, *, without: LoginName = "") -> tuple[str, ...]:
        """Return the ids of the active tasks begun in *login*, or of those whose login has no *without*."""
        with self._lock:
            now, states = self._clock(), list(self._tasks.values())
        of_login = (state for state in states if state.login and state.login.matches(login))
        return _rules.active_ids(of_login, without, now)

    def remember(self, key: str, until: float) -> bool:
        """Record *key* until that time; return False if it is recorded, and keep the later time."""
        with self._lock, self._change:
            self._prune()
            return self._remember(key, until)

    def known(self, key: str) -> bool:
        """Return whether *key* is recorded and its time has not passed."""
        return self._keys.get(key, 0.0) > self._clock()

    def save_approval(self, approval: Approval) -> Approval:
        """Record a pending approval, unless one with its id exists; return the recorded one."""
        with self._lock, self._change:
            self._prune()
            if (recorded := self._approvals.get(approval.id)) is not None:
                return recorded
            for state in self._approvals.save(approval, self._family(approval.task_id), self._clock()):
                self._tasks[state.id] = replace(state, questions=state.questions + 1)
            return approval

    def answer_approval(self, approval: Approval) -> None:
        """Record a person's answer to a pending approval."""
        with self._lock, self._change:
            self._approvals.answer(approval, self._clock())

    def approval(self, approval_id: str) -> Approval | None:
        """Return an approval, or None."""
        return self._approvals.get(approval_id)

    def approval_for(self, call_key: str) -> Approval | None:
        """Return the newest approval for this call, or None."""
        return self._approvals.newest(call_key)

    def rejection(self, family: str, tool: str, shown_digest: str) -> Approval | None:
        """Return a rejection of such a call in the family of a task, or None."""
        return self._approvals.rejection(family, tool, shown_digest)

    def _family(self, task_id: str) -> list[tuple[str, TaskState | None]]:
        state = self._tasks.get(task_id)
        lineage = () if state is None else state.lineage
        return [(task_id, state), *((ancestor, self._tasks.get(ancestor)) for ancestor in lineage)]

    def _remember(self, key: str, until: float) -> bool:
        present = self._keys.get(key)
        new = present is None or present <= self._clock()
        self._keys[key] = until if present is None else max(present, until)
        return new

    def _note_read(self, task_id: str, effects: ReadEffects) -> None:
        for _, state in self._family(task_id):
            if state is not None:
                untrusted = state.untrusted or effects.untrusted
                sensitivity = max(state.sensitivity, effects.sensitivity)
                self._tasks[state.id] = replace(state, untrusted=untrusted, sensitivity=sensitivity)
        state = self._tasks[task_id]
        root = state.root_id
        new = self._labels.add(root, _rules.room(state, effects))
        for id_ in (root, *self._descendants.get(root, ())) if new else ():
            self._tasks[id_] = replace(self._tasks[id_], labels=self._tasks[id_].labels + new)

    def _track(self, credential: LiveCredential) -> None:
        of_call = self._credentials.setdefault(credential.call_id, {})
        of_call[credential.broker, credential.handle] = credential

    def _prune(self) -> None:
        self._writes += 1
        if self._writes < self._next_pruning:
            return
        now = self._clock()
        self._keys = {key: until for key, until in self._keys.items() if until + _rules.KEEP_KEYS > now}
        old = self._retention.over_before(now)
        self._approvals.prune(old, self._tasks)
        self._credentials = {
            call_id: unlapsed
            for call_id, of_call in self._credentials.items()
            if (unlapsed := {key: live for key, live in of_call.items() if live.expires_at > old})
        }
        self._prune_tasks(old)
        self._counters.prune(now, self._tasks)
        # each round looks at all that is held, so the more there is, the rarer it is
        size = len(self._keys) + len(self._tasks) + len(self._credentials) + len(self._counters)
        self._next_pruning = self._writes + max(_rules.PRUNE_EVERY, size)

    def _prune_tasks(self, old: float) -> None:
        owing = {c.task_id for of_call in self._credentials.values() for c in of_call.values()}
        for task_id in [id_ for id_, over in self._over.items() if over <= old and id_ not in owing]:
            del self._over[task_id]
            for ancestor in self._tasks.pop(task_id).lineage:
                remaining = self._descendants.get(ancestor, set())
                remaining.discard(task_id)
                if not remaining:
                    self._descendants.pop(ancestor, None)
        self._running = {k: call for k, call in self._running.items() if call.task_id in self._tasks}
        self._suspended = {k: call for k, call in self._suspended.items() if call.task_id in self._tasks}
        self._labels.prune(self._tasks)
