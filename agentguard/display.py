"""Tables for a notebook, as HTML: values of a guard, a mandate or a task are text in it and no markup.

A class whose values a notebook shows has a method ``_repr_html_``, which Jupyter calls. Beside it, ``str`` or
``repr`` of the value says the same in a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from agentguard.text import printable

__all__ = ["BAD", "GOOD", "badge", "code", "html_of", "hue", "mark", "table"]

# these colors are readable on white and on black; the text has the color of the page
GOOD, BAD = "#2fa36b", "#e5534b"
_HUES = {"read": "#3d8bfd", "write": "#e08a1e", "escalation": "#d6497f"}
_UNKNOWN = "#8a8f98"
_FRAME = (
    "display:inline-block;padding:8px 4px;border:1px solid rgba(128,128,128,.35);border-radius:8px;"
    "font:13px/1.5 system-ui,sans-serif;color:inherit"
)
_CELL = "text-align:left;padding:4px 12px;border:0;color:inherit;white-space:nowrap"


def html_of(text: object) -> str:
    """Return a text as HTML that shows it, in one line."""
    return escape(printable(text))


def hue(path: str) -> str:
    """Return the color of a path."""
    return _HUES.get(path, _UNKNOWN)


def badge(path: str) -> str:
    """Return the name of a path in a frame of its color."""
    style = f"border:1px solid {hue(path)};color:{hue(path)};border-radius:9px;padding:1px 8px;font-size:11px"
    return f"<span style='{style}'>{html_of(path.upper())}</span>"


def code(text: str, *, indent: int = 0, title: str = "") -> str:
    """Return a name in the letters of code, *indent* pixels from the left."""
    return (
        f"<code style='margin-left:{indent}px;padding:0;background:none;color:inherit' "
        f"title='{html_of(title)}'>{html_of(text)}</code>"
    )


def mark(is_good: bool, title: str) -> str:
    """Return a check mark or a cross."""
    sign, color = ("&#10003;", GOOD) if is_good else ("&#10007;", BAD)
    return f"<b style='color:{color}' title='{html_of(title)}'>{sign}</b>"


def table(titles: Sequence[str], rows: Iterable[tuple[bool, Sequence[str]]], note: str) -> str:
    """Return a table in a frame, with a line of text below.

    A row says whether it is good, or else tinted red, and holds the HTML of its cells. Titles and *note* are
    text.
    """
    head = "".join(
        f"<th style='{_CELL};font-weight:600;opacity:.6'>{html_of(title)}</th>" for title in titles
    )
    body = "".join(_row(is_good, cells) for is_good, cells in rows)
    return (
        f"<div style='{_FRAME}'><table style='border-collapse:collapse;margin:0;font:inherit'>"
        f"<thead><tr style='background:none'>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<div style='padding:8px 12px 2px;opacity:.75'>{html_of(note)}</div></div>"
    )


def _row(is_good: bool, cells: Sequence[str]) -> str:
    tint = "none" if is_good else "rgba(229,83,75,.09)"
    body = "".join(f"<td style='{_CELL}'>{cell}</td>" for cell in cells)
    return f"<tr style='background:{tint};border-top:1px solid rgba(128,128,128,.18)'>{body}</tr>"
