"""The house itself: types, lint, direction of imports, the public names."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import agentguard

ROOT = Path(__file__).parents[2]
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("mypy",), id="mypy strict"),
        pytest.param(("ruff", "check", "."), id="ruff check"),
        pytest.param(("ruff", "format", "--check", "."), id="ruff format"),
    ],
)
def test_types_and_lint_are_clean(command: tuple[str, ...]) -> None:
    ran = run(*command)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_imports_go_one_way() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    ran = subprocess.run([str(lint), "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_public_names_are_sorted_few_and_complete() -> None:
    tree = ast.parse(Path(agentguard.__file__).read_text())
    for_checkers = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0]
    homes = {
        alias.name: node.module
        for node in for_checkers
        if (node.module or "").startswith("agentguard.")
        for alias in node.names
    }
    assert agentguard.__all__ == sorted(homes)
    assert len(agentguard.__all__) <= 25
    for name, home in homes.items():
        assert home is not None
        assert getattr(agentguard, name) is getattr(importlib.import_module(home), name)
    assert set(agentguard.__all__) <= set(dir(agentguard))


@pytest.mark.parametrize("room", ["credentials", "testing"])
def test_a_room_that_imports_names_late_lists_them_all(room: str) -> None:
    code = f"import agentguard.{room} as room; assert set(room.__all__) <= set(dir(room))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_room_is_there_without_an_import_of_its_own_and_no_other_name_is() -> None:
    assert imported("import agentguard; agentguard.errors.Denied; agentguard.catalog.Catalog")
    for name in ("misspelled", "_private", "__path_of__", "errors.Denied", "auth.token", ""):
        assert not hasattr(agentguard, name)
        if not name.isidentifier():
            continue
        with pytest.raises(ImportError, match=name):
            exec(f"from agentguard import {name}")  # noqa: S102  the statement that users write


def test_threads_may_ask_at_once_for_names_from_one_package(tmp_path: Path) -> None:
    """One imports the package, which imports its module; the other the module, and so the package."""
    package = tmp_path / "slow"
    package.mkdir()
    (package / "part.py").write_text("part = whole = 1")
    (package / "__init__.py").write_text("from slow.part import whole")
    at_once = f"""
import threading, time, agentguard
from importlib.machinery import ModuleSpec, SourceFileLoader
class Slowly(SourceFileLoader):
    def create_module(self, spec):
        begun.set()
        time.sleep(0.2)
class Finder:
    def find_spec(name, path, target=None):
        if name == "slow":
            spec = ModuleSpec(name, Slowly(name, {str(package / "__init__.py")!r}), is_package=True)
            spec.submodule_search_locations.append({str(package)!r})
            return spec
sys.meta_path.insert(0, Finder)
agentguard._HOMES.update(whole="slow", part="slow.part")
begun, values = threading.Event(), []
def ask(name):
    if name == "part":
        begun.wait()
    values.append(getattr(agentguard, name))
