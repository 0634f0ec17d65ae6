"""Secrets of the user's keyring: Keychain, Secret Service, KWallet, through the `keyring` library."""

from __future__ import annotations

import keyring
from keyring.errors import KeyringError

from agentguard.concurrency.abandonable import AbandonableThreads, NoThread
from agentguard.credentials.sources.base import TIMEOUT
from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import Secret

__all__ = ["KeyringSecret"]


class KeyringSecret:
    """A `SecretSource`: ``service/name`` in the keyring. The service may contain slashes, the name none.

    The library has no time-out, and a locked keyring asks a person. So `read` gives up after *timeout*
    seconds.

    Raises:
        ConfigurationError: The id has another form.
    """

    def __init__(self, id: str, *, timeout: float = TIMEOUT) -> None:
        self._service, _, self._user = id.rpartition("/")
        if not self._service or not self._user:
            raise ConfigurationError(f"keyring:{id} names no entry", hint="write keyring:SERVICE/NAME")
        self.name, self._timeout = f"keyring:{id}", timeout
        self._threads = AbandonableThreads(self.name, probes=True)

    def read(self) -> Secret:
        """Ask the keyring."""
        try:
            secret = self._threads.run(self._timeout, self._ask)
        except (TimeoutError, NoThread):
            raise IssueError(f"{self.name}: no answer; the keyring may be locked") from None
        except (KeyringError, RuntimeError, OSError) as error:
            raise IssueError(f"{self.name}: the keyring failed ({type(error).__name__})") from None
        if secret is None or not secret.reveal():
            raise IssueError(f"{self.name}: no such entry")
        return secret

    def _ask(self) -> Secret | None:
        text = keyring.get_password(self._service, self._user)
        return None if text is None else Secret(text)
