"""`agentguard exec` with real children, signals and terminals: what a child gets, and what is left of it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from agentguard.audit import verify
from agentguard.cli.exec.arguments import ExecArguments, child_environment
from agentguard.cli.exec.files import SecretFile
from agentguard.credentials.sources import Reference
from agentguard.errors import ConfigurationError
from agentguard.model import Secret
from tests.doubles.bao import __file__ as bao_program

pytestmark = pytest.mark.process

ARN = "arn:aws:secretsmanager:eu-west-1:1:secret:x=y="
PROGRAM = "from agentguard.cli import main; main()"
COMMAND = [sys.executable, "-c", PROGRAM, "exec"]
VALUE = "s3cr3t of exec; $(touch pwned)"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG and /proc are Linux's")
ENVIRON = "import json, os, sys; json.dump([dict(os.environ), sys.argv[1:]], sys.stdout)"
# ready when it says so; then it says what it is sent, until SIGTERM
PATIENT = """
import os, signal, sys, time
ends = []
def noted(number, frame):
    os.write(1, (signal.Signals(number).name + "\\n").encode())
    if number == signal.SIGTERM:
        ends.append(time.monotonic() + 0.3)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, noted)
os.write(1, f"{os.getpid()} {os.environ.get('PGUSER')}\\n".encode())
while not ends or time.monotonic() < ends[0]:
    time.sleep(0.001)
