"""An identity that the application states, for a machine without an identity platform."""

from __future__ import annotations

import re

from agentguard.errors import ConfigurationError

__all__ = ["LocalIdentity"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[!-~]{1,240}")


class LocalIdentity:
    """An `IdentitySource` that gives the name it was given; nothing attests it.

    Raises:
        ConfigurationError: *name* is no URI such as ``agent://support``.
    """

    inline = True

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} is no identity", mend='use a URI, such as "agent://support"')
        self._name = name

    def actor(self) -> str:
        """Return the name."""
        return self._name

    def __repr__(self) -> str:
        return f"<LocalIdentity {self._name}>"
