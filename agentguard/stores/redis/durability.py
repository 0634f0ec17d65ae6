"""Whether a Redis server keeps what it has acknowledged.

A server that is configured as we demand loses nothing when its process dies. It may still lose what it has
acknowledged in these cases, and then a revocation, a used approval or a used replay id is lost with it:

- ``appendfsync everysec``: its machine dies, and the last second, or two under load, was not on the disk yet.
  With ``appendfsync always`` this loses nothing.
- A replica takes over: replication is asynchronous, so what had not reached the replica is gone, with each
  ``appendfsync``. With `Durability.replicas`, each write waits (WAIT) until that many replicas have it, which
  makes the loss improbable; Redis gives no guarantee (https://redis.io/docs/latest/commands/wait/).

The store notices when the number of writes that it has seen is gone, or the server is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agentguard.errors import ConfigurationError

__all__ = ["CONFIG", "Durability", "Level", "check_server", "info_of"]

Level = Literal["checked", "vouched", "lossy"]
CONFIG = ("maxmemory-policy", "appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save")
_VERSION = 7
_SILENT_HINT = (
    'permit "+config|get", or, if the operator of the server says that it evicts nothing and keeps an'
    ' append-only file, write durability = "vouched"'
)
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


@dataclass(frozen=True, slots=True)
class Durability:
    """What a server has to promise, and how many replicas each write waits for.

    At the level ``"checked"`` a server is refused that may lose a revocation, or does not say. ``"vouched"``
    says that its operator vouches for that, where CONFIG GET is forbidden; what the server says without it is
    still checked. ``"lossy"`` accepts that revocations, used approvals and replay ids may be lost.
    """

    level: Level = "checked"
    replicas: int = 0


def info_of(reply: bytes | str) -> dict[str, str]:
    """Return the fields of an answer to INFO."""
    text = reply if isinstance(reply, str) else reply.decode("utf-8", "replace")
    lines = (line.partition(":") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in lines}


def check_server(name: str, info: Mapping[str, str], config: Mapping[str, str] | None, level: Level) -> None:
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
    if level == "lossy":
        return
    if level == "vouched":
        # INFO says this one, also where CONFIG GET is forbidden
        if "maxmemory_policy" in info:
            _check_value(name, {"maxmemory-policy": info["maxmemory_policy"]}, *_WANTED[0])
        return
    if config is None:
        raise ConfigurationError(
            f"{name} does not say how it is configured: CONFIG GET is forbidden", hint=_SILENT_HINT
        )
    for setting in _WANTED:
        _check_value(name, config, *setting)


def _check_value(name: str, config: Mapping[str, str], key: str, values: frozenset[str], harm: str) -> None:
    value = config.get(key)
    if value is None:
        raise ConfigurationError(f"{name} does not say what its {key} is", hint=_SILENT_HINT)
    if value not in values:
        snapshots = f", and save is {config.get('save', '')!r}" if key == "appendonly" else ""
        raise ConfigurationError(
            f"{name} may lose a revocation: {key} is {value!r}{snapshots}: {harm}",
            hint=f'set {key} to {" or ".join(sorted(values))}, or accept the loss: durability = "lossy"',
        )
