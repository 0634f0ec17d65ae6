"""Cedar rules that are replaced while the agent runs: all at once, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import count
from threading import Lock

from agentguard.model import AccessRequest, Decision, ToolSpec
from agentguard.policies.cedar.policy import CedarPolicy
from agentguard.policies.cedar.source import Rule

__all__ = ["ReloadingCedar"]

log = logging.getLogger(__name__)


class ReloadingCedar:
    """A `CedarPolicy` that `reload` makes anew; a set that is wrong leaves the former one in force.

    *read* makes the policy, such as ``lambda: CedarPolicy.from_files(files)``; it is called here
    once, and whatever it raises is then raised. Nothing is watched: who changes the files calls
    `reload`, in a thread where there are many rules, since reading blocks. Write a file beside the
    old one and rename it: what is cut off at the end of a rule is a smaller set and no error. A call
    is judged by one set from beginning to end. *alarm* is told what was wrong; it is logged as well.
    """

    inline = True

    def __init__(
        self, read: Callable[[], CedarPolicy], *, alarm: Callable[[Exception], object] | None = None
    ) -> None:
        self._read, self._alarm = read, alarm
        self._tools: tuple[ToolSpec, ...] = ()
        self._replacing = Lock()
        self._tickets, self._newest = count(1), 0
        self._current = read()

    @property
    def version(self) -> str:
        """The version of the set in force; see `CedarPolicy.version`."""
        return self._current.version

    @property
    def schema(self) -> str:
        """The Cedar schema of the tools bound now."""
        return self._current.schema

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules in force."""
        return self._current.rules

    def check_tools(self, tools: Iterable[ToolSpec]) -> None:
        """Check the rules against these tools, and those of each later `reload`.

        Raises:
            ConfigurationError: A rule does not fit them. What was bound stays bound.
        """
        specs = tuple(tools)
        with self._replacing:
            self._current.check_tools(specs)
            self._tools = specs

    def decide(self, request: AccessRequest) -> Decision:
        """Answer by the set in force at this moment; never raises."""
        return self._current.decide(request)

    def reload(self) -> bool:
        """Read the rules again and put them in force; return whether they are.

        Never raises: rules that cannot be read, or that do not fit the tools, change nothing and
        give the alarm. Of two reloads at once, the one that began last holds.
        """
        ticket = next(self._tickets)
        try:
            policy = self._read()
            with self._replacing:
                policy.check_tools(self._tools)
                if ticket < self._newest:
                    return False
                self._current, self._newest = policy, ticket
        except Exception as error:  # noqa: BLE001  whatever is wrong with the new, the old holds
            self._tell(error)
            return False
        log.info("policies reloaded: version %s", policy.version)
        return True

    def _tell(self, problem: Exception) -> None:
        log.error("policies not reloaded, version %s stays in force: %s", self.version, problem)
        if self._alarm is None:
            return
        try:
            self._alarm(problem)
        except Exception as error:  # noqa: BLE001  who cannot be told has no say in what is in force
            log.error("the alarm failed: %s", type(error).__name__)
