"""The three-way intersection: the user's rights ∩ the agent's ceiling ∩ the task's mandate.

What is asked of an issuer is what all three allow of what the tool needs, computed for each call. A
side that is not configured sets no limit of its own; one that is, and does not name the resource,
allows nothing there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from agentguard.concurrency.drive import Operation
from agentguard.errors import DenialCode, Denied, safe_text
from agentguard.model import TaskState, ToolSpec

__all__ = ["Ceiling", "FixedEntitlements", "effective_scopes"]

Ceiling = Mapping[str, Collection[str]]


class FixedEntitlements:
    """`Entitlements` as a table: subject → resource → scopes."""

    inline = True

    def __init__(self, table: Mapping[str, Ceiling]) -> None:
        self._table = {
            subject: {resource: frozenset(scopes) for resource, scopes in rights.items()}
            for subject, rights in table.items()
        }

    def scopes(self, subject: str, resource: str) -> frozenset[str] | None:
        """Return what the subject may do there, or None for nothing at all."""
        return self._table.get(subject, {}).get(resource)


async def effective_scopes(
    spec: ToolSpec, task: TaskState, ceiling: Ceiling | None, entitled: Operation | None
) -> frozenset[str]:
    """Return the scopes to ask for; *entitled* answers with the user's scopes on a resource, or None.

    Raises:
        Denied: The intersection is empty, the resource is beyond somebody's rights, or the user's
            rights could not be learned.
    """
    resource, scopes = spec.resource, spec.scopes
    if resource is None:
        return scopes
    if ceiling is not None:
        scopes = _common(scopes, ceiling.get(resource), spec, f"the agent's ceiling on {resource}")
    if entitled is not None:
        try:
            rights = await entitled(task.identity.subject, resource)
            users = None if rights is None else frozenset(rights)
        except Exception as error:  # noqa: BLE001  rights that cannot be learned are none
            reason = f"the user's rights are unknown: {safe_text(error)}"
            raise Denied.of(DenialCode.NO_RIGHTS, reason) from None
        scopes = _common(scopes, users, spec, f"the rights of {task.identity.subject} on {resource}")
    if task.mandate.scopes is not None:
        scopes = _common(scopes, task.mandate.scopes, spec, "the task's mandate")
    return scopes


def _common(
    scopes: frozenset[str], allowed: Collection[str] | None, spec: ToolSpec, whose: str
) -> frozenset[str]:
    if allowed is None:
        raise Denied.of(DenialCode.NO_RIGHTS, f"{whose}: there are none")
    common = scopes & frozenset(allowed)
    if spec.scopes and not common:
        raise Denied.of(DenialCode.NO_RIGHTS, f"{whose} and the rest have no scope in common for {spec.name}")
    return common
