"""The head of a Cedar policy: for which tools and for which resource the policy can hold at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cedarpy import pst

__all__ = ["Head", "Opening", "head_of", "is_resource", "opening_in", "opening_of", "with_resource_in"]

_GAP = r"[ \t\r\n]*"
_TEXT = r'"[^"\\\x00-\x1f\x7f-\x9f]*"'  # without escapes, the text is the name itself
_UID = rf"(?:[A-Za-z_][A-Za-z0-9_]*::)+{_TEXT}"
_NOTE = rf"@([A-Za-z_][A-Za-z0-9_]*){_GAP}\({_GAP}({_TEXT}){_GAP}\){_GAP}"
_SIMPLE = re.compile(
    rf"((?:{_NOTE})*)(permit|forbid){_GAP}\({_GAP}principal{_GAP}(?:(?:==|in\b){_GAP}{_UID}{_GAP})?,{_GAP}"
    rf"action{_GAP}(?:(?:==|in\b){_GAP}(\[?(?:{_GAP}{_UID}{_GAP},)*{_GAP}{_UID}{_GAP}\]?){_GAP})?,{_GAP}"
    rf"resource{_GAP}(?:(?:==|in\b){_GAP}({_UID}){_GAP})?\)"
)
_RESOURCE = 'Resource::"'
_NOTES, _UIDS = re.compile(_NOTE), re.compile(_UID)


@dataclass(frozen=True, slots=True)
class Head:
    """The actions (tools and paths) and the resource that a head names; None stands for any.

    A head is read too wide rather than too narrow: types of actions are ignored, ``==`` counts as ``in``, and
    a part that is not understood is any, as is a thing in a resource, such as ``Order::"4711"``. The
    principal is no part of it, since it is not known before a request.
    """

    actions: tuple[str, ...] | None
    resource: str | None


@dataclass(frozen=True, slots=True)
class Opening:
    """The part of a policy before its conditions: its effect, annotations and head."""

    effect: str
    annotations: Mapping[str, str | None]
    head: Head


def opening_in(statement: str) -> Opening | None:
    """Read the opening of one policy that Cedar has accepted, or return None if the opening is not simple.

    Asking Cedar takes fifty times as long. A simple opening has no comments, no escapes, no ``is`` and no
    slots: Cedar reads the same tokens in it, in the same order.
    """
    match = _SIMPLE.match(statement)
    if match is None:
        return None
    notes, _, _, effect, actions, resource = match.groups()
    names = None if actions is None else tuple(sorted({_name(uid) for uid in _UIDS.findall(actions)}))
    annotations = {name: text[1:-1] for name, text in _NOTES.findall(notes)}
    in_resource = resource is not None and resource.startswith(_RESOURCE)
    return Opening(effect, annotations, Head(names, _name(resource) if in_resource else None))


def with_resource_in(statement: str) -> str | None:
    """Return the policy with ``resource in X`` in its head in place of ``resource == X``, for a Resource X.

    Nothing stands in a Resource but itself and the things that tools act on in it. None stands for a policy
    whose head is not simple.
    """
    match = _SIMPLE.match(statement)
    if match is None:
        return None
    before = statement[: match.start(6)].rstrip(" \t\r\n") if match[6] is not None else ""
    if not before.endswith("==") or not match[6].startswith(_RESOURCE):
        return statement
    return f"{before[:-2]} in {statement[len(before) :]}"


def is_resource(kind: pst.EntityType) -> bool:
    """Return whether a type of entities is that of resources of the catalog."""
    return bool(kind.basename == "Resource" and not kind.namespace)


def _name(uid: str) -> str:
    return uid[uid.index('"') + 1 : -1]


def opening_of(node: pst.Template) -> Opening:
    """Return the opening of a policy that Cedar has parsed."""
    return Opening(str(node.effect), node.annotations, head_of(node))


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
        case (
            pst.ScopeEq(entity=pst.EntityUid(type=kind, id=name))
            | pst.ScopeIn(entity=pst.EntityUid(type=kind, id=name))
            | pst.ScopeIsIn(entity=pst.EntityUid(type=kind, id=name))
        ):
            return Head(actions, name if is_resource(kind) else None)
    return Head(actions, None)
