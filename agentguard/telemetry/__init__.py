"""What a guard tells OpenTelemetry.

spans    one span for each call, and counters
gauges   the state of guards, which a reader of metrics asks for
"""

from agentguard.telemetry.spans import CallSpan, Stage, Telemetry

__all__ = ["CallSpan", "Stage", "Telemetry"]
