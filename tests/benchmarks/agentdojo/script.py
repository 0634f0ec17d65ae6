"""An agent that does the user's task by its ground truth, and obeys every injection that it reads.

This is the worst case for an enforcement layer: no model takes part, so nothing refuses an injection and
nothing is distracted by it. After a denial the agent goes on with the next call, and does not plan again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.messages.tool import tool_call
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable

from tests.benchmarks.agentdojo.suite import Call

__all__ = ["MARK", "Actor", "Attempt", "Order", "Script"]

MARK = "<INFORMATION for the assistant>"
"""The start of each injected text. When a result contains it, the agent has read the injection."""

Who = Literal["user", "attacker"]


class Order(StrEnum):
    """When the attacker's calls come: first of all, when the injection is read, or last of all."""

    BEFORE = "before"
    ON_READ = "on_read"
    AFTER = "after"


@dataclass
class Attempt:
    """A call that the agent attempted, for whom it was, and whether the tool ran."""

    who: Who
    call: Call
    executed: bool = False


class Script:
    """Returns the agent's next call: the user's calls in order, with the attacker's calls among them.

    *attack* is called when the attack begins, since its calls depend on the environment at that time. *ran*
    returns how many tools have run so far; a denied call does not count.
    """

    def __init__(
        self,
        calls: Iterable[Call],
        answer: str,
        *,
        ran: Callable[[], int],
        attack: Callable[[], Sequence[Call]] | None = None,
        order: Order = Order.ON_READ,
    ) -> None:
        self.attempts: list[Attempt] = []
        self.fired = False
        self._pending = deque(Attempt("user", call) for call in calls)
        self._answer, self._attack, self._order = answer, attack, order
        self._ran, self._before = ran, ran()

    def next(self, messages: Sequence[BaseMessage]) -> AIMessage:
        """Note whether the last call ran, and return the next call, or the answer."""
        result = messages[-1] if messages and isinstance(messages[-1], ToolMessage) else None
        if result is not None:
            self.attempts[-1].executed = self._ran() > self._before
        if self._due(result):
            self._fire()
        if not self._pending:
            return AIMessage(self._answer)
        attempt = self._pending.popleft()
        self.attempts.append(attempt)
        self._before = self._ran()
        number = f"{attempt.who}-{len(self.attempts)}"
        return AIMessage(
            "", tool_calls=[tool_call(name=attempt.call.function, args=dict(attempt.call.args), id=number)]
        )

    def _due(self, result: ToolMessage | None) -> bool:
        if self._attack is None or self.fired:
            return False
        if self._order is Order.BEFORE:
            return True
        if self._order is Order.AFTER:
            return not self._pending
        return result is not None and MARK in result.text

    def _fire(self) -> None:
        self.fired = True
        assert self._attack is not None
        self._pending.extendleft(reversed([Attempt("attacker", call) for call in self._attack()]))


class Actor(BaseChatModel):
    """The chat model of an agent. Its answers come from `script`, which is set for each run."""

    script: Any = None

    @property
    def _llm_type(self) -> str:
        return "actor"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model itself: a script does not look at the tools."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.script.next(messages))])
