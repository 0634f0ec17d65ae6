"""Keycloak from Maven Central, with the features that its users need for agentguard.

`ssf` (its transmitter of Shared Signals), `parameterized-scopes` and `authzen` are experimental there. The
provider of `examples/keycloak` is built into it.
Its first start makes the tables and the first realm, which takes half a minute. That is done once, when it is
installed, and each server begins with a copy of that database.
"""

from __future__ import annotations

import hashlib
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
_FEATURES = "ssf,parameterized-scopes,authzen,ciba,jwt-authorization-grant,identity-assertion-jwt"
_PROVIDER = Path(__file__).parents[2] / "examples" / "keycloak" / "CallDetailMapper.java"
_PUSH = "--spi-ssf-transmitter--default"
_PASSWORD = "admin"  # of a database that holds nothing, on a loopback port


class Keycloak(Server):
    name = "keycloak"
    patience = 240.0

    def install(self) -> None:
        maven = shutil.which("mvn")
        if maven is None or shutil.which("javac") is None:
            raise ServerError("keycloak: Maven and a JDK are not installed")

        def build(folder: Path) -> None:
            fetch = (maven, "-q", "-B", f"-Dmaven.repo.local={folder}/maven", f"{_MAVEN_PLUGIN}:get")
            self.run(*fetch, f"-Dartifact={_ARTIFACT}", "-Dtransitive=false")
            (archive,) = folder.glob("maven/**/keycloak-quarkus-dist-*.zip")
            with ZipFile(archive) as file:
                file.extractall(folder)
            shutil.rmtree(folder / "maven")
            program = _program(folder)
            program.chmod(0o755)
            self._add_provider(folder, program.parents[1])
            self.run(str(program), "build", "--db=dev-file", f"--features={_FEATURES}")
            child, _ = self._launch(program, folder / "database")
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(self.patience)

        content = f"{_FEATURES}\n{_PROVIDER.read_text()}".encode()
        self._folder = kept(f"keycloak-{_VERSION}-{hashlib.sha256(content).hexdigest()[:12]}", build)

    def _add_provider(self, folder: Path, keycloak: Path) -> None:
        """Compile the provider of the examples, and put it where Keycloak looks for providers."""
        classes = folder / "classes"
        services = classes / "META-INF" / "services"
        services.mkdir(parents=True)
        (services / "org.keycloak.protocol.ProtocolMapper").write_text("agentguard.CallDetailMapper\n")
        library = str(keycloak / "lib" / "lib" / "main" / "*")
        self.run("javac", "--release=17", "-cp", library, "-d", str(classes), str(_PROVIDER))
        self.run("jar", "--create", f"--file={keycloak}/providers/call-detail.jar", "-C", str(classes), ".")

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
                "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1",  # the optimizing compiler doubles its start
            },
        )
        self.wait(child, lambda: serves(f"{url}/realms/master"))
        return child, url


def _program(folder: Path) -> Path:
    return folder / f"keycloak-{_VERSION}" / "bin" / "kc.sh"
