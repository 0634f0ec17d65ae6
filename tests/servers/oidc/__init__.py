"""oidc-provider, a certified authorization server, twice: its access tokens opaque, and JWTs.

It exchanges tokens (RFC 8693) and asks for a DPoP nonce. Whom it believes is in a file that tests write
by `trust`; what users may do, and which resources there are, is in ``server.mjs``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from tests.servers.cache import kept
from tests.servers.server import Server, ServerError, free_port, serves

__all__ = ["Oidc", "trust"]

_SOURCES = Path(__file__).parent
_TRUST = "AGENTGUARD_TEST_OIDC_TRUST"


class Oidc(Server):
    name = "oidc"

    def install(self) -> None:
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            raise ServerError("oidc: Node is not installed; on Debian: apt-get install nodejs npm")
        package = _SOURCES / "package.json"

        def build(folder: Path) -> None:
            shutil.copy(package, folder)
            options = ("--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")
            self.run(npm, "install", *options, cwd=folder)

        version = sha256(package.read_bytes()).hexdigest()[:12]
        self._node, self._packages = node, kept(f"oidc-provider-{version}", build) / "node_modules"

    def start(self) -> Mapping[str, str]:
        for source in _SOURCES.glob("*.mjs"):
            shutil.copy(source, self.home)
        # a module's imports are looked for beside it
        (self.home / "node_modules").symlink_to(self._packages)
        trusted = self.home / "trust.json"
        trusted.write_text(json.dumps({"users": {}, "agents": {}, "clients": {}}))
        variables = {_TRUST: str(trusted)}
        started = []
        for form in ("opaque", "jwt"):
            port = str(free_port())
            env = {"PORT": port, "FORMAT": form, "TRUST": str(trusted)}
            started.append((self.spawn(self._node, "server.mjs", env=env), f"http://127.0.0.1:{port}"))
            variables[f"AGENTGUARD_TEST_OIDC_{form.upper()}"] = started[-1][1]
        for child, issuer in started:
            metadata = f"{issuer}/.well-known/oauth-authorization-server"
            self.wait(child, lambda metadata=metadata: serves(metadata))  # type: ignore[misc]  # mypy infers none for a default
        return variables


def trust(role: Literal["users", "agents", "clients"], name: str, value: Mapping[str, Any]) -> None:
    """Have both servers believe *name*, from the next request on.

    *value* is a JWKS for ``users`` and ``agents``: *name* is the issuer, or a SPIFFE trust domain
    (``spiffe://…``) with its bundle. For ``clients`` it is ``{"jwks": …, "actor": {"iss": …, "sub": …}}``:
    the keys of the client *name*, which a SPIFFE ID does not need, and the agent that it is, where that
    is not *name* itself. ``elsewhere`` has the ids that the client has at other servers, by issuer, for which
    its users' identity is asserted; ``claims`` are what an assertion says instead.
    """
    path = Path(os.environ[_TRUST])
    trusted = json.loads(path.read_text())
    trusted[role][name] = value
    new_file = path.with_suffix(".new")
    new_file.write_text(json.dumps(trusted))
    new_file.replace(path)
