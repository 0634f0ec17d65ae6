"""What rules may look at of a request, as far as their texts show it.

A rule can name an attribute in no other way than by its name, or by escapes in a string. It can compare a
whole record only where it names the record and goes no further.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from agentguard.model.inputs import INPUTS, RuleInput, in_group
from agentguard.model.looks import Look, Looks
from agentguard.model.origin_form import name_inside
from agentguard.policies.cedar.lists import NO_LISTS, Lists
from agentguard.policies.cedar.shapes import NO_SHAPES, FactShape
from agentguard.policies.cedar.tallies import NO_TALLIES, WINDOWS, Tallies

__all__ = ["View", "view_of"]

Inputs = tuple[RuleInput, ...]
NO_LOOKS: Looks = MappingProxyType({})

_WORD = re.compile(r"(?<![@\w])\w+")  # not the name of an annotation: each rule has an @id
_END = re.compile(r"(?<![@\w])(\w+)(?!\w)(?!\s*(?:\.|\[|has\b))")  # a name behind which no other stands
_HAS = re.compile(r'\bhas[ \t]+(?:[\w.]+|"[^"\\]*")')  # on one line: there may be a comment at its end
_RESOURCE = re.compile(r"\bresource\b(?!\s*(?:in\b|is\b|==|!=))")  # its fields, or it as a whole
_WHOLE = re.compile(r"\\|\b(?:context|task|args|facts)\b(?!\s*(?:\.|\[|has\b))")


_COUNTED = ("sizes", "counts")


class View(NamedTuple):
    """What some rules may look at: parts of the context, of the task, arguments, and their provenance.

    `family` names what they look at of all that the family of the task has read. Where no rule looks at an
    `approval`, a person's consent changes no answer, and need not be asked about. `facts` are those in
    ``context.facts``. `resource` names fields of the thing that the tool acts on, and None says that the
    rules look at none; `identified` says whether they name such a thing. `inside` are the places
    inside of arguments at whose provenance they look; `sizes` and `counts` the lists whose lengths, and whose
    entries, they count. `tallies` are whose calls of which tools they look at, of those that were done.
    """

    parts: tuple[str, ...]
    environment: bool
    approval: bool
    task: tuple[str, ...] | None
    args: frozenset[str] | None
    provenance: tuple[str, ...] | None
    family: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    resource: frozenset[str] | None = None
    identified: bool = False
    inside: Looks = NO_LOOKS
    sizes: Lists = NO_LISTS
    counts: Lists = NO_LISTS
    tallies: frozenset[tuple[str, str]] = frozenset()


def view_of(
    rules: Iterable[str],
    names: Collection[str],
    inputs: Inputs = INPUTS,
    facts: Mapping[str, FactShape] = NO_SHAPES,
    looks: Looks = NO_LOOKS,
    lists: Lists = NO_LISTS,
    tallies: Tallies = NO_TALLIES,
) -> View:
    """Return what rules, given as their texts, may look at of a tool with arguments of these *names*.

    *looks* are the places inside of its arguments, *lists* the lists among these.
    """
    texts = tuple(rules)
    view = _view_of(texts, names, inputs)._replace(**_view_inside(texts, inputs, looks, lists))
    if tallies:
        view = view._replace(tallies=_tallies_seen(texts, view, tallies))
    if not facts:
        return view
    thing = next((fact for fact in facts.values() if fact.spec.resource), None)
    fields = frozenset() if thing is None else frozenset(thing.fields(()))
    if any(map(_WHOLE.search, texts)):
        return view._replace(
            facts=tuple(facts), resource=None if thing is None else fields, identified=thing is not None
        )
    words = _words(texts)
    if thing is not None and any(_RESOURCE.search(text.partition("{")[2]) for text in texts):
        view = view._replace(resource=frozenset(_named(fields, words)))
    return view._replace(
        facts=_named(facts, words) if "facts" in view.parts else (),
        identified=thing is not None and thing.entity in words,
    )


def _view_of(texts: tuple[str, ...], names: Collection[str], inputs: Inputs) -> View:
    parts, task, family, of_arguments = _places(inputs)
    if any(map(_WHOLE.search, texts)):
        return View(parts, True, True, task, frozenset(names), tuple(names), family)
    words = _words(texts)
    about_arguments = _words(text for text in texts if of_arguments.search(text))
    return View(
        _named(parts, words),
        "environment" in words,
        "approval" in words,
        _named(task, words) if "task" in words else None,
        frozenset(_named(names, words)) if "args" in words else None,
        _named(names, about_arguments) if about_arguments else None,
        family if about_arguments else _named(family, words),  # more than a name may ask for the record
    )


def _tallies_seen(texts: tuple[str, ...], view: View, tallies: Tallies) -> frozenset[tuple[str, str]]:
    """Return what rules look at of what was done: all of a record that they name as a whole."""
    is_whole = any(map(_WHOLE.search, texts))
    bodies = [text.partition("{")[2] for text in texts]  # a head names tools, too
    words, ends = _words(bodies), _ends(bodies)
    looks = set[tuple[str, str]]()
    for part in ("done", *WINDOWS):
        if part in view.parts or part in (view.task or ()):
            whole = is_whole or part in ends
            looks |= tallies.looks(part, lambda name, whole=whole: whole or bool(_named([name], words)))  # type: ignore[misc]  # a default
    return frozenset(looks)


def _view_inside(texts: tuple[str, ...], inputs: Inputs, looks: Looks, lists: Lists) -> dict[str, Any]:
    """Return the parts of a view that are about what is inside of arguments."""
    if any(map(_WHOLE.search, texts)):
        return {"inside": _with_inside(looks), "sizes": lists, "counts": lists}
    *_, of_arguments = _places(inputs)
    about_arguments = [text for text in texts if of_arguments.search(text)]
    places = (
        _seen(looks, _words(about_arguments), _ends(about_arguments)) if looks and about_arguments else {}
    )
    lists_by_part = {
        part: _counted(lists, part, [text for text in texts if part in text]) for part in _COUNTED
    }
    return {"inside": _with_inside(places), **lists_by_part}


def _counted(lists: Lists, part: str, texts: Collection[str]) -> Lists:
    """Return the lists that rules with these texts ask for in a part of the context."""
    if not texts or not lists:
        return NO_LISTS
    words, ends = _words(texts), _ends(texts)
    if part in ends:
        return lists
    return lists.seen(
        lambda name: words.issuperset(_WORD.findall(name)),
        lambda name: not ends.isdisjoint(_WORD.findall(name)),
    )


def _seen(looks: Looks, words: frozenset[str], ends: frozenset[str]) -> dict[str, Look]:
    """Return the places that rules with these words look at: of a record that they name as a whole, all."""
    places = dict[str, Look]()
    for name, look in looks.items():
        names = frozenset(_WORD.findall(name))
        if names <= words:
            places[name] = look if names & ends else _seen_inside(look, words, ends)
    return places


def _seen_inside(look: Look, words: frozenset[str], ends: frozenset[str]) -> Look:
    names = {name_inside(name): name for name in look.fields}
    inner = _seen({name: look.fields[field] for name, field in names.items()}, words, ends)
    return Look({names[name]: part for name, part in inner.items()}, _named(look.texts, words))


def _with_inside(looks: Looks) -> dict[str, Look]:
    """Return the arguments inside of which there is a place."""
    return {name: look for name, look in looks.items() if look.fields or look.texts}


@cache
def _places(inputs: Inputs) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], re.Pattern[str]]:
    """Return the names of parts of the context, of the task, of its family, and what asks for arguments."""
    parts = dict.fromkeys(row.cedar.partition(".")[0] for row in inputs if row.cedar is not None)
    family = tuple(row.name for row in in_group(inputs, "provenance"))
    return (
        tuple(name for name in parts if name not in ("task", "environment")),
        tuple(row.name for row in in_group(inputs, "task")),
        family,
        re.compile(rf"provenance(?!\.({'|'.join(family)})\b)"),
    )


def _named(names: Iterable[str], words: frozenset[str]) -> tuple[str, ...]:
    return tuple(name for name in names if words.issuperset(_WORD.findall(name)))


def _words(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(word for text in texts for word in _WORD.findall(text))


def _ends(texts: Iterable[str]) -> frozenset[str]:
    """Return the names in rules behind which no other name stands: those of whole records, among others."""
    return frozenset(name for text in texts for name in _END.findall(_HAS.sub("", text)))
