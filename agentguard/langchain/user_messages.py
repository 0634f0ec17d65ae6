"""Which messages of a graph's state are the user's own words: those that the application has marked.

Anybody may write into the messages of a state: a tool by a `Command`, a client of a LangGraph server, a
middleware that summarizes. So neither the class of a message nor its position says who wrote it. A mark is
the message's id. It holds a code (HMAC-SHA256) over the text and the task, by a key that each process makes
for itself: what a user has said in one task vouches for nothing when it is written into another one, perhaps
another user's.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from hashlib import sha256

from langchain_core.messages import BaseMessage, HumanMessage

from agentguard.enforcement.activation import active_task
from agentguard.errors import TaskError
from agentguard.tasks.family import in_a_tool
from agentguard.tasks.task import Task

__all__ = ["has_mark", "is_user_message", "user_message"]

_PREFIX = "agentguard-user-"
_KEY = secrets.token_bytes(32)


def user_message(text: str, task: Task | None = None) -> HumanMessage:
    """Return a message that `Guard.middleware(hears_user=True)` takes for the user's own words.

    It counts in runs of *task*, by default the one that is active here, and of tasks that are begun in it. In
    no other task does it count: a thread that goes on in a new task has to be told again.

    Call this where the user has authenticated, with what the user has said and nothing else. The mark counts
    in this process and in children that it forks. It is in the message's id, so leave that as it is.

    Raises:
        ValueError: No task is given, and none is active here.
        TaskError: A guarded tool runs here: no tool says what a user has said.
    """
    if in_a_tool():
        raise TaskError("no tool says what a user has said: the application does, outside of its tools")
    task_id = active_task() if task is None else task.id
    if task_id is None:
        raise ValueError("a user's message is for a task: give the task, or call this while it is active")
    nonce = secrets.token_hex(8)
    return HumanMessage(text, id=f"{_PREFIX}{nonce}-{_code(task_id, nonce, text)}")


def has_mark(message: BaseMessage) -> bool:
    """Return whether the message may be a user's; `is_user_message` says whether it is."""
    return isinstance(message, HumanMessage) and str(message.id).startswith(_PREFIX)


def is_user_message(message: BaseMessage, task_ids: Iterable[str]) -> bool:
    """Return whether this process has marked the message for one of these tasks, with the text it has now."""
    if not has_mark(message) or not isinstance(message.content, str):
        return False
    nonce, _, code = str(message.id).removeprefix(_PREFIX).partition("-")
    mark, text = code.encode("utf-8", "surrogatepass"), message.content
    return any(hmac.compare_digest(mark, _code(task_id, nonce, text).encode()) for task_id in task_ids)


def _code(task_id: str, nonce: str, text: str) -> str:
    content = f"{task_id}\n{nonce}\n{text}".encode("utf-8", "surrogatepass")
    return hmac.new(_KEY, content, sha256).hexdigest()
