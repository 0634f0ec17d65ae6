"""The secrets that are looked for in a text, and the text without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

__all__ = ["REDACTED", "TEXT", "Needles", "Text", "is_text"]

REDACTED = "[redacted]"
TEXT = (str, bytes, bytearray)
Text = str | bytes | bytearray


class Needles:
    """The secrets to look for, the longest first, since one secret may begin with another."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self.texts = sorted({str(secret) for secret in secrets if secret}, key=len, reverse=True)
        self.bytes = [text.encode(errors="surrogatepass") for text in self.texts]
        self.replacements: Any = ((str, self.texts, REDACTED), (bytes, self.bytes, REDACTED.encode()))

    def inside(self, text: Text) -> bool:
        """Return whether a secret is in a text or in bytes."""
        # with the method of the base class, since a subclass may override it
        if isinstance(text, str):
            return any(str.__contains__(text, needle) for needle in self.texts)
        base: Any = bytes if isinstance(text, bytes) else bytearray
        return any(base.__contains__(text, needle) for needle in self.bytes)

    def without(self, text: Text) -> Text:
        """Return a text or bytes without the secrets."""
        if isinstance(text, str):
            clean = str.__str__(text)
            for needle in self.texts:
                clean = clean.replace(needle, REDACTED)
            return clean
        base: Any = bytes if isinstance(text, bytes) else bytearray
        data: bytes | bytearray = base.__getitem__(
            text, slice(None)
        )  # `bytes` would call a method of a subclass
        for secret in self.bytes:
            data = data.replace(secret, REDACTED.encode())
        return data


def is_text(value: object) -> TypeGuard[Text]:
    """Return whether a value is a text or bytes, whatever it pretends to be."""
    return issubclass(type(value), TEXT)  # by the type: an object may pretend another `__class__`
