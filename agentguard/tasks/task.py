"""A task's life: begin, narrow, delegate, complete, revoke.

A task begun inside another is its child, whoever begins it: its subject is the same, its mandate the
intersection, its deadline the earlier one, its calls count against both, and what any task of the family
has read and done, rules see in each. So nothing that runs inside a task, a tool included, can give itself
more than the task has. A purpose is the word of the application's code, by which rules may permit; what a
guarded tool begins while it runs keeps the purpose that it runs in, as a model may have written the tool's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from agentguard.audit.timeline import Timeline
from agentguard.concurrency.drive import drive
from agentguard.enforcement.activation import Blocks, activate, active_task, deactivate
from agentguard.errors import TaskNotActive
from agentguard.model import Budget, Identity, Mandate, Secret, TaskState, TaskStatus, words_of
from agentguard.tasks.conversation import Conversation
from agentguard.tasks.ending import Ending, Endings
from agentguard.tasks.family import adopted, calling_task, child_of, in_a_tool, require_used_limits
from agentguard.tasks.handle import CONFIG_KEY, TaskHandle
from agentguard.tasks.login import login_of

__all__ = ["Task"]


class Task(Conversation):
    """A bounded unit of work, as a context manager, sync and async.

    Leaving the block completes it, or revokes it when an exception passes; either way every live
    credential is revoked. Where a run is to be resumed later, by another request or process, use
    `begin` and `active`, which end nothing, and `Guard.find` with the task's id. What `active` says of
    generators holds for ``with`` too. In a forked child the task is not active, and a child that leaves the
    block ends nothing.
    """

    def __init__(
        self,
        endings: Endings,
        state: TaskState,
        *,
        begun: bool = False,
        subject_token: Secret | None = None,
    ) -> None:
        self._endings, self._enforcement = endings, endings.sync.flow.enforcement
        self._options = self._enforcement.options
        self._state, self._begun = state, begun
        self._subject_token = subject_token
        self._blocks = Blocks()

    @classmethod
    def new(
        cls,
        endings: Endings,
        purpose: str,
        identity: Identity,
        mandate: Mandate,
        budget: Budget,
        ttl: float,
        subject_token: Secret | None = None,
        words: str = "",
        kinds: tuple[str, ...] = (),
    ) -> Self:
        """Prepare a task; nothing is recorded before it begins.

        Raises:
            ValueError: A limit of the mandate is for none of its tools.
        """
        require_used_limits(mandate, endings.sync.flow.enforcement.ports.catalog)
        options = endings.sync.flow.enforcement.options
        state = TaskState(
            id=options.new_id(),
            purpose=purpose,
            identity=identity,
            mandate=mandate,
            budget=budget.completed(),
            deadline=options.clock() + ttl,
            words=words_of([words]),
            kinds=kinds,
            login=login_of(subject_token),
        )
        return cls(endings, state, subject_token=subject_token)

    @property
    def id(self) -> str:
        """The task's id, which is no secret: the `txn` of its credentials."""
        return self._state.id

    @property
    def config(self) -> dict[str, Any]:
        """A run config that names the task, for where no ContextVar reaches (threads, streamed answers).

        It holds a handle, which works in this process only and is not the task's id. Another process gets
        the id from the application, and uses ``guard.find(id).config``. A server that streams the answer
        of a generator runs each step in another context, so give this config to the run inside, or stream a
        synchronous generator by `Guard.stream`.
        """
        return {"configurable": {CONFIG_KEY: TaskHandle(self.id)}}

    # --- begin

    def begin(self) -> Self:
        """Record the task, as a child of the one that is active here. Begins once.

        In a guarded tool the parent is the task of the call, also where only the run's config names it, and
        where the call is over.

        Raises:
            TaskNotActive: The task that it is a child of is unknown or over.
            ValueError: It is for another subject than its parent.
            StoreError: It could not be recorded.
        """
        drive(self._begin(self._endings.sync))
        return self

    async def abegin(self) -> Self:
        """Do as `begin`, on an event loop."""
        await self._begin(self._endings.async_)
        return self

    async def _begin(self, ending: Ending) -> None:
        if self._begun:
            return
        derived = self._state.lineage[:1]  # it was narrowed or delegated, from what may be over by now
        parent = await (self._running(ending, derived[0]) if derived else self._around(ending))
        if parent is None:
            counted = self._enforcement.ports.catalog.counted
            self._state = replace(self._state, counted={t: c.in_task() for t, c in counted.items()})
        else:
            state = self._state if derived else adopted(self._state, parent)
            self._state = child_of(state, parent)
        await ending.begin(self._state)
        if self._subject_token is not None:
            self._enforcement.subject_tokens.keep(self.id, self._subject_token, self._state.deadline)
        self._begun = True

    async def _around(self, ending: Ending) -> TaskState | None:
        """Return the task in which this one begins, or None.

        In a tool that is the task of the call, which the run's config alone may name: no task may be active
        there, and an active one is the parent only if it is a part of the call's.
        """
        calling, active = calling_task(), active_task()
        if active is not None and calling not in (None, active):
            state = await ending.flow.operations.task(active)
            if state is None or calling not in state.lineage:
                active = calling
        parent_id = active or calling
        return None if parent_id is None else await self._running(ending, parent_id)

    async def _running(self, ending: Ending, task_id: str) -> TaskState:
        state = await ending.flow.operations.task(task_id)
        unended = self._enforcement.calls.is_unended
        if state is None or state.ended(self._options.clock()) or unended(state):
            raise TaskNotActive(f"task {task_id} is over: nothing can begin in it")
        return state

    def narrow(
        self,
        purpose: str | None = None,
        *,
        mandate: Mapping[str, Any] | Mandate | None = None,
        budget: Budget | None = None,
        ttl: float | None = None,
    ) -> Task:
        """Return a child with at most this task's authority; *ttl* in seconds.

        Rules may judge by its *purpose*, which a tool that runs cannot change.

        Raises:
            ValueError: The mandate is malformed, or a limit of it is for none of its tools.
        """
        narrower = self._state.mandate
        if mandate is not None:
            narrower = require_used_limits(Mandate.of(mandate), self._enforcement.ports.catalog)
        child = replace(
            self._state,
            id=self._options.new_id(),
            purpose=self._state.purpose if not purpose or in_a_tool() else purpose,
            mandate=narrower,
            budget=budget or Budget(),
            deadline=self._state.deadline if ttl is None else self._options.clock() + ttl,
        )
        return Task(self._endings, child_of(child, self._state))

    def delegate(self, actor: str, purpose: str | None = None, **narrower: Any) -> Task:
        """Return a child in which *actor*, another agent, acts for the same subject.

        Takes what `narrow` takes. The chain of actors is kept, as in RFC 8693 section 4.1.
        """
        child = self.narrow(purpose, **narrower)
        child._state = replace(child._state, identity=self._state.identity.delegate(actor))
        return child

    # --- be active

    @contextmanager
    def active(self) -> Iterator[Self]:
        """Make this the task of the context, and end nothing on leaving.

        In a generator this is not enough. Python gives a resumed generator the context of its caller. So
        where two generators are stepped in turn in one context, the block that was entered last counts for
        both, and the calls of one run act as the user of the other. Nothing here can tell such runs apart.
        Give each run its `config`: a call is denied where its run names another task. Or step each generator
        in a context of its own, as `Guard.stream` does.
        """
        activation = activate(self.begin().id)
        try:
            yield self
        finally:
            deactivate(activation)

    @asynccontextmanager
    async def aactive(self) -> AsyncIterator[Self]:
        """Do as `active`, on an event loop. Async generators that one asyncio task steps share a context."""
        await self.abegin()
        activation = activate(self.id)
        try:
            yield self
        finally:
            deactivate(activation)

    def __enter__(self) -> Self:
        self._blocks.enter(self.begin().id)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        try:
            if not self._blocks.are_of_another_process:
                drive(self._end(self._endings.sync, *_ending(kind)))
        finally:
            self._blocks.leave()

    async def __aenter__(self) -> Self:
        await self.abegin()
        self._blocks.enter(self.id)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        try:
            if not self._blocks.are_of_another_process:
                await self._end(self._endings.async_, *_ending(kind))
        finally:
            self._blocks.leave()

    # --- end

    def complete(self) -> None:
        """End it as done, and revoke what is alive; the first end stands."""
        drive(self._end(self._endings.sync, TaskStatus.COMPLETED, "completed"))

    async def acomplete(self) -> None:
        """Do as `complete`, on an event loop."""
        await self._end(self._endings.async_, TaskStatus.COMPLETED, "completed")

    def revoke(self, cause: str = "revoked") -> None:
        """End it as revoked, here and in every process that shares the store."""
        drive(self._end(self._endings.sync, TaskStatus.REVOKED, cause))

    async def arevoke(self, cause: str = "revoked") -> None:
        """Do as `revoke`, on an event loop."""
        await self._end(self._endings.async_, TaskStatus.REVOKED, cause)

    async def _end(self, ending: Ending, status: TaskStatus, cause: str) -> None:
        await ending.end(self.id, status, cause)

    # --- look

    def state(self) -> TaskState:
        """Return the task as the store holds it now."""
        state = self._enforcement.ports.store.task(self.id)
        return self._state if state is None else state

    def timeline(self) -> Timeline:
        """Return what happened in this task and its children, as the audit log has it."""
        return Timeline(self._enforcement.ports.audit.records(self.id))

    def __repr__(self) -> str:
        return f"<Task {self.id} {self._state.purpose!r}>"


def _ending(kind: type[BaseException] | None) -> tuple[TaskStatus, str]:
    if kind is None:
        return TaskStatus.COMPLETED, "completed"
    return TaskStatus.REVOKED, f"left by {kind.__name__}"
