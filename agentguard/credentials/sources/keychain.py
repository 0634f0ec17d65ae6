"""Secrets of the user's keyring: Keychain, Secret Service, KWallet, through the `keyring` library."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread

import keyring
from keyring.errors import KeyringError

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

    def read(self) -> Secret:
        """Ask the keyring."""
        try:
            secret = _with_timeout(self._timeout, lambda: keyring.get_password(self._service, self._user))
        except TimeoutError:
            raise IssueError(f"{self.name}: no answer; the keyring may be locked") from None
        except (KeyringError, RuntimeError, OSError) as error:
            raise IssueError(f"{self.name}: the keyring failed ({type(error).__name__})") from None
        if secret is None or not secret.reveal():
            raise IssueError(f"{self.name}: no such entry")
        return secret


def _with_timeout(seconds: float, ask: Callable[[], str | None]) -> Secret | None:
    future: Future[Secret | None] = Future()

    def answer() -> None:
        try:
            text = ask()
            future.set_result(None if text is None else Secret(text))
        except Exception as error:  # noqa: BLE001  the waiting thread raises it
            future.set_exception(error)

    Thread(target=answer, name="agentguard-keyring", daemon=True).start()
    return future.result(seconds)
