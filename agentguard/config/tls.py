"""The certificates that a connection trusts, and the one with which it proves itself, from named files."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from agentguard.errors import ConfigurationError
from agentguard.files import require_trusted

__all__ = ["tls_context"]


def tls_context(
    file_of: Callable[[str], Path],
    *,
    ca: str | None,
    certificate: str | None = None,
    key: str | None = None,
) -> ssl.SSLContext | bool:
    """Return what httpx takes as ``verify``. Where no file is named, certifi's authorities are trusted.

    *ca* is a PEM file of the certificates that are trusted in place of the public ones. *certificate* and
    *key* are for mutual TLS. *file_of* returns the path of a named file.

    Raises:
        ConfigurationError: A file cannot be used, or others may write it.
    """
    if ca is None and certificate is None and key is None:
        return True
    if certificate is None and key is not None:
        raise ConfigurationError("key is there without certificate", hint="name both files")
    for name in (ca, certificate, key):
        if name is not None and (file := file_of(name)).exists():
            require_trusted(file, file.stat())
    try:
        context = ssl.create_default_context(cafile=None if ca is None else file_of(ca))
        if certificate is not None:
            key_file = None if key is None else file_of(key)
            context.load_cert_chain(file_of(certificate), key_file, password=_no_password)
    except (OSError, ValueError) as error:  # an error of ssl is an OSError
        raise ConfigurationError(
            f"ca, certificate or key cannot be used ({type(error).__name__})",
            hint="name PEM files; the key has no password",
        ) from None
    return context


def _no_password() -> str:
    raise ValueError  # else ssl would ask for it at the terminal
