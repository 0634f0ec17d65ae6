"""What a PostgreSQL server has to promise before the store writes anything to it."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from agentguard.errors import ConfigurationError
from agentguard.stores import _rules
from agentguard.stores._rows import Row
from agentguard.stores.postgres._schema import bring, check_version, version_of

__all__ = ["Demands", "Durability", "Rows", "Run"]

Durability = Literal["checked", "lossy"]
Rows = Sequence[Row]

_log = logging.getLogger(__name__)
SKEW = 60.0
"""Seconds by which the clocks of this host and of the server may differ before an operator is told."""

# a session that would not wait for the disk is told to; what an administrator has made stricter stays
_CHECK = """
SELECT current_setting('fsync'), current_setting('full_page_writes'),
    CASE current_setting('synchronous_commit') WHEN 'off'
        THEN set_config('synchronous_commit', 'on', false) ELSE current_setting('synchronous_commit') END,
    extract(epoch FROM clock_timestamp())::double precision"""


class Run(Protocol):
    """Runs a statement on one connection, and returns its rows."""

    def __call__(self, text: str, values: tuple[Any, ...] | None = None, /) -> Awaitable[Rows]:
        """Run it."""


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
        self._check_server(place, (await run(_CHECK))[0])
        present = await version_of(run, self.schema)
        if present is None:
            await bring(run, place, self.schema, migrates=False)
            present = await version_of(run, self.schema)
        check_version(place, self.schema, present)

    def _check_server(self, place: str, row: Row) -> None:
        fsync, full_page_writes, _commit, server_now = row
        settings = (("fsync", fsync), ("full_page_writes", full_page_writes))
        unsafe = [f"{name} = off" for name, value in settings if value == "off"]
        if unsafe and self.durability != "lossy":
            raise ConfigurationError(
                f"{place}: the server runs with {' and '.join(unsafe)}, and may lose a revocation that it has"
                " acknowledged",
                hint='correct the settings of the server; for a test, say durability = "lossy"',
            )
        difference = time.time() - server_now
        if abs(difference) > SKEW:
            _log.warning(
                "%s: the clocks of this host and of the server differ by %.0f s; synchronize them (NTP). Keys"
                " and ended tasks are kept until both say that their time is over, and %.0f s more.",
                *(place, difference, _rules.KEEP_KEYS),
            )
