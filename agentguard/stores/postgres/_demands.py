"""What a PostgreSQL server has to promise before the store writes anything to it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from agentguard.postgres.durability import Durability, Run, require_durable
from agentguard.stores import _rules
from agentguard.stores.postgres._schema import bring, check_version, version_of

__all__ = ["Demands"]

_log = logging.getLogger(__name__)
SKEW = 60.0
"""Seconds by which the clocks of this host and of the server may differ before an operator is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What is demanded: durability, unless it is ``"lossy"``, and this version of the store in *schema*."""

    schema: str
    durability: Durability = "checked"

    async def check(self, run: Run, place: str) -> None:
        """Look at the server, and make the store in an empty database.

        Raises:
            ConfigurationError: The server may lose what it has acknowledged, the role may not make the store,
                or the store has another version.
        """
        _compare_clocks(place, await require_durable(run, place, self.durability, "a revocation"))
        present = await version_of(run, self.schema)
        if present is None:
            await bring(run, place, self.schema, migrates=False)
            present = await version_of(run, self.schema)
        check_version(place, self.schema, present)


def _compare_clocks(place: str, server_now: float) -> None:
    difference = time.time() - server_now
    if abs(difference) > SKEW:
        _log.warning(
            "%s: the clocks of this host and of the server differ by %.0f s; synchronize them (NTP). Keys"
            " and ended tasks are kept until both say that their time is over, and %.0f s more.",
            *(place, difference, _rules.KEEP_KEYS),
        )
