"""The thread of a guard that has one issuer revoke what the outbox holds of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from agentguard.concurrency.drive import drive
from agentguard.enforcement.backlog import Backlog
from agentguard.enforcement.failures import failure_text
from agentguard.enforcement.outbox import Outbox
from agentguard.enforcement.woken_thread import WokenThread
from agentguard.model import LiveCredential

__all__ = ["IssuerThread"]

log = logging.getLogger("agentguard")


class IssuerThread(WokenThread):
    """Asks one issuer, so that an issuer that stalls delays no other one. Each credential has its own pauses.

    *on_idle* is called when all that was listed is revoked. The thread then ends.
    """

    def __init__(self, outbox: Outbox, on_idle: Callable[[], object]) -> None:
        self._outbox, self._on_idle, self.backlog = outbox, on_idle, Backlog()
        super().__init__("agentguard-outbox-issuer")

    def update(self, credentials: Iterable[LiveCredential], since: float) -> None:
        """Take what is to be revoked now, as it was listed after *since* (of the monotonic clock)."""
        self.backlog.update(credentials, since)
        if self.backlog.seconds() is not None and not self.wake():
            self._revoke()  # in the thread of the outbox

    def _work_off(self) -> None:
        self._take_news()
        while not self._closed and (seconds := self.backlog.seconds()) is not None:
            if seconds:
                self._pause(seconds)
            else:
                self._revoke()
            self._take_news()
        if not self._closed:
            self._on_idle()

    def _revoke(self) -> None:
        credentials = self.backlog.take()
        alive = list[LiveCredential]()
        try:
            alive = drive(self._outbox.revoke_orphans(credentials))
        except BaseException as error:  # noqa: BLE001  a broker's: nobody interrupts or ends this thread
            # what has been revoked is no longer listed, and the others are asked for again
            log.error("the outbox was not worked off: %s", failure_text(error))
        finally:
            self.backlog.settle(credentials, alive)
