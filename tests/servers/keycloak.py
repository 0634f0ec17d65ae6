"""Keycloak from Maven Central, with its transmitter of Shared Signals (an experimental feature).

Its first start makes the tables and the first realm, which takes half a minute. That is done once, when it is
installed, and each server begins with a copy of that database.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from subprocess import Popen
from zipfile import ZipFile

from tests.servers.cache import kept
from tests.servers.server import Server, ServerError, free_port, serves

__all__ = ["Keycloak"]

_VERSION = "26.7.3"
_ARTIFACT = f"org.keycloak:keycloak-quarkus-dist:{_VERSION}:zip"
_MAVEN_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"
_PUSH = "--spi-ssf-transmitter--default"
_PASSWORD = "admin"  # of a database that holds nothing, on a loopback port


class Keycloak(Server):
    name = "keycloak"
    patience = 240.0

    def install(self) -> None:
        maven = shutil.which("mvn")
        if maven is None or shutil.which("java") is None:
            raise ServerError("keycloak: Maven and Java are not installed")

        def build(folder: Path) -> None:
            fetch = (maven, "-q", "-B", f"-Dmaven.repo.local={folder}/maven", f"{_MAVEN_PLUGIN}:get")
            self.run(*fetch, f"-Dartifact={_ARTIFACT}", "-Dtransitive=false")
            (archive,) = folder.glob("maven/**/keycloak-quarkus-dist-*.zip")
            with ZipFile(archive) as file:
                file.extractall(folder)
            shutil.rmtree(folder / "maven")
            program = _program(folder)
            program.chmod(0o755)
            self.run(str(program), "build", "--db=dev-file", "--features=ssf")
            child, _ = self._launch(program, folder / "database")
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(self.patience)

        self._folder = kept(f"keycloak-{_VERSION}", build)

    def start(self) -> Mapping[str, str]:
        shutil.copytree(self._folder / "database", self.home / "database")
        _, url = self._launch(_program(self._folder), self.home / "database")
        return {"AGENTGUARD_TEST_KEYCLOAK": url, "AGENTGUARD_TEST_KEYCLOAK_PASSWORD": _PASSWORD}

    def _launch(self, program: Path, database: Path) -> tuple[Popen[bytes], str]:
        """Start it with the database in a folder, await it, and return it with its URL."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        child = self.spawn(
            *(str(program), "start", "--optimized", f"--hostname={url}"),
            *("--http-enabled=true", "--http-host=127.0.0.1", f"--http-port={port}"),
            *(f"{_PUSH}--allow-insecure-push-targets=true", f"{_PUSH}--outbox-drainer-interval=1s"),
            env={
                "KC_DB_URL": f"jdbc:h2:file:{database}/keycloak;NON_KEYWORDS=VALUE",
                "KC_BOOTSTRAP_ADMIN_USERNAME": "admin",
                "KC_BOOTSTRAP_ADMIN_PASSWORD": _PASSWORD,
                "JAVA_OPTS_KC_HEAP": "-Xms128m -Xmx512m",
            },
        )
        self.wait(child, lambda: serves(f"{url}/realms/master"))
        return child, url


def _program(folder: Path) -> Path:
    return folder / f"keycloak-{_VERSION}" / "bin" / "kc.sh"
