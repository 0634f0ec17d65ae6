"""Begins a call in the Redis store if what it was judged by is still so: one script."""

from __future__ import annotations

from typing import Any

from agentguard.errors import StoreError
from agentguard.model import Basis, Call, Label, LiveCredential, TaskState
from agentguard.stores import _rows
from agentguard.stores.redis import rows
from agentguard.stores.redis.packing import encode, pack, pack_data
from agentguard.stores.redis.requests import Request, Requests
from agentguard.stores.redis.scripts import script

__all__ = ["begin_if_unchanged"]

_SCRIPT = script("begin_call", counters=True, after="_compare")
_Changed = tuple[TaskState, ...] | None


def begin_if_unchanged(
    requests: Requests, call: Call, credential: LiveCredential | None, basis: Basis
) -> Request[_Changed]:
    """Do as `begin_call`, if what the call was judged by is still so (see `ports.ConditionalStore`)."""
    begin = requests.begin_call(call, credential)

    def read(values: list[Any]) -> _Changed:
        if not values:
            return None
        hashes, labels = values
        by_task = zip(basis.tasks, hashes, strict=True)
        try:
            tasks = [rows.read_task(task.id, hash_, labels) for task, hash_ in by_task]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"the stored hash of task {call.task_id} cannot be read") from error
        return tuple(task for task in tasks if task is not None)  # none is: the script looks for that

    return Request(
        _SCRIPT, begin.now, begin.retention, [_packed(basis), *begin.arguments], read, begin.refuse
    )


def _packed(basis: Basis) -> bytes:
    tasks = list[str]()
    for task, counts in zip(basis.tasks, basis.counts(), strict=True):
        tasks += [task.id, _rows.fixed_text(task), *map(str, counts)]
    by_digest: dict[str, list[Label]] = {digest: [] for digest in basis.digests}
    for label in basis.labels:
        by_digest.setdefault(label.digest, []).append(label)
    labels = list[bytes]()
    for digest, of_digest in by_digest.items():
        labels += [encode(digest), pack(text for label in of_digest for text in rows.label_texts(label))]
    return pack_data([pack(tasks), encode(basis.root_id), pack_data(labels)])
