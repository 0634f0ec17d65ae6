"""Failures that keep no other step from being done."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from typing import Any

from agentguard.errors import safe_text

__all__ = ["best_effort", "failure_text", "is_for_caller"]

log = logging.getLogger("agentguard")


def failure_text(error: BaseException) -> str:
    """Return what a log may hold of an error."""
    return safe_text(error) if isinstance(error, Exception) else type(error).__name__


def is_for_caller(error: BaseException) -> bool:
    """Return whether an error is no failure of a port, but ends the code that called it.

    A library may raise a BaseException of its own, such as the panic of one that is written in Rust: that is
    a failure.
    """
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)


async def best_effort(name: str, operation: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> bool:
    """Do one of several steps; return whether it succeeded, and log its failure.

    One failure must not keep the other steps from being done.
    """
    try:
        await operation(*args, **kwargs)
    except BaseException as error:
        if isinstance(error, CancelledError) or is_for_caller(error):
            raise
        log.error("%s failed: %s", name, failure_text(error))
        return False
    return True
