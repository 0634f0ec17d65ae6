"""The key file of a transmitter of signals, which may hold an RSA key."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agentguard.credentials.keyfile import read_or_make
from agentguard.credentials.local_issuer import load_key
from agentguard.errors import ConfigurationError
from agentguard.jose import RSA_BITS, RsaSigner, Signer

__all__ = ["load_signal_key"]


def load_signal_key(path: Path, algorithm: Literal["ES256", "EdDSA", "RS256"]) -> Signer | RsaSigner:
    """Read a private key in PEM, or make a file with a new one for *algorithm*, as `load_key` does.

    Raises:
        ConfigurationError: Other users may read the file, it cannot be read or made, or it does not hold an
            unencrypted key on P-256 or Ed25519, or an RSA key that receivers accept.
    """
    if algorithm != "RS256" and not path.exists():
        return load_key(path, algorithm)
    try:
        key = load_pem_private_key(read_or_make(path, _new_rsa_key), password=None)
        return RsaSigner(key) if isinstance(key, RSAPrivateKey) else load_key(path)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"the file holds no unencrypted private key that receivers of signals accept: {error}",
            hint="remove the file, and a new one is made",
            file=path,
        ) from None


def _new_rsa_key() -> bytes:
    key = generate_private_key(65537, RSA_BITS)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
