"""Cerbos, a policy decision point that speaks AuthZEN 1.0, with rules for the shop's payments."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.servers.cache import kept
from tests.servers.server import Server, ServerError, free_port, serves

__all__ = ["Cerbos"]

_PACKAGE, _VERSION = "@cerbos/cerbos-linux-x64", "0.55.0"
_CONFIGURATION = """\
server:
  httpListenAddr: "127.0.0.1:{http}"
  grpcListenAddr: "127.0.0.1:{grpc}"
storage: {{driver: disk, disk: {{directory: "{policies}"}}}}
telemetry: {{disabled: true}}
"""
_PAYMENTS = """\
apiVersion: api.cerbos.dev/v1
resourcePolicy:
  version: default
  resource: payments
  rules:
    - actions: ["refund_order"]
      effect: EFFECT_ALLOW
      roles: ["*"]
      condition: {match: {expr: 'P.id == "user:ada" && R.attr.amount <= 50'}}
"""


class Cerbos(Server):
    name = "cerbos"

    def install(self) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise ServerError("cerbos: Node is not installed; on Debian: apt-get install nodejs npm")

        def build(folder: Path) -> None:
            options = ("--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")
            self.run(npm, "install", *options, f"{_PACKAGE}@{_VERSION}", cwd=folder)

        folder = kept(f"cerbos-{_VERSION}", build)
        self._cerbos = folder / "node_modules" / _PACKAGE / "cerbos-linux-x64"

    def start(self) -> Mapping[str, str]:
        policies, configuration = self.home / "policies", self.home / "conf.yaml"
        policies.mkdir()
        (policies / "payments.yaml").write_text(_PAYMENTS)
        http = free_port()
        configuration.write_text(_CONFIGURATION.format(http=http, grpc=free_port(), policies=policies))
        url = f"http://127.0.0.1:{http}"
        child = self.spawn(str(self._cerbos), "server", "--config", str(configuration))
        self.wait(child, lambda: serves(f"{url}/.well-known/authzen-configuration"))
        return {"AGENTGUARD_TEST_CERBOS": url}