threads = [threading.Thread(target=ask, args=(name,)) for name in ("whole", "part")]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert values == [1, 1], values
"""
    assert "slow.part" in imported(at_once)


def imported(code: str) -> set[str]:
    """Run the code in a process of its own, and return the modules that it has imported."""
    program = f"import sys\n{code}\nprint(*sys.modules)"
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(ran.stdout.splitlines()[-1].split())


@pytest.mark.process
def test_importing_agentguard_imports_no_framework_extra_and_no_adapter_of_others() -> None:
    # not rich: httpx imports it by itself where it is installed
    heavy = {"langgraph", "langchain", "grpc", "boto3", "redis", "starlette", "jsonschema", "typer"}
    assert not heavy & imported("from agentguard import *")


WITHOUT_AGENT = [
    "import agentguard",
    "import agentguard.resource, agentguard.testing",
    "from agentguard import ConfigurationError, Mandate, auth",
    *(
        f"from agentguard.cli import main; main(['{command}', '--help'], standalone_mode=False)"
        for command in ("--version", "exec", "status", "audit", "keys", "store")
    ),
]


@pytest.mark.process
def test_what_needs_no_agent_does_not_wait_for_langchain() -> None:
    # one process for all: what an earlier one has imported, a later one has imported too
    program = (
        "import sys\n"
        f"for code in {WITHOUT_AGENT}:\n"
        "    exec(code)\n"
        "    assert 'agentguard' in sys.modules\n"
        "    assert not {'langchain_core', 'langsmith'} & set(sys.modules), code\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_every_ignore_has_its_reason_beside_it() -> None:
    bare = []
    for path in [*ROOT.glob("agentguard/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = re.search(r"# (noqa: [A-Z0-9, ]+|type: ignore\[[a-z-]+\])(.*)$", line)
            if match and not match[2].strip():
                bare.append(f"{path.relative_to(ROOT)}:{number}")
    assert not bare


def test_one_function_alone_reads_which_task_is_active() -> None:
    room = ROOT / "agentguard/enforcement/activation.py"
    assert '"agentguard_task"' in room.read_text()
    assert room.read_text().count("_innermost.get()") == 2  # by `_here` and `_not_left`
    for path in ROOT.glob("agentguard/**/*.py"):
        if path != room:
            text = path.read_text()
            assert "_innermost" not in text, path
            assert 'ContextVar("agentguard_task"' not in text, path


FORMER = {
    "agentguard.errors": ["denial", "told"],
    "agentguard.model": ["NOTHING_SEEN", "Origin", "Seen"],
}


@pytest.mark.parametrize("module", FORMER)
def test_names_that_users_import_go_on_working_where_they_were_renamed(module: str) -> None:
    for name in FORMER[module]:
        assert hasattr(importlib.import_module(module), name)
    for path in ROOT.glob("agentguard/**/*.py"):
        text = path.read_text()
        uses = [name for name in FORMER[module] if re.search(rf"from {module} import .*\b{name}\b", text)]
        assert not uses, f"{path.relative_to(ROOT)} uses a former name"


@pytest.mark.process
def test_a_system_without_posix_file_locks_is_told_so_in_one_line() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import agentguard.policies"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("ImportError: agentguard runs on Linux; on Windows")
    assert "During handling" not in result.stderr


class Function(NamedTuple):
    """A function of the package: its place, its name behind its owner's, its lines and its parameters."""

    place: str
    name: str
    lines: int
    parameters: int


@cache
def _functions() -> list[Function]:
    functions = []
    for path in sorted((ROOT / "agentguard").rglob("*.py")):
        for owner, node in _definitions(ast.parse(path.read_text("utf-8"))):
            place, args = f"{path.relative_to(ROOT)}:{node.lineno}", node.args
            parameters = [*args.posonlyargs, *args.args, *args.kwonlyargs]
            functions.append(Function(place, f"{owner}.{node.name}", _lines(node), len(parameters)))
    return functions


def _definitions(owner: ast.AST) -> Iterator[tuple[str, FunctionNode]]:
    """Yield each function below *owner*, and the name of what it stands in; no expression holds one."""
    for node in ast.iter_child_nodes(owner):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield getattr(owner, "name", ""), node
        if not isinstance(node, ast.expr):
            yield from _definitions(node)


def _lines(node: FunctionNode) -> int:
    """Return how many lines a function has beside its docstring."""
    docstring = node.body[0] if ast.get_docstring(node) is not None else None
    described = 0 if docstring is None else (docstring.end_lineno or 0) - docstring.lineno + 1
    return (node.end_lineno or 0) - node.lineno + 1 - described


def test_no_room_is_over_300_lines() -> None:
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for path in (ROOT / "agentguard").rglob("*.py")
    }
    assert not {path: lines for path, lines in sizes.items() if lines > 300}


def test_no_function_is_over_40_lines_and_few_are_over_20() -> None:
    lengths = sorted(function.lines for function in _functions())
    assert {function.name for function in _functions() if function.lines > 40} <= {"Guard.__init__"}
    assert lengths[int(0.95 * len(lengths))] <= 20


def test_no_constructor_but_that_of_the_guard_has_over_10_parameters() -> None:
    counts = {
        f"{function.place} {function.name}": function.parameters - 1
        for function in _functions()
        if function.name.endswith(".__init__") and function.name != "Guard.__init__"
    }
    assert not {place: count for place, count in counts.items() if count > 10}