sys.exit(9)
"""


@pytest.fixture(autouse=True)
def _signal_handlers(signal_handlers: None) -> None:
    """Each test here sends signals, or has them passed on."""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_text(json.dumps({"a": VALUE, "n": 7}))
    return path


class Exec:
    """Starts `agentguard exec` as a user would."""

    def __init__(self, state: Path) -> None:
        self.state, self.command = state, COMMAND
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(state.parent), "LC_ALL": "C.UTF-8"}
        self.started: list[subprocess.Popen[str]] = []

    def argv(self, *arguments: str) -> list[str]:
        return [*self.command, "--state", str(self.state), *arguments]

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        options = {"env": self.environ, "text": True, **pipes, **options}
        self.started.append(subprocess.Popen(self.argv(*arguments), **options))
        return self.started[-1]

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments, **options) as running:
            out, err = running.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, running.returncode, out, err)

    def environment(self, *arguments: str, **options: Any) -> dict[str, str]:
        result = self.run(*arguments, "--", sys.executable, "-c", ENVIRON, **options)
        assert result.returncode == 0, result.stderr
        variables: dict[str, str] = json.loads(result.stdout)[0]
        return variables

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.state / "audit.jsonl").read_text().splitlines()]

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@pytest.fixture
def wrapped(tmp_path: Path) -> Iterator[Exec]:
    runner = Exec(tmp_path / "state")
    yield runner
    runner.close()


def line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def eventually(true: Callable[[], object], seconds: float = 10.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- what the child gets


@pytest.mark.promise("exec-secrets-alone")
def test_a_child_gets_its_secret_and_of_ours_what_is_harmless(wrapped: Exec, key: Path) -> None:
    secret = {
        "VAULT_TOKEN": "v",
        "BAO_TOKEN": "b",
        "AWS_SECRET_ACCESS_KEY": "k",
        "OPENAI_API_KEY": "o",
        "FOO": "f",
    }
    wrapped.environ |= secret
    variables = wrapped.environment("--secret", f"KEY=file:{key}#a", "--keep", "FOO")
    assert variables == {
        "PATH": variables["PATH"],
        "HOME": variables["HOME"],
        "LC_ALL": "C.UTF-8",
        "FOO": "f",
        "KEY": VALUE,
    }


@pytest.mark.promise("exec-secrets-alone")
def test_arguments_reach_the_command_as_they_are_by_no_shell(wrapped: Exec, tmp_path: Path) -> None:
    odd = ["$(touch pwned)", "a b", "", "; touch pwned", "--vault-type=aws", "X=y", "--", "*", "'\"\\"]
    result = wrapped.run("--", sys.executable, "-c", ENVIRON, *odd, cwd=tmp_path)
    assert json.loads(result.stdout)[1] == odd
    assert not (tmp_path / "pwned").exists()


def test_our_arguments_and_output_hold_no_secret_and_the_childs_streams_are_untouched(
    wrapped: Exec, key: Path
) -> None:
    program = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1]); sys.stderr.write('e')"
    quiet = wrapped.run("--secret", f"KEY=file:{key}#a", "--", sys.executable, "-c", program)
    assert (quiet.stdout, quiet.stderr) == ("", "e")
    argv = wrapped.argv("--", sys.executable, "-c", program)
    result = subprocess.run(argv, env=wrapped.environ, input=b"\x00\xff\n\r\n", capture_output=True)
    assert result.stdout == b"\n\r\n\xff\x00"


@pytest.mark.parametrize(
    ("program", "status"),
    [("sys.exit(0)", 0), ("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 137), ("os.abort()", 134)],
)
def test_the_childs_exit_status_is_ours(wrapped: Exec, program: str, status: int) -> None:
    result = wrapped.run("--", sys.executable, "-c", f"import os, sys; {program}")
    assert result.returncode == status
    assert wrapped.records()[-1]["status"] == status


def test_what_cannot_be_started_is_told_as_env_tells_it(wrapped: Exec, tmp_path: Path, key: Path) -> None:
    (tmp_path / "nul").touch(mode=0o600)
    (tmp_path / "nul").write_text(f"{VALUE}\0x")
    assert wrapped.run("--", "no-such-command").returncode == 127
    assert wrapped.run("--", str(key)).returncode == 126
    for wrong in (
        ["--"],
        ["--secret", f"KEY=file:{tmp_path}/absent", "--", "true"],
        ["--secret", "KEY", "--", "true"],
        ["--secret", f"K=file:{key}", "--secret", f"K=file:{key}", "--", "true"],
        ["--secret", f"K=file:{tmp_path}/nul", "--", "true"],
    ):
        result = wrapped.run(*wrong)
        assert (result.returncode, result.stdout) == (125, ""), wrong
        assert result.stderr.startswith("agentguard: ")
        assert "Traceback" not in result.stderr
        assert VALUE not in result.stderr


@pytest.mark.promise("exec-recorded")
def test_nothing_runs_that_cannot_be_recorded(wrapped: Exec, tmp_path: Path) -> None:
    wrapped.state.touch()
    result = wrapped.run("--", "touch", str(tmp_path / "ran"))
    assert result.returncode == 125
    assert not (tmp_path / "ran").exists()


def test_the_record_names_variables_and_sources_and_never_a_value(wrapped: Exec, key: Path) -> None:
    wrapped.run("--secret", f"KEY=file:{key}#a", "--", "echo", "an-argument")
    started, ended = wrapped.records()
    assert (started["what"], started["sources"]) == ("started", {"KEY": f"file:{key}#a"})
    assert (ended["what"], ended["status"], ended["task"]) == ("ended", 0, started["task"])
    log = (wrapped.state / "audit.jsonl").read_bytes()
    assert VALUE not in log.decode()
    assert "an-argument" not in log.decode()
    assert verify(log.splitlines(keepends=True)).sound


# --- the form of MCP Secret Wrapper


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        (["--vault-type=aws", "--vault-region=eu", f"K={ARN}#a.b"], {}, f"aws:{ARN}#a.b"),
        (["K=projects/p/secrets/s"], {"VAULT_TYPE": "gcp"}, "gcp:projects/p/secrets/s"),
        (["K=name/version", "--vault-type=azure"], {"VAULT_TYPE": "aws"}, "azure:name/version"),
        (["--vault-type=hashicorp", "K=secret/data/x#a"], {}, "hashicorp:secret/data/x#a"),
        (["--vault-type=openbao", "K=my#secret#a"], {}, "openbao:my#secret#a"),
    ],
)
def test_the_wrappers_form_is_understood(
    arguments: list[str], environ: dict[str, str], expected: str
) -> None:
    parsed = ExecArguments.of([], arguments, environ)
    assert parsed.references == {"K": Reference.of(expected)}


def test_settings_are_found_however_they_are_spelled() -> None:
    arguments = ["--vault-type=aws", "--vault-accessKeyId=A", "--vault-secretAccessKey=k=="]
    parsed = ExecArguments.of([], arguments, {"VAULT_REGION": "eu", "BAO_ADDR": "b", "VAULT_ADDR": "v"})
    assert parsed.settings == {
        "type": "aws", "accesskeyid": "A", "secretaccesskey": "k==", "region": "eu", "addr": "b"
    }  # fmt: skip
    assert parsed.exposed == {"secretaccesskey"}


@pytest.mark.parametrize(
    "arguments",
    [["K=x"], ["--vault-type=other", "K=x"], ["--vault-type=aws", "x"], ["-x"], ["--vault-type=aws", "1K=x"]],
)
def test_what_is_none_of_the_forms_is_refused(arguments: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        ExecArguments.of([], arguments, {})


@pytest.mark.promise("exec-secrets-alone")
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("aws", "AWS_PROFILE"),
        ("gcp", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("azure", "AZURE_CLIENT_SECRET"),
        ("file", "VAULT_TOKEN"),
        ("openbao", "BAO_TOKEN"),
    ],
)
def test_what_opens_the_vault_is_never_kept(kind: str, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        child_environment({name: "x"}, [name], [kind])
    assert child_environment({name: "x"}, [], [kind]) == {}


def test_what_opens_another_vault_may_be_kept() -> None:
    assert child_environment({"AWS_PROFILE": "x"}, ["AWS_PROFILE"], ["gcp", "file"]) == {"AWS_PROFILE": "x"}


# --- renewal without a lease


def test_a_changed_secret_reaches_the_child_by_its_descriptor_and_not_the_environment(
    wrapped: Exec, key: Path
) -> None:
    program = """
