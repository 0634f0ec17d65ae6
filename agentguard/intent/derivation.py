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
Templates only say what a task may touch at most; whether a call is right is for the policy to say. Of two
kinds that give the same tool, each argument may have a value of either: who may be paid by the one, and how
much by the other. Let kinds that must not mix have tools of their own, or say in a policy what goes together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentguard.catalog import Catalog
from agentguard.intent.templates import Template, Values
from agentguard.model import WORDS, Budget, Mandate, Scalar, ToolPath

__all__ = ["Derivation", "Intent"]


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
                who = self.mandate.authors.get(place, {})
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

    def mandate(self, name: str, /, **values: Scalar | Sequence[Scalar]) -> Derivation:
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
            given: Any = values.get(param, ())
            filled[param] = tuple(given) if isinstance(given, list | tuple) else (given,)
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
        given = {template.name: template.given(self._catalog) for template, _ in chosen}
        for template, _ in chosen:
            if left := [tool for tool in template.tools if tool not in given[template.name]]:
                reasons += (f"{template.name}: without {', '.join(left)}, not classified so as to fit it",)
        authors: dict[str, dict[Scalar, str]] = {
            "tools": {
                tool: _author(template, by)
                for template, _ in reversed(chosen)
                for tool in given[template.name]
            },
            **self._limits(chosen, by),
        }
        if chosen and all(template.resources is not None for template, _ in chosen):
            named = [(template, template.resources or ()) for template, _ in chosen]
            authors["resources"] = {value: _author(each, by) for each, values in named for value in values}
        if any(template.scopes is not None for template, _ in chosen):
            named = [(template, self._scopes(template)) for template, _ in chosen]
            authors["scopes"] = {value: _author(each, by) for each, values in named for value in values}
        mandate = Mandate(
            tools=frozenset(map(str, authors["tools"])),
            resources=_names(authors.get("resources")),
            args={p.removeprefix("args."): frozenset(v) for p, v in authors.items() if p.startswith("args.")},
            scopes=_names(authors.get("scopes")),
        )
        return Derivation(
            mandate=mandate.said(authors),
            kinds=tuple(template.name for template, _ in chosen),
            budget=_sum([self._budget(template) for template, _ in chosen]),
            reasons=reasons,
        )

    def _budget(self, template: Template) -> Budget:
        """Return its budget; a kind that only reads adds nothing to the writes of others."""
        specs = [self._catalog.tool(tool) for tool in template.tools]
        reads = all(spec is not None and spec.path is ToolPath.READ for spec in specs)
        return replace(template.budget, writes=0) if reads else template.budget

    def _scopes(self, template: Template) -> tuple[str, ...]:
        """Return its scopes; of one that does not limit them, all that its tools need."""
        if template.scopes is not None:
            return template.scopes
        specs = (self._catalog.tool(tool) for tool in template.tools)
        return tuple(sorted({scope for spec in specs if spec is not None for scope in spec.scopes}))

    def _limits(self, chosen: Sequence[tuple[Template, Values]], by: str) -> dict[str, dict[Scalar, str]]:
        """Return the limits that hold: each kind that gives a tool has them, since one alone permits it."""
        givers = Counter(tool for template, _ in chosen for tool in template.given(self._catalog))
        limits: defaultdict[tuple[str, str], list[dict[Scalar, str]]] = defaultdict(list)
        for template, values in chosen:
            for place, allowed in template.limits(self._catalog, values).items():
                author = _author(template, by)
                limits[place].append({value: by if filled else author for value, filled in allowed.items()})
        return {
            f"args.{tool}.{argument}": {value: who for one in reversed(each) for value, who in one.items()}
            for (tool, argument), each in limits.items()
            if len(each) == givers[tool]
        }


def _author(template: Template, by: str) -> str:
    return f"template {template.name}" if by == "user" else by


def _names(values: Mapping[Scalar, str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(map(str, values))


def _sum(budgets: Sequence[Budget]) -> Budget:
    """Return what all may use together; without a limit in one there is none."""
    calls, writes = [one.calls for one in budgets], [one.writes for one in budgets]
    return Budget(
        calls=None if None in calls else sum(n for n in calls if n is not None),
        writes=None if None in writes else sum(n for n in writes if n is not None),
    )
