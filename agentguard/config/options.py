"""``[telemetry]``, ``[limits]`` and ``[approval]``: how a guard works, whatever its adapters are."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from agentguard.config.tables import Seconds, Table
from agentguard.model import CallLimits, Limits

__all__ = ["ApprovalSettings", "LimitsSettings", "TelemetrySettings"]

_LIMITS = CallLimits()


def _limit(default: int) -> Any:
    return Field(default=default, ge=1, description=f"a whole number from 1, as in {default}")


class TelemetrySettings(Table):
    """``[telemetry]``: whether spans hold the values of arguments, and whether each stage has its own span.

    `stages` is ``"attributes"``, the seconds of each stage on the one span of a call, or ``"spans"``, which
    makes a child span for each stage besides.
    """

    arguments: bool = Field(default=False, description="true or false")
    stages: Literal["attributes", "spans"] = Field(
        default="attributes", description='"attributes" or "spans", as in stages = "spans"'
    )


class LimitsSettings(Table):
    """``[limits]``: how much the arguments of a call and a tool's result may hold; see `model.Limits`."""

    argument_bytes: int = _limit(_LIMITS.arguments.bytes)
    argument_parts: int = _limit(_LIMITS.arguments.parts)
    argument_depth: int = _limit(_LIMITS.arguments.depth)
    result_bytes: int = _limit(_LIMITS.result.bytes)
    result_parts: int = _limit(_LIMITS.result.parts)
    result_depth: int = _limit(_LIMITS.result.depth)

    def limits(self) -> CallLimits:
        """Return the limits."""
        return CallLimits(
            arguments=Limits(bytes=self.argument_bytes, parts=self.argument_parts, depth=self.argument_depth),
            result=Limits(bytes=self.result_bytes, parts=self.result_parts, depth=self.result_depth),
        )


class ApprovalSettings(Table):
    """``[approval]``: for how many seconds a person may answer, and the answer may be used."""

    expires: Seconds = Field(default=300.0, description="seconds from 1 to 86400, as in expires = 300")
