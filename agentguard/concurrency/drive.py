"""The one place that knows sync from async.

All logic is written once, as an `async def` that is given its operations. On an event loop it is awaited as
usual. On the synchronous path `drive` steps it: that works because each operation that it was given (`lift`)
finishes without suspending. Such a coroutine may use no asyncio primitive.

`operation_pair` makes both forms of one method of a port, from the method, its ``a…`` twin, or both. It
also adds time-outs and protection from cancellation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from agentguard.concurrency.deadline import within

__all__ = ["Operation", "OperationPair", "capturing_result", "drive", "finish", "lift", "operation_pair"]

T = TypeVar("T")
Operation = Callable[..., Awaitable[Any]]


def lift(function: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    """Give a blocking function the form of a coroutine function. It still blocks."""

    async def lifted(*args: Any, **kwargs: Any) -> T:
        return function(*args, **kwargs)

    return lifted


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine whose awaits never suspend, also inside a running event loop.

    Raises:
        RuntimeError: The coroutine awaited real I/O, which needs an event loop.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        coroutine.close()
    raise RuntimeError("real I/O was awaited on the synchronous path: use the async method")


async def finish(awaitable: Awaitable[T]) -> T:
    """Await to the very end, even if the caller is cancelled meanwhile; then raise the cancellation.

    The caller knows what happened (was it minted, was it revoked?) when this returns or raises.
    """
    inner = asyncio.ensure_future(awaitable)
    cancelled: asyncio.CancelledError | None = None
    while not inner.done():
        try:
            await asyncio.wait([inner])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not inner.cancelled():
            inner.exception()  # retrieved here, so that the loop does not log it as forgotten
        raise cancelled
    return inner.result()


class OperationPair(NamedTuple):
    """One operation of a port, for the synchronous and for the asynchronous path."""

    sync: Operation
    async_: Operation


def operation_pair(
    port: object, name: str, *, timeout: float | None = None, shielded: bool = False
) -> OperationPair:
    """Make both forms of `port.name`, from `name`, `aname`, or both.

    A port with a true `inline` attribute answers from memory or CPU alone. Its sync method is then called on
    the event loop too, without a thread. For any other port a missing `aname` becomes `asyncio.to_thread`,
    and a missing `name` becomes an error that says which method to call instead.

    `timeout` is in seconds. A synchronous call cannot be interrupted: an answer that comes too late raises
    TimeoutError all the same, and an adapter that waits for others sets its own time-out. With `shielded`,
    an asynchronous call goes on to its end when its caller is cancelled.

    Raises:
        TypeError: The port has neither method.
    """
    plain = getattr(port, name, None)
    native = getattr(port, f"a{name}", None)
    if plain is None and native is None:
        raise TypeError(f"{type(port).__name__} has neither {name} nor a{name}")
    if plain is not None and getattr(port, "inline", False):
        lifted = lift(plain)
        return OperationPair(lifted, lifted if native is None else _with_timeout(native, timeout, shielded))
    blocking = _missing(port, name) if plain is None else plain
    sync = lift(blocking) if timeout is None else _deadline_checked(blocking, timeout)
    return OperationPair(sync, _with_timeout(native or _threaded(plain), timeout, shielded))


def capturing_result(pair: OperationPair) -> OperationPair:
    """Make of *pair* operations that hand their result to a function, which is their first argument.

    The function gets the result also when the caller was cancelled: a credential that was minted while its
    call was cancelled is known all the same, and is revoked.
    """

    def captured(operation: Operation, *, suspends: bool) -> Operation:
        async def capture(deliver: Callable[[Any], None], *args: Any) -> None:
            async def answer() -> None:
                deliver(await operation(*args))

            await (finish(answer()) if suspends else answer())

        return capture

    suspends = pair.async_ is not pair.sync
    return OperationPair(captured(pair.sync, suspends=False), captured(pair.async_, suspends=suspends))


def _missing(port: object, name: str) -> Callable[..., Any]:
    def missing(*_args: Any, **_kwargs: Any) -> Any:
        raise TypeError(f"{type(port).__name__} has only a{name}: call the tool or agent with ainvoke")

    return missing


def _deadline_checked(function: Callable[..., T], timeout: float) -> Callable[..., Awaitable[T]]:
    async def checked(*args: Any, **kwargs: Any) -> T:
        started = time.monotonic()
        with within(timeout):
            answer = function(*args, **kwargs)
        if time.monotonic() - started > timeout:
            raise TimeoutError(f"answered after more than {timeout} s")
        return answer

    return checked


def _threaded(function: Callable[..., T] | None) -> Callable[..., Awaitable[T]]:
    assert function is not None  # noqa: S101  operation_pair has checked that one of the two exists

    async def threaded(*args: Any, **kwargs: Any) -> T:
        return await asyncio.to_thread(function, *args, **kwargs)

    return threaded


def _with_timeout(operation: Operation, timeout: float | None, shielded: bool) -> Operation:
    async def timed(*args: Any, **kwargs: Any) -> Any:
        async with asyncio.timeout(timeout):
            return await operation(*args, **kwargs)

    limited = operation if timeout is None else timed
    if not shielded:
        return limited

    async def shielding(*args: Any, **kwargs: Any) -> Any:
        return await finish(limited(*args, **kwargs))

    return shielding
