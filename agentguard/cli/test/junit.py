"""The results of scenarios as a JUnit file, which CI systems show."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from agentguard.cli.test.run import Outcome
from agentguard.text import printable

__all__ = ["write_junit"]


def write_junit(path: Path, outcomes: Iterable[tuple[Path, Outcome]]) -> None:
    """Write one test suite for each file of scenarios, with one test case for each scenario."""
    root, suites = Element("testsuites"), dict[Path, Element]()
    for file, outcome in outcomes:
        suite = suites.get(file)
        if suite is None:
            suite = suites[file] = SubElement(root, "testsuite", name=file.name, tests="0", failures="0")
        suite.set("tests", str(int(suite.get("tests", "0")) + 1))
        name = printable(outcome.scenario.name)
        case = SubElement(suite, "testcase", classname=file.stem, name=name, time=f"{outcome.seconds:.3f}")
        if outcome.problems:
            suite.set("failures", str(int(suite.get("failures", "0")) + 1))
            SubElement(case, "failure", message=printable("; ".join(outcome.problems)))
    indent(root)
    ElementTree(root).write(path, "utf-8", xml_declaration=True)
