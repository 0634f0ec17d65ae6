r"""Mandates from intent: a template for each kind of task, filled by the application or by the user's words.

    [tasks.refund]
    when = ['\brefund\b']
    tools = ["get_order", "refund_order"]
    args = { order_id = ["{order}"] }
    writes = 1
    params = { order = { type = "string", pattern = 'order (\d+)' } }

`Intent.derive` chooses by the words which kinds of task were meant, and unites their templates. It is
deterministic, and what it gives can be read before it takes effect. It believes its words: they are the
user's own, and never a result of a tool. A quoted file name that holds a keyword counts as the keyword.
Templates only say what a task may touch at most; whether a call is right is for the policy to say.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from agentguard.catalog import Catalog
from agentguard.model import WORDS, Budget, Mandate, Scalar

__all__ = ["Derivation", "Intent", "Parameter", "Template"]

_HOLE = re.compile(r"\{(\w+)\}")
Values = Mapping[str, Sequence[Scalar]]


def _integer(text: str) -> int:
    return int(text.replace(",", ""))


def _number(text: str) -> float:
    return float(text.replace(",", ""))


TYPES: Mapping[str, tuple[type | tuple[type, ...], Callable[[str], Scalar]]] = {
    "string": (str, str),
    "integer": (int, _integer),
    "number": ((int, float), _number),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A blank of a template. `pattern` finds it in the user's words: its first group, or all of it.

    Without a pattern only the application fills it. What is not `required` and not given leaves its
    limit without a value, which refuses.
    """

    type: str = "string"
    pattern: str | None = None
    required: bool = True

    def found(self, words: str) -> tuple[Scalar, ...]:
        """Return what the words say, each value once."""
        if self.pattern is None:
            return ()
        texts = (match[match.re.groups and 1] for match in re.finditer(self.pattern, words, re.IGNORECASE))
        read, convert = list[Scalar](), TYPES[self.type][1]
        for text in texts:
            try:
                read.append(convert(text or ""))
            except ValueError:
                continue  # no number: the words do not say it
        return tuple(dict.fromkeys(read))

    def fits(self, value: object) -> bool:
        """Return whether the application may fill it with this value."""
        return isinstance(value, TYPES[self.type][0]) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class Template:
    """What a kind of task may touch at most; ``{name}`` in a limit stands for a parameter.

    `when` are regular expressions, of which one must be found in the words, whatever their case, and
    `otherwise` is for words in which none of any template is.
    """

    name: str
    tools: tuple[str, ...]
    when: tuple[str, ...] = ()
    resources: tuple[str, ...] | None = None
    args: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    counterparties: tuple[str, ...] | None = None
    scopes: tuple[str, ...] | None = None
    budget: Budget = field(default_factory=Budget)
    params: Mapping[str, Parameter] = field(default_factory=dict)
    otherwise: bool = False

    @cached_property
    def _when(self) -> re.Pattern[str] | None:
        return re.compile("|".join(f"(?:{each})" for each in self.when), re.I | re.S) if self.when else None

    def sign(self, words: str) -> str | None:
        """Return the part of the words by which this kind of task is known, if there is one."""
        found = None if self._when is None else self._when.search(words)
        return None if found is None else found[0]

    def limits(self, catalog: Catalog, values: Values) -> dict[tuple[str, str], dict[Scalar, bool]]:
        """Return its limits by tool and argument; True marks a value that a parameter gave."""
        limits: dict[tuple[str, str], dict[Scalar, bool]] = {}
        for tool in self.tools:
            spec = catalog.tool(tool)
            known = None if spec is None or spec.schema is None else spec.schema.get("properties", {})
            for name, allowed in self.args.items():
                argument = name.removeprefix(f"{tool}.")
                if name != argument or ("." not in name and (known is None or name in known)):
                    limits[tool, argument] = _filled(allowed, values)
            for sink in () if self.counterparties is None or spec is None else sorted(spec.sinks):
                limits[tool, sink] = _filled(self.counterparties or (), values)
        return limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivation:
    """A mandate made of templates, and why: to be read before it takes effect as `Guard.task`'s mandate.

    `kinds` are the templates that it was made of, by which policies know the kind of task.
    """

    mandate: Mandate
    kinds: tuple[str, ...] = ()
    budget: Budget = field(default_factory=Budget)
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [*self.reasons, f"tools: {', '.join(sorted(self.mandate.tools)) or 'none'}"]
        for place, values in self.mandate.places():
            if place != "tools":
                who = self.mandate.origins.get(place, {})
                told = ", ".join(f"{value!r} ({who.get(value)})" for value in sorted(values, key=repr))
                lines.append(f"{place}: {told or 'nothing, which refuses'}")
        limits = (("calls", self.budget.calls), ("writes", self.budget.writes))
        lines += [f"{what}: {limit}" for what, limit in limits if limit is not None]
        return "\n".join(lines)  # what comes of the words is quoted: no control character is left in it


