"""The thread of a guard that works its outbox off."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable

from tenacity import Retrying, retry_if_exception_type, retry_if_result
from tenacity.wait import wait_random_exponential

from agentguard.concurrency.drive import drive
from agentguard.enforcement.issuer_thread import IssuerThread
from agentguard.enforcement.outbox import Outbox
from agentguard.enforcement.woken_thread import WokenThread
from agentguard.model import LiveCredential

__all__ = ["OutboxThread"]

JOIN = 5.0  # seconds that `close` waits for the threads
REST = 3.0  # how much longer than it has read the outbox this rests before it reads again
LONGEST_REST = 1.0  # seconds


class OutboxThread(WokenThread):
    """Reads an outbox in a thread, with growing pauses of up to a minute, while anything is left.

    This thread asks no issuer. It hands what is to be revoked to a thread for each issuer, where each
    credential has pauses of its own. So what is new is tried at once, and what has failed before is not.
    Nothing that a reading raises ends the thread.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        super().__init__("agentguard-outbox")

    def _begin(self) -> None:
        # a child has no thread until it has something to revoke itself
        super()._begin()
        self._issuers: dict[str, IssuerThread] = {}

    def watch(self) -> None:
        """Read the outbox now, and again while anything is left."""
        self.wake()

    def close(self, seconds: float = JOIN) -> None:
        """Stop the threads, at most *seconds* long. What is left stays in the store, for the next start."""
        end = time.monotonic() + seconds
        super().close(seconds)
        issuers = list(self._issuers.values())
        for issuer in issuers:
            issuer.close(0.0)
        for issuer in issuers:
            issuer.close(max(0.0, end - time.monotonic()))

    def _work_off(self) -> None:
        Retrying(
            retry=retry_if_result(bool) | retry_if_exception_type(Exception),
            stop=lambda _state: self._closed,
            wait=wait_random_exponential(multiplier=1.0, max=60.0),
            sleep=self._pause,
            retry_error_callback=lambda _state: None,
        )(self._read)

    def _read(self) -> int:
        """Hand out what is to be revoked; return how much is left."""
        self._take_news()  # before it reads, so that what comes meanwhile is seen
        began = time.monotonic()
        try:
            call_ids = {id_ for issuer in self._issuers.values() for id_ in issuer.backlog.ids()}
            orphans = drive(self._outbox.collect(call_ids))
            took = time.monotonic() - began
            self._hand_out(orphans.credentials, began)
        except Exception:
            raise
        except BaseException as error:  # noqa: BLE001  a port's: nobody interrupts or ends this thread
            raise RuntimeError(f"a port raised {type(error).__name__}") from None
        if not self._closed:
            time.sleep(min(LONGEST_REST, REST * took))
        return len(orphans.credentials) + orphans.remainder

    def _hand_out(self, credentials: Iterable[LiveCredential], since: float) -> None:
        by_issuer = defaultdict[str, list[LiveCredential]](list)
        for credential in credentials:
            by_issuer[credential.broker].append(credential)
        for broker in {*by_issuer, *self._issuers}:
            if broker not in self._issuers:
                self._issuers[broker] = IssuerThread(self._outbox, self.watch)
            self._issuers[broker].update(by_issuer[broker], since)
