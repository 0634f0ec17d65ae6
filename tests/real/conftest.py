"""The real servers, by the environment variables that lead to them."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import NoReturn

import pytest
from redis import Redis

from tests.real.reports import Reports
from tests.servers import moto as moto_server


def lacking(reason: str) -> NoReturn:
    """Skip the test, or have it fail where CI is true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def require_plots() -> None:
    """Skip or fail the test of a notebook that draws with matplotlib, where that is missing."""
    if find_spec("matplotlib") is None:
        lacking("matplotlib is missing; run: pip install -e '.[plots]'")


def needed(variable: str) -> str:
    """Return an environment variable, or else the test is `lacking`."""
    value = os.environ.get(variable)
    return value or lacking(f"{variable} is not set; run: python -m tests.servers -- pytest tests/real")


@dataclass(frozen=True)
class OpenBao:
    """Where OpenBao is, and the token that may do anything there."""

    url: str
    token: str = field(repr=False)


@dataclass(frozen=True)
class Spire:
    """The agent's Workload API, as SPIFFE_ENDPOINT_SOCKET spells it, and the server's admin socket."""

    socket: str
    admin: str


@pytest.fixture(scope="session")
def openbao() -> OpenBao:
    return OpenBao(needed("AGENTGUARD_TEST_OPENBAO"), needed("AGENTGUARD_TEST_OPENBAO_TOKEN"))


@pytest.fixture(scope="session")
def postgres() -> str:
    """Return the superuser's URL, with its password."""
    return needed("AGENTGUARD_TEST_POSTGRES")


@pytest.fixture(scope="session")
def reports(openbao: OpenBao, postgres: str) -> Iterator[Reports]:
    """Return the database of reports, and the OpenBao that makes roles for it, as configured by operators."""
    reports = Reports(openbao.url, openbao.token, postgres)
    reports.configure()
    yield reports
    reports.close()


@pytest.fixture(scope="session", params=["opaque", "jwt"])
def oidc(request: pytest.FixtureRequest) -> str:
    """Return the issuer whose access tokens are opaque, and then the one whose are JWTs."""
    return needed(f"AGENTGUARD_TEST_OIDC_{request.param.upper()}")


@pytest.fixture(scope="session")
def oidc_opaque() -> str:
    """Return the issuer whose access tokens can be introspected and revoked."""
    return needed("AGENTGUARD_TEST_OIDC_OPAQUE")


@pytest.fixture(scope="session")
def oidc_jwt() -> str:
    """Return the issuer whose access tokens verify by its keys."""
    return needed("AGENTGUARD_TEST_OIDC_JWT")


@pytest.fixture
def redis_url() -> Iterator[str]:
    """Return the URL of a database that is empty, before and after the test."""
    url = needed("AGENTGUARD_TEST_REDIS")
    with Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def moto() -> str:
    """Return the endpoint of an AWS that knows nothing and judges nobody yet."""
    endpoint = needed("AGENTGUARD_TEST_MOTO")
    moto_server.reset(endpoint)
    return endpoint


@pytest.fixture(scope="session")
def spire() -> Spire:
    return Spire(needed("AGENTGUARD_TEST_SPIRE_SOCKET"), needed("AGENTGUARD_TEST_SPIRE_SERVER"))


@pytest.fixture(scope="session")
def cerbos() -> str:
    """Return the identifier of the PDP."""
    return needed("AGENTGUARD_TEST_CERBOS")


@pytest.fixture(scope="session")
def opa() -> str:
    """Return the address of the PDP."""
    return needed("AGENTGUARD_TEST_OPA")


@pytest.fixture(scope="session")
def nobody() -> int:
    """Return the uid of another user, which a process of the test can become."""
    if os.geteuid():
        lacking("only root can become another user")
    return pwd.getpwnam("nobody").pw_uid
