from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentguard.audit import JsonLinesAudit
from agentguard.cli import main

Run = Callable[..., Result]

TOOLS = '''
from enum import Enum
from typing import Any, Literal

from langchain_core.tools import tool
from pydantic import BaseModel, Field


class Line(BaseModel):
    sku: str
    count: int = Field(ge=1)


def get_order(order_id: str) -> str:
    """Read an order."""
    raise AssertionError("no tool runs")


@tool
def place_order(lines: list[Line], kind: Literal["fast", "slow"], note: str | None = None) -> str:
    """Place "an" order \\\\ now, with 'quotes' and a \\x7f."""
    raise AssertionError("no tool runs")


@tool
def deleteAccount(customer: str, limit: float = 1.5, why: str = "it's old") -> str:
    """Delete an account."""
    raise AssertionError("no tool runs")


@tool
def ponder(thoughts: dict[str, Any], lists: list[str]) -> str:
    """Think."""
    raise AssertionError("no tool runs")


tools = [get_order, place_order, deleteAccount, ponder]
undocumented = [lambda text: text]
number = 7
numbers = [7]
nothing_yet = None
'''

AGENTS = '''
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, tool

from agentguard import Guard
from agentguard.testing import ScriptedChatModel

model = ScriptedChatModel(script=["hello"])


@tool
def get_order(order_id: str) -> str:
    """Read an order."""
    return ""


def asking(tools: list[BaseTool]) -> BaseTool:
    inner = create_agent(model, tools)

    @tool
    def ask_expert(question: str) -> str:
        """Ask another agent."""
        return str(inner.invoke({"messages": [("user", question)]}))

    return ask_expert


@tool
def wipe(disk: str) -> str:
    """Wipe a disk."""
    return ""


guard = Guard.from_file("agentguard.toml")
search = {"type": "web_search_20250305", "name": "web_search"}
bare = create_agent(model, [get_order])
gated = create_agent(model, [get_order, search], middleware=[guard.middleware()])
nested = create_agent(model, [get_order, asking([wipe])], middleware=[guard.middleware()])
wrapped = guard.wrap([get_order])
'''

CONFIG = """
[policy]
cedar = ["policy.cedar"]

[tools.get_order]
path = "read"
"""

POLICY = """\
@id("orders-only")
permit (principal, action == Action::"get_order", resource)
when { context.args.order_id like "47*" };
"""


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)

    return invoke


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Stand in a user's project, whose tools are in a module of this name."""
    name = "tools_" + re.sub(r"\W", "_", tmp_path.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}.py").write_text(TOOLS)
    return name


@pytest.fixture
def agents(module: str, tmp_path: Path) -> str:
    """Stand in a project with a configuration and several agents."""
    (tmp_path / f"agents_{module}.py").write_text(AGENTS)
    configure(tmp_path)
    return f"agents_{module}"


def configure(directory: Path, config: str = CONFIG, policy: str = POLICY) -> None:
    (directory / "agentguard.toml").write_text(config)
    (directory / "policy.cedar").write_text(policy)


# --- the program itself


@pytest.mark.process
def test_without_typer_there_is_one_sentence_and_no_traceback() -> None:
    program = "import sys; sys.modules['typer'] = None; import agentguard.cli"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.strip() == "The command line needs its extra: pip install 'agentguard[cli]'"


def test_tracebacks_show_no_locals() -> None:
    assert main.pretty_exceptions_show_locals is False


def test_each_command_explains_itself(run: Run) -> None:
    for command in (["demo"], ["init"], ["lint"], ["audit", "verify"]):
        assert run(*command, "--help").exit_code == 0
    assert "Exit codes" in run("audit", "verify", "--help").output


# --- audit verify


@pytest.fixture
def log(tmp_path: Path) -> Path:
    audit = JsonLinesAudit(tmp_path / "audit.jsonl")
    for number in range(1, 7):
        audit.append({"event": "decision", "tool": f"tool-{number}"})
    audit.close()
    return audit.path


def rewrite(log: Path, change: Callable[[list[str]], list[str]]) -> None:
    log.write_text("".join(change(log.read_text().splitlines(keepends=True))))


