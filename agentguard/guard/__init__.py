"""The public face of the policy enforcement point.

    guard      `Guard`: made from a file or from parts; offers the flow to langchain
    tasks      its methods that begin, find and derive tasks, and work off the outbox
    decisions  its methods that decide without a call, answer for a person, and reload rules

The flow itself is `enforcement`, which knows no framework. The face is a room of its own because it needs
`config` and `langchain`, which need the flow.
"""

from agentguard.guard.guard import Guard

__all__ = ["Guard"]
