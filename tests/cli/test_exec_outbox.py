"""`agentguard exec` and a command that harms the outbox: the notes of what the next run revokes."""

from __future__ import annotations

import sys

import pytest

from tests.cli.test_exec import Bao, Exec, _signal_handlers, bao, wrapped

__all__ = ["_signal_handlers", "bao", "wrapped"]  # fixtures

TWO = ["--secret", "A=openbao:database/creds/ro", "--secret", "B=vault:database/creds/ro"]
HARM = {
    "unlink": "import glob, os\nfor name in glob.glob(PLACE + '/exec.db*'): os.unlink(name)",
    "replace": """
import os
with open(PLACE + '/x', 'w') as file:
    file.write('no database')
os.rename(PLACE + '/x', PLACE + '/exec.db')
""",
    "lock": """
import os, sqlite3, time
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    database = sqlite3.connect(PLACE + '/exec.db', isolation_level=None)
    database.execute('BEGIN IMMEDIATE')
    os.write(writer, b'x')
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    time.sleep(9)  # longer than a transaction waits for another one
    os._exit(0)
os.read(reader, 1)
""",
}


@pytest.mark.process
@pytest.mark.promise("exec-lease-ends")
@pytest.mark.parametrize(
    ("harm", "login"), [("unlink", "token"), ("replace", "token"), ("lock", "token"), ("unlink", "jwt")]
)
def test_a_command_that_takes_the_outbox_away_keeps_no_lease(
    wrapped: Exec, bao: Bao, harm: str, login: str
) -> None:
    if login == "token":
        del wrapped.environ["BAO_JWT_FILE"]
        wrapped.environ["BAO_TOKEN"] = "given"
    program = f"PLACE = {str(wrapped.state)!r}\n{HARM[harm]}"
    result = wrapped.run(*TWO, "--", sys.executable, "-c", program)
    state = bao.state()
    assert (state["tokens"], state["leases"], result.returncode) == ([], [], 0)
    assert "is revoked, but the note of it cannot be removed" in result.stderr
    assert "not known to be revoked" not in result.stderr
    assert wrapped.records()[-2]["what"] == "revoked"


@pytest.mark.process
@pytest.mark.promise("exec-revocation-not-claimed")
@pytest.mark.parametrize("harm", [None, "unlink"])
def test_the_next_run_is_promised_only_what_a_note_still_names(
    wrapped: Exec, bao: Bao, harm: str | None
) -> None:
    del wrapped.environ["BAO_JWT_FILE"]
    wrapped.environ["BAO_TOKEN"] = "given"
    bao.set(forbidden=["sys/leases/revoke"])
    program = "" if harm is None else f"PLACE = {str(wrapped.state)!r}\n{HARM[harm]}"
    result = wrapped.run(*TWO, "--", sys.executable, "-c", program)
    promise = "; the next run tries it again" if harm is None else ", and no note of it is left"
    assert result.stderr.count(f"not known to be revoked{promise}") == 2
    assert wrapped.records()[-2]["what"] == "not revoked"
    bao.set(forbidden=[])
    wrapped.run("--secret", "K=openbao:secret/data/api#key", "--", "true")
    assert len(bao.state()["leases"]) == (0 if harm is None else 2)


@pytest.mark.process
@pytest.mark.promise("exec-lease-ends")
@pytest.mark.parametrize("bao", [(3, 3600)], indirect=True)
def test_every_lease_is_extended_although_the_outbox_is_gone(wrapped: Exec, bao: Bao) -> None:
    del wrapped.environ["BAO_JWT_FILE"]
    wrapped.environ["BAO_TOKEN"] = "given"
    program = f"PLACE = {str(wrapped.state)!r}\n{HARM['unlink']}\nimport time\ntime.sleep(3)"
    assert wrapped.run(*TWO, "--", sys.executable, "-c", program).returncode == 0
    state = bao.state()
    assert (state["asked"].count("sys/leases/renew"), state["leases"]) == (2, [])
    assert any(record["what"].startswith("not renewed: ") for record in wrapped.records())