def test_a_sound_log_verifies_and_shows_its_head(run: Run, log: Path) -> None:
    result = run("audit", "verify", log)
    last = json.loads(log.read_text().splitlines()[-1])
    assert result.exit_code == 0
    assert f"6 records, none altered; head 6:{last['hash']}" in result.output


@pytest.mark.parametrize(
    ("kind", "line", "change"),
    [
        ("changed", 3, lambda ls: [*ls[:2], ls[2].replace("tool-3", "tool-X"), *ls[3:]]),
        ("removed", 3, lambda ls: [*ls[:2], *ls[3:]]),
        ("inserted", 4, lambda ls: [*ls[:3], ls[1], *ls[3:]]),
        ("reordered", 4, lambda ls: [ls[0], ls[2], ls[3], ls[1], *ls[4:]]),
    ],
)
def test_an_altered_log_is_reported_with_its_line(
    run: Run, log: Path, kind: str, line: int, change: Callable[[list[str]], list[str]]
) -> None:
    rewrite(log, change)
    result = run("audit", "verify", log)
    assert result.exit_code == 1
    assert re.search(rf"^{kind} +{re.escape(str(log))}:{line}: ", result.output, re.MULTILINE), result.output


def test_a_torn_last_line_is_reported_as_such(run: Run, log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-40])
    result = run("audit", "verify", log)
    assert result.exit_code == 2
    assert re.search(rf"^torn +{re.escape(str(log))}:6: ", result.output, re.MULTILINE)
    assert "altered" not in result.output


def test_a_name_that_the_terminal_cannot_show_is_no_failure(log: Path) -> None:
    odd = log.rename(log.with_name("\u00fcbung.jsonl"))
    rewrite(odd, lambda lines: lines[1:])
    result = CliRunner(charset="ascii").invoke(main, ["audit", "verify", str(odd)])
    assert result.exit_code == 1
    assert "?bung.jsonl:1: " in result.output


def test_a_cut_log_is_found_out_by_a_head_kept_elsewhere(run: Run, log: Path) -> None:
    head = run("audit", "verify", log).output.split()[-1]
    assert run("audit", "verify", log, "--head", head).exit_code == 0
    rewrite(log, lambda lines: lines[:-2])
    assert run("audit", "verify", log).exit_code == 0
    result = run("audit", "verify", log, "--head", head)
    assert result.exit_code == 1
    assert "cut" in result.output


def test_a_file_that_cannot_be_read_and_a_head_that_is_none_are_said(run: Run, tmp_path: Path) -> None:
    missing = run("audit", "verify", tmp_path / "no.jsonl")
    assert missing.exit_code == 2
    assert "No such file" in missing.stderr
    assert run("audit", "verify", tmp_path / "no.jsonl", "--head", "7").exit_code == 2


# --- init


@pytest.mark.process
def test_what_init_writes_passes_lint_and_its_own_test(run: Run, module: str, tmp_path: Path) -> None:
    assert run("init", f"{module}:tools").exit_code == 0
    linted = run("lint", f"{module}:tools")
    assert linted.exit_code == 0, linted.output
    assert "0 errors" in linted.output
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_agent_policy.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert "4 passed" in ran.stdout


@pytest.mark.promise("init-opens-nothing")
def test_names_from_a_stranger_leave_no_comment_and_no_string(run: Run, module: str, tmp_path: Path) -> None:
    hostile = '\npermit (principal, action, resource); #"\\'
    (tmp_path / f"hostile_{module}.py").write_text(
        "from langchain_core.tools import StructuredTool\n"
        f"evil = {hostile!r}\n"
        "schema = {'type': 'object', 'properties': {evil: {'type': 'string', 'title': evil}}}\n"
        "tools = [StructuredTool(name=evil, description=evil, args_schema=schema, func=print)]\n"
    )
    assert run("init", f"hostile_{module}:tools").exit_code == 0
    assert not re.search(
        r"^permit \(principal, action,", (tmp_path / "policies" / "agent.cedar").read_text(), re.M
    )
    compile((tmp_path / "tests" / "test_agent_policy.py").read_text(), "test", "exec")
    linted = run("lint", f"hostile_{module}:tools")
    assert linted.exit_code == 0, linted.output


