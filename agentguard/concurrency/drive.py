"""The one place that knows sync from async.

All logic is written once, as an `async def` that is given its operations. On an event loop it is awaited as
usual. On the synchronous path `drive` steps it: that works because each operation that it was given (`lift`)
finishes without suspending. Such a coroutine may use no asyncio primitive.

`operation_pair` makes both forms of one method of a port, from the method, its ``a…`` twin, or both. It
also adds time-outs and protection from cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple, TypeVar

from agentguard.concurrency.abandonable import AbandonableThreads
from agentguard.concurrency.deadline import call_within, seconds_left, within
from agentguard.concurrency.party import current_party, for_party

__all__ = ["Operation", "OperationPair", "abandonable_pair", "drive", "finish", "lift", "operation_pair"]

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
        waiter = inner.get_loop().create_future()
        inner.add_done_callback(partial(_wake, waiter))
        try:
            await waiter  # by hand: `asyncio.wait` takes longer than the task
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not inner.cancelled():
            inner.exception()  # retrieved here, so that the loop does not log it as forgotten
        raise cancelled
    return inner.result()


def _wake(waiter: asyncio.Future[None], _inner: object) -> None:
    if not waiter.done():
        waiter.set_result(None)


class OperationPair(NamedTuple):
    """One operation of a port, for the synchronous and for the asynchronous path."""

    sync: Operation
    async_: Operation


def operation_pair(
    port: object,
    name: str,
    *,
    timeout: float | None = None,
    shielded: bool = False,
    delivers: bool = False,
    names_party: bool = False,
) -> OperationPair:
    """Make both forms of `port.name`, from `name`, `aname`, or both.

    A port with a true `inline` attribute answers from memory or CPU alone. Its sync method is then called on
    the event loop too, without a thread. For any other port a missing `aname` becomes the sync method in a
    thread of this pair's own `AbandonableThreads`: what hangs there takes the places of its port and its user
    alone. A missing `name` becomes an error that says which method to call instead.

    `timeout` is in seconds. A synchronous call cannot be interrupted: an answer that comes too late raises
    TimeoutError all the same, and an adapter that waits for others sets its own time-out. With `shielded`,
    an asynchronous call goes on to its end when its caller is cancelled.

    With `delivers`, the operations hand their result to a function, which is their first argument. It gets
    the result also when the caller was cancelled, and when the sync method is late: a credential that was
    minted all the same is known, and can be revoked. It may then be called in a thread, after TimeoutError.

    With `names_party`, the first argument of the operations is the party for whom they are (`for_party`). It
    is for methods whose own arguments name no user.

    Raises:
        TypeError: The port has neither method.
    """
    if names_party:
        return _of_party(operation_pair(port, name, timeout=timeout, shielded=shielded, delivers=delivers))
    plain = getattr(port, name, None)
    native = getattr(port, f"a{name}", None)
    if plain is None and native is None:
        raise TypeError(f"{type(port).__name__} has neither {name} nor a{name}")
    label = f"{type(port).__name__}.{name}"
    blocking = _missing(port, name) if plain is None else plain
    if delivers:
        blocking, native = _delivering(blocking), None if native is None else _adelivering(native)
    if plain is not None and getattr(port, "inline", False):
        lifted = lift(blocking)
        return OperationPair(lifted, lifted if native is None else _with_timeout(native, timeout, shielded))
    sync = lift(blocking) if timeout is None else _deadline_checked(blocking, timeout)
    if native is not None:
        return OperationPair(sync, _with_timeout(native, timeout, shielded))
    threads = AbandonableThreads(label)
    return OperationPair(sync, _with_timeout(_threaded(threads, blocking, timeout), None, shielded))


def abandonable_pair(port: object, name: str, threads: AbandonableThreads, timeout: float) -> OperationPair:
    """Make both forms of `port.name` as `operation_pair` does, and give each up after *timeout* seconds.

    A synchronous method runs in one of *threads*, on the synchronous path too. That costs 20 to 60 µs, so
    this is for rare operations.
    """
    plain, native = getattr(port, name, None), getattr(port, f"a{name}", None)
    if plain is None or getattr(port, "inline", False):
        return operation_pair(port, name, timeout=timeout)

    def bounded(*args: Any) -> Any:
        return threads.run(seconds_left(timeout), plain, *args)

    if native is not None:
        return OperationPair(lift(bounded), _with_timeout(native, timeout, shielded=False))
    return OperationPair(lift(bounded), _threaded(threads, plain, timeout))


def _of_party(pair: OperationPair) -> OperationPair:
    def of_party(operation: Operation) -> Operation:
        async def operate(party: str, *args: Any) -> Any:
            with for_party(party):
                return await operation(*args)

        return operate

    return OperationPair(of_party(pair.sync), of_party(pair.async_))


def _delivering(function: Callable[..., Any]) -> Callable[..., None]:
    def delivering(deliver: Callable[[Any], None], *args: Any) -> None:
        with for_party(_subject(args)):
            answer = function(*args)
        deliver(answer)

    return delivering


def _adelivering(function: Operation) -> Operation:
    async def delivering(deliver: Callable[[Any], None], *args: Any) -> None:
        with for_party(_subject(args)):
            answer = await function(*args)
        deliver(answer)

    return delivering


def _subject(args: tuple[Any, ...]) -> str:
    """Return the user whom a request or a grant among the arguments names, or else the party around."""
    for argument in args:
        if (identity := getattr(argument, "identity", None)) is not None:
            return str(getattr(identity, "subject", ""))
    return current_party()


def _missing(port: object, name: str) -> Callable[..., Any]:
    def missing(*_args: Any, **_kwargs: Any) -> Any:
        raise TypeError(f"{type(port).__name__} has only a{name}: call the tool or agent with ainvoke")

    return missing


def _deadline_checked(function: Callable[..., T], timeout: float) -> Callable[..., Awaitable[T]]:
    async def checked(*args: Any, **kwargs: Any) -> T:
        return call_within(timeout, function, args, kwargs)

    return checked


def _threaded(threads: AbandonableThreads, function: Callable[..., T], timeout: float | None) -> Operation:
    async def threaded(*args: Any, **kwargs: Any) -> T:
        call = partial(function, *args, **kwargs)
        if timeout is None:
            return await threads.arun(None, call, party=_subject(args))
        with within(timeout):
            return await threads.arun(timeout, call, party=_subject(args))

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
