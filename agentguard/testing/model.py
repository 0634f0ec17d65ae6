"""A chat model that answers from a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Annotated, Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.tool import tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

__all__ = ["ScriptedChatModel"]

Calls = list[tuple[str, dict[str, Any]]]


class ScriptedChatModel(BaseChatModel):
    """A chat model that answers with the next entry of its script: a text, a message, or tool calls.

        ScriptedChatModel(script=[[("get_order", {"order_id": "4711"})], "It was sent."])

    The model has no state: it counts the answers in the messages that it receives to find the next entry.
    So threads can share it, and a run can be resumed from a checkpoint or repeated. It counts each message
    of a model, and each tool result that belongs to no message of a model (some executors do not keep the
    model's messages). The ids of tool calls are ``call-<entry>-<n>``.

    The model ignores the tools that are bound to it. After the last entry of the script, a call raises
    ValueError.
    """

    # in this order: AIMessage's own validation fails on a list with an AttributeError
    script: list[Annotated[Calls | str | AIMessage, Field(union_mode="left_to_right")]]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return this model with the tools bound, so that callbacks and tracers see them."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _next(self, messages: Sequence[BaseMessage]) -> AIMessage:
        index = _position(messages)
        if index >= len(self.script):
            raise ValueError(
                f"the script has {len(self.script)} entries, and the model was asked for one more"
            )
        entry = self.script[index]
        if isinstance(entry, AIMessage):
            return entry.model_copy(deep=True)  # frameworks give messages their ids in place
        if isinstance(entry, str):
            return AIMessage(entry)
        calls = [
            tool_call(name=name, args=deepcopy(args), id=f"call-{index}-{n}")
            for n, (name, args) in enumerate(entry)
        ]
        return AIMessage("", tool_calls=calls)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._next(messages))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message = self._next(messages)
        chunks = [
            tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=n)
            for n, call in enumerate(message.tool_calls)
        ]
        same = message.model_dump(exclude={"type", "tool_calls"})
        chunk = ChatGenerationChunk(message=AIMessageChunk(**same, tool_call_chunks=chunks))
        if run_manager is not None:
            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk


def _position(messages: Sequence[BaseMessage]) -> int:
    answers = [message for message in messages if isinstance(message, AIMessage)]
    call_ids = {call["id"] for message in answers for call in message.tool_calls}
    results = [message for message in messages if isinstance(message, ToolMessage)]
    return len(answers) + sum(result.tool_call_id not in call_ids for result in results)