@pytest.mark.promise("init-opens-nothing")
def test_init_opens_nothing_and_only_suggests(run: Run, module: str, tmp_path: Path) -> None:
    run("init", f"{module}:tools")
    config = (tmp_path / "agentguard.toml").read_text()
    assert re.findall(r"^path = (.*)$", config, re.MULTILINE) == ['"escalation"'] * 4
    assert '# path = "read" # a guess: its name says get\n' in config
    assert 'args = { order_id = "string" }' in config


@pytest.mark.promise("mcp-name-is-bound")
@pytest.mark.parametrize("server", ["shop", 'sh"op\\npath = "read"', None])
def test_init_writes_the_server_of_an_mcp_tool(
    run: Run, module: str, tmp_path: Path, server: str | None
) -> None:
    (tmp_path / f"mcp_{module}.py").write_text(
        "from langchain_mcp_adapters.tools import convert_mcp_tool_to_langchain_tool\n"
        "from mcp.types import Tool\n"
        "from langchain_core.tools import tool\n"
        "offered = Tool(name='pay', description='Pay.', inputSchema={'type': 'object', 'properties': {}})\n"
        "place = {'transport': 'streamable_http', 'url': 'https://shop.example/mcp'}\n"
        f"pay = convert_mcp_tool_to_langchain_tool(None, offered, connection=place, server_name={server!r})\n"
        "@tool\n"
        "def mine(text: str) -> str:\n"
        "    'Mine.'\n"
        "    return text\n"
        "tools = [pay, mine]\n"
    )
    assert run("init", f"mcp_{module}:tools").exit_code == 0
    config = (tmp_path / "agentguard.toml").read_text()
    tables = tomllib.loads(config)["tools"]
    assert tables["pay"].get("server") == server
    assert (tables["pay"]["path"], "server" in tables["mine"]) == ("escalation", False)
    assert ("give load_mcp_tools a server_name" in config) == (server is None)
    linted = run("lint", f"mcp_{module}:tools")
    assert linted.exit_code == 0, linted.output


def test_init_overwrites_nothing_and_then_writes_nothing(run: Run, module: str, tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "agent.cedar").write_text("mine")
    result = run("init", f"{module}:tools")
    assert result.exit_code == 1
    assert "policies/agent.cedar exists" in result.stderr
    assert (tmp_path / "policies" / "agent.cedar").read_text() == "mine"
    assert not (tmp_path / "agentguard.toml").exists()


def test_init_without_tools_writes_a_configuration_that_permits_nothing(
    run: Run, module: str, tmp_path: Path
) -> None:
    assert run("init", "--directory", tmp_path / "new").exit_code == 0
    assert run("lint", "--config", tmp_path / "new" / "agentguard.toml").exit_code == 0


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("tools", "is no module:attribute"),
        ("no_such_module:tools", "ModuleNotFoundError"),
        ("{module}:nothing", "AttributeError"),
        ("{module}:number", "of type int holds no tools"),
        ("{module}:undocumented", "this is no tool"),
    ],
)
def test_what_holds_no_tools_is_one_clear_error(run: Run, module: str, target: str, problem: str) -> None:
    result = run("init", target.format(module=module))
    assert result.exit_code == 1
    assert problem in result.stderr
    assert "hint: " in result.stderr


# --- lint


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("no_such_module:tools", "there is no module no_such_module here"),
        ("needs:tools", "needs needs the module no_such_library: install it"),
        ("raises:tools", "the import of raises failed: correct the code that raised ZeroDivisionError"),
        ("wrong:tools", "the import of wrong failed: correct the code that raised SyntaxError"),
        ("{module}:nothing", "its attribute was not found"),
        ("{module}:number", "name an agent or a list of tools"),
        ("{module}:numbers", "name an agent or a list of tools"),
        ("{module}:nothing_yet", "name an agent or a list of tools"),
    ],
)
def test_lint_says_what_failed_where_it_finds_no_tools(
    run: Run, module: str, tmp_path: Path, target: str, hint: str
) -> None:
    configure(tmp_path)
    for name, code in {"needs": "import no_such_library", "raises": "1 / 0", "wrong": "def f(:"}.items():
        (tmp_path / f"{name}.py").write_text(code)
    result = run("lint", target.format(module=module))
    assert result.exit_code == 1
    assert f"hint: {hint}" in result.output.replace(f"the module {module} was imported, but ", "")


