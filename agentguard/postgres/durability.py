"""What a PostgreSQL server has to promise before anything is written to it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Literal, Protocol

from agentguard.errors import ConfigurationError

__all__ = ["Durability", "Rows", "Run", "require_durable"]

Durability = Literal["checked", "lossy"]
Rows = Sequence[Sequence[Any]]

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


async def require_durable(run: Run, place: str, durability: Durability, content: str) -> float:
    """Check that the server keeps what it acknowledges, such as *content*; return the time of its clock.

    With *durability* ``"lossy"``, nothing is demanded. The session waits for the disk from then on, also
    where the role or the database says otherwise.

    Raises:
        ConfigurationError: The server may lose what it has acknowledged.
    """
    fsync, full_page_writes, _commit, server_now = (await run(_CHECK))[0]
    settings = (("fsync", fsync), ("full_page_writes", full_page_writes))
    unsafe = [f"{name} = off" for name, value in settings if value == "off"]
    if unsafe and durability != "lossy":
        raise ConfigurationError(
            f"{place}: the server runs with {' and '.join(unsafe)}, and may lose {content} that it has"
            " acknowledged",
            hint='correct the settings of the server; for a test, say durability = "lossy"',
        )
    return float(server_now)
