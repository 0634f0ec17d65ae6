"""The facts of a request: asked only where a rule looks at them, once a decision, and all at once.

Each fact has its own time-out and its own places for each user, so a record that hangs holds up no other
user's. What fails, is late, too large or of another type is a problem of the request, which is then denied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import ExitStack
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from agentguard.concurrency.abandonable import NoThread
from agentguard.concurrency.deadline import within
from agentguard.concurrency.drive import drive, lift
from agentguard.concurrency.party import for_party
from agentguard.enforcement.fact_sources import FactSources, OpenFact
from agentguard.enforcement.failures import is_for_caller
from agentguard.errors import DenialCode, Denied, FactError
from agentguard.lease import Lease, current
from agentguard.model import NO_FACTS, AccessRequest, Facts, FactSpec, Json, ToolSpec
from agentguard.ports import FactsOnDemand, Policy

__all__ = ["FactReading", "Lenders"]

_NO_RECORD = b"null"


class _Problem(Exception):
    """Why a fact has no value; its text holds nothing of the record."""


Lend = Callable[
    [FactSpec, AccessRequest, tuple[Json, ...], Callable[[], Awaitable[bytes]]], Coroutine[Any, Any, bytes]
]


class Lenders(NamedTuple):
    """What has a fact read with the credential that it declares: on this path, and in a thread."""

    here: Lend
    blocking: Lend


class _Reading(NamedTuple):
    """One fact that is to be read for one request."""

    fact: OpenFact
    key: tuple[Json, ...]
    name: bytes  # in the cache
    lenders: Lenders | None

    def canonical(self, value: object) -> bytes:
        spec = self.fact.spec
        if value is None:
            if spec.type.optional:
                return _NO_RECORD
            raise _Problem("there is no such record")
        try:
            return spec.type.canonical(value, spec.size)
        except ValueError as error:
            problem = str(error)
        raise _Problem(problem)

    def read(self, request: AccessRequest) -> bytes:
        if self.fact.spec.credential is None:
            return self._read(request)
        return drive(self._lender().blocking(*self._loan(request), lift(partial(self._read, request))))

    async def aread(self, request: AccessRequest) -> bytes:
        if self.fact.spec.credential is None:
            return await self._aread(request)
        return await self._lender().here(*self._loan(request), partial(self._aread, request))

    def _lender(self) -> Lenders:
        if self.lenders is None:
            raise _Problem("nobody lends it a credential")
        return self.lenders

    def _loan(self, request: AccessRequest) -> tuple[FactSpec, AccessRequest, tuple[Json, ...]]:
        return self.fact.spec, request, self.key

    def _read(self, request: AccessRequest) -> bytes:
        return self.canonical(self.fact.plain(request, self.key))  # type: ignore[misc]  # where it is there

    async def _aread(self, request: AccessRequest) -> bytes:
        return self.canonical(await self.fact.native(request, self.key))  # type: ignore[misc]  # the same


Outcome = bytes | BaseException


class FactReading:
    """Reads the facts of requests, on one path; by `lenders`, with the credentials that facts declare."""

    def __init__(
        self, sources: FactSources, policy: Policy, clock: Callable[[], float], *, asynchronous: bool
    ) -> None:
        self._sources, self._clock = sources, clock
        self._choose = policy.facts_for if isinstance(policy, FactsOnDemand) else None
        self._asynchronous = asynchronous
        self.lenders: Lenders | None = None

    def needed(self, tool: ToolSpec | None) -> tuple[FactSpec, ...]:
        """Return the facts that the rules in force look at in calls of a tool."""
        if tool is None or not tool.facts:
            return ()
        if self._choose is None:
            return tool.facts
        names: Collection[str] = self._choose(tool)
        return tuple(fact for fact in tool.facts if fact.name in names)

    def require(self, request: AccessRequest) -> None:
        """Require that each fact is known that the rules look at.

        Raises:
            Denied: One is not: its source has failed, or nobody has asked it, as for a recorded request.
        """
        for name, problem in request.facts.problems.items():
            raise _unknown(name, problem)
        if request.tool.facts:
            needed = [fact.name for fact in self.needed(request.tool)]
            for name in request.facts.missing(needed):
                raise _unknown(name, "it was not asked")

    async def of(self, request: AccessRequest) -> Facts:
        """Return the facts that the rules look at, each with its value or with its problem."""
        specs = self.needed(request.tool)
        if not specs:
            return NO_FACTS
        values, problems, readings = dict[str, bytes](), dict[str, str](), list[_Reading]()
        for spec in specs:
            try:
                answer = self._known(spec, request)
            except (ValueError, _Problem) as error:
                problems[spec.name] = str(error)
                continue
            if isinstance(answer, _Reading):
                readings.append(answer)
            else:
                values[spec.name] = answer
        at = self._clock()
        for reading, outcome in zip(readings, await self._outcomes(readings, request), strict=True):
            name, cache = reading.fact.spec.name, reading.fact.cache
            if isinstance(outcome, BaseException):
                problems[name] = _text(outcome, reading.fact.spec)
                continue
            values[name] = outcome
            if cache is not None:
                cache.keep(reading.name, outcome, at)
        return Facts(values, problems)

    def _known(self, spec: FactSpec, request: AccessRequest) -> bytes | _Reading:
        """Return the value of a fact that needs no reading, or what is to be read.

        Raises:
            ValueError: The key is too long.
            _Problem: The call names no record, and there has to be one; or nothing reads the fact.
        """
        key = spec.key_of(request.tool.name, request.arguments)
        if key is None:
            if spec.type.optional:
                return _NO_RECORD
            raise _Problem(f"the call has no {' and '.join(spec.keys[request.tool.name])}")
        if (fact := self._sources.get(spec.name)) is None:
            raise _Problem("nothing reads it in this guard")
        if fact.cache is None:
            return _Reading(fact, key, b"", self.lenders)
        name = fact.cache.name(request, key)
        value = fact.cache.get(name)
        return _Reading(fact, key, name, self.lenders) if value is None else value

    async def _outcomes(self, readings: list[_Reading], request: AccessRequest) -> list[Outcome]:
        """Read all at once. The credential of a tool that asks for the decision reaches no source."""
        read = self._aread if self._asynchronous else self._read
        if (around := current()) is None or not readings:
            return await read(readings, request)
        # what a source begins is begun in that tool all the same, so the lease says whose call it is
        bare = Lease(around.tool, None, None, task_id=around.task_id)
        token = bare.open()
        try:
            return await read(readings, request)
        finally:
            bare.release(token)

    # --- the two paths

    async def _read(self, readings: list[_Reading], request: AccessRequest) -> list[Outcome]:
        """Read all at once, each in a thread of its own that is given up after its time-out."""
        waits, answers = dict[int, Callable[[], bytes]](), list[Outcome]()
        with ExitStack() as stack, for_party(request.identity.subject):
            for place, reading in enumerate(readings):
                if not reading.fact.inline:
                    waits[place] = _beginning(reading, request, stack)
            for place, reading in enumerate(readings):
                answers.append(_outcome(waits.get(place) or partial(reading.read, request)))
        return answers

    async def _aread(self, readings: list[_Reading], request: AccessRequest) -> list[Outcome]:
        """Read all at once on the event loop, and what blocks in threads."""
        if len(readings) == 1 or all(reading.fact.inline for reading in readings):
            return [await _aoutcome(reading, request) for reading in readings]
        return await asyncio.gather(*(_aoutcome(reading, request) for reading in readings))


def _beginning(reading: _Reading, request: AccessRequest, stack: ExitStack) -> Callable[[], bytes]:
    """Begin to read a fact in a thread, and return what waits for the answer until its time is over."""
    fact, seconds = reading.fact, reading.fact.spec.timeout
    if fact.plain is None:
        return partial(_raise, _Problem("its source has only aread: call the tool or agent with ainvoke"))
    begun = monotonic()
    try:
        with within(seconds):
            call = fact.threads.begin(
                partial(_contained, reading, request), request.identity.subject, seconds
            )
            future = stack.enter_context(call)
    except NoThread as error:
        return partial(_raise, error)
    return lambda: future.result(max(0.0, begun + seconds - monotonic()))


def _contained(reading: _Reading, request: AccessRequest) -> bytes:
    """Read a fact in a thread of its own, where an exit is no exit of the caller."""
    try:
        return reading.read(request)
    except BaseException as error:
        if is_for_caller(error) or isinstance(error, asyncio.CancelledError):
            raise _Problem(f"its source failed: {type(error).__name__}") from None
        raise


async def _acontained(reading: _Reading, request: AccessRequest) -> bytes:
    """Read a fact in a task of its own, where an exit would end the event loop."""
    try:
        return await reading.aread(request)
    except SystemExit:
        raise _Problem("its source failed: SystemExit") from None
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        raise _Problem("its source failed: CancelledError") from None  # nobody has cancelled it


def _raise(error: Exception) -> Any:
    raise error


def _outcome(wait: Callable[[], bytes]) -> Outcome:
    try:
        return wait()
    except Exception as error:  # noqa: BLE001  whatever a source raises, the fact has no value
        return error


async def _aoutcome(reading: _Reading, request: AccessRequest) -> Outcome:
    fact, party = reading.fact, request.identity.subject
    if fact.inline:
        return _outcome(partial(reading.read, request))
    try:
        with within(fact.spec.timeout), for_party(party):
            if fact.native is not None:
                return await fact.tasks.run(fact.spec.timeout, partial(_acontained, reading, request), party)
            return await fact.threads.arun(fact.spec.timeout, _contained, reading, request, party=party)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        if is_for_caller(error):
            raise
        return error


def _text(error: BaseException, spec: FactSpec) -> str:
    """Return the problem in words: of what others have raised the type alone, for a text may hold values."""
    if isinstance(error, TimeoutError):
        return f"no answer within {spec.timeout:g} s"
    if isinstance(error, Denied):
        return f"{spec.tool or 'its credential'} is denied: {error.code}: {error.reason}"
    if isinstance(error, _Problem | NoThread | FactError):
        return str(error)
    return f"its source failed: {type(error).__name__}"


def _unknown(name: str, problem: str) -> Denied:
    return Denied.of(DenialCode.NO_FACT, f"fact {name}: {problem}")
