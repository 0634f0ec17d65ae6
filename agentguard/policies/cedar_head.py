"""The head of a Cedar policy, as far as it says for which tools the policy can hold at all."""

from __future__ import annotations

from dataclasses import dataclass

from cedarpy import pst

__all__ = ["Head", "head_of"]


@dataclass(frozen=True, slots=True)
class Head:
    """The actions (tools and paths) and the resource that a head names; None stands for any.

    Rather too wide than too narrow: types are left out, ``==`` counts as ``in``, and what is not
    understood is any. The principal is no part, for it is not known before a request.
    """

    actions: tuple[str, ...] | None
    resource: str | None


def head_of(node: pst.Template) -> Head:
    """Return the head of a policy that Cedar has parsed."""
    match node.action:
        case pst.ActionEq(entity=uid):
            actions: tuple[str, ...] | None = (uid.id,)
        case pst.ActionIn(entities=uids):
            actions = tuple(sorted({uid.id for uid in uids}))
        case _:
            actions = None
    match node.resource:
        case pst.ScopeEq(entity=pst.EntityUid(id=name)) | pst.ScopeIn(entity=pst.EntityUid(id=name)):
            return Head(actions, name)
        case pst.ScopeIsIn(entity=pst.EntityUid(id=name)):
            return Head(actions, name)
    return Head(actions, None)
