"""The example of a streamed answer that waits for a person, as the clients of the service see it."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentguard import Guard

EXAMPLES = Path(__file__).parents[2] / "examples"


class Service:
    def __init__(self, parts: dict[str, Any], client: httpx.AsyncClient) -> None:
        self.guard: Guard = parts["guard"]
        self._client = client

    async def post(self, user: str, path: str) -> list[Any]:
        answer = await self._client.post(path, headers={"X-User": user})
        return [json.loads(line) for line in answer.raise_for_status().text.splitlines()]

    def statuses(self) -> list[str]:
        records = self.guard.enforcement.ports.audit.records()
        return [str(record["status"]) for record in records if record["event"] == "task"]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    copy = shutil.copytree(
        EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns(".*", "__pycache__")
    )
    parts = runpy.run_path(f"{copy}/approval_over_http.py")
    transport = httpx.ASGITransport(parts["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://chat") as client:
        yield Service(parts, client)
    await parts["guard"].aclose()


async def test_a_stream_ends_with_the_question_and_another_one_goes_on_with_the_answer(
    service: Service,
) -> None:
    *_, (kind, approval) = await service.post("ada", "/chat")
    assert kind == "approval"
    assert service.statuses() == []  # the task lives on without a stream
    assert await service.post("bob", f"/approvals/{approval}") == [None]
    *_, result, end = await service.post("ada", "/chat/resume")
    assert (result, end) == (["ToolMessage", "deleted account ada"], ["AIMessage", "The account is gone."])
    assert service.statuses() == ["completed"]


async def test_a_client_that_goes_on_before_the_person_has_answered_is_denied(service: Service) -> None:
    await service.post("ada", "/chat")
    *_, (kind, text), _ = await service.post("ada", "/chat/resume")
    assert kind == "ToolMessage"
    assert text.startswith("Denied: No person has answered")
