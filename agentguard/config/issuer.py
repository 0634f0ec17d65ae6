"""``[issuer]``: the embedded issuer of credentials, and the folder of its keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from agentguard.config.tables import Name, Seconds, Table
from agentguard.credentials.key_folder import KeyFolder

__all__ = ["IssuerSettings", "key_folder_of"]


class IssuerSettings(Table):
    """``[issuer]``: the embedded issuer of credentials.

    Its private keys are in the directory `keys`, so that a restarted guard and each worker sign with keys
    that a resource server has read. With `jwks`, the public keys are written to that file.
    """

    issuer: Name = Field(default="https://agentguard.local", description='the `iss` of tokens, a URL in ""')
    algorithm: Literal["ES256", "EdDSA"] = Field(default="ES256", description='"ES256" or "EdDSA"')
    lifetime: Seconds = Field(default=60.0, description="seconds from 1 to 86400, as in lifetime = 60")
    keys: Name = Field(default=".agentguard/keys", description='a directory, as in keys = ".agentguard/keys"')
    jwks: Name | None = Field(
        default=None,
        description='a file, as in jwks = ".agentguard/jwks.json"; a new folder for it is 0700, '
        "so name one that the verifier's user may enter",
    )


def key_folder_of(settings: IssuerSettings, file_of: Callable[[str], Path]) -> KeyFolder:
    """Return the folder of the keys. *file_of* returns the path of a named file, and may make its directory.

    No key is read or made.
    """
    directory = file_of(f"{settings.keys}/read.pem").parent
    return KeyFolder(
        directory, settings.algorithm, jwks=None if settings.jwks is None else file_of(settings.jwks)
    )
