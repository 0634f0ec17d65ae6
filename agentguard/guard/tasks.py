"""The methods of a guard that begin, find and derive tasks, and work off its outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Mapping
from typing import Any, TypeVar

from agentguard.concurrency.drive import drive
from agentguard.concurrency.stream import in_one_context
from agentguard.enforcement.flow import Enforcement
from agentguard.errors import TaskNotActive
from agentguard.intent import Derivation, Intent
from agentguard.langchain.registry import GateRegistry
from agentguard.langchain.user_messages import user_message
from agentguard.model import Budget, Identity, Mandate, Secret
from agentguard.tasks.ending import Endings
from agentguard.tasks.task import Task

__all__ = ["TaskMethods"]

T = TypeVar("T")


class TaskMethods:
    """A part of `Guard`."""

    enforcement: Enforcement
    intent: Intent
    _endings: Endings
    _gates: GateRegistry
    user_message = staticmethod(user_message)

    def task(
        self,
        purpose: str,
        *,
        subject: str,
        mandate: Mapping[str, Any] | Mandate | Derivation,
        words: str = "",
        calls: int | None = None,
        writes: int | None = None,
        questions: int | None = None,
        choice_bits: int | None = None,
        ttl: float = 900.0,
        subject_token: str | Secret | None = None,
    ) -> Task:
        """Return a task to be used as a context manager, sync or async.

        *mandate* is what it may touch at most, *words* what the user said, by which a value that the
        user named is known; *calls* and *writes* are its budget, *ttl* its life in seconds. *questions* is
        how often persons are asked about its calls at most; 20, unless a limit is given here or by a
        template. *choice_bits* is how much its calls say by which values of the user's words, the mandate and
        trusted fields are in them, after it has read something more sensitive; 1,024, unless a limit is
        given. Beyond it, such a value counts as sensitive as what was read. Begun inside another task, or by
        a tool, it is a part of that one or of the tool's task, and its words are that one's. What a task has
        read is forgotten with it: one conversation, in which a later turn may repeat what an earlier one has
        read, is one task.
        *subject_token* proves the user to an issuer (RFC 8693); it stays in this process, and no tool sees
        it.

        Raises:
            ValueError: The mandate is malformed, limits what none of its tools takes, or was proposed by a
                model and granted by nobody.
            ConfigurationError: A policy does not fit the tools, which were all classified in code.
        """
        if self._gates.mistake is not None:
            raise self._gates.mistake
        identity = Identity(subject=subject, actor=self.enforcement.ports.identity.actor())
        derived = mandate if isinstance(mandate, Derivation) else Derivation(mandate=Mandate.of(mandate))
        if derived.mandate.proposed:
            raise ValueError("a model has proposed this mandate: grant it, or narrow a task by it")
        budget = derived.budget.within(
            Budget(calls=calls, writes=writes, questions=questions, choice_bits=choice_bits)
        )
        token = _secret(subject_token)
        return Task.new(
            self._endings,
            purpose,
            identity,
            derived.mandate,
            budget,
            ttl,
            token,
            words=words,
            kinds=derived.kinds,
        )

    def stream(self, generator: Generator[T, Any, Any]) -> AsyncIterator[T]:
        """Return an async iterator over a synchronous generator that holds a task, for a server to stream.

        Example::

            def answer(question):
                with guard.task("Answer", subject=user, mandate=mandate):
                    for chunk in agent.stream(question, stream_mode="messages"):
                        yield text_of(chunk)

            return StreamingResponse(guard.stream(answer(question)))

        All steps run in threads, in one context. When the client has read everything or has gone, the
        generator is closed, and its task ends. Starlette alone steps a generator in a new context each
        time, where the task is not active (give `Task.config` to the run then). It does not close the
        generator when the client has gone, so that the task may stay active for its whole life. An async
        generator is closed by its server: stream it as it is, with ``async with`` around its task.
        """
        return in_one_context(generator)

    def mandate(self, kind: str, /, **values: Any) -> Derivation:
        """Fill the template ``[tasks.kind]``; all of it is then the application's word.

        Raises:
            ValueError: There is no such template, or a value is missing, unknown, or of another type.
        """
        return self.intent.mandate(kind, **values)

    def derive(self, words: str) -> Derivation:
        """Say by the templates what the user's own words need at most: to be read, and given to `task`."""
        return self.intent.derive(words)

    def find(self, task_id: str, *, subject_token: str | Secret | None = None) -> Task:
        """Return a task that was begun before, here or in another process, which needs the token again.

        This is for the application: *task_id* is public, so never pass on here what a client has sent.

        Raises:
            TaskNotActive: The store knows no such task.
        """
        state = self.enforcement.ports.store.task(task_id)
        if state is None:
            raise TaskNotActive(f"task {task_id} is unknown to the store")
        if (token := _secret(subject_token)) is not None:
            self.enforcement.subject_tokens.keep(task_id, token, state.deadline)
        return Task(self._endings, state, begun=True)

    def recover(self) -> int:
        """Revoke what processes that are gone, or ended tasks, have left alive; returns what is left.

        It happens by itself, in a thread, when the first task begins; this waits for it.

        Raises:
            StoreError: The outbox cannot be read.
        """
        return drive(self.enforcement.sync.outbox.sweep())

    async def arecover(self) -> int:
        """Do as `recover`, on an event loop."""
        return await self.enforcement.async_.outbox.sweep()


def _secret(token: str | Secret | None) -> Secret | None:
    return Secret(token) if isinstance(token, str) else token
