"""Values as TOML: names and schemas that strangers may have made stay in their strings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["key_of", "toml"]


def toml(value: Any) -> str:
    """Write a JSON value on one line of TOML."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key_of(name)} = {toml(item)}" for name, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    # a JSON string, number or boolean is also TOML, but TOML wants DEL escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def key_of(name: str) -> str:
    """Write a key of TOML, in quotes where TOML needs them."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml(name)
