"""The health of a guard: whether its store, its log and the services that it asks can be used now.

Nothing is minted, decided or told to find that out. Adapters may have a method `health` (or `ahealth`), which
raises an error if they cannot be used. One without it counts as healthy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from agentguard.concurrency.abandonable import AbandonableThreads
from agentguard.concurrency.drive import Operation, OperationPair, abandonable_pair, drive, lift
from agentguard.enforcement.flow import Enforcement, Flow
from agentguard.enforcement.process import owner
from agentguard.errors import safe_text
from agentguard.telemetry.gauges import State

if TYPE_CHECKING:  # it needs an extra
    from agentguard.outbound.breakers import BreakerState

__all__ = ["Check", "Health", "HealthChecks", "OutboxState"]


@dataclass(frozen=True, slots=True)
class Check:
    """Whether one part can be used.

    *kind* is ``store``, ``audit``, ``policy``, ``identity``, ``entitlements``, ``broker`` or ``signals``.
    *name* is the part's name in the settings, *problem* what is wrong (for an operator: it may name a host),
    and *seconds* how long the answer took.
    """

    kind: str
    name: str
    problem: str = ""
    seconds: float = 0.0

    def __bool__(self) -> bool:
        """Whether it can be used."""
        return not self.problem


@dataclass(frozen=True, slots=True)
class OutboxState:
    """What is to be revoked and is not: *depth*, their number, and *age*, in seconds, of the oldest.

    Nobody records when a credential was minted, so its age is counted from its expiry, as if it had been
    given the guard's whole `lifetime`. *live* is the number of credentials of this process that are in use,
    or kept.
    """

    depth: int = 0
    age: float = 0.0
    live: int = 0


@dataclass(frozen=True, slots=True)
class Health:
    """What was found; ``bool(health)`` says whether calls can be permitted, and their credentials revoked.

    What waits in the outbox and a breaker that is open for single users make a guard no less healthy.
    """

    checks: tuple[Check, ...]
    outbox: OutboxState
    breakers: tuple[BreakerState, ...]
    closing: bool = False

    def __bool__(self) -> bool:
        """Whether the guard can be used."""
        return not self.closing and all(self.checks)

    @property
    def problems(self) -> tuple[Check, ...]:
        """The checks that have failed."""
        return tuple(check for check in self.checks if not check)


class HealthChecks:
    """Checks the parts of one guard, side by side, each within *timeout* seconds."""

    def __init__(self, enforcement: Enforcement, timeout: float = 2.0) -> None:
        self._enforcement, self._timeout = enforcement, timeout
        self._threads = AbandonableThreads("a check of health")
        self._pairs: dict[tuple[str, str], OperationPair] = {}
        for kind, name, part in self._parts():
            if hasattr(part, "health") or hasattr(part, "ahealth"):
                self._pairs[kind, name] = abandonable_pair(part, "health", self._threads, timeout)

    def check(self) -> Health:
        """Check now, in threads."""
        return drive(self._check(self._enforcement.sync, asynchronous=False))

    async def acheck(self) -> Health:
        """Check now, on the event loop."""
        return await self._check(self._enforcement.async_, asynchronous=True)

    def state(self) -> State:
        """Return the state of the outbox, for metrics.

        Raises:
            StoreError: It cannot be read.
        """
        outbox = drive(self.outbox(self._enforcement.sync))
        return State(outbox.depth, outbox.age, outbox.live)

    def open_breakers(self) -> Iterator[tuple[str, float]]:
        """Yield each service, and the seconds for which nothing is sent to it, or 0."""
        yield from ((breaker.name, breaker.seconds) for breaker in self.breakers())

    def breakers(self) -> tuple[BreakerState, ...]:
        """Return what the breaker of each service says. Nothing is asked for that."""
        services = {id(one): one for *_, part in self._parts() for one in getattr(part, "services", ())}
        return tuple(service.breaker for service in services.values())

    async def outbox(self, flow: Flow) -> OutboxState:
        """Return the state of the outbox.

        Raises:
            StoreError: It cannot be read.
        """
        options = self._enforcement.options
        waiting, now, here = await flow.outbox.orphans(), options.clock(), owner()
        live = sum(one.owner == here for one in await flow.operations.live())
        ages = [now - (one.expires_at - options.lifetime) for one in waiting]
        return OutboxState(len(waiting), max([0.0, *ages]), live)

    def _parts(self) -> Iterator[tuple[str, str, object]]:
        ports = self._enforcement.ports
        yield from (("store", "store", ports.store), ("audit", "audit", ports.audit))
        yield from (("policy", "policy", ports.policy), ("identity", "identity", ports.identity))
        if ports.entitlements is not None:
            yield "entitlements", "entitlements", ports.entitlements
        brokers = {id(route.broker): route for route in self._enforcement.routes}
        yield from (("broker", route.name, route.broker) for route in brokers.values())
        yield from (("signals", name, transmitter) for name, transmitter in ports.signals.items())

    async def _check(self, flow: Flow, *, asynchronous: bool) -> Health:
        state = OutboxState()

        async def read() -> None:
            nonlocal state
            state = await self.outbox(flow)

        async def write() -> None:
            await flow.operations.forget("agentguard:health")  # a write that changes nothing

        if not asynchronous:  # what hangs in a thread is given up
            operations: dict[tuple[str, str], Operation] = {
                ("store", "read"): self._bounded(read),
                ("store", "write"): self._bounded(write),
            }
        else:
            operations = {("store", "read"): self._timed(read), ("store", "write"): self._timed(write)}
        operations |= {key: pair.async_ if asynchronous else pair.sync for key, pair in self._pairs.items()}
        together = flow.operations.together
        checks = await together(
            (f"{kind}/{name}", _one(kind, name, operation)) for (kind, name), operation in operations.items()
        )
        return Health(tuple(checks), state, self.breakers(), closing=self._enforcement.calls.closing)

    def _timed(self, operation: Operation) -> Operation:
        async def timed() -> None:
            async with asyncio.timeout(self._timeout):
                await operation()

        return timed

    def _bounded(self, operation: Callable[[], Coroutine[Any, Any, None]]) -> Operation:
        return lift(partial(self._threads.run, self._timeout, lambda: drive(operation())))


async def _one(kind: str, name: str, operation: Operation) -> Check:
    began, problem = monotonic(), ""
    try:
        await operation()
    except TimeoutError:
        problem = "it did not answer in time"
    except Exception as error:  # noqa: BLE001  whatever it raises, it cannot be used
        problem = safe_text(error)
    return Check(kind, name, problem, monotonic() - began)
