"""A plain Python function as a policy.

The function is the application's own code. It is trusted to decide rightly, and not to be on time: it runs
under a time-out. Its answer counts only if it is True, False, or a `Decision`.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from types import CodeType
from typing import Any

from agentguard.concurrency.abandonable import AbandonableThreads, NoThread
from agentguard.concurrency.abandonable_tasks import AbandonableTasks
from agentguard.model import AccessRequest, Decision, Effect, Outcome, Provenance, ToolSpec
from agentguard.model.looks import Looks

__all__ = ["FunctionPolicy", "NotLookedInside"]


class NotLookedInside(LookupError):
    """A function asks what is inside of arguments, and its `FunctionPolicy` does not say that it does."""


class _NotTold(Mapping[str, Provenance]):
    """Holds nothing that could be taken for nothing: each look at it is an error."""

    def _refuse(self, *_arguments: object) -> Any:
        raise NotLookedInside("say so: FunctionPolicy(..., looks_inside=True)")

    __getitem__ = __iter__ = __len__ = __contains__ = get = _refuse


_NOT_TOLD = _NotTold()


class FunctionPolicy:
    """Decides by *function*, sync or async, which takes an `AccessRequest`.

    It never raises. If the function raises, is late, or answers anything but a bool or a well-formed
    Decision, the answer is a deny, whose reason starts with ``policy_error:`` and names only the kind of
    error. A synchronous function runs in a thread of its own, with the caller's context. If it hangs, the
    answer is a deny after *timeout* seconds, its thread is left alone, and a warning is logged. Another call
    gets another thread: 128 calls of one subject may hang, and 1024 in all. An asynchronous function is
    cancelled, and left alone if it swallows that. On the synchronous path it has an event loop of its own.

    *version* defaults to a digest of the function's name and code. The digest does not cover what the
    function calls, closes over, or reads: give a version if these can change.

    With *looks_inside*, the function is told where what is inside of arguments came from: `Provenance.inside`
    and `texts`. That is worked out for each call. Without it, looking there raises `NotLookedInside`.

    One request is one question, and the function is asked it once. A call that a person approves is two
    questions: without the approval and with it. A call is asked about anew, with another request, where what
    it was judged by has changed before it began, or its run is resumed. So a function that counts does not
    count its questions: *learn* is told how each call that was permitted and has begun has ended, with the
    request that the function permitted. It is a plain function, and has *timeout* seconds too; what it raises
    is logged, and changes nothing.

    Raises:
        TypeError: The function has no code to make a version from, and none was given.
    """

    def __init__(
        self,
        function: Callable[[AccessRequest], bool | Decision | Awaitable[bool | Decision]],
        *,
        timeout: float = 1.0,
        version: str | None = None,
        looks_inside: bool = False,
        learn: Callable[[AccessRequest, Outcome], object] | None = None,
    ) -> None:
        self._function, self._looks_inside = function, looks_inside
        self.learn = None if learn is None else partial(self._teach, learn)
        self._timeout = timeout
        self._async = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
        self._name = getattr(function, "__qualname__", type(function).__qualname__)
        self._threads = AbandonableThreads(f"policy {self._name}")
        self._tasks = AbandonableTasks()
        self.version = _version(function) if version is None else version

    def looks_for(self, tool: ToolSpec) -> Looks:
        """Return the places inside of a tool's arguments at which the function may look."""
        return tool.looks if self._looks_inside else {}

    def decide(self, request: AccessRequest) -> Decision:
        """Answer the request, or deny after the time-out."""
        try:
            return self._threads.run(self._timeout, self._answer, request, party=request.identity.subject)
        except TimeoutError:
            return self._late()
        except NoThread as error:
            return self._error(str(error))

    async def adecide(self, request: AccessRequest) -> Decision:
        """Answer the request, or deny after the time-out, without blocking the event loop."""
        if self._async:
            return await self._awaited(request)
        try:
            party = request.identity.subject
            return await self._threads.arun(self._timeout, self._answer, request, party=party)
        except TimeoutError:
            return self._late()
        except NoThread as error:
            return self._error(str(error))

    def _teach(
        self, learn: Callable[[AccessRequest, Outcome], object], request: AccessRequest, outcome: Outcome
    ) -> None:
        party, request = request.identity.subject, self._tell(request)
        self._threads.run(self._timeout, learn, request, outcome, party=party)

    def _answer(self, request: AccessRequest) -> Decision:
        try:
            if self._async:
                return asyncio.run(self._awaited(request))
            return self._verdict(self._function(self._tell(request)))
        except BaseException as error:  # noqa: BLE001  SystemExit too: whatever a function raises is no permit
            return self._error(type(error).__name__)

    async def _awaited(self, request: AccessRequest) -> Decision:
        question, subject = partial(self._question, request), request.identity.subject
        try:
            return await self._tasks.run(self._timeout, question, subject)
        except TimeoutError:
            return self._late()
        except NoThread as error:
            return self._error(str(error))

    async def _question(self, request: AccessRequest) -> Decision:
        try:
            question: Any = self._function(self._tell(request))
            return self._verdict(await question)
        except Exception as error:  # noqa: BLE001  a function that raises has not permitted
            return self._error(type(error).__name__)

    def _tell(self, request: AccessRequest) -> AccessRequest:
        """Return the request as the function is told it: where it does not look, nothing may seem to be."""
        if self._looks_inside:
            return request
        origins = request.provenance.items()
        provenance = {name: replace(origin, inside=_NOT_TOLD, texts=_NOT_TOLD) for name, origin in origins}
        return replace(request, provenance=provenance)

    def _verdict(self, answer: object) -> Decision:
        if isinstance(answer, bool):
            effect = Effect.PERMIT if answer else Effect.DENY
            word = "permitted" if answer else "denied"
            answer = Decision(effect=effect, policy_ids=(self._name,), reason=f"{word} by {self._name}")
        if inspect.iscoroutine(answer):
            answer.close()
        if not isinstance(answer, Decision) or not isinstance(answer.effect, Effect):
            return self._error(f"answered a {type(answer).__name__}, not a bool or a Decision")
        return answer if answer.policy_version else replace(answer, policy_version=self.version)

    def _late(self) -> Decision:
        return self._error(f"no answer within {self._timeout} s")

    def _error(self, problem: str) -> Decision:
        reason = f"policy_error: {self._name}: {problem}"
        return Decision(effect=Effect.DENY, reason=reason, policy_version=self.version)


def _version(function: Callable[..., object]) -> str:
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    if not isinstance(code, CodeType):
        raise TypeError("this callable has no Python code to make a version from: give version=")
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return hashlib.sha256(f"{name} {_text(code)}".encode()).hexdigest()[:16]


def _text(constant: object) -> str:
    """Return a text of code or of a constant in it, the same in every process."""
    if isinstance(constant, CodeType):
        inner = ", ".join(map(_text, constant.co_consts))
        return f"{constant.co_code.hex()} {constant.co_names} [{inner}]"
    if isinstance(constant, frozenset):
        return f"{{{', '.join(sorted(map(_text, constant)))}}}"
    if isinstance(constant, tuple):
        return f"({', '.join(map(_text, constant))})"
    return repr(constant)
