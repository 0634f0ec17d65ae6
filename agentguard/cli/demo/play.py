"""Plays the story with real processes, a real agent and a real guard. Each difference is a broken promise."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack, closing
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
from langchain_core.messages import ToolMessage

import agentguard
from agentguard import Guard, Task
from agentguard.approvals import CallbackApprover
from agentguard.audit import verify
from agentguard.cli.demo.agent import Agent, TappedTransport, tools
from agentguard.cli.demo.narrator import Narrator
from agentguard.cli.demo.picture import CallResult
from agentguard.cli.demo.processes import ChildProcess, ForbiddenOrigin
from agentguard.cli.demo.story import RESOURCE, Attempt, Call, Story
from agentguard.model import AccessRequest

__all__ = ["Play"]

COLUMNS = ("path", "call", "decided by", "token")


class Play:
    """One performance of *story* in *directory*. *narrator* prints it while it happens.

    `broken` names the promises that were not kept, and `kept` counts the others. `refused` counts the calls
    and attempts that failed. `lives` has how long each credential existed, in seconds. `results` are the
    calls with their outcome, and `answers` the shop's answers to the thief, by the name of the attempt.
    """

    def __init__(self, story: Story, directory: Path, narrator: Narrator) -> None:
        self._story, self._directory, self._narrator = story, directory, narrator
        self._log = directory / "audit.jsonl"
        self.broken: list[str] = []
        self.kept = self.refused = 0
        self.lives: list[float] = []
        self.results: list[CallResult] = []
        self.answers: dict[str, Any] = {}

    def perform(self) -> None:
        """Play the story. Each process that it starts ends with it."""
        with ExitStack() as stack:
            shop, thief = (stack.enter_context(ChildProcess(name)) for name in ("shop", "thief"))
            evil = stack.enter_context(closing(ForbiddenOrigin()))
            transport = TappedTransport()
            origin = shop.receive()
            auth = agentguard.auth(RESOURCE)
            client = httpx.Client(base_url=origin, transport=transport, auth=auth, trust_env=False)
            stack.enter_context(client)
            guard = stack.enter_context(closing(self._guard(origin)))
            shop.send(str(self._directory))
            self._acts(guard, self._agent(guard, client, evil), transport, thief, origin)
            self._epilogue(guard, shop, evil)

    def _guard(self, origin: str) -> Guard:
        package = files("agentguard.cli.demo")
        (self._directory / "policy.cedar").write_text((package / "policy.cedar").read_text("utf-8"), "utf-8")
        config = self._directory / "agentguard.toml"
        config.write_text((package / "agentguard.toml").read_text("utf-8").replace("ORIGIN", origin), "utf-8")
        approved = {call.tool for call in self._calls() if call.approved}

        def approve(request: AccessRequest) -> bool:
            return request.tool.name in approved

        return Guard.from_file(config, approver=CallbackApprover(approve, approver="operator@demo.example"))

    def _calls(self) -> tuple[Call, ...]:
        story = self._story
        return (*story.task_calls, *story.injected_calls, story.tapped_call, story.late_call)

    def _agent(self, guard: Guard, client: httpx.Client, evil: ForbiddenOrigin) -> Agent:
        story = self._story
        turns = [(*story.task_calls, *story.injected_calls), (story.tapped_call,), (story.late_call,)]
        return Agent(guard, tools(client), turns, evil.origin)

    def _acts(
        self, guard: Guard, agent: Agent, transport: TappedTransport, thief: ChildProcess, origin: str
    ) -> None:
        story, narrator = self._story, self._narrator
        narrator.opening(story, origin)
        with guard.task(story.purpose, subject=story.subject, mandate=story.mandate) as task:
            narrator.act("The agent does its task, and then obeys the text that a stranger planted", *COLUMNS)
            self._turn(agent, task, (*story.task_calls, *story.injected_calls), "Please refund order 4711.")
            narrator.act("A thief copies the token of a running call, and tries it while it is valid")
            transport.tap = lambda request: self._steal(request, thief, origin)
            self._turn(agent, task, (story.tapped_call,), "Show me order 4711 again.")
            transport.tap = None
            narrator.headings("status", "the thief presents", "the shop answers")
            self._attempts(story.early_attempts)
        narrator.act("The task is over")
        self._try(story.late_attempts, thief)
        self._attempts(story.late_attempts)
        self._turn(agent, task, (story.late_call,), "And again.")
        self._promise(bool(guard.coverage(agent.graph)), "a tool of the agent is not gated")

    def _turn(self, agent: Agent, task: Task, calls: Iterable[Call], prompt: str) -> None:
        before = len(task.timeline())
        messages = agent.turn(prompt, task.config)
        for number, (call, message) in enumerate(zip(calls, messages, strict=True), before):
            step = next(islice(task.timeline(), number, None))
            self._compare(CallResult(call, step, message.status == "success"), message)

    def _compare(self, result: CallResult, message: ToolMessage) -> None:
        call, step = result.call, result.step
        promised = (call.tool, call.outcome, call.policies, call.credential, call.approved)
        minted, approved = step.credential is not None, step.approval is not None
        actual = (step.tool, step.summary, step.policies, minted, approved)
        self._promise(promised == actual, f"{call.tool}: promised {promised[1:]}, but it was {actual[1:]}")
        self._promise(call.message in message.text, f"{call.tool}: the model read {message.text!r}")
        self.refused += not result.success
        if minted and step.seconds is not None:
            self.lives.append(step.seconds)
        self.results.append(result)
        self._narrator.call(call, step, result.success)

    def _steal(self, request: httpx.Request, thief: ChildProcess, origin: str) -> None:
        """Give the thief all that code inside the call can reach: the key that signs proofs is not there."""
        lease = agentguard.credential(RESOURCE)
        order, refund = f"{origin}/orders/4711", f"{origin}/orders/4711/refund"
        other = f"{origin}/orders/4712"
        loot = {
            "order": order,
            "urls": {"write": refund, "other order": other},
            "headers": {name: request.headers[name] for name in ("Authorization", "DPoP")},
            "fresh_headers": {
                "write": dict(lease.headers("POST", refund)),
                "other order": dict(lease.headers("GET", other)),
                "late": dict(lease.headers("GET", order)),
            },
        }
        thief.send(json.dumps(loot))  # through a pipe: it is never on disk
        self._try(self._story.early_attempts, thief)

    def _try(self, attempts: Iterable[Attempt], thief: ChildProcess) -> None:
        thief.send(json.dumps([attempt.name for attempt in attempts]))
        self.answers |= json.loads(thief.receive())

    def _attempts(self, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            promised = (attempt.status, attempt.error, attempt.reason)
            answer = tuple(self.answers.get(attempt.name, ()))
            self._promise(
                promised == answer, f"thief, {attempt.name}: promised {promised}, but it was {answer}"
            )
            self.refused += answer[:1] != (200,)
            self._narrator.attempt(attempt, answer)

    def _epilogue(self, guard: Guard, shop: ChildProcess, evil: ForbiddenOrigin) -> None:
        self._promise(not evil.was_reached(), "something was sent to another origin")
        self._promise(not guard.enforcement.ports.store.live(), "a credential is still alive")
        deeds = tuple(json.loads(shop.finish()))
        self._promise(deeds == self._story.deeds, f"the shop has carried out {deeds}")
        with self._log.open("rb") as lines:
            report = verify(lines)
        self._promise(report.sound and not report.torn, "the audit log does not verify")
        log = f"{self._log} --head {report.head}"
        self._narrator.ending(self.broken, self.kept, self.refused, self.lives, log)

    def _promise(self, holds: bool, otherwise: str) -> None:
        self.kept += holds
        if not holds:
            self.broken.append(otherwise)
