"""What a running tool writes into the streams of its graph, cleared of the call's secret.

A tool has three ways there: the writer of its ToolRuntime, that runtime's `emit_output_delta`, and
`get_stream_writer`, which looks into the config of the run. Each is given a writer that clears what it
passes on of the secret that the lease holds by then. A chunk beyond the limits of a result is
withheld. What the tool gives to a run of its own, or to
`dispatch_custom_event`, is not cleared: langchain itself tells those to callbacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any

from langchain_core.runnables.config import var_child_runnable_config

from agentguard.lease import Lease, secrets_of
from agentguard.model import Limits
from agentguard.redaction import redact

__all__ = ["cleared", "clearing", "is_runtime"]

RUNTIME = "__pregel_runtime"  # where `get_stream_writer` looks; langgraph has no public name for it
Write = Callable[[Any], None]


def is_runtime(value: object) -> bool:
    """Whether this is the object that a ToolNode hands over, which no JSON of a model can be."""
    return type(value).__name__ == "ToolRuntime"


@contextmanager
def clearing(lease: Lease, limits: Limits) -> Iterator[None]:
    """Have `get_stream_writer` give a writer that clears, as long as this lasts."""
    config = var_child_runnable_config.get()
    quiet = _config(config, lease, limits)
    if quiet is config:
        yield
        return
    token = var_child_runnable_config.set(quiet)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def cleared(arguments: Mapping[str, Any], lease: Lease, limits: Limits) -> dict[str, Any]:
    """Return a tool's arguments, in which each runtime and config has writers that clear."""
    return {name: _cleared(value, lease, limits) for name, value in arguments.items()}


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
    if not callable(getattr(runtime, "stream_writer", None)):
        return config
    return {**config, "configurable": {**configurable, RUNTIME: _runtime(runtime, lease, limits)}}


def _runtime(runtime: Any, lease: Lease, limits: Limits, **more: Any) -> Any:
    quiet = copy(runtime)
    for name, value in {"stream_writer": _clearing(runtime.stream_writer, lease, limits), **more}.items():
        object.__setattr__(quiet, name, value)  # it may be frozen
    return quiet


def _clearing(write: Write, lease: Lease, limits: Limits) -> Write:
    def clear(chunk: Any) -> None:
        if limits.excess(chunk):  # a checkpoint or a client would write it down
            write("[withheld]")
        else:
            secrets = secrets_of(lease)
            write(redact(chunk, secrets) if secrets else chunk)

    return clear