import os, time
place = os.environ["AGENTGUARD_FD_KEY"]
assert os.environ["KEY_FILE"] == f"/dev/fd/{place}"
assert "KEY" not in os.environ
def value():
    return os.pread(int(place), 4096, 0).decode()
first = value()
print(first, flush=True)
while value() == first:
    time.sleep(0.02)
print(value(), flush=True)
try:
    os.write(int(place), b"x")
except OSError:
    print("read-only", flush=True)
"""
    options = ["--renew=fd", "--refresh=1", "--secret", f"KEY=file:{key}#a"]
    running = wrapped.start(*options, "--", sys.executable, "-c", program)
    assert line(running) == VALUE
    key.write_text(json.dumps({"a": "short"}))
    assert line(running) == "short"
    assert line(running) == "read-only"
    assert running.wait(10) == 0
    assert [record["what"] for record in wrapped.records()] == ["started", "replaced", "ended"]


def test_a_changed_secret_restarts_the_child_where_that_is_wanted(wrapped: Exec, key: Path) -> None:
    program = "import os, time; print(os.getpid(), os.environ['KEY'], flush=True); time.sleep(60)"
    options = ["--renew=restart", "--refresh=1", "--secret", f"KEY=file:{key}#n"]
    running = wrapped.start(*options, "--", sys.executable, "-c", program)
    first, value = line(running).split()
    assert value == "7"
    key.write_text(json.dumps({"n": 8}))
    second, value = line(running).split()
    assert value == "8"
    assert second != first
    running.send_signal(signal.SIGTERM)
    assert running.wait(10) == 143


def test_who_reads_under_a_lock_never_sees_half_of_a_value() -> None:
    values, file, contents = ["a" * 20_000, "b" * 9_000], SecretFile(), set[str]()
    file.put(Secret(values[0]))

    def write() -> None:
        for number in range(100_000):  # until both were seen, however the threads take turns
            file.put(Secret(values[number % 2]))
            if number > 400 and len(contents) > 1:
                return

    writing = Thread(target=write)
    writing.start()
    while writing.is_alive():
        fcntl.flock(file.descriptor, fcntl.LOCK_SH)
        contents.add(os.pread(file.descriptor, 30_000, 0).decode())
        fcntl.flock(file.descriptor, fcntl.LOCK_UN)
    writing.join()
    assert contents == set(values)
    file.close()


def test_a_source_that_fails_later_leaves_the_child_its_value(wrapped: Exec, key: Path) -> None:
    program = "import os, time; time.sleep(2.5); print(os.environ['KEY'])"
    options = ["--renew=restart", "--refresh=1", "--secret", f"KEY=file:{key}#n"]
    running = wrapped.start(*options, "--", sys.executable, "-c", f"print(flush=True); {program}")
    line(running)
    key.unlink()
    assert line(running) == "7"
    assert running.wait(10) == 0
    assert any(record["what"].startswith("not renewed: ") for record in wrapped.records())


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_us_reaches_the_child_once(wrapped: Exec, number: signal.Signals) -> None:
    running = wrapped.start("--", sys.executable, "-c", PATIENT, start_new_session=True)
    line(running)
    running.send_signal(number)
    assert line(running) == number.name
    if number is not signal.SIGTERM:
        running.send_signal(signal.SIGTERM)
        assert line(running) == "SIGTERM"
    assert running.wait(10) == 9
    assert running.stdout is not None
    assert running.stdout.read() == ""


@pytest.mark.promise("exec-recorded")
def test_a_signal_to_our_group_reaches_the_child_once(wrapped: Exec) -> None:
    running = wrapped.start("--", sys.executable, "-c", PATIENT, start_new_session=True)
    child = int(line(running).split()[0])
    assert os.getpgid(child) == child  # else it would have it from the group and from us
    os.killpg(running.pid, signal.SIGTERM)
    assert line(running) == "SIGTERM"
    assert running.wait(10) == 9
    assert running.stdout is not None
    assert running.stdout.read() == ""


@pytest.mark.promise("exec-recorded")
def test_ctrl_c_on_a_terminal_reaches_the_child_once(wrapped: Exec) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, wrapped.argv("--", sys.executable, "-c", PATIENT), wrapped.environ)  # noqa: S606  it is ours
    with os.fdopen(terminal, "r+b", buffering=0) as screen:
        screen_text = b""
        while not screen_text.endswith(b"\n"):  # ready
            screen_text += screen.read(100)
        screen.write(b"\x03")
        while b"SIGINT" not in screen_text:
            screen_text += screen.read(100)
        time.sleep(0.3)
        os.kill(pid, signal.SIGTERM)
        while b"SIGTERM" not in screen_text:
            screen_text += screen.read(100)
        assert screen_text.count(b"SIGINT") == 1
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def test_a_signal_that_was_ignored_stays_ignored(wrapped: Exec) -> None:
    program = "import signal; print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, flush=True)"
    argv = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *wrapped.argv("--", sys.executable, "-c", program)]
    result = subprocess.run(argv, env=wrapped.environ, capture_output=True, text=True)
    assert result.stdout == "True\n"


def test_a_child_blocks_and_ignores_no_signal_because_of_us(wrapped: Exec) -> None:
    program = "import signal; print(signal.pthread_sigmask(0, []), signal.getsignal(signal.SIGPIPE))"
    assert wrapped.run("--", sys.executable, "-c", program).stdout.startswith("set()")


@LINUX
def test_the_child_dies_when_we_are_killed(wrapped: Exec) -> None:
    running = wrapped.start("--", sys.executable, "-c", PATIENT)
    child = int(line(running).split()[0])
    running.kill()
    running.wait()
    eventually(lambda: not lives(child), 5)


CONCEALED = """
import ctypes, os
from agentguard.concurrency.hiding import hide_process
def looks():
    if (pid := os.fork()) == 0:
        try:
            open(f"/proc/{os.getppid()}/environ").read()
            os._exit(0)
        except PermissionError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
