"""Texts as Redis holds them: bytes, and lists of texts in one text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["decode", "encode", "pack", "pack_data", "pairs", "seconds", "unpack"]


def encode(text: str) -> bytes:
    """Return a text as bytes. A lone surrogate, which UTF-8 does not have, comes back as it was."""
    return text.encode("utf-8", "surrogatepass")


def decode(data: bytes) -> str:
    """Return the text of bytes that `encode` made."""
    return data.decode("utf-8", "surrogatepass")


def seconds(time: float) -> str:
    """Return a time as a text that is exactly that number again."""
    return repr(float(time))


def pack(texts: Iterable[str]) -> bytes:
    """Return a list of texts as one: the length of each in bytes, a colon, and the text.

    The scripts read and write this form too. JSON would lose an empty list in Lua.
    """
    return pack_data(map(encode, texts))


def pack_data(parts: Iterable[bytes]) -> bytes:
    """Return a list of bytes as one, in the form of `pack`."""
    return b"".join(b"%d:%b" % (len(data), data) for data in parts)


def unpack(data: bytes) -> list[str]:
    """Return the texts that `pack` made one of.

    Raises:
        ValueError: It is no such list.
    """
    texts, at = list[str](), 0
    while at < len(data):
        colon = data.index(b":", at)
        end = colon + 1 + int(data[at:colon])
        texts.append(decode(data[colon + 1 : end]))
        at = end
    return texts


def pairs(fields: list[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the names and values of a hash, which Redis returns as one flat list."""
    values = iter(fields)
    for name in values:
        yield decode(name), next(values)