class Intent:
    """Makes mandates by templates, for the tools of a catalog."""

    def __init__(self, templates: Iterable[Template], catalog: Catalog) -> None:
        self._templates, self._catalog = {each.name: each for each in templates}, catalog

    @property
    def templates(self) -> tuple[Template, ...]:
        """All templates, in their order."""
        return tuple(self._templates.values())

    def mandate(self, name: str, **values: Scalar | Sequence[Scalar]) -> Derivation:
        """Fill one template; all of it is then the application's word.

        Raises:
            ValueError: There is no such template, or a value is missing, unknown, or of another type.
        """
        if (template := self._templates.get(name)) is None:
            raise ValueError(f"there is no [tasks.{name}]: {', '.join(self._templates) or 'none yet'}")
        if unknown := values.keys() - template.params.keys():
            raise ValueError(f"[tasks.{name}] has no parameter {min(unknown)}")
        filled: dict[str, tuple[Scalar, ...]] = {}
        for param, what in template.params.items():
            given = values.get(param, ())
            filled[param] = (given,) if isinstance(given, Scalar) else tuple(given)
            if not all(map(what.fits, filled[param])):
                raise ValueError(f"[tasks.{name}] {param} is no {what.type}")
            if what.required and not filled[param]:
                raise ValueError(f"[tasks.{name}] needs {param}")
        return self._united([(template, filled)], "application", (f"{name}: by the application",))

    def derive(self, words: str) -> Derivation:
        """Say which kinds of task the user's words mean, and what they need at most. Nothing, if none."""
        words, chosen, reasons = words[:WORDS], list[tuple[Template, Values]](), list[str]()
        for template in self._templates.values():
            if (sign := template.sign(words)) is None:
                continue
            values = {param: what.found(words) for param, what in template.params.items()}
            missing = [p for p, what in template.params.items() if what.required and not values[p]]
            if missing:
                reasons.append(f"{template.name}: not, for the words do not say its {', '.join(missing)}")
            else:
                chosen.append((template, values))
                reasons.append(f"{template.name}: by {sign!r}")
        if not chosen:
            otherwise = [each for each in self._templates.values() if each.otherwise]
            chosen = [(each, dict.fromkeys(each.params, ())) for each in otherwise]
            reasons += [f"{each.name}: for want of another" for each in otherwise] or ["no kind of task"]
        return self._united(chosen, "user", tuple(reasons))

    def _united(
        self, chosen: Sequence[tuple[Template, Values]], by: str, reasons: tuple[str, ...]
    ) -> Derivation:
        origins: dict[str, dict[Scalar, str]] = {
            "tools": {
                tool: _author(template, by) for template, _ in reversed(chosen) for tool in template.tools
            },
            **self._limits(chosen, by),
        }
        for place in ("resources", "scopes"):
            named = [(template, getattr(template, place)) for template, _ in chosen]
            if named and all(values is not None for _, values in named):
                origins[place] = {value: _author(each, by) for each, values in named for value in values}
        mandate = Mandate(
            tools=frozenset(map(str, origins["tools"])),
            resources=_names(origins.get("resources")),
            args={p.removeprefix("args."): frozenset(v) for p, v in origins.items() if p.startswith("args.")},
            scopes=_names(origins.get("scopes")),
        )
        return Derivation(
            mandate=mandate.said(origins),
            kinds=tuple(template.name for template, _ in chosen),
            budget=_sum(template.budget for template, _ in chosen),
            reasons=reasons,
        )

    def _limits(self, chosen: Sequence[tuple[Template, Values]], by: str) -> dict[str, dict[Scalar, str]]:
        """Return the limits that hold: each kind that gives a tool has them, since one alone permits it."""
        givers = Counter(tool for template, _ in chosen for tool in dict.fromkeys(template.tools))
        limits: defaultdict[tuple[str, str], list[dict[Scalar, str]]] = defaultdict(list)
        for template, values in chosen:
            for place, allowed in template.limits(self._catalog, values).items():
                author = _author(template, by)
                limits[place].append({value: by if given else author for value, given in allowed.items()})
        return {
            f"args.{tool}.{argument}": {value: who for one in reversed(each) for value, who in one.items()}
            for (tool, argument), each in limits.items()
            if len(each) == givers[tool]
        }


def _author(template: Template, by: str) -> str:
    return f"template {template.name}" if by == "user" else by


def _names(values: Mapping[Scalar, str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(map(str, values))


def _filled(allowed: Iterable[Scalar], values: Values) -> dict[Scalar, bool]:
    """Return the values of a limit; a text that is one whole blank takes what its parameter has."""
    filled: dict[Scalar, bool] = {}
    for each in allowed:
        hole = _HOLE.fullmatch(each) if isinstance(each, str) else None
        filled |= {each: False} if hole is None else dict.fromkeys(values[hole[1]], True)
    return filled


def _sum(budgets: Iterable[Budget]) -> Budget:
    """Return what all may use together; without a limit in one there is none."""
    each = list(budgets)
    calls, writes = [one.calls for one in each], [one.writes for one in each]
    return Budget(
        calls=None if None in calls else sum(n for n in calls if n is not None),
        writes=None if None in writes else sum(n for n in writes if n is not None),
    )


def holes(template: Mapping[str, Any]) -> set[str]:
    """Return the names of all blanks in the limits of a template."""
    limits = [*template.get("args", {}).values(), template.get("counterparties") or ()]
    return {
        hole[1] for values in limits for v in values if isinstance(v, str) and (hole := _HOLE.fullmatch(v))
    }
