"""`agentguard exec` and a command that harms the outbox: the notes of what the next run revokes."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from agentguard.cli.exec.outbox import Outbox
from agentguard.model import Secret
from tests.cli.test_exec import COMMAND, PROGRAM, Bao, Exec, _signal_handlers, bao, wrapped
from tests.cli.test_exec_vault import GONE, KV, LOOKUP, entries, forge, kill, start

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


NOTE = {"call_id": "x", "task_id": "exec", "handle": "a-1", "expires_at": 4e9, "owner": GONE}
ODD: list[dict[str, Any]] = [
    {"expires_at": "soon"},
    {"expires_at": None},
    {"expires_at": b"4"},
    {"owner": None},
    {"owner": 7},
    {"owner": f"{GONE.rpartition('|')[0]}|{'9' * 5000}@1"},
    {"handle": b"a-1"},
    {"handle": None},
    {"call_id": 7},
    {"call_id": None},
    {"call_id": b"x"},
]


def write_notes(file: Path, broker: object, *notes: dict[str, Any]) -> None:
    """Write into the outbox as the command can, which is bound to no types."""
    database = sqlite3.connect(file)
    with database:
        database.execute("DROP TABLE credentials")
        database.execute("CREATE TABLE credentials (call_id, task_id, broker, handle, expires_at, owner)")
        for changes in notes:
            row = {"broker": broker, **NOTE, **changes}
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            database.execute(f"INSERT INTO credentials ({names}) VALUES ({marks})", [*row.values()])  # noqa: S608  of this test
    database.close()


@pytest.mark.parametrize("token", [None, Secret("given")])
def test_a_note_of_odd_types_is_counted_and_hides_no_other(tmp_path: Path, token: Secret | None) -> None:
    outbox = Outbox(tmp_path, "place", token)
    broker = "exec place" if token is None else "exec with a token place"
    odd: list[dict[str, Any]] = [*ODD, {"broker": 7}]
    fine = [{"call_id": "fine", "expires_at": moment} for moment in (4_000_000_000, 1e300, float("inf"))]
    write_notes(tmp_path / "exec.db", broker, *odd, *fine, {"broker": "exec elsewhere"})
    name = "a-1" if token is None else None  # it was not written with this token
    assert [(entry.id, entry.name) for entry in outbox.orphans()] == [("fine", name)] * 3
    assert outbox.count_unreadable() == len(odd)
    outbox.close()


@pytest.mark.process
def test_notes_that_cannot_be_read_are_one_sentence_of_each_later_run(wrapped: Exec, bao: Bao) -> None:
    kill(start(wrapped))
    (entry,) = entries(wrapped)
    write_notes(wrapped.state / "exec.db", entry.broker, *ODD, {"call_id": "fine", "handle": entry.handle})
    later = wrapped.run(*KV, "--", "true")
    assert later.returncode == 0
    assert f"agentguard: exec.db holds {len(ODD)} notes that cannot be read" in later.stderr
    assert "Traceback" not in later.stderr
    assert bao.state()["leases"] == []


@pytest.mark.promise("exec-lease-ends")
@pytest.mark.parametrize(
    ("token", "step"), [(None, "track"), (Secret("given"), "track"), (Secret("given"), "forget")]
)
def test_a_note_that_is_written_anew_stands_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: Secret | None, step: str
) -> None:
    monkeypatch.setattr("agentguard.cli.exec.outbox.owner", lambda: GONE)
    outbox = Outbox(tmp_path, "place", token)
    outbox.put("id", "name", 4e9)
    with monkeypatch.context() as patch:
        patch.setattr(f"agentguard.stores.sqlite.SqliteStore.{step}", die)  # instead of this step
        with pytest.raises(Killed):
            outbox.put("id", "name", 5e9)
    assert {entry.name for entry in outbox.orphans()} == {"name"}
    outbox.close()


class Killed(BaseException):
    """This process is killed."""


def die(*_arguments: object) -> None:
    raise Killed


@pytest.mark.process
@pytest.mark.promise("exec-lease-ends")
def test_the_next_run_may_spell_the_address_differently(wrapped: Exec, bao: Bao) -> None:
    kill(start(wrapped))
    wrapped.environ["BAO_ADDR"] = wrapped.environ["BAO_ADDR"].replace("http:", "HTTP:") + "/"
    assert wrapped.run(*KV, "--", "true").returncode == 0
    assert bao.state()["leases"] == []


@pytest.mark.process
def test_many_notes_hold_up_a_run_for_a_bounded_time(wrapped: Exec, bao: Bao) -> None:
    kill(start(wrapped))
    (entry,) = entries(wrapped)
    for number in range(100, 108):
        forge(wrapped, entry, call_id=f"forged-{number}", handle=f"a-{number}", expires_at=4e9)
    bao.set(delay=0.3)
    bound = "from agentguard.cli.exec import openbao; openbao._SWEEP_SECONDS = 0.5"
    wrapped.command = [*COMMAND[:2], f"{bound}; {PROGRAM}", *COMMAND[3:]]
    later = wrapped.run(*KV, "--", "true")
    assert later.returncode == 0
    assert "entries of killed runs are left to the next run" in later.stderr
    assert bao.state()["asked"].count(LOOKUP) <= 2
