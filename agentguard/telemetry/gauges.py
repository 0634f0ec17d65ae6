"""The state of guards as observable gauges: a reader of metrics asks for it, and nothing is done until then.

The gauges of a provider are made once, and observe each guard that lives. They keep no guard alive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter_provider

from agentguard.concurrency.fork import ProcessLock

__all__ = ["State", "StateSource", "observe"]

log = logging.getLogger("agentguard")


class State(NamedTuple):
    """The state of one guard's outbox: its depth, its age in seconds, and this process's live credentials."""

    depth: int
    age: float
    live: int


class StateSource(Protocol):
    """What knows the state of one guard."""

    def state(self) -> State:
        """Return the state of the outbox; it may raise anything."""

    def open_breakers(self) -> Iterable[tuple[str, float]]:
        """Return each service, and the seconds for which nothing is sent to it, or 0."""


_sources: WeakKeyDictionary[MeterProvider, WeakSet[StateSource]] = WeakKeyDictionary()
_lock = ProcessLock()


def observe(source: StateSource, meter: Meter, provider: MeterProvider | None) -> None:
    """Have the gauges of a provider, which *meter* is of, observe one more guard."""
    provider = get_meter_provider() if provider is None else provider
    with _lock:
        sources = _sources.get(provider)
        if sources is None:
            sources = _sources[provider] = WeakSet()
            _create(sources, meter)
        sources.add(source)


def _create(sources: WeakSet[StateSource], meter: Meter) -> None:
    def outbox(value: Callable[[list[State]], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observed(_options: CallbackOptions) -> Iterable[Observation]:
            states = [state for source in list(sources) if (state := _state(source)) is not None]
            return [Observation(value(states))] if states else []

        return observed

    def breakers(_options: CallbackOptions) -> Iterable[Observation]:
        seconds = dict[str, float]()
        for source in list(sources):
            for service, value in source.open_breakers():
                seconds[service] = max(value, seconds.get(service, 0.0))
        return [Observation(int(value > 0), {"service": service}) for service, value in seconds.items()]

    gauge = meter.create_observable_gauge
    gauge(
        "agentguard.outbox.depth",
        [outbox(lambda states: sum(state.depth for state in states))],
        "{credential}",
        "Credentials and signals that are to be revoked or sent, and are not yet.",
    )
    gauge(
        "agentguard.outbox.age",
        [outbox(lambda states: max(state.age for state in states))],
        "s",
        "Age of the oldest of them, counted from its expiry.",
    )
    gauge(
        "agentguard.credentials.live",
        [outbox(lambda states: sum(state.live for state in states))],
        "{credential}",
        "Credentials of this process that are not known to be revoked.",
    )
    gauge(
        "agentguard.breaker.open",
        [breakers],
        "1",
        "1 while nothing is sent to a service, since it has failed several times, else 0.",
    )


def _state(source: StateSource) -> State | None:
    try:
        return source.state()
    except Exception as error:  # noqa: BLE001  what looks at a guard must not end the reader of metrics
        log.warning("telemetry failed: %s", type(error).__name__)
        return None
