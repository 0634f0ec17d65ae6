"""A child process with explicit environment and descriptors, and the signals of its waiting parent.

The parent has no signal handlers. It takes signals one by one, at one place in the code. So no signal
interrupts the parent, and it can always revoke what it got for the child.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Self

__all__ = ["Child", "SignalWatch"]

END_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_FORWARDED = (*END_SIGNALS, signal.SIGUSR1, signal.SIGUSR2)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before a fork


class SignalWatch:
    """Blocks signals during a ``with`` block; `take` takes them one by one.

    A signal that this program ignores from its start, such as under nohup, stays ignored. A signal that
    was not taken is dropped at the end of the block.
    """

    def __enter__(self) -> Self:
        """Block the signals."""
        forwarded = {number for number in _FORWARDED if signal.getsignal(number) is not signal.SIG_IGN}
        self._watched = {signal.SIGCHLD, signal.SIGALRM, *forwarded}
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._watched)
        # with the default action, some systems drop a SIGCHLD although it is blocked
        self._actions = {number: signal.signal(number, _nothing) for number in self._watched}
        return self

    def __exit__(self, *_error: object) -> None:
        """Drop the signals that were not taken, and unblock them."""
        while signal.sigpending() & self._watched:
            signal.sigwait(self._watched)
        for number, action in self._actions.items():
            signal.signal(number, action)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def take(self, seconds: float | None = None) -> signal.Signals | None:
        """Wait for a signal, for at most *seconds*. Return None after that time."""
        signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else max(seconds, 0.001))
        number = signal.Signals(signal.sigwait(self._watched))
        signal.setitimer(signal.ITIMER_REAL, 0)
        return None if number is signal.SIGALRM else number

    def pending_end(self) -> signal.Signals | None:
        """Return a signal that asks us to end and was not taken yet, or None."""
        pending = signal.sigpending() & self._watched
        return next((number for number in END_SIGNALS if number in pending), None)


class Child:
    """A running command: *argv* without a shell, only the variables of *env*, and our standard streams.

    On a terminal the child is in our process group, so Ctrl-C reaches it once, from the terminal.
    Otherwise it has its own group, and forwarded signals reach its children too. On Linux the kernel
    kills the child when this process dies; the child's own children are not killed.

    Raises:
        OSError: The command cannot be started.
    """

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], descriptors: Sequence[int], watch: SignalWatch
    ) -> None:
        self._watch, self._terminal = watch, _terminal()
        self._child = subprocess.Popen(  # noqa: S603  no shell: the user's command runs as it stands
            argv,
            env=env,
            pass_fds=descriptors,
            process_group=None if self._terminal is not None else 0,
            # safe with threads: the function takes no lock
            preexec_fn=_preparation(os.getpid(), watch.mask),
        )

    def wait(self, due: Callable[[], float | None], renew: Callable[[], bool]) -> int | None:
        """Wait for the child's end, and return its exit status as a shell does (128 + n for signal n).

        After *due* seconds *renew* is called. If it returns True, this returns None while the child
        still runs.
        """
        while (status := self._child.poll()) is None:
            number = self._watch.take(due())
            if number is not None:
                self._forward(number)
            elif renew():
                return None
        return status if status >= 0 else 128 - status

    def stop(self, grace: float) -> int | None:
        """End the child before a restart: SIGTERM, and SIGKILL after *grace* seconds.

        Return the exit status for this process if a signal asked it to end meanwhile, or else None.
        """
        end_signal: signal.Signals | None = None
        self._send(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while self._child.poll() is None:
            if time.monotonic() >= deadline:
                self._send(signal.SIGKILL)
                self._child.wait()
                break
            number = self._watch.take(deadline - time.monotonic())
            if number in END_SIGNALS:
                end_signal = number
        return None if end_signal is None else 128 + end_signal

    def close(self) -> None:
        """Kill the child if it still runs, and close the terminal."""
        if self._child.poll() is None:
            self._send(signal.SIGKILL)
            self._child.wait()
        if self._terminal is not None:
            os.close(self._terminal)

    def _forward(self, number: signal.Signals) -> None:
        if number is signal.SIGCHLD or (number in _FROM_TERMINAL and self._in_foreground()):
            return
        self._send(number)

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            if self._terminal is None:
                os.killpg(self._child.pid, number)
            else:
                self._child.send_signal(number)

    def _in_foreground(self) -> bool:
        """Return whether the terminal has sent the signal to the child too."""
        if self._terminal is None:
            return False
        try:
            return os.tcgetpgrp(self._terminal) == os.getpgrp()
        except OSError:  # the terminal has hung up
            return False


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Do nothing. This is never called, since the signal is blocked."""


def _terminal() -> int | None:
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def _preparation(parent: int, mask: set[signal.Signals | int]) -> Callable[[], None]:
    def prepare() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # the parent died before the prctl call
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return prepare
