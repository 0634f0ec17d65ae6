"""What a resource server does with a signal: it records the end where its verifier looks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from agentguard.concurrency.drive import operation_pair
from agentguard.jose import revocation_key
from agentguard.ports import Store
from agentguard.signals.events import SessionRevoked
from agentguard.signals.sources import refusal
from agentguard.signals.subjects import ALL

__all__ = ["Revocations"]

log = logging.getLogger("agentguard")


class Revocations:
    """The *revoke* of a `Receiver`, for a server whose `Verifier` has the same *store* and ``signals=True``.

    It keeps a record for *keep* seconds: at least the longest life of a token that the verifier accepts,
    plus the verifier's leeway. The end of a task is recorded for each issuer that the sender speaks for. An
    identity provider names its own sessions, which no token names. Such a signal has no `txn` of that name,
    as a guard's has, and the log has a warning.
    """

    def __init__(
        self,
        store: Store,
        *,
        keep: float = 3600.0,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._remember = operation_pair(store, "remember", timeout=timeout, shielded=True).async_
        self._keep, self._clock = keep, clock

    async def __call__(self, event: SessionRevoked) -> None:
        """Record that the event's task or token has ended.

        Raises:
            VerificationError: 400. The event names only a user, or all sessions of one, and this class cannot
                tell which tokens belong to a user.
        """
        keys = [revocation_key(issuer, f"txn:{event.task_id}") for issuer in event.authority if event.task_id]
        if event.token is not None:
            keys.append(revocation_key(*event.token))
        if not keys or event.task_id == ALL:
            raise refusal("invalid_request", "a task or a token can be ended here, but not a user's sessions")
        if event.task_id is not None and event.transaction != event.task_id:
            log.warning(
                "a signal of %s about session %s ended nothing, unless tokens name it as their task: the"
                " signal does not say that it is a task (txn)",
                event.issuer,
                event.task_id,
            )
        until = self._clock() + self._keep
        for key in keys:
            await self._remember(key, until)
