"""Approvers: how a person is asked.

An answer counts only as the store holds it, for one exact call, once. `callback` asks at once, in
the process; `interrupt` lets a LangGraph run wait.
"""

from agentguard.approvals.callback import CallbackApprover, for_each_path
from agentguard.approvals.interrupt import InterruptApprover

__all__ = ["CallbackApprover", "InterruptApprover", "for_each_path"]
