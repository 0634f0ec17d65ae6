"""The keys of one path as a running issuer sees them: it takes over a new one without a restart."""

from __future__ import annotations

import logging
from typing import NamedTuple

from agentguard.credentials.key_folder import KeyFile, KeyFolder
from agentguard.credentials.keyfile import read_key
from agentguard.errors import ConfigurationError
from agentguard.jose import Signer
from agentguard.model import ToolPath

__all__ = ["LOOK", "KeyRing"]

LOOK = 5.0
"""After how many seconds a running guard looks again whether the folder has a new key."""

log = logging.getLogger("agentguard")


class _Turn(NamedTuple):
    """Which key signs from *since* to *until*, in seconds since the epoch."""

    since: float
    until: float
    signer: Signer


class KeyRing:
    """The keys of one path in a folder: the one that signs now, and all that verify.

    It looks at the folder once in `LOOK` seconds, and for a `kid` that it does not know. If the folder
    cannot be read, the keys that were read before go on, and the log has a warning.

    Raises:
        ConfigurationError: The path has no key, or a key cannot be used.
    """

    def __init__(self, folder: KeyFolder, path: ToolPath) -> None:
        self._folder, self._path = folder, path
        self._keys: dict[KeyFile, Signer] = {}
        self._turn: _Turn | None = None
        self._look()

    @property
    def signers(self) -> list[Signer]:
        """All keys that were there when the folder was last looked at, in the order in which they sign."""
        return list(self._keys.values())

    def has(self, kid: str) -> bool:
        """Return whether a key of the path has this thumbprint."""
        if any(signer.kid == kid for signer in self.signers):
            return True
        self._look_again()
        return any(signer.kid == kid for signer in self.signers)

    def signer(self, now: float) -> Signer:
        """Return the key that signs at *now*, in seconds since the epoch."""
        turn = self._turn
        if turn is None or not turn.since <= now < turn.until:
            if turn is not None:
                self._look_again()
            turn = self._turn = self._turn_at(now)
        return turn.signer

    def _turn_at(self, now: float) -> _Turn:
        keys = list(self._keys.items())
        signer = next((signer for key, signer in reversed(keys) if key.begins <= now), keys[0][1])
        until = min(now + LOOK, *(key.begins for key, _ in keys if key.begins > now), now + LOOK)
        return _Turn(now, until, signer)

    def _look(self) -> None:
        keys = self._keys
        files = self._folder.files(self._path)
        if not files:
            raise ConfigurationError(
                f"there is no key of the {self._path} path any more",
                hint="put it back",
                file=self._folder.directory,
            )
        if files != list(keys):
            self._keys = {key: keys.get(key) or read_key(key.file) for key in files}

    def _look_again(self) -> None:
        try:
            self._look()
        except ConfigurationError as error:
            log.warning("the issuer's keys stay as they are: %s", error)
