"""A SPIRE server and its agent, built from the Go module proxy.

The agent attests itself by a join token and its workloads by their uid: whoever runs the tests is
`SUPPORT`, and the user ``nobody`` is `THIEF`, a workload of the same trust domain.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK

from tests.servers.cache import kept
from tests.servers.server import Server, ServerError, free_port, serves

__all__ = ["SUPPORT", "THIEF", "TRUST_DOMAIN", "Spire", "bundle", "public_keys", "svid"]

TRUST_DOMAIN = "spiffe://agentguard.test"
SUPPORT = f"{TRUST_DOMAIN}/agent/support"
THIEF = f"{TRUST_DOMAIN}/agent/thief"

_VERSION = "v1.13.3"
_COMMANDS = tuple(f"github.com/spiffe/spire/cmd/{name}" for name in ("spire-server", "spire-agent"))
_SOCKET, _ADMIN = "AGENTGUARD_TEST_SPIRE_SOCKET", "AGENTGUARD_TEST_SPIRE_SERVER"
_PROGRAM = "AGENTGUARD_TEST_SPIRE_PROGRAM"

_SERVER = """
server {{
    trust_domain = "agentguard.test"
    bind_address = "127.0.0.1"
    bind_port = {port}
    socket_path = "{home}/private/server.sock"
    data_dir = "{home}/private"
    ca_key_type = "ec-p256"
    jwt_key_type = "ec-p256"
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{ database_type = "sqlite3" connection_string = "{home}/private/server.sqlite3" }}
    }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "memory" {{ plugin_data {{}} }}
}}
health_checks {{ listener_enabled = true bind_address = "127.0.0.1" bind_port = "{health}" }}
"""
_AGENT = """
agent {{
    trust_domain = "agentguard.test"
    server_address = "127.0.0.1"
    server_port = {port}
    socket_path = "{home}/agent.sock"
    data_dir = "{home}/private"
    trust_bundle_path = "{home}/private/bundle.pem"
    join_token = "{token}"
}}
plugins {{
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "memory" {{ plugin_data {{}} }}
    WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
health_checks {{ listener_enabled = true bind_address = "127.0.0.1" bind_port = "{health}" }}
"""


class Spire(Server):
    name = "spire"

    def install(self) -> None:
        go = shutil.which("go")
        if go is None:
            raise ServerError("spire: Go is not installed, which builds it")

        def build(folder: Path) -> None:
            # a module that replaces others, as SPIRE does, cannot be installed by its version alone
            self.run(go, "mod", "init", "agentguard.test/spire", cwd=folder)
            self.run(go, "get", *(f"{command}@{_VERSION}" for command in _COMMANDS), cwd=folder)
            self.run(go, "build", "-o", f"{folder}/", *_COMMANDS, cwd=folder)

        self._programs = kept(f"spire-{_VERSION}", build)

    def start(self) -> Mapping[str, str]:
        self.home.chmod(0o711)  # other users reach the agent's socket
        private = self.home / "private"
        private.mkdir(mode=0o700)
        port = str(free_port())
        self._launch("server", _SERVER, port=port)

        joined = json.loads(self._admin("token", "generate", "-output", "json"))["value"]
        node = f"{TRUST_DOMAIN}/spire/agent/join_token/{joined}"
        for name, uid in ((SUPPORT, os.getuid()), (THIEF, pwd.getpwnam("nobody").pw_uid)):
            entry = ("-parentID", node, "-spiffeID", name, "-selector", f"unix:uid:{uid}")
            self._admin("entry", "create", *entry)
        (private / "bundle.pem").write_text(self._admin("bundle", "show"))
        self._launch("agent", _AGENT, port=port, token=joined)
        return {
            _SOCKET: f"unix://{self.home}/agent.sock",
            _ADMIN: f"{private}/server.sock",
            _PROGRAM: str(self._programs / "spire-server"),
        }

    def _launch(self, part: str, template: str, **values: str) -> None:
        health = str(free_port())
        settings = self.home / "private" / f"{part}.conf"
        settings.write_text(template.format(home=self.home, health=health, **values))
        child = self.spawn(str(self._programs / f"spire-{part}"), "run", "-config", str(settings))
        self.wait(child, lambda: serves(f"http://127.0.0.1:{health}/ready"))

    def _admin(self, *command: str) -> str:
        socket = str(self.home / "private" / "server.sock")
        return self.run(str(self._programs / "spire-server"), *command, "-socketPath", socket)


# another user may be unable to read this interpreter, so the workload becomes it when all is imported
_WORKLOAD = """
import os, sys
from spiffe import WorkloadApiClient
socket, audience, user = sys.argv[1:]
if int(user) != os.getuid():
    os.setgroups([])
    os.setuid(int(user))
with WorkloadApiClient(socket) as workload:
    print(workload.fetch_jwt_svid({audience}).token)
"""


def svid(audience: str, user: int | None = None) -> str:
    """Return the JWT-SVID for *audience* of a process that runs under the uid *user*, or else this one's."""
    uid = os.getuid() if user is None else user
    command = (sys.executable, "-c", _WORKLOAD, os.environ[_SOCKET], audience, str(uid))
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def bundle() -> dict[str, Any]:
    """Return the trust bundle (SPIFFE Trust Domain and Bundle, section 4): a JWKS of all its keys."""
    command = (os.environ[_PROGRAM], "bundle", "show", "-format", "spiffe", "-socketPath", os.environ[_ADMIN])
    jwks: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return jwks


def public_keys() -> list[str]:
    """Return the keys that sign JWT-SVIDs in PEM, as OpenBao's ``jwt_validation_pubkeys`` takes them."""
    signing = [PyJWK(key, "ES256").key for key in bundle()["keys"] if key["use"] == "jwt-svid"]
    return [key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() for key in signing]