if os.getuid() == 0:  # who may read everything
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
print(looks())
hide_process()
print(looks())
"""


@pytest.mark.promise("exec-secrets-alone")
@LINUX
def test_a_child_cannot_read_our_environment(wrapped: Exec) -> None:
    result = subprocess.run([sys.executable, "-c", CONCEALED], capture_output=True, text=True)
    assert result.stdout.split() == ["0", "1"], result.stderr


# --- what is minted at OpenBao


class Bao:
    def __init__(self, url: str) -> None:
        self.url = url

    def state(self) -> Any:
        return httpx.get(f"{self.url}/state", trust_env=False).json()

    def set(self, **changes: Any) -> None:
        httpx.post(f"{self.url}/state", json=changes, trust_env=False)


@pytest.fixture(params=[(30, 3600)])
def bao(request: pytest.FixtureRequest, wrapped: Exec, tmp_path: Path) -> Iterator[Bao]:
    program = [sys.executable, bao_program, *map(str, request.param)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        try:
            server_double = Bao(line(server))
            (tmp_path / "jwt").write_text(_token())
            settings = {
                "ADDR": server_double.url,
                "JWT_FILE": str(tmp_path / "jwt"),
                "ROLE": "exec",
                "AUDIENCE": "openbao",
            }
            wrapped.environ |= {f"BAO_{name}": value for name, value in settings.items()}
            yield server_double
        finally:
            server.kill()


def _token() -> str:
    from agentguard.jose import Signer

    signer, now = Signer.generate(), int(time.time())
    claims = {"sub": "system:exec", "aud": ["openbao"], "iss": "https://p", "iat": now, "exp": now + 3600}
    return signer.sign(signer.head(typ="JWT"), claims)


ROLE = "openbao:database/creds/ro"
PAIR = ["--secret", f"PGUSER={ROLE}#username", "--secret", f"PGPASSWORD={ROLE}#password"]


def test_two_parts_of_one_lease_belong_together_and_end_with_the_child(wrapped: Exec, bao: Bao) -> None:
    variables = wrapped.environment(*PAIR)
    assert variables["PGUSER"].partition("-")[2] == variables["PGPASSWORD"].partition("-")[2]
    assert not {name for name in variables if name.startswith(("BAO_", "VAULT_"))}
    state = bao.state()
    assert (state["tokens"], state["leases"]) == ([], [])
    assert state["asked"].count("database/creds/ro") == 1
    assert [record["what"] for record in wrapped.records()] == ["started", "revoked", "ended"]


@pytest.mark.promise("exec-lease-ends")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_lease_ends_however_the_child_ends(wrapped: Exec, bao: Bao, number: signal.Signals) -> None:
    running = wrapped.start(*PAIR, "--", sys.executable, "-c", PATIENT)
    child = int(line(running).split()[0])
    assert len(bao.state()["leases"]) == 1
    os.kill(child, number)
    assert running.wait(10) == (9 if number is signal.SIGTERM else 137)
    state = bao.state()
    assert (state["tokens"], state["leases"]) == ([], [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_lease_ends_when_we_are_asked_to_end(wrapped: Exec, bao: Bao, number: signal.Signals) -> None:
    program = "import signal, time; signal.signal(2, signal.SIG_DFL); print(flush=True); time.sleep(60)"
    running = wrapped.start(*PAIR, "--", sys.executable, "-c", program)
    line(running)
    running.send_signal(number)
    assert running.wait(10) == 128 + number
    assert bao.state()["leases"] == []


def test_nothing_is_started_when_we_were_asked_to_end_while_we_read(wrapped: Exec, bao: Bao) -> None:
    bao.set(delay=1.0)
    running = wrapped.start(*PAIR, "--", "no-such-command")  # 127, if it were tried
    eventually(lambda: "auth/jwt/login" in bao.state()["asked"])
    running.terminate()
    assert running.wait(20) == 128 + signal.SIGTERM
    state = bao.state()
    assert (state["tokens"], state["leases"]) == ([], [])


def test_a_lease_ends_when_the_command_cannot_be_started(wrapped: Exec, bao: Bao) -> None:
    assert wrapped.run(*PAIR, "--", "no-such-command").returncode == 127
    assert wrapped.run(*PAIR, "--secret", "X=openbao:secret/data/absent", "--", "true").returncode == 125
    state = bao.state()
    assert (state["tokens"], state["leases"]) == ([], [])


@pytest.mark.promise("exec-lease-ends")
def test_after_kill_9_the_next_run_revokes_what_was_left(wrapped: Exec, bao: Bao) -> None:
    running = wrapped.start(*PAIR, "--", sys.executable, "-c", PATIENT)
    line(running)
    running.kill()
    running.wait()
    leases = bao.state()["leases"]
    assert len(leases) == 1
    assert wrapped.run("--secret", "K=openbao:secret/data/api#key", "--", "true").returncode == 0
    state = bao.state()
    assert (state["tokens"], state["leases"]) == ([], [])
    assert leases[0] in state["revoked"]
    for file in wrapped.state.iterdir():
        assert b"token-" not in file.read_bytes(), file


def test_the_runs_of_others_that_live_are_left_alone(wrapped: Exec, bao: Bao) -> None:
    running = wrapped.start(*PAIR, "--", sys.executable, "-c", PATIENT)
    line(running)
    wrapped.environment(*PAIR)
    assert len(bao.state()["leases"]) == 1
    running.terminate()
    assert running.wait(10) == 9
    assert bao.state()["leases"] == []


def test_what_cannot_be_revoked_is_told_and_revoked_by_the_next_run(wrapped: Exec, bao: Bao) -> None:
    running = wrapped.start(*PAIR, "--", sys.executable, "-c", PATIENT)
    line(running)
    bao.set(down=True)
    running.terminate()
    _, err = running.communicate(timeout=30)
    assert "not known to be revoked" in err
    assert wrapped.records()[-2]["what"] == "not revoked"
    later = wrapped.run("--secret", "K=openbao:secret/data/api#key", "--", "true")
    assert later.returncode == 125
    assert "is not revoked yet" in later.stderr
    bao.set(down=False)
    wrapped.environment("--secret", "K=openbao:secret/data/api#key")
    assert bao.state()["leases"] == []


def test_a_token_that_was_given_is_not_ended_but_its_leases_are(wrapped: Exec, bao: Bao) -> None:
    del wrapped.environ["BAO_JWT_FILE"]
    wrapped.environ["BAO_TOKEN"] = "given"
    wrapped.environment(*PAIR)
    assert bao.state()["leases"] == []
    running = wrapped.start(*PAIR, "--", sys.executable, "-c", PATIENT)
    line(running)
    running.kill()
    running.wait()
    assert len(bao.state()["leases"]) == 1
    wrapped.environment("--secret", "K=openbao:secret/data/api#key")
    state = bao.state()
    assert state["leases"] == []
    assert not [path for path in state["asked"] if path.startswith("auth/")]


def test_a_login_that_only_reads_does_not_outlive_the_reading(wrapped: Exec, bao: Bao) -> None:
    running = wrapped.start(
        "--secret", "PGUSER=openbao:secret/data/api#key", "--", sys.executable, "-c", PATIENT
    )
    assert line(running).endswith("stored-1")
    assert bao.state()["tokens"] == []
    running.terminate()
    running.wait(10)


@pytest.mark.parametrize("bao", [(3, 3600)], indirect=True)
def test_a_lease_is_extended_while_the_child_lives(wrapped: Exec, bao: Bao) -> None:
    program = "import os, time; time.sleep(5); print(os.environ['PGUSER'])"
    result = wrapped.run(*PAIR, "--", sys.executable, "-c", program)
    assert result.stdout == "user-2\n"
    state = bao.state()
    assert state["asked"].count("sys/leases/renew") >= 1
    assert state["asked"].count("database/creds/ro") == 1
    assert (state["tokens"], state["leases"]) == ([], [])
    assert "extended" in [record["what"] for record in wrapped.records()]


@pytest.mark.parametrize("bao", [(2, 2)], indirect=True)
@pytest.mark.parametrize("renew", ["fd", "restart"])
def test_a_lease_at_its_end_is_replaced_and_the_old_one_ends(wrapped: Exec, bao: Bao, renew: str) -> None:
    program = """
