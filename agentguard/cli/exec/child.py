"""A child process that has exactly what it is given, and the signals of a parent that waits for it.

Signals are not handled but taken, one by one, between which nothing else happens: so whatever
arrives, what was begun for the child is ended.
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

__all__ = ["Child", "Watch", "conceal"]

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_PASSED_ON = (*ENDING, signal.SIGUSR1, signal.SIGUSR2)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork


def conceal() -> None:
    """Keep the memory and the environment of this process from others of its user (Linux, until exec)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


class Watch:
    """Holds signals back for the length of a ``with`` block, to be taken by `take`.

    A signal that this program was started to ignore, as by nohup, stays ignored. What is not taken is
    dropped at the end.
    """

    def __enter__(self) -> Self:
        """Hold them back."""
        heeded = {each for each in _PASSED_ON if signal.getsignal(each) is not signal.SIG_IGN}
        self._watched = {signal.SIGCHLD, signal.SIGALRM, *heeded}
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._watched)
        # with the default action, some systems drop a SIGCHLD although it is blocked
        self._former = {each: signal.signal(each, _nothing) for each in self._watched}
        return self

    def __exit__(self, *_error: object) -> None:
        """Let them through again."""
        while signal.sigpending() & self._watched:
            signal.sigwait(self._watched)
        for number, action in self._former.items():
            signal.signal(number, action)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def take(self, seconds: float | None = None) -> signal.Signals | None:
        """Wait for a signal; None when *seconds* are over."""
        signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else max(seconds, 0.001))
        number = signal.Signals(signal.sigwait(self._watched))
        signal.setitimer(signal.ITIMER_REAL, 0)
        return None if number is signal.SIGALRM else number

    def ending(self) -> signal.Signals | None:
        """Return a signal that asks us to end and was not taken yet."""
        pending = signal.sigpending() & self._watched
        return next((each for each in ENDING if each in pending), None)


class Child:
    """A running command: *argv* as it stands, by no shell; *env* and nothing else; our three streams.

    On a terminal it shares our process group, so that what is typed there (Ctrl-C) reaches it once,
    from the terminal. Elsewhere it has a group of its own, and what is passed on reaches its children
    too. On Linux it is killed when we are, however that happens; its own children then are not.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], descriptors: Sequence[int], watch: Watch
    ) -> None:
        self._watch, self._terminal = watch, _terminal()
        self._child = subprocess.Popen(  # noqa: S603  no shell: what the user gave is what runs
            argv,
            env=env,
            pass_fds=descriptors,
            process_group=None if self._terminal is not None else 0,
            # safe where threads run: it takes no lock
            preexec_fn=_prepared(os.getpid(), watch.mask),
        )

    def attend(self, due: Callable[[], float | None], renew: Callable[[], bool]) -> int | None:
        """Wait for its end, and return its exit status (128 + n for signal n) as a shell would.

        *renew* is called when *due*, in seconds from now, is over; if it returns True, that is what
        this returns None for, and the child still runs.
        """
        while (status := self._child.poll()) is None:
            number = self._watch.take(due())
            if number is not None:
                self._pass_on(number)
            elif renew():
                return None
        return status if status >= 0 else 128 - status

    def stop(self, grace: float) -> int | None:
        """End it to start another: SIGTERM, and SIGKILL after *grace* seconds.

        Returns the status to end with, if meanwhile somebody asked us to end.
        """
        asked: signal.Signals | None = None
        self._send(signal.SIGTERM)
        ends = time.monotonic() + grace
        while self._child.poll() is None:
            if time.monotonic() >= ends:
                self._send(signal.SIGKILL)
                self._child.wait()
                break
            number = self._watch.take(ends - time.monotonic())
            if number in ENDING:
                asked = number
        return None if asked is None else 128 + asked

    def close(self) -> None:
        """Let the terminal go, and kill what should not be left when we fail."""
        if self._child.poll() is None:
            self._send(signal.SIGKILL)
            self._child.wait()
        if self._terminal is not None:
            os.close(self._terminal)

    def _pass_on(self, number: signal.Signals) -> None:
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
        """Whether the terminal has sent it, to the child as well."""
        if self._terminal is None:
            return False
        try:
            return os.tcgetpgrp(self._terminal) == os.getpgrp()
        except OSError:  # it has hung up
            return False


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Never run: the signal is blocked."""


def _terminal() -> int | None:
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def _prepared(parent: int, mask: set[signal.Signals | int]) -> Callable[[], None]:
    def prepare() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died before it was asked for
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return prepare
