"""What writes to an audit log in child processes. A child imports the log alone, and starts in 0.1 s."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from agentguard.audit import JsonLinesAudit, Limits

__all__ = ["append_at_once", "append_by_limits", "append_numbers"]


def append_numbers(path: Path, name: str, number: int) -> None:
    audit = JsonLinesAudit(path)
    for index in range(number):
        audit.append({"task": name, "number": index})
    audit.close()


def append_at_once(path: Path, gate: Any, number: int) -> None:
    audit = JsonLinesAudit(path)
    audit.append({"event": "ready"})
    gate.wait()
    for index in range(100):
        audit.append({"event": "x", "id": f"{number}-{index}"})
    audit.close()


def append_by_limits(path: Path, limits: Limits, gate: Any, number: int, records: int, mode: str) -> None:
    audit = JsonLinesAudit(path, limits=limits, timeout=60)
    gate.wait()

    async def run() -> None:
        for index in range(records):
            await audit.aappend({"event": "x", "id": f"{number}-{index}"})

    if mode == "async":
        asyncio.run(run())
    else:
        for index in range(records):
            audit.append({"event": "x", "id": f"{number}-{index}"})
    audit.close()
