"""moto's server: the shape of AWS, and of IAM's judgement what `enforce` turns on.

It judges what a role's policies permit. A session policy is accepted and then ignored: that one narrows a
session can be shown on what was sent only.
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from tests.servers.cache import venv
from tests.servers.server import Server, free_port, serves

__all__ = ["Moto", "enforce", "reset"]


class Moto(Server):
    name = "moto"

    def install(self) -> None:
        self._python = str(venv("moto[server]==5.2.5", self.run) / "bin" / "python")

    def start(self) -> Mapping[str, str]:
        port = free_port()
        child = self.spawn(self._python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
        self.wait(child, lambda: serves(f"http://127.0.0.1:{port}/moto-api/data.json"))
        return {"AGENTGUARD_TEST_MOTO": f"http://127.0.0.1:{port}"}


def reset(endpoint: str) -> None:
    """Forget every account's state, and judge nobody."""
    _ask(f"{endpoint}/moto-api/reset")
    _ask(f"{endpoint}/moto-api/reset-auth", "inf")


def enforce(endpoint: str) -> None:
    """From now on keys must be known and policies permit the action; what bootstraps them comes before."""
    _ask(f"{endpoint}/moto-api/reset-auth", "0")


def _ask(url: str, content: str = "") -> None:
    httpx.post(url, content=content, trust_env=False, timeout=10.0).raise_for_status()
