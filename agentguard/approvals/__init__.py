"""Approvers: how a person is asked to approve one call.

    callback     asks at once, in this process, through a function of the application
    interrupt    lets a LangGraph run wait until a person has answered

An approver does not decide whether an approval is needed (the policy does) and does not keep the
answer. The guard writes the answer to the store, and it is valid for one exact call, once.

For a new approver: write a class with the methods of `agentguard.ports.Approver` in a module of this
package, export it here, and pass it to the guard as ``approver=``. To let agentguard.toml name it, add
its setting to ``ApprovalSettings`` in `agentguard.config.options` and build it in
`agentguard.config.build`. Approvers have no contract suite; `tests/approvals` holds their tests. The
rules that every stored approval obeys are in `agentguard.testing.StoreContract`.
"""

from agentguard.approvals.callback import CallbackApprover, for_each_path
from agentguard.approvals.interrupt import InterruptApprover

__all__ = ["CallbackApprover", "InterruptApprover", "for_each_path"]
