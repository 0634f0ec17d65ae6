"""Brokers: they get a credential for one permitted call from an issuer, and revoke it there.

Where a secret lives and where it dies:

1. A broker's `issue` returns a `Credential`. Its handle is recorded in the store, so that another
   process can revoke it after a crash. A handle is not a secret, or it is encrypted (`sealing`).
2. The guard keeps the credential in the `Lease` of the call (`agentguard.lease`). The running tool
   reads it there; `httpx_auth` attaches it to requests.
3. The credential dies when the call ends (with `reuse`, when the task ends): `agentguard.enforcement.call`
   (`Permit.end`) closes the lease, and `agentguard.enforcement.call_ending` calls the broker's `revoke`
   (`issuance.revoke`). If that fails, the outbox repeats it.

Signing keys, sealing keys and logins live longer: in a private file, or in this process only. Each
class says where.

local_issuer  the embedded issuer, which needs no server
oauth         tokens of an OAuth 2.0 authorization server (RFC 8693 token exchange)
openbao       dynamic database credentials of OpenBao or HashiCorp Vault; signing by its transit engine
aws           sessions of an AWS role
github        installation tokens of a GitHub App
long_lived    a long-lived key that the guard attaches itself, for resources without an issuer
sources       where a long-lived secret is read from: vaults, keyring, files, environment
httpx_auth    `auth`, an `httpx.Auth` that attaches the credential of the running call
presentation  how a token is presented: as a bearer token, or with a proof of possession
sealing       encryption of handles
introspection answers resource servers that ask about a token (RFC 7662); `callers` are those
keyfile       private files that hold a key
key_folder    the keys of the embedded issuer, of which one replaces another; `key_ring` reads them

To add a broker:

1. Write the class in a package of its own here (``broker.py``), with the methods of
   `agentguard.ports.Broker`, and export it in the package's ``__init__``.
2. Hold it to `agentguard.testing.BrokerContract` in ``tests/credentials/``.
3. Give it a settings class with its own `kind` in `agentguard.config.adapter_settings`, and add that
   class to `BrokerSettings`.
4. Make it from these settings in `agentguard.config.adapters` (`AdapterFactory.brokers`).
5. If it needs a library, add an extra to ``pyproject.toml``, and import the library in its package only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentguard.credentials.httpx_auth import ResourceAuth, auth
    from agentguard.credentials.local_issuer import LocalIssuer, jwks, load_key
    from agentguard.credentials.presentation import ProofKey

__all__ = ["LocalIssuer", "ProofKey", "ResourceAuth", "auth", "jwks", "load_key"]

_HOMES = {
    "LocalIssuer": "local_issuer",
    "ProofKey": "presentation",
    "ResourceAuth": "httpx_auth",
    "auth": "httpx_auth",
    "jwks": "local_issuer",
    "load_key": "local_issuer",
}
"""Where each name is. What only reads a secret, as `agentguard exec` may, imports no HTTP client."""

if not TYPE_CHECKING:  # a type checker would take any name for one that is here

    def __getattr__(name):
        """Import a name when it is first asked for (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
