"""Open Policy Agent, built from the Go module proxy, with rules for the shop's payments."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.servers.cache import kept
from tests.servers.server import Server, ServerError, free_port, serves

__all__ = ["Opa"]

_MODULE, _VERSION = "github.com/open-policy-agent/opa", "v1.22.2"
_PAYMENTS = """\
package shop

small if {
    input.action.name == "refund_order"
    input.subject.id == "user:ada"
    input.resource.properties.amount <= 50
}

approved if {
    input.action.name == "refund_order"
    input.context.approval
    input.resource.properties.amount <= 500
}

decision := {"allow": true, "policies": ["small"], "obligations": [
    {"type": "shorten_lifetime", "properties": {"seconds": 30}},
]} if small

else := {"allow": true, "policies": ["approved"]} if approved

else := {"allow": false, "policies": ["refused"], "advice": "Refunds end at 500."} if {
    input.action.name == "refund_order"
}

lies := {"allow": "true"}
"""


class Opa(Server):
    name = "opa"

    def install(self) -> None:
        go = shutil.which("go")
        if go is None:
            raise ServerError("opa: Go is not installed, which builds it")

        def build(folder: Path) -> None:
            self.run(go, "mod", "init", "agentguard.test/opa", cwd=folder)
            self.run(go, "get", f"{_MODULE}@{_VERSION}", cwd=folder)
            self.run(go, "build", "-o", f"{folder}/opa", _MODULE, cwd=folder)

        self._program = kept(f"opa-{_VERSION}", build) / "opa"

    def start(self) -> Mapping[str, str]:
        rules = self.home / "shop.rego"
        rules.write_text(_PAYMENTS)
        url = f"http://127.0.0.1:{(port := free_port())}"
        # telemetry would ask the internet for a newer version
        options = ("--disable-telemetry", "--set", "decision_logs.console=true")
        child = self.spawn(
            str(self._program), "run", "--server", "--addr", f"127.0.0.1:{port}", *options, str(rules)
        )
        self.wait(child, lambda: serves(f"{url}/health"))
        return {
            "AGENTGUARD_TEST_OPA": url,
            "AGENTGUARD_TEST_OPA_LOG": str(self.log),
            "AGENTGUARD_TEST_OPA_PROGRAM": str(self._program),
        }
