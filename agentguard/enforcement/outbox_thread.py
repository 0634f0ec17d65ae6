"""The thread of a guard that works its outbox off."""

from __future__ import annotations

import logging
from queue import Empty, SimpleQueue
from threading import Thread, current_thread

from tenacity import Retrying, retry_if_exception_type, retry_if_result
from tenacity.wait import wait_random_exponential

from agentguard.concurrency.drive import drive
from agentguard.concurrency.fork import ProcessLock, in_child
from agentguard.enforcement.outbox import Outbox

__all__ = ["OutboxThread"]

log = logging.getLogger("agentguard")


class OutboxThread:
    """Sweeps an outbox in a thread, with growing pauses of up to a minute, while anything is left.

    Nothing that a sweep raises ends the thread. It is woken by a queue, which is C, for an interrupt in an
    `Event` would leave its lock with the thread that was interrupted.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox, self._closed, self._lock = outbox, False, ProcessLock()
        self._begin()
        in_child(self._begin)

    def _begin(self) -> None:
        # a child has no thread until it has something to revoke itself
        self._thread: Thread | None = None
        self._news: SimpleQueue[None] = SimpleQueue()

    def watch(self) -> None:
        """Sweep now, and again while anything is left."""
        self._news.put(None)
        with self._lock:
            if self._closed or (self._thread is not None and self._thread.is_alive()):
                return
        try:
            Thread(target=self._work, name="agentguard-outbox", daemon=True).start()
        except RuntimeError as error:  # there are no more threads, or the interpreter shuts down
            log.error("the outbox has no thread, until it is woken again: %s", error)

    @property
    def runs(self) -> bool:
        """Whether the thread runs, or is about to, since something is left."""
        return self._thread is not None or not self._news.empty()

    def close(self) -> None:
        """Stop the thread. What is left stays in the store, for the next start."""
        self._closed = True
        self._news.put(None)
        thread = self._thread
        if thread is not None:
            thread.join(timeout=5.0)

    def _work(self) -> None:
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return  # another one was quicker
            self._thread = current_thread()
        while self._goes_on():
            Retrying(
                retry=retry_if_result(bool) | retry_if_exception_type(Exception),
                stop=lambda _state: self._closed,
                wait=wait_random_exponential(multiplier=1.0, max=60.0),
                sleep=self._pause,
                retry_error_callback=lambda _state: None,
            )(self._sweep)

    def _goes_on(self) -> bool:
        """Return whether there is news; if not, this is the thread no more, before anybody brings some."""
        with self._lock:
            if self._closed or self._news.empty():
                self._thread = None
                return False
            return True

    def _pause(self, seconds: float) -> None:
        try:
            self._news.get(timeout=seconds)
        except Empty:
            return
        self._news.put(None)  # the sweep takes it

    def _sweep(self) -> int:
        try:
            while True:  # before the sweep, so that what comes meanwhile is seen
                self._news.get_nowait()
        except Empty:
            pass
        try:
            return drive(self._outbox.sweep())
        except Exception:
            raise
        except BaseException as error:  # noqa: BLE001  a broker's: nobody interrupts or ends this thread
            raise RuntimeError(f"a broker raised {type(error).__name__}") from None
