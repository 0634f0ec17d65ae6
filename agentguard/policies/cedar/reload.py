"""Cedar rules that are replaced while the agent runs: all at once, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from itertools import count

from agentguard.concurrency.fork import ProcessLock
from agentguard.model import AccessRequest, Decision, ToolSpec
from agentguard.model.looks import Looks
from agentguard.policies.cedar.conditions import ExaminedRule
from agentguard.policies.cedar.policy import CedarPolicy
from agentguard.policies.cedar.source import Rule

__all__ = ["ReloadingCedar"]

log = logging.getLogger("agentguard")


class ReloadingCedar:
    """A `CedarPolicy` that `reload` makes anew. If new rules are wrong, the former rules stay in force.

    *read* makes the policy, such as ``lambda: CedarPolicy.from_files(files)``. The constructor calls it once
    and raises whatever it raises. No file is watched: call `reload` after changing the files. Reading blocks,
    so call it in a thread if there are many rules. Write a new file beside the old one and rename it: a file
    that is cut off at the end of a rule is a smaller set of rules and no error. One set decides a call from
    beginning to end. *alarm* is called with the error of a failed reload, which is logged as well.
    """

    inline = True

    def __init__(
        self, read: Callable[[], CedarPolicy], *, alarm: Callable[[Exception], object] | None = None
    ) -> None:
        self._read, self._alarm = read, alarm
        self._tools: tuple[ToolSpec, ...] = ()
        self._replacing = ProcessLock()
        self._tickets, self._newest = count(1), 0
        self._current = read()

    @property
    def version(self) -> str:
        """The version of the set in force; see `CedarPolicy.version`."""
        return self._current.version

    @property
    def schema(self) -> str:
        """The Cedar schema of the tools that the rules were last checked against."""
        return self._current.schema

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules in force."""
        return self._current.rules

    def check_tools(self, tools: Iterable[ToolSpec]) -> None:
        """Check the rules against these tools, and those of each later `reload`.

        Raises:
            ConfigurationError: A rule does not fit them. The former tools stay in force.
        """
        specs = tuple(tools)
        with self._replacing:
            self._current.check_tools(specs)
            self._tools = specs

    def facts_for(self, tool: ToolSpec) -> Collection[str]:
        """Return the names of the facts that the rules in force may look at in calls of a tool."""
        return self._current.facts_for(tool)

    def counts_for(self, tool: ToolSpec) -> Collection[tuple[str, str]]:
        """Return whose calls of which tools the rules in force may look at in calls of *tool*."""
        return self._current.counts_for(tool)

    def looks_for(self, tool: ToolSpec) -> Looks:
        """Return the places inside of a tool's arguments at which the rules in force may look."""
        return self._current.looks_for(tool)

    def examine(self, request: AccessRequest) -> tuple[ExaminedRule, ...]:
        """Return the rules in force whose heads fit the request, and their conditions for it."""
        return self._current.examine(request)

    def decide(self, request: AccessRequest) -> Decision:
        """Answer by the rules in force at this moment. Never raises."""
        return self._current.decide(request)

    def reload(self) -> bool:
        """Read the rules again and put them in force; return whether the new rules are in force.

        Never raises: rules that cannot be read, or that do not fit the tools, change nothing and call the
        alarm. Of two reloads at the same time, the rules of the one that began last are in force.
        """
        ticket = next(self._tickets)
        try:
            policy = self._read()
            with self._replacing:
                policy.check_tools(self._tools)
                if ticket < self._newest:
                    return False
                self._current, self._newest = policy, ticket
        except Exception as error:  # noqa: BLE001  whatever is wrong with the new rules, the old ones stay
            self._report(error)
            return False
        log.info("policies reloaded: version %s", policy.version)
        return True

    def _report(self, problem: Exception) -> None:
        reason = " ".join(line.strip() for line in str(problem).splitlines())
        log.error("policies not reloaded, version %s stays in force: %s", self.version, reason)
        if self._alarm is None:
            return
        try:
            self._alarm(problem)
        except Exception as error:  # noqa: BLE001  an alarm that fails must not change the rules in force
            log.error("the alarm failed: %s", type(error).__name__)
