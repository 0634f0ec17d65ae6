"""Whether a Redis server keeps what it has acknowledged.

A server that is configured as we demand loses nothing when its process dies. It may still lose what it has
acknowledged in these cases, and then a revocation, a used approval or a used replay id is lost with it:

- ``appendfsync everysec``: its machine dies, and the last second, or two under load, was not on the disk yet.
  With ``appendfsync always`` this loses nothing.
- A replica takes over: replication is asynchronous, so what had not reached the replica is gone, with each
  ``appendfsync``. With *replicas*, each write waits (WAIT) until that many replicas have it, which makes the
  loss improbable; Redis gives no guarantee (https://redis.io/docs/latest/commands/wait/).

The store notices when the number of writes that it has seen is gone, or the server is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from agentguard.errors import ConfigurationError

__all__ = ["CONFIG", "Durability", "check_server", "info_of"]

Durability = Literal["checked", "vouched", "lossy"]
CONFIG = ("maxmemory-policy", "appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save")
_VERSION = 7
_WANTED: tuple[tuple[str, frozenset[str], str], ...] = (
    (
        "maxmemory-policy",
        frozenset({"noeviction"}),
        "it drops keys when its memory is full, and a revocation may be among them",
    ),
    ("appendonly", frozenset({"yes"}), "it forgets what was written since its last snapshot, or everything"),
    ("appendfsync", frozenset({"always", "everysec"}), "it leaves to the system when data is on the disk"),
    (
        "no-appendfsync-on-rewrite",
        frozenset({"no"}),
        "while it writes its file anew, nothing is on the disk for up to 30 seconds",
    ),
)


def info_of(reply: bytes | str) -> dict[str, str]:
    """Return the fields of an answer to INFO."""
    text = reply if isinstance(reply, str) else reply.decode("utf-8", "replace")
    lines = (line.partition(":") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in lines}


def check_server(
    name: str, info: Mapping[str, str], config: Mapping[str, str] | None, durability: Durability
) -> None:
    """Check what the server *name* says of itself; *config* is None where CONFIG GET is forbidden.

    Raises:
        ConfigurationError: It is too old, is a replica, or may lose a revocation, or does not say whether.
    """
    version = info.get("redis_version", "")
    if not version.partition(".")[0].isdecimal() or int(version.partition(".")[0]) < _VERSION:
        raise ConfigurationError(
            f"{name} is of version {version or 'unknown'}", hint="use Redis 7, or Valkey, or a newer one"
        )
    if info.get("role") != "master":
        raise ConfigurationError(
            f"{name} is a replica, whose state may be old", hint="name the primary in url"
        )
    if durability == "lossy":
        return
    if durability == "vouched":
        # INFO says this one, also where CONFIG GET is forbidden
        config = {"maxmemory-policy": info["maxmemory_policy"]} if "maxmemory_policy" in info else {}
    elif config is None:
        raise ConfigurationError(
            f"{name} does not say how it is configured: CONFIG GET is forbidden",
            hint='permit "+config|get", or, if the operator of the server says that it evicts nothing and'
            ' keeps an append-only file, write durability = "vouched"',
        )
    _check_config(name, config)


def _check_config(name: str, config: Mapping[str, str]) -> None:
    for key, values, harm in _WANTED:
        value = config.get(key)
        if value is None or value in values:
            continue
        snapshots = ""
        if key == "appendonly":
            snapshots = f" (save is {config.get('save') or 'empty'!r})"
        raise ConfigurationError(
            f"{name} may lose a revocation: {key} is {value!r}{snapshots}: {harm}",
            hint=f'set {key} to {" or ".join(sorted(values))}, or accept the loss: durability = "lossy"',
        )
