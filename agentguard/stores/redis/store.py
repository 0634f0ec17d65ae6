"""The operations of the Redis store. Each is one script on the server, and one round trip."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from agentguard.concurrency.drive import drive, lift
from agentguard.model import (
    NO_READ_EFFECTS,
    Approval,
    Basis,
    Call,
    CallKey,
    Cell,
    Label,
    LiveCredential,
    Login,
    LoginName,
    Outcome,
    ReadEffects,
    Secret,
    TaskState,
    TaskStatus,
)
from agentguard.stores._rules import DEFAULT_RETENTION, Retention
from agentguard.stores.redis.address import Address, checked_prefix
from agentguard.stores.redis.basis import begin_if_unchanged
from agentguard.stores.redis.connections import Connections, PasswordSource
from agentguard.stores.redis.durability import Durability, Level
from agentguard.stores.redis.requests import Requests
from agentguard.stores.redis.revision import revised_task
from agentguard.stores.redis.session import Session
from agentguard.stores.redis.wire import Wire

__all__ = ["RedisStore"]


class RedisStore:
    """A `Store` in Redis 7 or Valkey, shared by the processes of many machines.

    Each operation is one script, so it is atomic, and one round trip. All keys have the *prefix* and one hash
    tag: in a cluster they are in one slot, and *url* has to name the node that has it. Redis Sentinel is not
    asked where the primary is: *url* has to lead there, by a proxy or a DNS name that a failover moves.

    Times are judged by the guard's *clock*, as in each other store. Deadlines and expiries are times of that
    clock; a second clock would only add how far it is off. Redis deletes what is over by its own clock, when
    *retention* has passed since nothing can come of it any more, and a key after two hours. A clock may be
    off by so much.

    Each new connection first looks at the server. One that evicts keys, keeps no append-only file, or does
    not say, is refused, unless *durability* says otherwise; its module says what may be lost all the same.

    *password* is the password, or where it is; that place is read for each new connection. *timeout* in
    seconds holds for the wait for one of *pool_size* connections, to connect, and for an answer. An operation
    whose answer was lost may have been done, and is not repeated. A forked child opens its own connections,
    and so does each event loop.

    Raises:
        ConfigurationError: The URL or the prefix is wrong, or would be spoken to without TLS. From an
            operation: the server may lose a revocation, is a replica, or the store has another schema.
        StoreError: Redis cannot be reached, refuses, or has lost what it had acknowledged. Each operation
            can raise this.
    """

    def __init__(
        self,
        url: str,
        *,
        password: Secret | PasswordSource | None = None,
        prefix: str = "agentguard",
        pool_size: int = 8,
        timeout: float = 2.0,
        ca: str | os.PathLike[str] | None = None,
        plaintext: bool = False,
        durability: Durability | Level = "checked",
        retention: Retention = DEFAULT_RETENTION,
        clock: Callable[[], float] = time.time,
    ) -> None:
        address = Address.of(url, ca=ca, plaintext=plaintext)
        demands = durability if isinstance(durability, Durability) else Durability(durability)
        wire = Wire(address, demands, timeout)
        connections = Connections(address, password, wire, size=pool_size, timeout=timeout)
        self._session = Session(address, connections, checked_prefix(prefix), lossy=demands.level == "lossy")
        self._requests = Requests(clock, retention)

    def check(self) -> None:
        """Look at the server now, without an operation. What it raises is in the class's docstring."""
        self._session.check()

    def migrate(self) -> int | None:
        """Bring the store to the newest schema; return the one that was there, if any. Raises as `check`."""
        return self._session.migrate()

    def close(self) -> None:
        """Close the connections of threads, not those of event loops; later operations raise StoreError."""
        self._session.close()

    async def aclose(self) -> None:
        """Close the connections of threads and of this event loop; later operations raise StoreError."""
        await self._session.aclose()

    def create_task(self, state: TaskState) -> None:
        """Record a new task; a StoreError says that one of this id exists."""
        self._session.run(self._requests.create_task(state))

    def task(self, task_id: str) -> TaskState | None:
        """Return the task as it is now, or None."""
        return self._session.run(self._requests.task(task_id))

    def begin_call(self, call: Call, credential: LiveCredential | None) -> None:
        """Count the call and record the credential that is about to be minted (see `ports.Store`)."""
        self._session.run(self._requests.begin_call(call, credential))

    def begin_if_unchanged(
        self, call: Call, credential: LiveCredential | None, basis: Basis
    ) -> tuple[TaskState, ...] | None:
        """Do as `begin_call`, if what the call was judged by is still so (see `ports.ConditionalStore`)."""
        return self._session.run(begin_if_unchanged(self._requests, call, credential, basis))

    def track(self, credential: LiveCredential) -> None:
        """Record a credential whose handle is known only after issue."""
        self._session.run(self._requests.track(credential))()

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
        self._session.run(self._requests.end_call(call_id, outcome, effects, revoked, remember, undo))

    def counted(self, cells: Sequence[Cell], resumes: CallKey | None = None) -> tuple[int, ...]:
        """Return these numbers, without what the suspended call *resumes* has added to them."""
        return self._session.run(self._requests.counted(cells, resumes))

    def labels(self, family: str, digests: Collection[str]) -> tuple[Label, ...]:
        """Return the labels of values that the family's tasks have read, for these digests."""
        return self._session.run(self._requests.labels(family, digests))

    def forget(self, call_id: str) -> None:
        """Record that the call's credentials are revoked."""
        self._session.run(self._requests.forget(call_id))

    def live(self, task_id: str | None = None) -> tuple[LiveCredential, ...]:
        """Return the credentials not known to be revoked, of the task and its descendants, or all."""
        return self._session.run(self._requests.live(task_id))

    def end_task(
        self, task_id: str, status: TaskStatus, notices: Iterable[LiveCredential] = ()
    ) -> tuple[str, ...]:
        """End the task and all its descendants; return the ids of the tasks that ended now."""
        return self._session.run(self._requests.end_task(task_id, status, notices))

    def revise_task(self, task_id: str, revise: Callable[[TaskState], TaskState]) -> TaskState:
        """Replace the words and the mandate of an active task (see `ports.Store`): two round trips."""
        return drive(revised_task(lift(self._session.run), self._requests, task_id, revise))

    def active(self, subject: str, *, without: LoginName = "", folded: bool = False) -> tuple[str, ...]:
        """Return the ids of the active tasks of *subject*, or of those whose login has no name *without*."""
        return self._session.run(self._requests.active(subject, without, folded=folded))

    def active_in(self, login: Login, *, without: LoginName = "") -> tuple[str, ...]:
        """Return the ids of the active tasks begun in *login*, or of those whose login has no *without*."""
        return self._session.run(self._requests.active_in(login, without))

    def remember(self, key: str, until: float) -> bool:
        """Record *key* until that time; return False if it is recorded, and keep the later time."""
        return self._session.run(self._requests.remember(key, until))

    def known(self, key: str) -> bool:
        """Return whether *key* is recorded and its time has not passed."""
        return self._session.run(self._requests.known(key))

    def save_approval(self, approval: Approval) -> Approval:
        """Record a pending approval, unless one with its id exists; return the recorded one."""
        return self._session.run(self._requests.save_approval(approval))

    def answer_approval(self, approval: Approval) -> None:
        """Record a person's answer to a pending approval."""
        self._session.run(self._requests.answer_approval(approval))

    def approval(self, approval_id: str) -> Approval | None:
        """Return an approval, or None."""
        return self._session.run(self._requests.approval(approval_id))

    def approval_for(self, call_key: str) -> Approval | None:
        """Return the newest approval for this call, or None."""
        return self._session.run(self._requests.approval_for(call_key))

    def rejection(self, family: str, tool: str, shown_digest: str) -> Approval | None:
        """Return a rejection of such a call in the family of a task, or None."""
        return self._session.run(self._requests.rejection(family, tool, shown_digest))

    async def acreate_task(self, state: TaskState) -> None:
        """Record a new task."""
        await self._session.arun(self._requests.create_task(state))

    async def atask(self, task_id: str) -> TaskState | None:
        """Return the task as it is now, or None."""
        return await self._session.arun(self._requests.task(task_id))

    async def abegin_call(self, call: Call, credential: LiveCredential | None) -> None:
        """Count the call and record the credential that is about to be minted."""
        await self._session.arun(self._requests.begin_call(call, credential))

    async def abegin_if_unchanged(
        self, call: Call, credential: LiveCredential | None, basis: Basis
    ) -> tuple[TaskState, ...] | None:
        """Do as `begin_call`, if what the call was judged by is still so."""
        return await self._session.arun(begin_if_unchanged(self._requests, call, credential, basis))

    async def atrack(self, credential: LiveCredential) -> None:
        """Record a credential whose handle is known only after issue."""
        (await self._session.arun(self._requests.track(credential)))()

    async def aend_call(
        self,
        call_id: str,
        outcome: Outcome,
        *,
        effects: ReadEffects = NO_READ_EFFECTS,
        revoked: bool = False,
        remember: tuple[str, float] | None = None,
        undo: bool = False,
    ) -> None:
        """Record how the call ended, and what its task and the task's ancestors have read by it."""
        await self._session.arun(self._requests.end_call(call_id, outcome, effects, revoked, remember, undo))

    async def acounted(self, cells: Sequence[Cell], resumes: CallKey | None = None) -> tuple[int, ...]:
        """Return these numbers, without what the suspended call *resumes* has added to them."""
        return await self._session.arun(self._requests.counted(cells, resumes))

    async def alabels(self, family: str, digests: Collection[str]) -> tuple[Label, ...]:
        """Return the labels of values that the family's tasks have read, for these digests."""
        return await self._session.arun(self._requests.labels(family, digests))

    async def aforget(self, call_id: str) -> None:
        """Record that the call's credentials are revoked."""
        await self._session.arun(self._requests.forget(call_id))

    async def alive(self, task_id: str | None = None) -> tuple[LiveCredential, ...]:
        """Return the credentials not known to be revoked, of the task and its descendants, or all."""
        return await self._session.arun(self._requests.live(task_id))

    async def aend_task(
        self, task_id: str, status: TaskStatus, notices: Iterable[LiveCredential] = ()
    ) -> tuple[str, ...]:
        """End the task and all its descendants; return the ids of the tasks that ended now."""
        return await self._session.arun(self._requests.end_task(task_id, status, notices))

    async def arevise_task(self, task_id: str, revise: Callable[[TaskState], TaskState]) -> TaskState:
        """Replace the words and the mandate of an active task: two round trips."""
        return await revised_task(self._session.arun, self._requests, task_id, revise)

    async def aactive(
        self, subject: str, *, without: LoginName = "", folded: bool = False
    ) -> tuple[str, ...]:
        """Return the ids of the active tasks of *subject*, or of those whose login has no name *without*."""
        return await self._session.arun(self._requests.active(subject, without, folded=folded))

    async def aactive_in(self, login: Login, *, without: LoginName = "") -> tuple[str, ...]:
        """Return the ids of the active tasks begun in *login*, or of those whose login has no *without*."""
        return await self._session.arun(self._requests.active_in(login, without))

    async def aremember(self, key: str, until: float) -> bool:
        """Record *key* until that time; return False if it is recorded, and keep the later time."""
        return await self._session.arun(self._requests.remember(key, until))

    async def aknown(self, key: str) -> bool:
        """Return whether *key* is recorded and its time has not passed."""
        return await self._session.arun(self._requests.known(key))

    async def asave_approval(self, approval: Approval) -> Approval:
        """Record a pending approval, unless one with its id exists; return the recorded one."""
        return await self._session.arun(self._requests.save_approval(approval))

    async def aanswer_approval(self, approval: Approval) -> None:
        """Record a person's answer to a pending approval."""
        await self._session.arun(self._requests.answer_approval(approval))

    async def aapproval(self, approval_id: str) -> Approval | None:
        """Return an approval, or None."""
        return await self._session.arun(self._requests.approval(approval_id))

    async def aapproval_for(self, call_key: str) -> Approval | None:
        """Return the newest approval for this call, or None."""
        return await self._session.arun(self._requests.approval_for(call_key))

    async def arejection(self, family: str, tool: str, shown_digest: str) -> Approval | None:
        """Return a rejection of such a call in the family of a task, or None."""
        return await self._session.arun(self._requests.rejection(family, tool, shown_digest))