@pytest.mark.promise("tool-by-its-place")
def test_lint_names_a_tool_from_another_place_than_the_file_says(
    run: Run, module: str, tmp_path: Path
) -> None:
    run("init", f"{module}:tools")
    file = tmp_path / "agentguard.toml"
    line = f'source = "{module}"'
    assert f"# {line} #" in file.read_text()
    file.write_text(file.read_text().replace(f"# {line} #", f"{line} #"))
    assert run("lint", f"{module}:tools").exit_code == 0
    file.write_text(file.read_text().replace(line, 'source = "shop.tools"'))
    result = run("lint", f"{module}:tools")
    assert result.exit_code == 1
    assert f"is a tool of shop.tools, and this one is {module}:" in " ".join(result.output.split())


def test_a_type_error_names_file_line_and_policy(run: Run, module: str, tmp_path: Path) -> None:
    configure(tmp_path, policy=POLICY.replace("order_id", "ordre_id"))
    result = run("lint", f"{module}:tools")
    assert result.exit_code == 1
    assert re.search(r'policy\.cedar:3: policy "orders-only": .*ordre_id', result.output), result.output
    assert "did you mean order_id?" in result.output


def test_a_missing_or_broken_configuration_is_an_error(run: Run, tmp_path: Path) -> None:
    assert run("lint", "--config", tmp_path / "no.toml").exit_code == 1
    configure(tmp_path, config="[polcy]\n")
    result = run("lint", "--config", tmp_path / "agentguard.toml")
    assert result.exit_code == 1
    assert "agentguard.toml:1: polcy: unknown key" in result.output


def test_gaps_are_warnings(run: Run, module: str, tmp_path: Path) -> None:
    more = '[tools.ponder]\npath = "write"\n[tools.gone]\npath = "read"\n'
    configure(tmp_path, config=CONFIG + more)
    result = run("lint", f"{module}:tools")
    assert result.exit_code == 0
    for gap in (
        "place_order: not classified",
        "ponder: no policy mentions it",
        "ponder: no rule can see thoughts",
        "gone: classified, but not among the tools",
        "4 tools are not wrapped",
    ):
        assert gap in result.output


def test_arguments_that_only_the_tools_know_are_a_warning(run: Run, tmp_path: Path) -> None:
    configure(tmp_path)
    result = run("lint", "--config", tmp_path / "agentguard.toml")
    assert result.exit_code == 0
    assert "get_order: its arguments are not known" in result.output


@pytest.mark.promise("lint-names-ungated")
def test_an_ungated_agent_is_an_error(run: Run, agents: str) -> None:
    result = run("lint", f"{agents}:bare")
    assert result.exit_code == 1
    assert "get_order: NOT GATED" in result.output


def test_a_gated_agent_passes_and_its_providers_tools_are_named(run: Run, agents: str) -> None:
    result = run("lint", f"{agents}:gated")
    assert result.exit_code == 0
    assert "get_order: by middleware" in result.output
    assert "web_search: NOT GATED, it runs at the model's provider" in result.output


@pytest.mark.promise("lint-names-ungated")
def test_an_ungated_agent_inside_a_tool_is_named_and_an_error(run: Run, agents: str) -> None:
    result = run("lint", f"{agents}:nested")
    assert result.exit_code == 1
    assert "agent > ask_expert > wipe: NOT GATED" in result.output


def test_wrapped_tools_are_gated_and_their_arguments_known(run: Run, agents: str) -> None:
    result = run("lint", f"{agents}:wrapped")
    assert result.exit_code == 0
    assert "get_order: by tool" in result.output
    assert "0 errors, 0 warnings" in result.output


def test_lint_leaves_no_state_behind(run: Run, module: str, tmp_path: Path) -> None:
    configure(tmp_path)
    run("lint", f"{module}:tools")
    assert not (tmp_path / ".agentguard").exists()
