"""Jaeger, built from the Go module proxy, with traces in memory.

The module has Jaeger's API, and not its web pages: those are built by Node from another repository.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.servers.cache import kept
from tests.servers.server import Server, ServerError, free_port, serves

__all__ = ["Jaeger"]

_MODULE, _VERSION = "github.com/jaegertracing/jaeger", "v1.76.0"
_MEMORY = {"traces": "memory"}


class Jaeger(Server):
    name = "jaeger"

    def install(self) -> None:
        go = shutil.which("go")
        if go is None:
            raise ServerError("jaeger: Go is not installed, which builds it")

        def build(folder: Path) -> None:
            self.run(go, "mod", "init", "agentguard.test/jaeger", cwd=folder)
            self.run(go, "get", f"{_MODULE}/cmd/jaeger@{_VERSION}", cwd=folder)
            program = f"{folder}/jaeger"
            self.run(go, "build", "-ldflags", "-s -w", "-o", program, f"{_MODULE}/cmd/jaeger", cwd=folder)

        self._program = kept(f"jaeger-{_VERSION}", build) / "jaeger"

    def start(self) -> Mapping[str, str]:
        query, otlp = (f"127.0.0.1:{free_port()}" for _ in range(2))
        settings = self.home / "jaeger.yaml"
        settings.write_text(json.dumps(_settings(query, otlp)))  # JSON is YAML
        # its traces of itself would go to a collector that does not exist
        environment = {"OTEL_TRACES_SAMPLER": "always_off"}
        child = self.spawn(str(self._program), "--config", str(settings), env=environment)
        self.wait(child, lambda: serves(f"http://{query}/api/services"))
        return {
            "AGENTGUARD_TEST_JAEGER": f"http://{query}",
            "AGENTGUARD_TEST_JAEGER_OTLP": f"http://{otlp}",
        }


def _settings(query: str, otlp: str) -> Mapping[str, object]:
    extensions = {
        "jaeger_query": {
            "storage": _MEMORY,
            "http": {"endpoint": query},
            "grpc": {"endpoint": f"127.0.0.1:{free_port()}"},
        },
        "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 1000}}}},
    }
    pipeline = {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}
    return {
        "service": {
            "extensions": list(extensions),
            "pipelines": {"traces": pipeline},
            "telemetry": {"metrics": {"level": "none"}},
        },
        "extensions": extensions,
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": otlp}}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
    }
