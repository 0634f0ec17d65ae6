"""Run one test scenario twice: with the sync and with the async methods of an adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from agentguard.concurrency.drive import drive, operation_pair

__all__ = ["AwaitedPort", "assert_raises", "on_both_paths"]

C = TypeVar("C", bound="Contract")


class AwaitedPort:
    """A port whose methods are all awaited. They call the sync or the async methods of *port*."""

    def __init__(self, port: object, *, asynchronous: bool) -> None:
        self.port: Any = port
        self.asynchronous = asynchronous

    def __getattr__(self, name: str) -> Any:
        pair = operation_pair(self.port, name)
        return pair.async_ if self.asynchronous else pair.sync


class Contract:
    """The common part of the contract suites.

    Set `synchronous` to False for an adapter that has only ``a…`` methods. `now` is the time of the test's
    clock, in seconds since the epoch.
    """

    synchronous = True
    now = 1000.0

    def adapter(self) -> Any:
        """Make the adapter under test."""
        raise NotImplementedError


def on_both_paths(scenario: Callable[[C, AwaitedPort], Coroutine[Any, Any, None]]) -> Callable[[C], None]:
    """Make a test that runs *scenario* with sync and with async calls, each time with a new adapter."""

    def test(self: C) -> None:
        for run, asynchronous in ((drive, False), (asyncio.run, True))[not self.synchronous :]:
            self.now = Contract.now
            adapter = self.adapter()
            try:
                run(scenario(self, AwaitedPort(adapter, asynchronous=asynchronous)))
            finally:
                getattr(adapter, "close", lambda: None)()

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


async def assert_raises(error: type[Exception], attempt: Coroutine[Any, Any, Any]) -> str:
    """Await *attempt*, which must fail with *error*, and return the error's text."""
    try:
        await attempt
    except error as failure:
        return str(failure)
    raise AssertionError(f"{error.__name__} was not raised")
