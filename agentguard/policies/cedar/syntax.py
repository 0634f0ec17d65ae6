"""The syntax tree of a rule as Cedar has parsed it: its parts, and the paths of attributes in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from cedarpy import pst

__all__ = ["Path", "attribute_paths", "path_of", "walk"]

Path = tuple[str, ...]


def walk(node: Any) -> Iterator[Any]:
    """Yield a node and all nodes below it."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, tuple | list):
            waiting += part
        elif isinstance(part, Mapping):
            waiting += part.values()
        elif is_dataclass(part):
            yield part
            waiting += [getattr(part, field.name) for field in fields(part)]


def path_of(expr: Any) -> Path | None:
    """Return the names from a variable to a value, such as context, args, note; None for any other value."""
    names: list[str] = []
    while isinstance(expr, pst.GetAttr):
        names.append(expr.attr)
        expr = expr.base
    return (str(expr.name), *reversed(names)) if isinstance(expr, pst.Var) else None


def attribute_paths(node: pst.Template) -> Iterator[Path]:
    """Yield the path of each attribute that a rule asks for."""
    for expr in walk(node):
        if isinstance(expr, pst.GetAttr) and (path := path_of(expr)) is not None:
            yield path
