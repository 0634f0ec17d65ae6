"""What the README and the other pages show is true: their code runs, their links lead somewhere."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from agentguard.cli import main
from agentguard.testing import ScriptedChatModel

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
CODE = ROOT, *(ROOT / folder for folder in ("agentguard", "examples", "notebooks", "tests"))
PAGES = sorted(
    str(page.relative_to(ROOT))
    for folder in CODE
    for page in folder.glob("**/*.md" if folder != ROOT else "*.md")
)


def block(text: str, language: str, number: int = 0) -> str:
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return blocks[number]


class Shop(ThreadingHTTPServer):
    """A loopback service that notes each request, and with which credential it came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Seller)
        self.requests: list[tuple[str, str]] = []

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Seller(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Shop)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers["Authorization"].partition(" ")[0]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"refunded")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Shop() as shop:
        thread = Thread(target=shop.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield shop
        shop.shutdown()
        thread.join()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path


def test_the_readmes_code_does_what_it_says(
    here: Path, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = README.replace("http://127.0.0.1:8000", shop.origin)
    (here / "agentguard.toml").write_text(block(readme, "toml"))
    (here / "policy.cedar").write_text(block(readme, "cedar"))
    arguments, other = ({"order_id": order, "amount": 40} for order in ("4711", "4712"))
    model = ScriptedChatModel(
        script=[[("refund_order", arguments)], [("refund_order", other)], "It is done."]
    )
    names: dict[str, Any] = {"model": model}
    exec(compile(block(readme, "python"), "README.md", "exec"), names)  # noqa: S102  the README's own code
    names["guard"].close()
    names["shop"].close()
    assert shop.requests == [("/orders/4711/refund", "DPoP")]
    assert timeless(capsys.readouterr().out) == timeless(block(README, "text"))


def timeless(text: str) -> list[list[str]]:
    return [re.sub(r"[0-9.]+ ms", "N ms", line).split() for line in text.strip().splitlines()]


def test_the_contract_suite_takes_the_adapter_of_contributing() -> None:
    names: dict[str, Any] = {}
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    exec(compile(block(text, "python"), "CONTRIBUTING.md", "exec"), names)  # noqa: S102  the page's own code
    suite = names["TestMyBroker"]()
    tests = [name for name in dir(suite) if name.startswith("test_")]
    assert tests
    for name in tests:
        getattr(suite, name)()


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    lines = (ROOT / ".ci/run").read_text("utf-8").splitlines()
    commands = [block(README, "sh", number).strip() for number in (0, 1)]
    assert commands == [
        "pip install -e '.[demo]' && agentguard demo",
        "pip install -e '.[dev]' && pytest",
    ]
    for command in commands:
        assert command.replace("install", "install --quiet") in [line.strip() for line in lines]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


@pytest.mark.parametrize("page", PAGES)
def test_links_inside_the_repository_lead_somewhere(page: str) -> None:
    file = ROOT / page
    for link in re.findall(r"\]\(([^)]+)\)", file.read_text("utf-8")):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        other = (file.parent / target) if target else file
        assert other.exists(), link
        assert not anchor or anchor in anchors(other), link


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_first_screen_has_the_picture_the_commands_ten_lines_the_cost_and_four_links() -> None:
    lines = [line.strip() for line in block(README, "python").splitlines()]
    code = [line for line in lines if line and not line.startswith(("#", "import ", "from "))]
    assert len(code) == 10
    order = [
        "picture.svg",
        "```sh",
        "```python",
        "## What it costs",
        "## Read on",
        "## What happens to a call",
    ]
    places = [README.index(part) for part in order]
    assert places == sorted(places)
    links = README[README.index("## Read on") : README.index("## What happens to a call")]
    assert links.count("](") == 4


def test_the_cost_stands_in_one_place_of_the_readme() -> None:
    assert len(re.findall(r"\d times as long", README)) == 1
    assert len(re.findall(r"\d ms more", README)) == 1


def test_each_command_that_a_page_names_exists() -> None:
    commands = set(cast("TyperGroup", get_command(main)).commands)
    for page in PAGES:
        for name in re.findall(r"`agentguard ([a-z]+)\b", (ROOT / page).read_text("utf-8")):
            assert name in commands, f"{page}: agentguard {name}"


def test_every_example_and_notebook_is_on_the_map() -> None:
    text = (ROOT / "examples/README.md").read_text("utf-8")
    for example in (ROOT / "examples").glob("*.py"):
        assert f"({example.name})" in text
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"(../notebooks/{notebook.name})" in text


def test_the_rooms_of_contributing_are_those_of_the_house() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rooms = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)))
    house = {path.stem for path in (ROOT / "agentguard").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(rooms) == house - {"__init__", "__pycache__", "testing"}


def test_the_changelog_knows_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