import os, time
def user():
    place = os.environ.get("AGENTGUARD_FD_PGUSER")
    return os.environ["PGUSER"] if place is None else os.pread(int(place), 99, 0).decode()
print(user(), flush=True)
first = user()
while user() == first:
    time.sleep(0.05)
print(user(), flush=True)
time.sleep(60)
"""
    running = wrapped.start(f"--renew={renew}", *PAIR, "--", sys.executable, "-c", program)
    first, second = line(running), line(running)
    assert first != second
    running.terminate()
    assert running.wait(10) == 143
    state = bao.state()
    assert (state["tokens"], state["leases"]) == ([], [])
    assert "replaced" in [record["what"] for record in wrapped.records()]


# --- MCP


SERVER = """
import os
from mcp.server.fastmcp import FastMCP
server = FastMCP("reports")
@server.tool()
def user() -> str:
    return os.environ["PGUSER"]
@server.tool()
def visible() -> list[str]:
    return sorted(os.environ)
server.run("stdio")
"""


@pytest.mark.promise("exec-lease-ends")
async def test_an_mcp_server_is_spoken_to_through_exec_and_its_lease_ends_with_it(
    wrapped: Exec, bao: Bao, tmp_path: Path
) -> None:
    argv = wrapped.argv(*PAIR, "--", sys.executable, "-c", SERVER)
    parameters = StdioServerParameters(command=argv[0], args=argv[1:], env=wrapped.environ)
    with (tmp_path / "err").open("w") as err:
        async with stdio_client(parameters, errlog=err) as streams, ClientSession(*streams) as session:
            await session.initialize()
            answer = await session.call_tool("user")
            assert answer.content[0].text == "user-2"  # type: ignore[union-attr]  # it answers in text
            content = str((await session.call_tool("visible")).content)
            assert "PGPASSWORD" in content
            assert "BAO_" not in content
            assert len(bao.state()["leases"]) == 1
    eventually(lambda: bao.state()["leases"] == [])
    assert [record["what"] for record in wrapped.records()][-2:] == ["revoked", "ended"]
