"""The state of a run that a tool is given beside its arguments, shown to a person and bound to a yes.

The digest is the same in the process that resumes the run: what a checkpoint makes of a value, such as a list
of a tuple, does not change it. `state_form` says how a value is written. Of a value without a form only its
class counts, and a person is told that what it holds is not covered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from agentguard.enforcement.state_form import StateForm, digest_text, key_of, text_of
from agentguard.model import Json
from agentguard.model.arguments import digest_of

__all__ = ["FIELD", "FIELDS", "RunState"]

FIELD = 2_000
"""How many bytes of JSON of one field a person is shown; of a larger one its small parts and digests."""
FIELDS = 16_384
"""How many bytes of all fields together. The smallest are shown first, so no large one hides another."""
DIGEST = 72
"""About how many bytes stand in place of what is not shown."""
LEVELS = 4
"""How deep the parts of a large field are looked through for small ones."""


class RunState(NamedTuple):
    """What a person is shown of the state, by field, a digest of all of it, and one of each field."""

    display: Mapping[str, Json]
    digest: str
    digests: Mapping[str, str]

    @classmethod
    def of(cls, values: Mapping[Any, object]) -> RunState:
        """Return the fields of a state in their form.

        Raises:
            Denied: It is too large to ask a person about.
        """
        form = StateForm()
        forms = {key_of(name, form.of(name)): form.of(value) for name, value in values.items()}
        texts = {name: text_of(forms[name]) for name in sorted(forms)}
        digests = {name: digest_of(text.encode()) for name, text in texts.items()}
        return cls(_fields(forms, texts, FIELDS), digest_of(text_of(digests).encode()), digests)

    def covers(self, other: RunState) -> bool:
        """Return whether each field of *other* is as it is here; this one may have more fields."""
        return other.digests.items() <= self.digests.items()


def _fields(forms: Mapping[str, Json], texts: Mapping[str, str], room: int) -> dict[str, Json]:
    """Return the fields as a person is shown them, within *room* bytes but for names and digests."""
    views: dict[str, Json] = {}
    for name in sorted(texts, key=lambda name: len(texts[name])):
        views[name] = _shown(forms[name], texts[name], min(room, FIELD), LEVELS)
        room = max(0, room - min(len(texts[name]), FIELD))
    return {name: views[name] for name in texts}


def _shown(form: Json, text: str, room: int, levels: int) -> Json:
    """Return a form within *room* bytes: the smallest of its parts, and a digest of each that is larger.

    A list or a dict of so many parts that not even their digests have room is one digest.
    """
    if len(text) <= room:
        return form
    parts = list(
        form.items() if isinstance(form, dict) else enumerate(form) if isinstance(form, list) else ()
    )
    room -= sum(DIGEST + len(str(name)) for name, _ in parts)
    if not parts or not levels or room < 0:
        return digest_text(text.encode())
    views: dict[Any, Json] = {}
    texts = {name: text_of(part) for name, part in parts}
    for name, part in sorted(parts, key=lambda part: len(texts[part[0]])):
        share = room + DIGEST
        views[name] = _shown(part, texts[name], share, levels - 1)
        room -= max(0, min(len(texts[name]), share) - DIGEST)
    return {n: views[n] for n, _ in parts} if isinstance(form, dict) else [views[n] for n, _ in parts]
