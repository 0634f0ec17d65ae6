"""When nothing more is sent to a service that keeps failing."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import NamedTuple

from circuitbreaker import CircuitBreaker

from agentguard.concurrency.fork import ProcessLock

__all__ = ["BreakerState", "Breakers", "Cause"]

_PARTIES = 1024


class Cause(Enum):
    """What a failure speaks against."""

    SERVICE = "service"
    """There was no connection, though time for one. No request can cause that, so it counts for all."""
    PARTY = "party"
    """There was no answer. The request itself may have caused that, so it counts for its party alone."""
    REQUEST = "request"
    """The service answered, or nothing was sent. That counts for nobody."""


class BreakerState(NamedTuple):
    """What the breakers of the service *name* say.

    For *seconds* nothing is sent to it for anybody. For *parties*, a number of users, nothing is sent either.
    """

    name: str
    seconds: float
    parties: int


class Breakers:
    """One circuit breaker for the service *name*, and one for each party that has something asked of it.

    After *threshold* failures in a row a breaker is open for *cooldown* seconds. Of the parties, only the
    1,024 that were last asked for are known.
    """

    def __init__(self, name: str, threshold: int, cooldown: float) -> None:
        self._name, self._threshold, self._cooldown = name, threshold, cooldown
        self._service = self._breaker()
        self._parties: OrderedDict[str, CircuitBreaker] = OrderedDict()
        self._lock = ProcessLock()

    def seconds_open(self, party: str) -> int:
        """Return for how many seconds nothing is sent for *party*; 0 means that a request may be sent."""
        open_breakers = [breaker for breaker in (self._service, self._of(party)) if breaker.opened]
        return max((breaker.open_remaining for breaker in open_breakers), default=0)

    def state(self) -> BreakerState:
        """Return for how long nothing is sent for anybody, and for how many parties nothing is sent."""
        seconds = self._service.open_remaining if self._service.opened else 0
        with self._lock:
            parties = list(self._parties.values())
        return BreakerState(self._name, max(0.0, float(seconds)), sum(breaker.opened for breaker in parties))

    def fail(self, party: str, cause: Cause) -> None:
        """Count one failed request."""
        if cause is Cause.REQUEST:
            return
        breaker = self._service if cause is Cause.SERVICE else self._of(party)
        # a new error: the breaker keeps its last failure, whose stack frames would hold the request
        breaker.__exit__(_Counted, _Counted(), None)

    def succeed(self, party: str) -> None:
        """Forget the failures in a row: the service has answered a request of *party*."""
        self._service.reset()
        self._of(party).reset()

    def _breaker(self) -> CircuitBreaker:
        return CircuitBreaker(self._threshold, self._cooldown, _Counted, self._name)

    def _of(self, party: str) -> CircuitBreaker:
        with self._lock:
            breaker = self._parties.setdefault(party, self._breaker())
            self._parties.move_to_end(party)
            if len(self._parties) > _PARTIES:
                self._parties.popitem(last=False)
            return breaker


class _Counted(Exception):
    """A failure, without anything of the request that failed."""
