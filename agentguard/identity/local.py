"""An identity that the application states, for a machine without an identity platform."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable

from agentguard.errors import ConfigurationError, IdentityError
from agentguard.jose import Signer, b64url
from agentguard.model import Secret

__all__ = ["LocalIdentity"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[!-~]{1,240}")


class LocalIdentity:
    """An `IdentitySource` that returns *name*. No platform attests this name.

    With *key* it signs its own tokens, which are valid for *lifetime* seconds; `iss` and `sub` are the
    name. An issuer that has the public key can verify them. Without *key* it has no tokens.

    Raises:
        ConfigurationError: *name* is not a URI such as ``agent://support``.
    """

    inline = True

    def __init__(
        self,
        name: str,
        key: Signer | None = None,
        *,
        lifetime: float = 60.0,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{name!r} is not an identity", hint='use a URI, such as "agent://support"'
            )
        self._name, self._key = name, key
        self._lifetime, self._clock, self._entropy = lifetime, clock, entropy

    def actor(self) -> str:
        """Return the name."""
        return self._name

    def token(self, audience: str) -> Secret:
        """Sign a token for *audience* (RFC 7519).

        Raises:
            IdentityError: There is no key.
        """
        if self._key is None:
            raise IdentityError(f"{self._name} has no key to prove itself with")
        now = int(self._clock())
        claims = {
            "iss": self._name,
            "sub": self._name,
            "aud": audience,
            "iat": now,
            "exp": now + int(self._lifetime),
            "jti": b64url(self._entropy(16)),
        }
        head = self._key.head(typ="JWT", kid=self._key.kid)
        return Secret(self._key.sign(head, claims))

    def __repr__(self) -> str:
        return f"<LocalIdentity {self._name}>"
