"""One scenario, run on the synchronous and on the asynchronous path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from agentguard.concurrency.drive import drive, operation_pair

__all__ = ["Face", "both", "refused"]

C = TypeVar("C", bound="Contract")


class Face:
    """A port whose methods are all awaited; beneath, they are those of one path."""

    def __init__(self, port: object, *, asynchronous: bool) -> None:
        self.port: Any = port
        self._asynchronous = asynchronous

    def __getattr__(self, name: str) -> Any:
        pair = operation_pair(self.port, name)
        return pair.async_ if self._asynchronous else pair.sync


class Contract:
    """The common part of the contract suites; an adapter with ``a…`` methods alone says so."""

    synchronous = True
    now = 1000.0

    def adapter(self) -> Any:
        """Make the adapter under test."""
        raise NotImplementedError


def both(scenario: Callable[[C, Face], Coroutine[Any, Any, None]]) -> Callable[[C], None]:
    """Make a test of a scenario; it is run twice, each time with a new adapter."""

    def test(self: C) -> None:
        for run, asynchronous in ((drive, False), (asyncio.run, True))[not self.synchronous :]:
            self.now = Contract.now
            adapter = self.adapter()
            try:
                run(scenario(self, Face(adapter, asynchronous=asynchronous)))
            finally:
                getattr(adapter, "close", lambda: None)()

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


async def refused(error: type[Exception], attempt: Coroutine[Any, Any, Any]) -> str:
    """Await an attempt that must fail with *error*, and return its text."""
    try:
        await attempt
    except error as raised:
        return str(raised)
    raise AssertionError(f"{error.__name__} was not raised")
