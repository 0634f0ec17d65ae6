"""What a lease gives to a running tool: its credential or an environment, and never a long-lived key."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from agentguard.errors import CredentialUnavailable, Denied
from agentguard.lease import Lease, credential, secrets_of
from agentguard.model import Credential, Resource

DATABASE = Resource(name="reports-db")


@contextmanager
def open_lease(secret: Credential) -> Iterator[Lease]:
    lease = Lease("read_report", DATABASE, secret)
    token = lease.open()
    try:
        yield lease
    finally:
        lease.release(token)


def role(**changes: object) -> Credential:
    return Credential(
        "pa55word",
        id="1",
        expires_at=60.0,
        fields={"username": "v-reader", "password": "pa55word"},
        env={"PGUSER": "v-reader", "PGPASSWORD": "pa55word"},
        **changes,  # type: ignore[arg-type]  # each change is a field of its type
    )


USES: dict[str, Callable[[Lease], object]] = {
    "username": lambda lease: lease.username,
    "password": lambda lease: lease.password,
    "env": lambda lease: lease.env(),
    "reveal": lambda lease: lease.reveal(),
    "headers": lambda lease: lease.headers("GET", "https://db.example/"),
}


@pytest.mark.promise("handed-for-its-call")
def test_a_tool_logs_in_with_a_name_and_a_password() -> None:
    with open_lease(role()):
        lease = credential("reports-db")
        assert (lease.username, lease.password) == ("v-reader", "pa55word")


@pytest.mark.promise("handed-for-its-call")
def test_one_subprocess_gets_it_as_its_environment_and_ours_has_it_not() -> None:
    code = "import os; print(os.environ['PGUSER'], os.environ['PGPASSWORD'])"
    with open_lease(role()) as lease:
        ran = subprocess.run([sys.executable, "-c", code], env=lease.env(), capture_output=True, text=True)
        lease.env().clear()
        assert lease.env()
    assert ran.stdout.split() == ["v-reader", "pa55word"]


@pytest.mark.promise("handed-for-its-call")
@pytest.mark.parametrize("use", USES)
def test_after_the_call_nothing_of_it_is_handed_out(use: str) -> None:
    with open_lease(role()) as lease:
        pass
    with pytest.raises(CredentialUnavailable, match="over"):
        USES[use](lease)


@pytest.mark.promise("handed-for-its-call")
@pytest.mark.parametrize("use", USES)
def test_a_long_lived_key_is_never_handed_out(use: str) -> None:
    with open_lease(role(legacy=True)) as lease, pytest.raises(CredentialUnavailable, match="long-lived"):
        USES[use](lease)


@pytest.mark.parametrize("use", ["username", "password", "env", "headers"])
def test_what_a_credential_is_not_is_said(use: str) -> None:
    plain = Credential("t0ken", id="1", expires_at=60.0)
    with open_lease(plain) as lease, pytest.raises(CredentialUnavailable):
        USES[use](lease)


@pytest.mark.promise("handed-for-its-call")
def test_all_its_secrets_are_known_to_redaction_also_when_it_is_over() -> None:
    with open_lease(role(secrets=["s3ssion"])) as lease:
        pass
    assert secrets_of(lease) == ("pa55word", "s3ssion")
    assert "pa55word" not in repr(lease)


@pytest.mark.promise("permit-ends-with-call")
def test_a_lease_whose_call_has_ended_opens_no_more() -> None:
    lease = Lease("read_report", DATABASE, role())
    lease.close()
    with pytest.raises(Denied) as denied:
        lease.open()
    assert denied.value.code == "grant_used"
    with pytest.raises(CredentialUnavailable, match="over"):
        lease.reveal()
