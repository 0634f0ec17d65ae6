"""What a running tool writes into the streams of its graph, cleared of the call's secret.

A tool has three ways there: the writer of its ToolRuntime, that runtime's `emit_output_delta`, and
`get_stream_writer`, which looks into the config of the run. Each is given a writer that clears what it
passes on of the secret that the lease holds by then. A chunk beyond the limits of a result is
withheld. What the tool gives to a run of its own, or to
`dispatch_custom_event`, is not cleared: langchain itself tells those to callbacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import Token
from copy import copy
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any

from langchain_core.runnables.config import var_child_runnable_config

from agentguard.lease import Lease, secrets_of
from agentguard.model import Limits
from agentguard.model.quick import ATOMS
from agentguard.redaction import redact

__all__ = ["Clearing", "cleared", "is_runtime"]

RUNTIME = "__pregel_runtime"  # where `get_stream_writer` looks; langgraph has no public name for it
Write = Callable[[Any], None]


def is_runtime(value: object) -> bool:
    """Whether this is the object that a ToolNode hands over, which no JSON of a model can be."""
    return type(value).__name__ == "ToolRuntime"


class Clearing:
    """A block in which `get_stream_writer` gives a writer that clears.

    Each call enters one, and as a generator it took three times as long.
    """

    __slots__ = ("_lease", "_limits", "_token")

    def __init__(self, lease: Lease, limits: Limits) -> None:
        self._lease, self._limits = lease, limits
        self._token: Token[Any] | None = None

    def __enter__(self) -> None:
        config = var_child_runnable_config.get()
        quiet = _config(config, self._lease, self._limits)
        if quiet is not config:
            self._token = var_child_runnable_config.set(quiet)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            var_child_runnable_config.reset(self._token)


def cleared(arguments: Mapping[str, Any], lease: Lease, limits: Limits) -> dict[str, Any]:
    """Return a tool's arguments, in which each runtime and config has writers that clear."""
    return {
        name: value if type(value) in ATOMS else _cleared(value, lease, limits)
        for name, value in arguments.items()
    }


def _cleared(value: Any, lease: Lease, limits: Limits) -> Any:
    if is_runtime(value):
        more: dict[str, Any] = {"config": _config(value.config, lease, limits)}
        if (emit := getattr(value, "emit_output_delta", None)) is not None:
            more["emit_output_delta"] = _clearing(emit, lease, limits)
        return _runtime(value, lease, limits, **more)
    return _config(value, lease, limits) if isinstance(value, dict) else value


def _config(config: Any, lease: Lease, limits: Limits) -> Any:
    configurable: Any = None if config is None else config.get("configurable")
    runtime = configurable.get(RUNTIME) if isinstance(configurable, dict) else None
    if runtime is None or not callable(getattr(runtime, "stream_writer", None)):
        return config
    return {**config, "configurable": {**configurable, RUNTIME: _runtime(runtime, lease, limits)}}


def _runtime(runtime: Any, lease: Lease, limits: Limits, **more: Any) -> Any:
    quiet = _copy(runtime)
    for name, value in {"stream_writer": _clearing(runtime.stream_writer, lease, limits), **more}.items():
        object.__setattr__(quiet, name, value)  # it may be frozen
    return quiet


def _copy(value: Any) -> Any:
    """Copy an object as `copy` does, which takes four times as long for a dataclass that is nothing else."""
    kind: Any = type(value)
    names = _slots(kind)
    if names is None:
        return copy(value)
    duplicate = object.__new__(kind)
    for name in names:
        object.__setattr__(duplicate, name, getattr(value, name))
    return duplicate


@lru_cache(64)
def _slots(kind: type) -> tuple[str, ...] | None:
    """Return the names of the fields of a dataclass that has nothing beside them, and is copied by them."""
    if not is_dataclass(kind) or kind.__dictoffset__ or hasattr(kind, "__copy__"):
        return None
    names = tuple(field.name for field in fields(kind))
    slots = {name for base in kind.__mro__ for name in _listed(vars(base).get("__slots__", ()))}
    is_plain = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__
    return names if is_plain and slots - {"__weakref__"} == set(names) else None


def _listed(slots: str | Iterable[str]) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots


def _clearing(write: Write, lease: Lease, limits: Limits) -> Write:
    def clear(chunk: Any) -> None:
        if limits.excess(chunk):  # a checkpoint or a client would write it down
            write("[withheld]")
        else:
            secrets = secrets_of(lease)
            write(redact(chunk, secrets) if secrets else chunk)

    return clear
