"""cvc5 as a program that reads SMT-LIB on its standard input and answers on its standard output.

Cedar's analyzer starts a solver so. The package cvc5 on PyPI has the solver as a library alone. This file is
run by its path, and imports nothing of agentguard.
"""

import sys
from collections.abc import Iterator
from typing import Any


def commands(lines: Iterator[str]) -> Iterator[str]:
    """Yield the commands of a stream of SMT-LIB 2.6, each as soon as its last parenthesis is read."""
    text, depth, quote = "", 0, ""
    for line in lines:
        for character in line:
            text += character
            if quote:
                quote = "" if character == quote else quote
            elif character in '"|':
                quote = character
            elif character == "(":
                depth += 1
            elif character == ")":
                depth -= 1
                if depth == 0:
                    yield text
                    text = ""


def answer(source: Iterator[str], write: Any) -> None:
    """Run the commands of *source*, and write their answers."""
    import cvc5

    manager = cvc5.TermManager()
    solver, symbols = cvc5.Solver(manager), cvc5.SymbolManager(manager)
    solver.setOption("tlimit-per", sys.argv[1] if len(sys.argv) > 1 and sys.argv[1].isdigit() else "60000")
    parser = cvc5.InputParser(solver, symbols)
    parser.setIncrementalStringInput(cvc5.InputLanguage.SMT_LIB_2_6, "stdin")
    for text in commands(source):
        parser.appendIncrementalStringInput(text)
        command = parser.nextCommand()
        if command.isNull():
            return
        write(command.invoke(solver, symbols))


def _write(text: str) -> None:
    if text:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    answer(iter(sys.stdin.readline, ""), _write)
