"""Which messages of a graph's state are the user's own words: those that the application has marked.

Anybody may write into the messages of a state: a tool by a `Command`, a client of a LangGraph server, a
middleware that summarizes. So neither the class of a message nor its position says who wrote it. A mark is
the message's id. It holds a code (HMAC-SHA256) over the text, by a key that each process makes for itself.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256

from langchain_core.messages import BaseMessage, HumanMessage

__all__ = ["is_user_message", "user_message"]

_PREFIX = "agentguard-user-"
_KEY = secrets.token_bytes(32)


def user_message(text: str) -> HumanMessage:
    """Return a message that `Guard.middleware(hears_user=True)` takes for the user's own words.

    Call this where the user has authenticated, with what the user has said and nothing else. The mark counts
    in this process and in children that it forks. It is in the message's id, so leave that as it is.
    """
    nonce = secrets.token_hex(8)
    return HumanMessage(text, id=f"{_PREFIX}{nonce}-{_code(nonce, text)}")


def is_user_message(message: BaseMessage) -> bool:
    """Return whether this process has marked the message, and its text is still the same."""
    if not isinstance(message, HumanMessage) or not isinstance(message.content, str):
        return False
    prefix, _, mark = str(message.id).partition(_PREFIX)
    nonce, _, code = mark.partition("-")
    return not prefix and hmac.compare_digest(code.encode(), _code(nonce, message.content).encode())


def _code(nonce: str, text: str) -> str:
    content = f"{nonce}\n{text}".encode("utf-8", "surrogatepass")
    return hmac.new(_KEY, content, sha256).hexdigest()
