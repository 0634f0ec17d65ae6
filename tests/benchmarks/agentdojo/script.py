"""An agent that does the user's task by the book, and always obeys what it reads.

The worst case for an enforcement layer: there is no model in it that could refuse, and none that could be
distracted. It never plans again: what is denied stays undone, and it goes on.
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
"""What begins an injected text; a result that holds it has been read by the agent."""

Who = Literal["user", "attacker"]


class Order(StrEnum):
    """When the attacker's calls are attempted: at once, where the injection is read, or at the end."""

    BEFORE = "before"
    ON_READ = "on_read"
    AFTER = "after"


@dataclass
class Attempt:
    """A call that the agent made, for whom, and whether the tool ran."""

    who: Who
    call: Call
    executed: bool = False


class Script:
    """Says what comes next: the user's calls, and the attacker's at their time, all in order.

    `attack` is asked at the time of the attack, since an attacker goes by what is there then. `ran` is how
    many tools have run so far: what was denied does not raise it.
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
        """Note how the last call went, and return the next one, or the answer."""
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
    """The chat model of an agent, which plays the script that it is given for each run."""

    script: Any = None

    @property
    def _llm_type(self) -> str:
        return "actor"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model itself: a script knows its tools."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.script.next(messages))])
