"""What mypy says of wrong calls of operations: each ignore below is an error that it finds.

This file is never run. `mypy --strict`, which the test run includes, fails at an ignore that is not needed.
So it fails when it no longer sees one of these mistakes.
"""

from agentguard.enforcement.operations import Operations
from agentguard.model import Call, LiveCredential, Outcome


async def ask_wrongly(operations: Operations, call: Call, credential: LiveCredential) -> None:
    """Ask the ports with arguments that are missing, misspelt, or of another type."""
    await operations.begin_call(call)  # type: ignore[call-arg]  # the credential is missing
    await operations.begin_call(call, credental=credential)  # type: ignore[call-arg]  # it is misspelt
    await operations.begin_call(credential, call)  # type: ignore[arg-type]  # they are exchanged
    await operations.end_call(call.id, Outcome.DONE, revoket=True)  # type: ignore[call-arg]  # it is misspelt
    await operations.end_call(call.id)  # type: ignore[call-arg]  # the outcome is missing
    await operations.track(call)  # type: ignore[arg-type]  # a call is no credential
    await operations.live(call)  # type: ignore[arg-type]  # a call is no id
    await operations.revoke["*/write"]("alice", credential.handle)  # type: ignore[call-arg]  # the expiry is missing
    operations.beginn_call(call, credential)  # type: ignore[attr-defined]  # there is no such operation


async def ask_rightly(operations: Operations, call: Call, credential: LiveCredential) -> None:
    """Ask the ports with the arguments that they take."""
    await operations.begin_call(call, credential)
    await operations.end_call(call.id, Outcome.DONE, revoked=True)
