"""Acts the story out: real processes, a real agent, a real guard. What differs is a broken promise."""

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
from agentguard.audit.timeline import Step
from agentguard.cli.demo.agent import Agent, Wire, tools
from agentguard.cli.demo.stage import Evil, Player
from agentguard.cli.demo.story import RESOURCE, Attempt, Call, Story
from agentguard.cli.demo.teller import Teller
from agentguard.model import AccessRequest

__all__ = ["Play"]

CALLS = ("path", "call", "decided by", "token")


class Play:
    """One performance of *story* in *directory*, told by *teller* while it happens.

    `broken` holds the promises that were not kept, `refused` counts what came to nothing, `lives` how
    long each credential existed, in seconds.
    """

    def __init__(self, story: Story, directory: Path, teller: Teller) -> None:
        self._story, self._directory, self._teller = story, directory, teller
        self._log = directory / "audit.jsonl"
        self.broken: list[str] = []
        self.kept = self.refused = 0
        self.lives: list[float] = []

    def perform(self) -> None:
        """Act it out; every process that it starts ends with it."""
        with ExitStack() as stack:
            shop, thief = (stack.enter_context(Player(name)) for name in ("shop", "thief"))
            evil = stack.enter_context(closing(Evil()))
            wire = Wire()
            origin = shop.hear()
            client = stack.enter_context(
                httpx.Client(base_url=origin, transport=wire, auth=agentguard.auth(RESOURCE), trust_env=False)
            )
            guard = stack.enter_context(closing(self._guard(origin)))
            shop.tell(str(self._directory))
            self._acts(guard, self._agent(guard, client, evil), wire, thief, origin)
            self._epilogue(guard, shop, evil)

    def _guard(self, origin: str) -> Guard:
        ours = files("agentguard.cli.demo")
        (self._directory / "policy.cedar").write_text((ours / "policy.cedar").read_text("utf-8"), "utf-8")
        config = self._directory / "agentguard.toml"
        config.write_text((ours / "agentguard.toml").read_text("utf-8").replace("ORIGIN", origin), "utf-8")
        approved = {call.tool for call in self._calls() if call.approved}

        def person(request: AccessRequest) -> bool:
            return request.tool.name in approved

        return Guard.from_file(config, approver=CallbackApprover(person, approver="operator@demo.example"))

    def _calls(self) -> tuple[Call, ...]:
        return (*self._story.honest, *self._story.injected, self._story.tapped, self._story.after)

    def _agent(self, guard: Guard, client: httpx.Client, evil: Evil) -> Agent:
        story = self._story
        turns = [(*story.honest, *story.injected), (story.tapped,), (story.after,)]
        return Agent(guard, tools(client), turns, evil.origin)

    def _acts(self, guard: Guard, agent: Agent, wire: Wire, thief: Player, origin: str) -> None:
        story, tell = self._story, self._teller
        tell.opening(story, origin)
        with guard.task(story.purpose, subject=story.subject, mandate=story.mandate) as task:
            tell.act("The agent does its task, and then what the injection in the order asks for", *CALLS)
            self._turn(agent, task, (*story.honest, *story.injected), "Please refund order 4711.")
            tell.act("The thief taps a call, and tries its token while it lives")
            answers = dict[str, Any]()
            wire.tap = lambda request: answers.update(self._steal(request, thief, origin))
            self._turn(agent, task, (story.tapped,), "Show me order 4711 again.")
            wire.tap = None
            tell.heads("status", "the thief tries", "the shop answers")
            self._attempts(story.alive, answers)
        tell.act("The task is over")
        thief.tell(json.dumps([each.name for each in story.late]))
        self._attempts(story.late, json.loads(thief.hear()))
        self._turn(agent, task, (story.after,), "And again.")
        self._promise(bool(guard.coverage(agent.graph)), "a tool of the agent is not gated")

    def _turn(self, agent: Agent, task: Task, calls: Iterable[Call], says: str) -> None:
        before = len(task.timeline())
        answers = agent.turn(says, task.config)
        for number, (call, told) in enumerate(zip(calls, answers, strict=True), before):
            step = next(islice(task.timeline(), number, None))
            self._compare(call, step, told)

    def _compare(self, call: Call, step: Step, told: ToolMessage) -> None:
        promised = (call.tool, call.ends, call.policies, call.minted, call.approved)
        minted, approved = step.credential is not None, step.approval is not None
        seen = (step.tool, step.summary, step.policies, minted, approved)
        self._promise(promised == seen, f"{call.tool}: promised {promised[1:]}, seen {seen[1:]}")
        self._promise(call.says in told.text, f"{call.tool}: the model was told {told.text!r}")
        done = told.status == "success"
        self.refused += not done
        if minted and step.seconds is not None:
            self.lives.append(step.seconds)
        self._teller.call(call, step, done)

    def _steal(self, request: httpx.Request, thief: Player, origin: str) -> dict[str, Any]:
        """Hand over, through a pipe, all that code inside the call can get; the key is not among it."""
        lease = agentguard.credential(RESOURCE)
        order, refund = f"{origin}/orders/4711", f"{origin}/orders/4711/refund"
        other = f"{origin}/orders/4712"
        loot = {
            "order": order,
            "urls": {"write": refund, "other order": other},
            "sent": {name: request.headers[name] for name in ("Authorization", "DPoP")},
            "made": {
                "write": dict(lease.headers("POST", refund)),
                "other order": dict(lease.headers("GET", other)),
                "late": dict(lease.headers("GET", order)),
            },
        }
        thief.tell(json.dumps(loot))
        thief.tell(json.dumps([each.name for each in self._story.alive]))
        answers: dict[str, Any] = json.loads(thief.hear())
        return answers

    def _attempts(self, attempts: Iterable[Attempt], answers: dict[str, Any]) -> None:
        for each in attempts:
            promised, seen = (each.status, each.error, each.reason), tuple(answers.get(each.name, ()))
            self._promise(promised == seen, f"thief, {each.name}: promised {promised}, seen {seen}")
            self.refused += seen[:1] != (200,)
            self._teller.attempt(each, seen)

    def _epilogue(self, guard: Guard, shop: Player, evil: Evil) -> None:
        self._promise(not evil.reached(), "something was sent to another origin")
        self._promise(not guard.enforcement.store.live(), "a credential is left alive")
        deeds = tuple(json.loads(shop.leave()))
        self._promise(deeds == self._story.deeds, f"the shop has done {deeds}")
        with self._log.open("rb") as lines:
            report = verify(lines)
        self._promise(report.sound and not report.torn, "the audit log does not verify")
        self._teller.ending(
            self.broken, self.kept, self.refused, self.lives, f"{self._log} --head {report.head}"
        )

    def _promise(self, kept: bool, otherwise: str) -> None:
        self.kept += kept
        if not kept:
            self.broken.append(otherwise)
