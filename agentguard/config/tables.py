"""What every table of agentguard.toml is made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentguard.errors import ConfigurationError

__all__ = ["Misplaced", "Name", "Origin", "PathName", "Scope", "Seconds", "Table", "listed"]

PathName = Literal["read", "write", "escalation"]
# RFC 6749 section 3.3; an origin is scheme://host[:port] and nothing more
Scope = Annotated[str, Field(pattern=r"^[!#-\[\]-~]+$")]
Origin = Annotated[str, Field(pattern=r"^https?://[^/?#@\s\\]+$")]
Name = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(ge=1, le=86_400)]


class Misplaced(ConfigurationError):
    """A mistake that stands at *keys*; whoever knows the text adds file and line."""

    def __init__(self, *keys: str, problem: str, hint: str) -> None:
        super().__init__(f"{'.'.join(keys)}: {problem}", hint=hint)
        self.keys = keys


class Table(BaseModel):
    """A table that is read strictly: an unknown key is an error, and no error repeats a value."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


def listed(description: str, default: tuple[str, ...] | None = ()) -> Any:
    """Return a field for a list of texts."""
    return Field(
        default=default, strict=False, description=description
    )  # TOML has arrays, and a frozen value tuples
