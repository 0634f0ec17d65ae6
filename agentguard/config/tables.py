"""What all settings classes of agentguard.toml share: types of values, the base class, and the error."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentguard.errors import ConfigurationError

__all__ = ["Name", "Origin", "PathName", "Scope", "Seconds", "SettingError", "Table", "WebUrl", "list_field"]

PathName = Literal["read", "write", "escalation"]
# a scope is that of RFC 6749 section 3.3; an origin is scheme://host[:port] and nothing more
Scope = Annotated[str, Field(pattern=r"^[!#-\[\]-~]+$")]
Origin = Annotated[str, Field(pattern=r"^https?://[^/?#@\s\\]+$")]
WebUrl = Annotated[str, Field(pattern=r"^https?://[^/?#@\s\\]+(/[^?#@\s\\]*)?$")]
Name = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(ge=1, le=86_400)]


class SettingError(ConfigurationError):
    """An error in the setting at *keys*. `load` adds the file and the line."""

    def __init__(self, *keys: str, problem: str, hint: str) -> None:
        super().__init__(f"{'.'.join(keys)}: {problem}", hint=hint)
        self.keys = keys


class Table(BaseModel):
    """A table of the file. An unknown key is an error, and no error message repeats a value."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


def list_field(description: str, default: tuple[str, ...] | None = ()) -> Any:
    """Return a field for a list of texts."""
    # not strict: TOML has arrays, and a frozen value has tuples
    return Field(default=default, strict=False, description=description)
